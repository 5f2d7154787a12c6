"""Images with captions: tar shards in webdataset's layout, tables of paths and captions.

In a shard, as img2dataset makes them of Conceptual Captions (CC3M), a sample is an image and beside
it under the same key, its caption: `key.txt`, or `caption` in `key.json`. What cannot be used (no
caption, an empty one, a page of text, a key that was there before, a shard that breaks off) is told
with its reason, and the reading goes on.
"""

# Paths stay the text the user gave, which pathlib would rewrite.
# ruff: noqa: PTH112, PTH118, PTH120, PTH122

from __future__ import annotations

import csv
import glob
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from vlood.errors import UsageError
from vlood.images.folders import has_image_suffix
from vlood.images.item import ImageItem
from vlood.images.shards import (
    COMPRESSED_SUFFIXES,
    NO_END,
    ends_well,
    reason_of,
    sample_key,
    usable_member,
)

SUFFIXES = (".tar", ".csv", ".jsonl")
MOST_WORDS = 200
"""A caption of more words is a text about something, not a caption; it is left out."""

NO_CAPTION = "there is no caption"
EMPTY = "the caption is empty"
TOO_LONG = f"the caption is a text of more than {MOST_WORDS} words"
DAMAGED = "the caption cannot be read"
NO_IMAGE = "there is no image"
TWICE = "the key was there before"
BROKEN_OFF = "the shard breaks off"

_TEXT, _JSON = "txt", "json"
# What datasets call the caption in a JSON object.
_FIELDS = ("caption", "text", "TEXT")
_MAX_BYTES = 1 << 20
_MOST_SHARDS = 100_000
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Captioned:
    """An image, not read yet, and its caption."""

    item: ImageItem
    caption: str


@dataclass(frozen=True)
class LeftOut:
    """What cannot be used: where, and why (one of this module's reasons)."""

    path: str
    reason: str
    detail: str = ""


Read = Captioned | LeftOut


def find_captions(inputs: Sequence[str], *, root: Path | None = None) -> Iterator[Read]:
    """Return the captioned images of any mix of shards, tables and folders of them, in order.

    Args:
        inputs: `.tar` shards, globs and `shard-{000..331}.tar`, `.csv` and `.jsonl` with `path` and
            `caption`, folders that hold such files.
        root: where relative paths of tables start; default: the table's folder.

    Raises:
        UsageError: an input does not exist or is of another kind, or a table lacks a column.
    """
    paths = [path for text in inputs for path in _expand(text)]
    if not paths:
        raise UsageError("--captions: names nothing; give .tar shards, or .csv or .jsonl tables")
    for path in paths:
        _check(path)
    return _stream(paths, root)


def caption_of(value: object) -> str | LeftOut:
    """Return a caption with its spaces made even, or why it is none."""
    if value is None:
        return LeftOut("", NO_CAPTION)
    if not isinstance(value, str):
        return LeftOut("", DAMAGED, "it is no text")
    words = value.split()
    if not words:
        return LeftOut("", EMPTY)
    if len(words) > MOST_WORDS:
        return LeftOut("", TOO_LONG, f"{len(words)} words")
    return " ".join(words)


def _expand(text: str) -> list[str]:
    if os.path.isdir(text):
        found = sorted(
            path for path in glob.glob(os.path.join(glob.escape(text), "*")) if _known(path)
        )
        if not found:
            raise UsageError(
                f"--captions {text}: the folder holds no .tar, .csv or .jsonl; images in class "
                "folders go to --train, and get captions by templates"
            )
        return found
    if os.path.lexists(text):
        return [text]
    span = _RANGE.search(text)
    if span is not None:
        first, last = span.groups()
        if not 0 <= int(last) - int(first) < _MOST_SHARDS:
            raise UsageError(f"--captions {text}: {span[0]} is no range of shards")
        numbers = range(int(first), int(last) + 1)
        filled = (f"{text[: span.start()]}{n:0{len(first)}d}{text[span.end() :]}" for n in numbers)
        return [path for each in filled for path in _expand(each)]
    found = sorted(glob.glob(text, recursive=True)) if glob.has_magic(text) else []
    if not found:
        raise UsageError(f"--captions {text}: does not exist; check the name")
    return found


def _known(path: str) -> bool:
    return path.lower().endswith(SUFFIXES)


def _check(path: str) -> None:
    if path.lower().endswith(COMPRESSED_SUFFIXES):
        raise UsageError(f"--captions {path}: is compressed; unpack it to a plain .tar first")
    if not _known(path) or os.path.isdir(path):
        raise UsageError(
            f"--captions {path}: is not a .tar shard, nor a .csv or .jsonl with the columns path "
            "and caption"
        )
    if path.lower().endswith(".csv"):
        next(_read_csv(path, None), None)
    if path.lower().endswith(".tar"):
        _open(path).close()


def _stream(paths: Sequence[str], root: Path | None) -> Iterator[Read]:
    for path in paths:
        suffix = os.path.splitext(path)[1].lower()
        if suffix == ".tar":
            yield from _read_shard(path)
        else:
            yield from (_read_csv if suffix == ".csv" else _read_jsonl)(path, root)


def _open(path: str) -> tarfile.TarFile:
    try:
        return tarfile.open(path, "r:")
    except (tarfile.TarError, OSError) as error:
        raise UsageError(
            f"--captions {path}: is not an uncompressed tar archive: {reason_of(error)}"
        ) from None


