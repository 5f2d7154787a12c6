"""Write image lists with labels, ``.txt``, ``.csv`` or ``.jsonl``, that vlood reads back.

In a ``.txt`` a line is ``path<TAB>label``: spaces belong to the path, and ``cut -f1`` gives the
paths. What a line cannot hold (a path with a tab or a line break) only the other two can.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from vlood.errors import UsageError
from vlood.evaluation.report_files import printable

SUFFIXES = (".txt", ".csv", ".jsonl")

Entry = tuple[str, str | None]
"""A path and its label."""


def list_bytes(entries: Sequence[Entry], suffix: str) -> bytes:
    """Write a list in the form its suffix names; file names that are not UTF-8 keep their bytes.

    Raises:
        UsageError: a ``.txt`` cannot hold a path.
    """
    if suffix == ".jsonl":
        rows = ({"path": path, "label": label} for path, label in entries)
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if suffix == ".csv":
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(("path", "label"))
        table.writerows((path, label or "") for path, label in entries)
        return text.getvalue().encode("utf-8", "surrogateescape")
    bad = unlisted(entries)
    if bad:
        raise UsageError(
            f"{printable(bad[0][0])}: holds a tab or a line break, which a .txt list cannot; write "
            "a .csv or .jsonl list"
        )
    lines = (path if label is None else f"{path}\t{label}" for path, label in entries)
    return "".join(line + "\n" for line in lines).encode("utf-8", "surrogateescape")


def unlisted(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries that a ``.txt`` cannot hold."""
    return [
        (path, label)
        for path, label in entries
        if any(letter in text for text in (path, label or "") for letter in "\t\n\r")
    ]


def check_list_name(path: Path, option: str) -> None:
    """Refuse a list whose name does not say what it is, or that has no place.

    Raises:
        UsageError: another suffix, a folder, or a folder that does not exist.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{option} {path}: expected a name that ends in .txt, .csv or .jsonl")
    if path.is_dir():
        raise UsageError(f"{option} {path}: is a folder; name a file")
    if not path.parent.is_dir():
        raise UsageError(f"{option} {path}: the folder {path.parent} does not exist; make it")
