"""A label or a name a row: read from files beside embeddings, and checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlood.errors import UsageError
from vlood.features.embedding_formats import load_npy

_NAME_FILES = ("names.txt", "class_names.txt")


def read_labels(path: Path, *, count: int | None = None) -> list[str]:
    """Read one label a row: a ``.npy`` of numbers or names, or a ``.txt`` with one a line.

    Raises:
        UsageError: the file is absent, not a list of labels, or not ``count`` long.

    """
    if path.suffix.lower() == ".npy":
        labels = texts(path, "labels", load_npy(path))
    else:
        labels = [line.strip() for line in _lines(path)]
    check_count(path, labels, count, "labels")
    return labels


def read_names(path: Path, *, count: int | None = None) -> list[str]:
    """Read the names of class embeddings: a ``.txt``, or the one beside the embeddings' file.

    Beside ``X.npy`` that is ``X.txt``, ``names.txt`` or ``class_names.txt``. One name a line; what
    follows a tab is left out, as are blank lines.

    Raises:
        UsageError: no such file, or not ``count`` names.

    """
    if path.suffix.lower() == ".txt":
        found = path
    else:
        beside = [path.with_suffix(".txt"), *(path.with_name(name) for name in _NAME_FILES)]
        present = [candidate for candidate in beside if candidate.is_file()]
        if not present:
            raise UsageError(
                f"{path}: has no names; put one name a line in {path.with_suffix('.txt').name} "
                "beside it"
            )
        found = present[0]
    names = [line.split("\t")[0].strip() for line in _lines(found) if line.strip()]
    check_count(found, names, count, "names")
    return names


def texts(path: Path, what: str, values: Any) -> list[str]:
    """Return one text a row, from a list or an array of numbers or names.

    Raises:
        UsageError: naming ``what``: a row has none, or something else.
    """
    found = optional_texts(path, what, values)
    missing = [row for row, text in enumerate(found) if text is None]
    if missing:
        raise UsageError(f"{path}: {len(missing)} {what} are empty, the first in row {missing[0]}")
    return [text for text in found if text is not None]


def optional_texts(path: Path, what: str, values: Any) -> list[str | None]:
    """Return one text a row, None where a row has none; see :func:`texts`.

    Raises:
        UsageError: naming ``what``: there is not one a row.
    """
    if isinstance(values, np.ndarray):
        if values.ndim != 1 or values.dtype.kind not in "iuSUf":
            raise UsageError(
                f"{path}: {what} are one number or name a row, not {values.dtype} "
                f"{list(values.shape)}"
            )
        values = values.tolist()
    return [_text(path, what, value) for value in values]


def _text(path: Path, what: str, value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, float):
        if not value.is_integer():
            raise UsageError(f"{path}: {what} are whole numbers or names, not {value}")
        return str(int(value))
    return str(value)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check the name") from error


def check_count(path: Path, values: Sequence[Any], count: int | None, what: str) -> None:
    """Refuse values that are not one a row, where it is known how many rows there are.

    Raises:
        UsageError: saying how many there are of both.
    """
    if count is not None and len(values) != count:
        raise UsageError(f"{path}: holds {len(values)} {what} for {count} embeddings")
