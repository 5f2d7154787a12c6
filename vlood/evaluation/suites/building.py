"""Make a suite's image lists from the datasets' own folders, where the folders say enough."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vlood.errors import UsageError
from vlood.evaluation.report_files import write_file
from vlood.evaluation.suites.suite import Suite, SuiteSet
from vlood.images.folders import labelled_classes, walk_folder
from vlood.images.lists import JOIN
from vlood.prompts.classes import ClassName, label_lookup, read_classes

_OOD = -1


@dataclass(frozen=True)
class BuiltList:
    """What became of one set's list.

    Attributes:
        set: the set.
        path: the list written, or None.
        rows: how many images it names.
        refused: one sentence on why it was not written, or "".
    """

    set: SuiteSet
    path: Path | None
    rows: int
    refused: str


def build_lists(suite: Suite, root: Path, out: Path) -> list[BuiltList]:
    """Write the lists of a suite that its folders below ``root`` determine, OpenOOD's way.

    A line is ``path label``: the path below the set's image folder, sorted, and the class number,
    -1 for OOD. A list lies below ``out`` where the suite has it, so ``out`` may be ``root``; a set
    without a published list becomes ``SUITE/SET.txt``. What is already there is never overwritten.

    Raises:
        VloodError: ``out`` cannot be written.
    """
    return [_build(suite, one, root, out) for one in suite.sets]


def _build(suite: Suite, one: SuiteSet, root: Path, out: Path) -> BuiltList:
    path = out / (one.list or f"{suite.name}/{one.name}.txt")
    try:
        if JOIN in (one.list or ""):
            raise UsageError("several lists make up this set, and a folder gives one")
        if os.path.lexists(path):
            raise UsageError(f"{path} is already there; move it away to have it made again")
        lines = list_lines(suite, one, root)
    except UsageError as error:
        return BuiltList(one, None, 0, str(error))
    write_file(path, "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))
    return BuiltList(one, path, len(lines), "")


def list_lines(suite: Suite, one: SuiteSet, root: Path) -> list[str]:
    """Return the sorted lines of one set's list, made from its folder.

    Raises:
        UsageError: the folder does not determine the list, and why.
    """
    if one.layout == "none":
        raise UsageError(one.reason)
    folder = root / one.place
    if not folder.is_dir():
        raise UsageError(f"the folder {folder} is not there; put the dataset there")
    numbers = None if one.layout == "ood" else _numbers(suite, one, folder)
    base = root / one.images
    lines = []
    for item in walk_folder(os.fspath(folder)):
        if item.fault is not None:
            raise UsageError(f"{item.path}: {item.fault}")
        place = Path(item.path)
        name = place.relative_to(base).as_posix()
        if any(character.isspace() for character in name):
            raise UsageError(
                f"the path {name!r} holds white space, which this kind of list cannot say; "
                "rename it"
            )
        label = _OOD
        if numbers is not None:
            first = place.relative_to(folder).parts[0]
            if first not in numbers:
                raise UsageError(
                    f"{name} lies beside the class folders of {folder}; move it into one"
                )
            label = numbers[first]
        lines.append((name, label))
    if not lines:
        raise UsageError(f"the folder {folder} holds no images; put the dataset there")
    if one.rows is not None and len(lines) != one.rows:
        raise UsageError(
            f"the folder {folder} holds {len(lines):,} images where the published set has "
            f"{one.rows:,}; use the published list, or remove what does not belong"
        )
    return [f"{name} {label}" for name, label in sorted(lines)]


def _numbers(suite: Suite, one: SuiteSet, folder: Path) -> dict[str, int]:
    """Return the class number of each sub-folder."""
    names = labelled_classes(folder)
    if one.layout == "class-order":
        if len(names) != suite.class_count:
            raise UsageError(
                f"the folder {folder} has {len(names):,} class folders with images where the "
                f"suite has {suite.class_count:,} classes; sort the images into one folder a class"
            )
        return {name: number for number, name in enumerate(names)}
    if one.layout == "class-numbers":
        lookup = {str(number): number for number in range(suite.class_count)}
        numbers = {name: lookup.get(name.lstrip("0") or "0") for name in names}
    else:
        found = label_lookup(_classes(suite))
        numbers = {name: found.get(name) for name in names}
    strange = [name for name, number in numbers.items() if number is None]
    if strange:
        raise UsageError(
            f"the folder {folder / strange[0]} is named after no class of the suite; rename it or "
            "move it away"
        )
    return {name: number for name, number in numbers.items() if number is not None}


def _classes(suite: Suite) -> tuple[ClassName, ...]:
    if suite.classes is None:
        raise UsageError(f"the suite {suite.name} names no classes, so folders have no numbers")
    if isinstance(suite.classes, str):
        return read_classes(suite.classes)
    return tuple(ClassName.of(name) for name in suite.classes)
