"""Settings of a method: declared with their help, read as typed or as stored, held to ranges."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from vlood.errors import UsageError


def setting(default: Any, *, help: str, unit: str, source: str) -> Any:
    """Declare a settings field with its help, its unit and where its default comes from."""
    return field(default=default, metadata={"help": help, "unit": unit, "source": source})


def settings_from(
    owner: str, kind: type[Any], values: Mapping[str, Any], *, known: tuple[str, ...] = ()
) -> Any:
    """Build a settings dataclass from values as typed or as stored; ``owner`` is named in errors.

    Raises:
        UsageError: a name it does not have, or a value of the wrong kind or range.
    """
    fields = {each.name: each for each in dataclasses.fields(kind)}
    converted = {}
    for name, value in values.items():
        if name not in fields:
            close = difflib.get_close_matches(name, fields, n=1)
            names = ", ".join(known or tuple(fields)) or "none"
            hint = f"did you mean {close[0]}? " if close else ""
            raise UsageError(f"{owner} has no setting {name!r}; {hint}its settings are: {names}")
        converted[name] = _converted(owner, name, value, fields[name].default)
    return kind(**converted)


def check_positive(method: str, name: str, value: float, *, or_zero: bool = False) -> None:
    """Refuse a setting that is not a finite number above zero (or zero, with ``or_zero``).

    Raises:
        UsageError: naming the method, the setting and the value.
    """
    if math.isfinite(value) and (value > 0 or (or_zero and value == 0)):
        return
    least = "zero or more" if or_zero else "more than zero"
    raise UsageError(f"{method}: {name} is {value}; expected a finite number, {least}")


def check_share(method: str, name: str, value: float) -> None:
    """Refuse a setting that is not in [0, 1].

    Raises:
        UsageError: naming the method, the setting and the value.
    """
    if not 0 <= value <= 1:
        raise UsageError(f"{method}: {name} is {value}; expected a number from 0 to 1")


def check_whole(method: str, name: str, value: int, least: int) -> None:
    """Refuse a setting that is below the least whole number it can be.

    Raises:
        UsageError: naming the method, the setting and the value.
    """
    if value < least:
        raise UsageError(f"{method}: {name} is {value}; expected a whole number, {least} or more")


def check_choice(method: str, name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a setting that is none of its choices.

    Raises:
        UsageError: naming the method, the setting, the value and the choices.
    """
    if value not in choices:
        expected = " or ".join(choices) if len(choices) < 3 else f"one of {', '.join(choices)}"
        raise UsageError(f"{method}: {name} is {value!r}; expected {expected}")


def _converted(method: str, name: str, value: Any, default: Any) -> Any:
    kind = type(default)
    if kind is bool and isinstance(value, str):
        if value.lower() in ("true", "false"):
            return value.lower() == "true"
    elif isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
        return value
    elif kind in (int, float, str) and not isinstance(value, bool):
        try:
            made = kind(value)
        except (TypeError, ValueError, OverflowError):
            made = None
        # A stored 5.0 is the whole number 5; 5.5 is none.
        if made is not None and not (isinstance(value, float) and made != value):
            return made
    raise UsageError(f"{method}: {name} is {value!r}; expected a value like {default!r}")