def _read_shard(path: str) -> Iterator[Read]:
    """Yield the samples of a shard, reading headers and captions but no pixels."""
    seen: set[bytes] = set()
    sample: list[tarfile.TarInfo] = []
    key: str | None = None
    broken: Exception | None = None
    with _open(path) as archive:
        members = iter(archive)
        while broken is None:
            member: tarfile.TarInfo | None = None
            try:
                member = next(members, None)
            except (tarfile.TarError, OSError, ValueError, EOFError) as error:
                broken = error
            # The archive keeps every header it has seen; a shard may have millions.
            archive.members = []  # type: ignore[attr-defined]
            if member is not None and not usable_member(member):
                continue
            next_key = None if member is None else sample_key(member.name)
            # Two samples of one key beside each other look like one with everything twice.
            again = member is not None and any(_kind(one) == _kind(member) for one in sample)
            if next_key != key or again:
                if key is not None:
                    yield _sample(archive, path, key, sample, seen)
                sample, key = [], next_key
            if member is None:
                break
            sample.append(member)
        ended = broken is None and ends_well(archive)
    if not ended:
        yield LeftOut(path, BROKEN_OFF, NO_END if broken is None else reason_of(broken))


def _kind(member: tarfile.TarInfo) -> str:
    """Return what a member is in its sample: the image, or its suffix."""
    if has_image_suffix(member.name):
        return "image"
    return member.name.rpartition(".")[2].lower()


def _sample(
    archive: tarfile.TarFile,
    shard: str,
    key: str,
    members: Sequence[tarfile.TarInfo],
    seen: set[bytes],
) -> Read:
    shown = f"{shard}/{key.removeprefix('./')}"
    # A digest of each key: a shard may have a million of them.
    digest = blake2b(os.fsencode(key), digest_size=8).digest()
    if digest in seen:
        return LeftOut(shown, TWICE)
    seen.add(digest)
    by_kind = {_kind(member): member for member in members}
    image = by_kind.get("image")
    if image is None:
        return LeftOut(shown, NO_IMAGE)
    found = _stored_caption(archive, by_kind)
    if isinstance(found, LeftOut):
        return LeftOut(shown, found.reason, found.detail)
    shown = f"{shard}/{image.name.removeprefix('./')}"
    if not image.isreg() or image.issparse():
        return Captioned(ImageItem(shown, fault="the member is a link or a sparse file"), found)
    return Captioned(ImageItem(shown, None, shard, image.offset_data, image.size), found)


def _stored_caption(archive: tarfile.TarFile, by_kind: dict[str, tarfile.TarInfo]) -> str | LeftOut:
    """Read `key.txt`, or else the caption in `key.json`."""
    for kind in (_TEXT, _JSON):
        member = by_kind.get(kind)
        if member is None:
            continue
        text = _content(archive, member)
        if isinstance(text, LeftOut) or kind == _TEXT:
            return text if isinstance(text, LeftOut) else caption_of(text)
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return LeftOut("", DAMAGED, "its .json is no JSON")
        return caption_of(_field(value))
    return LeftOut("", NO_CAPTION)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str | LeftOut:
    if not member.isreg() or member.size > _MAX_BYTES:
        return LeftOut("", DAMAGED, f"{member.size:,} bytes")
    try:
        file = archive.extractfile(member)
        data = b"" if file is None else file.read()
    except (tarfile.TarError, OSError, ValueError) as error:
        return LeftOut("", DAMAGED, reason_of(error))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return LeftOut("", DAMAGED, "it is not UTF-8")


def _field(value: Any) -> object:
    if not isinstance(value, dict):
        return None
    return next((value[name] for name in _FIELDS if value.get(name) is not None), None)


def _read_csv(path: str, root: Path | None) -> Iterator[Read]:
    try:
        with Path(path).open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = csv.DictReader(file)
            columns = rows.fieldnames or []
            for wanted in ("path", "caption"):
                if wanted not in columns:
                    found = ", ".join(columns) or "no columns"
                    raise UsageError(
                        f"--captions {path}: needs a column named {wanted}; it has {found}"
                    )
            for row in rows:
                yield _named(row, path, rows.line_num, root)
    except csv.Error as error:
        raise UsageError(f"--captions {path}: is not CSV: {error}") from None
    except OSError as error:
        raise UsageError(f"--captions {path}: cannot be read: {error.strerror}") from None


def _read_jsonl(path: str, root: Path | None) -> Iterator[Read]:
    try:
        with Path(path).open(encoding="utf-8-sig", errors="surrogateescape") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    yield LeftOut(f"{path}:{number}", DAMAGED, "the line is no JSON")
                    continue
                yield _named(row if isinstance(row, dict) else {}, path, number, root)
    except OSError as error:
        raise UsageError(f"--captions {path}: cannot be read: {error.strerror}") from None


def _named(row: dict[str, Any], table: str, number: int, root: Path | None) -> Read:
    place = row.get("path")
    if not isinstance(place, str) or not place:
        return LeftOut(f"{table}:{number}", NO_IMAGE, "the line names no path")
    base = os.fspath(root) if root is not None else os.path.dirname(table)
    shown = os.path.join(base, place)
    if root is None and not os.path.lexists(shown) and os.path.lexists(place):
        shown = place
    found = caption_of(row.get("caption"))
    if isinstance(found, LeftOut):
        return LeftOut(shown, found.reason, found.detail)
    return Captioned(ImageItem(shown), found)
