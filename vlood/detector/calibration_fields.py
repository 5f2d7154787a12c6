"""Check the stored fields of a calibration one by one, trusting none of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError

MOST_IMAGES = 10**12

_COUNTS = ("images", "unreadable", "labels", "predicted_classes")


def refused(name: str, value: Any, expected: str) -> UsageError:
    """Return the error that says which field cannot be right, what it is and what was expected."""
    return UsageError(
        f"calibration: {name} is {shown(value)}; expected {expected}; calibrate the detector again"
    )


def stored_field(described: Mapping[str, Any], name: str) -> Any:
    """Return the field; refuse its absence.

    Raises:
        UsageError: it is something else.
    """
    if name not in described:
        raise UsageError(
            f"calibration: there is no {name}, which is expected; calibrate the detector again"
        )
    return described[name]


def finite(value: Any) -> float | None:
    """Return a finite number as a float, and None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def stored_number(described: Mapping[str, Any], name: str) -> float:
    """Return the field if it is a finite number.

    Raises:
        UsageError: it is something else.
    """
    number = finite(stored_field(described, name))
    if number is None:
        raise refused(name, described[name], "a finite number")
    return number


def stored_share(described: Mapping[str, Any], name: str, *, zero: bool = False) -> float:
    """Return the field if it is a share in (0, 1], or [0, 1] with ``zero``.

    Raises:
        UsageError: it is something else.
    """
    number = stored_number(described, name)
    if not (0 < number <= 1 or (zero and number == 0)):
        raise refused(name, number, f"a share {'of at least' if zero else 'above'} 0, at most 1")
    return number


def stored_count(described: Mapping[str, Any], name: str, *, least: int = 0) -> int:
    """Return the field if it is a whole number from ``least`` on.

    Raises:
        UsageError: it is something else.
    """
    value = stored_field(described, name)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST_IMAGES:
        raise refused(name, value, f"a whole number of at least {least}")
    return value


def stored_array(arrays: Mapping[str, Any], name: str, kind: type, size: int) -> NDArray[Any]:
    """Return the array if it is of that type and of shape [size].

    Raises:
        UsageError: it is something else.
    """
    array = stored_field(arrays, name)
    if not isinstance(array, np.ndarray) or array.dtype != kind or array.shape != (size,):
        raise refused(name, array, f"an array of {np.dtype(kind)} of shape {(size,)}")
    return array


def checked_data(stored: Any) -> dict[str, Any]:
    """Return the facts of the images if JSON holds each of them and the known ones fit.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(stored, Mapping):
        raise refused("data", stored, "an object")
    for name, value in stored.items():
        if not isinstance(name, str):
            raise refused("a name in data", name, "text")
        if name in _COUNTS:
            stored_count(stored, name)
        elif name == "digest" and not isinstance(value, str):
            raise refused("digest in data", value, "text")
        elif not all(_is_plain(each) for each in (value if isinstance(value, list) else [value])):
            raise refused(
                f"{shown(name)} in data", value, "text, a finite number, true, false, null or a "
                "list of these"
            )  # fmt: skip
    return dict(stored)


def shown(value: Any) -> str:
    """Return the value as an error message shows it, however large it is."""
    # Containers may nest without end, and Python refuses to print very long whole numbers.
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a whole number of {value.bit_length()} bits"
    if value is None or isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:39] + "…")
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} of shape {value.shape}"
    return f"of type {type(value).__name__}"


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | str) or finite(value) is not None
