"""Turn what a user names (files, folders, globs, lists, shards, stdin) into a stream of images."""

# Paths stay the text the user gave, which pathlib would rewrite.
# ruff: noqa: PTH112, PTH122

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from vlood.errors import UsageError
from vlood.images.folders import IMAGE_SUFFIXES, holds_image, labelled_classes, walk_folder
from vlood.images.item import ImageItem
from vlood.images.lists import LIST_SUFFIXES, read_list, read_stdin, split_joined
from vlood.images.shards import COMPRESSED_SUFFIXES, read_shard

__all__ = ["IMAGE_SUFFIXES", "ImageItem", "find_images", "labelled_classes"]

STDIN = "-"


def find_images(
    inputs: Sequence[str],
    *,
    root: Path | None = None,
    stdin: BinaryIO | None = None,
    null_separated: bool = False,
) -> Iterator[ImageItem]:
    """Return the images of any mix of inputs, one after the other, in a deterministic order.

    Every input is checked at the call; what it holds is listed while the result is consumed, so
    memory stays flat. Inputs come in the order given, folders recursively and sorted, globs
    sorted. Files named outright are taken whatever they are called; in folders and shards the
    name's ending decides.

    Args:
        inputs: files, folders, globs, `.txt` / `.csv` / `.jsonl` lists (several joined by `///`
            are one after the other), `.tar` shards, `-`.
        root: where relative paths in lists and on stdin start; default for lists: their folder.
        stdin: the byte stream read for `-`.
        null_separated: paths on `stdin` end at null bytes instead of line breaks.

    Raises:
        UsageError: an input does not exist, holds no image, or is of a kind that is not read.

    """
    if not inputs:
        raise UsageError("no images were named; give files, folders, lists, shards or -")
    if sum(text == STDIN for text in inputs) > 1:
        raise UsageError("standard input (-) can be read once only; name it once")
    typed = [part for text in inputs for part in split_joined(text)]
    named = [path for text in typed for path in _expand(text)]
    for path in named:
        _check(path, root, stdin, typed=path in typed)
    return _stream(named, root, stdin, null_separated)


def _expand(text: str) -> list[str]:
    if text == STDIN or os.path.lexists(text):
        return [text]
    if glob.has_magic(text):
        found = sorted(glob.iglob(text, recursive=True))
        if not found:
            raise UsageError(f"nothing matches the pattern {text}; check it and its folder")
        return found
    raise UsageError(f"the input {text or repr(text)} does not exist; check the name")


def _check(path: str, root: Path | None, stdin: BinaryIO | None, *, typed: bool) -> None:
    """Refuse an input that cannot give an image, before anything is run on the others."""
    if path == STDIN:
        if stdin is None:
            raise UsageError("standard input (-) was named, but there is none to read")
    elif os.path.isdir(path):
        # An empty folder among a pattern's many matches is nobody's mistake.
        if typed and not holds_image(path):
            raise UsageError(f"the folder {path} holds no images; name a folder with images in it")
    elif path.lower().endswith(COMPRESSED_SUFFIXES):
        raise UsageError(f"the shard {path} is compressed; unpack it to a plain .tar first")
    elif _suffix(path) in LIST_SUFFIXES | {".tar"}:
        first = next(_entries(path, root, stdin, null_separated=False), None)
        if first is None:
            raise UsageError(f"the file {path} names no images; check what it holds")
        if first.fault is not None and _suffix(path) in LIST_SUFFIXES:
            raise UsageError(first.fault)


def _stream(
    paths: list[str], root: Path | None, stdin: BinaryIO | None, null_separated: bool
) -> Iterator[ImageItem]:
    for path in paths:
        yield from _entries(path, root, stdin, null_separated)


def _entries(
    path: str, root: Path | None, stdin: BinaryIO | None, null_separated: bool
) -> Iterator[ImageItem]:
    if path == STDIN:
        assert stdin is not None
        return read_stdin(stdin, root, null_separated=null_separated)
    if os.path.isdir(path):
        return walk_folder(path)
    if _suffix(path) in LIST_SUFFIXES:
        return read_list(path, root)
    if _suffix(path) == ".tar":
        return read_shard(path)
    return iter([ImageItem(path)])


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()
