"""Read the JSON that describes a detector: strict on what is needed, in one sentence each.

Whatever the text holds, reading ends in a value of the right kind or in a `UsageError`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlood.errors import UsageError

_MOST_BYTES = 64 << 20


class Described:
    """A JSON object whose fields are asked for by name and kind."""

    def __init__(self, fields: Mapping[str, Any], where: str) -> None:
        self.fields = fields
        self._where = where

    def text(self, name: str) -> str:
        """Return a text.

        Raises:
            UsageError: the file has something else there.
        """
        value = self._needed(name)
        if not isinstance(value, str):
            raise self.wrong(name, "a text")
        return value

    def optional_text(self, name: str) -> str | None:
        """Return a text, or None where there is none."""
        return None if self.fields.get(name) is None else self.text(name)

    def number(self, name: str) -> float:
        """Return a finite number.

        Raises:
            UsageError: the file has something else there.
        """
        value = self._needed(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(name, "a number")
        try:
            number = float(value)
        except OverflowError:
            raise self.wrong(name, "a finite number") from None
        if not math.isfinite(number):
            raise self.wrong(name, "a finite number")
        return number

    def whole(self, name: str) -> int:
        """Return a whole number of at most 15 digits.

        Raises:
            UsageError: the file has something else there.
        """
        value = self._needed(name)
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 10**15:
            raise self.wrong(name, "a whole number")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of texts.

        Raises:
            UsageError: the file has something else there.
        """
        value = self._needed(name)
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise self.wrong(name, "a list of texts")
        return tuple(value)

    def mapping(self, name: str) -> Mapping[str, Any]:
        """Return an object.

        Raises:
            UsageError: the file has something else there.
        """
        value = self._needed(name)
        if not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return value

    def optional_mapping(self, name: str) -> Mapping[str, Any] | None:
        """Return an object, or None where there is none."""
        return None if self.fields.get(name) is None else self.mapping(name)

    def mapping_of_texts(self, name: str) -> dict[str, str]:
        """Return an object of texts.

        Raises:
            UsageError: the file has something else there.
        """
        value = self.mapping(name)
        if not all(isinstance(each, str) for each in value.values()):
            raise self.wrong(name, "an object of texts")
        return dict(value)

    def objects(self, name: str) -> tuple[Mapping[str, Any], ...]:
        """Return a list of objects.

        Raises:
            UsageError: the file has something else there.
        """
        value = self._needed(name)
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            raise self.wrong(name, "a list of objects")
        return tuple(value)

    def pairs(self, name: str) -> tuple[tuple[str, str], ...]:
        """Return a list of pairs of texts.

        Raises:
            UsageError: the file has something else there.
        """
        value = self._needed(name)
        good = isinstance(value, list) and all(
            isinstance(each, list) and len(each) == 2 and all(isinstance(e, str) for e in each)
            for each in value
        )
        if not good:
            raise self.wrong(name, "a list of pairs of texts")
        return tuple((first, second) for first, second in value)

    def inside(self, name: str) -> Described:
        """Return an object to be asked in turn."""
        return Described(self.mapping(name), f"{self._where}, {name}")

    def wrong(self, name: str, expected: str) -> UsageError:
        """Return the refusal of a field."""
        return UsageError(f"{self._where}: {name} is not {expected}; copy or make the folder again")

    def _needed(self, name: str) -> Any:
        if name not in self.fields:
            raise UsageError(f"{self._where}: lacks {name}; copy or make the folder again")
        return self.fields[name]


def read_described(path: Path) -> Described:
    """Read a JSON file that holds one object.

    Raises:
        UsageError: it cannot be read, is too large, or is something else.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UsageError(f"{path}: has more than {_MOST_BYTES >> 20} MB; it is no description")
        text = path.read_bytes().decode("utf-8")
        fields = json.loads(text, parse_constant=_refuse_constant)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is not valid JSON; copy or make the folder again") from error
    if not isinstance(fields, dict):
        raise UsageError(f"{path}: is not a JSON object; copy or make the folder again")
    return Described(fields, str(path))


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
