"""Images named by lists: `.txt`, `.csv`, `.jsonl` files, and paths on standard input.

OpenOOD's image lists (`path label` a line, split at the first space; the label is an integer, -1
for out-of-distribution, or a mapping literal) are read as they are. Several lists joined by `///`
are one.
"""

# Paths stay the text the user gave, which pathlib would rewrite.
# ruff: noqa: PTH113, PTH118, PTH120, PTH122

from __future__ import annotations

import ast
import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

from vlood.errors import UsageError
from vlood.images.item import ImageItem

LIST_SUFFIXES = frozenset({".txt", ".csv", ".jsonl"})
JOIN = "///"
"""What OpenOOD-VLM writes between the lists that make up one set."""

_MAX_LITERAL = 10_000


def read_list(path: str, root: Path | None) -> Iterator[ImageItem]:
    """Yield the images a list file names, in its order, reading it line by line.

    Relative paths start at `root` when given, else at the list's own folder (or at the current
    folder, for a path that exists only there). A line that names no path becomes one unreadable
    item, so that no record is lost. Lists joined by `///` are read one after the other.

    Raises:
        UsageError: the list cannot be read, has no `path` column, or is compressed or binary.

    """
    for part in split_joined(path):
        yield from _read_one(part, root)


def split_joined(text: str) -> list[str]:
    """Return the lists of a text like `a.txt///b.txt`; any other path is itself alone.

    Only text that gives the name of a list on both sides of every `///` is taken apart, so that a
    path with some slashes too many stays a path.
    """
    parts = text.split(JOIN)
    joined = all(os.path.splitext(part)[1].lower() in LIST_SUFFIXES for part in parts)
    return parts if joined else [text]


def _read_one(path: str, root: Path | None) -> Iterator[ImageItem]:
    if not os.path.isfile(path):
        raise UsageError(f"the list {path} is not a regular file; give a file of paths")
    places = _Places(root, os.path.dirname(path))
    reader = {".csv": _read_csv, ".jsonl": _read_jsonl}.get(os.path.splitext(path)[1].lower())
    try:
        # Surrogate escapes keep names that are not UTF-8; universal newlines are off inside
        # quoted CSV fields, which may hold a line break.
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            yield from (reader or _read_lines)(file, path, places)
    except OSError as error:
        raise UsageError(f"the list {path} cannot be read: {error.strerror}") from None


def read_stdin(
    stream: BinaryIO, root: Path | None, *, null_separated: bool = False
) -> Iterator[ImageItem]:
    """Yield one image for each path on a byte stream, as the paths arrive.

    Paths end at a line break, or at a null byte with `null_separated` (as `find -print0` writes
    them), and are taken whole: spaces belong to them.

    Raises:
        UsageError: no path came, or null bytes came where lines were expected.

    """
    empty = True
    for raw in _null_separated(stream) if null_separated else _lines(stream):
        if raw:
            empty = False
            name = os.fsdecode(raw)
            yield ImageItem(os.path.join(root, name) if root is not None else name)
    if empty:
        raise UsageError("no paths came on standard input; write one a line to it")


def parse_label(text: str) -> str | None:
    """Return the label behind a list's path: OpenOOD's integers and mappings, or a class name.

    -1 (out-of-distribution: none of the classes) and empty text give None; of a mapping literal
    its `label` counts. Anything else is a name and is returned as it stands.
    """
    text = text.strip()
    if text.startswith("{") and len(text) <= _MAX_LITERAL:
        try:
            value = ast.literal_eval(text)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return text
        return label_text(value.get("label")) if isinstance(value, dict) else text
    return label_text(text)


def label_text(value: object) -> str | None:
    """Return a label as text, or None where it says that there is none (missing, empty, -1)."""
    if value is None or isinstance(value, (dict, list)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    return None if text in ("", "-1") else text


class _Places:
    """Where the relative paths of one list start."""

    def __init__(self, root: Path | None, folder: str) -> None:
        self.rooted = root is not None
        self.base = os.fspath(root) if root is not None else folder

    def resolve(self, path: str) -> str:
        joined = os.path.join(self.base, path)
        if not self.rooted and joined != path and not os.path.lexists(joined):
            return path if os.path.lexists(path) else joined
        return joined

    def exists(self, path: str) -> bool:
        return os.path.lexists(self.resolve(path))


def _read_lines(file: TextIO, list_path: str, places: _Places) -> Iterator[ImageItem]:
    for number, raw in enumerate(file, start=1):
        line = raw.rstrip("\r\n")
        if not line.strip():
            continue
        path, label = _split_line(line, places)
        if places.rooted and path.startswith("/"):
            yield ImageItem(
                path,
                label,
                fault=f"line {number} of {list_path} starts with a slash although --root is given; "
                "remove the slash or the option",
            )
        else:
            yield ImageItem(places.resolve(path), label)


def _split_line(line: str, places: _Places) -> tuple[str, str | None]:
    """Split `path` or `path label`; without a root, what exists on disk settles odd names."""
    head, space, tail = line.partition(" ")
    if "\t" in line:
        head, space, tail = line.partition("\t")
    if not space:
        return line, None
    if not places.rooted:
        if places.exists(line):
            return line, None
        spaced, _, last = line.rpartition(" ")
        if not places.exists(head) and places.exists(spaced):
            return spaced, parse_label(last)
    return head, parse_label(tail)


def _read_csv(file: TextIO, list_path: str, places: _Places) -> Iterator[ImageItem]:
    rows = csv.DictReader(file)
    try:
        columns = rows.fieldnames or []
        if "path" not in columns:
            found = ", ".join(columns) or "no columns"
            raise UsageError(f"the list {list_path} needs a column named path; it has {found}")
        for row in rows:
            yield _named(row.get("path"), row.get("label"), list_path, rows.line_num, places)
    except csv.Error as error:
        raise UsageError(
            f"the list {list_path} is not CSV at line {rows.line_num}: {error}"
        ) from None


def _read_jsonl(file: TextIO, list_path: str, places: _Places) -> Iterator[ImageItem]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        path, label = (row.get("path"), row.get("label")) if isinstance(row, dict) else (None, None)
        yield _named(path, label, list_path, number, places)


def _named(path: object, label: object, list_path: str, number: int, places: _Places) -> ImageItem:
    text = label_text(label)
    if not isinstance(path, str) or not path:
        fault = f"line {number} of {list_path} names no path; every line needs one"
        return ImageItem(f"{list_path}:{number}", text, fault=fault)
    return ImageItem(places.resolve(path), text)


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    for line in stream:
        if b"\0" in line:
            raise UsageError("standard input holds null bytes; add -0 to read null-separated paths")
        yield line.rstrip(b"\r\n")


def _null_separated(stream: BinaryIO) -> Iterator[bytes]:
    # read1 returns what a pipe holds now, where read would wait for a full block.
    read = getattr(stream, "read1", stream.read)
    rest = b""
    while block := read(1 << 16):
        *names, rest = (rest + block).split(b"\0")
        yield from names
    if rest:
        yield rest
