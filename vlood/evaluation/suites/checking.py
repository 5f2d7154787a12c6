"""Say of every set of a suite whether it lies below a folder, whole, and where it should lie."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vlood.evaluation.overlap import find_overlap
from vlood.evaluation.suites.suite import Suite, SuiteSet
from vlood.images.folders import walk_folder
from vlood.images.item import ImageItem
from vlood.images.lists import read_list, split_joined

_SHOWN = 3


@dataclass(frozen=True)
class SetStatus:
    """How one set of a suite lies below a root.

    Attributes:
        set: the set.
        state: present, incomplete (something of it is there) or missing.
        rows: images its list names, or its folder holds where it has no list; None without them.
        absent: how many of the images the list names are not there.
        problem: one sentence on what is not as it must be, "" where the set is present.
        how: one sentence on how it must lie, and where it comes from.
    """

    set: SuiteSet
    state: str
    rows: int | None
    absent: int
    problem: str
    how: str


@dataclass(frozen=True)
class SharedImages:
    """Images that an ID set and an OOD set have in common: a sure error each.

    Attributes:
        id: name of the ID or shifted-ID set.
        ood: name of the near or far set.
        count: how many images are in both.
        example: path of one of them.
    """

    id: str
    ood: str
    count: int
    example: str


def check_suite(suite: Suite, root: Path) -> list[SetStatus]:
    """Look for every set of a suite below ``root``, without opening an image.

    A set is present when its list is there, has the published number of rows, and every image it
    names exists. Without a list, its folder must hold the published number of images.

    Raises:
        UsageError: a list is there but cannot be read.
    """
    return [_check(one, root) for one in suite.sets]


def find_overlaps(suite: Suite, root: Path) -> list[SharedImages]:
    """Return the pairs of an ID side and an OOD set that share images, among the sets present.

    Raises:
        UsageError: a list is there but cannot be read.
    """
    paths = {one.name: [item.path for item in _items(one, root)] for one in suite.sets}
    found = []
    for known in (*suite.group("id"), *suite.group("shift")):
        for other in (*suite.group("near"), *suite.group("far")):
            overlap = find_overlap(paths[known.name], paths[other.name], examples=1)
            if overlap:
                example = overlap.examples[0]
                found.append(SharedImages(known.name, other.name, overlap.count, example))
    return found


def _check(one: SuiteSet, root: Path) -> SetStatus:
    how = _how(one)
    lists = [] if one.list is None else split_joined(one.list)
    gone = [text for text in lists if not (root / text).is_file()]
    folder = (root / one.place).is_dir()
    if gone:
        problem = f"the list {gone[0]} is not there"
        if folder and one.layout != "none":
            problem += ", but --build-lists can make it from the folder"
        elif not folder:
            problem += f", nor is the folder {one.place}"
        return SetStatus(one, "incomplete" if folder else "missing", None, 0, problem, how)
    if not lists and not folder:
        return SetStatus(one, "missing", None, 0, f"the folder {one.place} is not there", how)
    rows, absent, faults = 0, [], []
    for item in _items(one, root):
        rows += 1
        if item.fault is not None:
            faults.append(item.fault)
        elif not os.path.exists(item.path):  # noqa: PTH110  the path stays as the list has it
            absent.append(item.path)
    if faults:
        problem = faults[0]
    elif absent:
        shown = ", ".join(absent[:_SHOWN])
        more = f" and {len(absent) - _SHOWN:,} more" if len(absent) > _SHOWN else ""
        problem = f"{len(absent):,} of its {rows:,} images are not there: {shown}{more}"
    elif one.rows is not None and rows != one.rows:
        problem = f"it has {rows:,} images where the published set has {one.rows:,}"
    else:
        problem = "" if rows else "it names no image"
    return SetStatus(one, "incomplete" if problem else "present", rows, len(absent), problem, how)


def _items(one: SuiteSet, root: Path) -> Iterator[ImageItem]:
    """Yield the images of a set as far as its list, or else its folder, is there."""
    if one.list is None:
        if (root / one.place).is_dir():
            yield from walk_folder(os.fspath(root / one.place))
        return
    for text in split_joined(one.list):
        if (root / text).is_file():
            yield from read_list(os.fspath(root / text), root / one.images)


def _how(one: SuiteSet) -> str:
    count = "its images" if one.rows is None else f"{one.rows:,} images"
    if one.list is None:
        return f"{count} in {one.place}; from {one.origin}"
    return f"{one.list} names {count} below {one.images}, in {one.folder}; from {one.origin}"
