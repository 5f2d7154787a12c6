"""Images in folders: which files count, in which order, and what their labels are."""

# Paths stay the text the user gave, which pathlib would rewrite.
# ruff: noqa: PTH116, PTH122

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from vlood.errors import UsageError
from vlood.images.item import ImageItem

IMAGE_SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp"),
        *(".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".avif"),
        *(".jp2", ".j2k", ".j2c", ".jpf", ".jpx"),
    }
)
"""Endings (lower case) by which a file inside a folder or a shard is taken for an image."""


def has_image_suffix(name: str) -> bool:
    """Say whether a file name ends like an image's, in any case."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def walk_folder(folder: str) -> Iterator[ImageItem]:
    """Yield the images below a folder, depth first, every level sorted by name.

    Hidden files and folders are skipped. A linked folder is followed, but no folder is entered
    twice, so loops end. The label is the name of the sub-folder an image lies in, None for images
    lying directly in `folder`. A sub-folder that cannot be listed becomes one unreadable item.
    """
    yield from _walk(folder, None, set())


def holds_image(folder: str) -> bool:
    """Say whether there is at least one image below a folder, without sorting anything."""
    return _holds_image(folder, set())


def labelled_classes(folder: Path) -> list[str]:
    """Return the sorted names of the sub-folders that hold images, at any depth below them.

    Raises:
        UsageError: the folder cannot be listed.

    """
    try:
        entries = _entries(os.fspath(folder))
    except OSError as error:
        raise UsageError(f"the folder {folder} cannot be listed: {error.strerror}") from None
    return [entry.name for entry in entries if entry.is_dir() and holds_image(entry.path)]


def _walk(folder: str, label: str | None, entered: set[tuple[int, int]]) -> Iterator[ImageItem]:
    try:
        if not _enter(folder, entered):
            return
        entries = _entries(folder)
    except OSError as error:
        yield ImageItem(folder, label, fault=f"the folder cannot be listed: {error.strerror}")
        return
    for entry in entries:
        if _is_folder(entry):
            yield from _walk(entry.path, entry.name, entered)
        elif has_image_suffix(entry.name):
            yield ImageItem(entry.path, label)


def _holds_image(folder: str, entered: set[tuple[int, int]]) -> bool:
    folders = []
    try:
        if not _enter(folder, entered):
            return False
        with os.scandir(folder) as listing:
            for entry in listing:
                if entry.name.startswith("."):
                    continue
                if _is_folder(entry):
                    folders.append(entry.path)
                elif has_image_suffix(entry.name):
                    return True
    except OSError:
        # Not an image, but something the walk has to report.
        return True
    return any(_holds_image(path, entered) for path in folders)


def _enter(folder: str, entered: set[tuple[int, int]]) -> bool:
    state = os.stat(folder)
    identity = (state.st_dev, state.st_ino)
    if identity in entered:
        return False
    entered.add(identity)
    return True


def _entries(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as listing:
        shown = [entry for entry in listing if not entry.name.startswith(".")]
    return sorted(shown, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
