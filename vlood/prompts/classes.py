"""The ID classes: what a label is called, and the words that stand for it in a prompt."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlood.errors import UsageError
from vlood.prompts.library_files import (
    is_folder_and_exists,
    library_file,
    library_names,
    read_lines,
)

logger = logging.getLogger(__name__)

_FORMS = (
    "a .txt file (one name a line), a folder of class folders, a comma list, or one of the library"
)
_SHOWN = 5


@dataclass(frozen=True)
class ClassName:
    """A class: ``name`` is its label in data and records, ``prompt`` its words in a template."""

    name: str
    prompt: str

    @classmethod
    def of(cls, name: str) -> ClassName:
        """Make a class from its label alone: underscores become spaces in the prompt."""
        return cls(name, " ".join(name.replace("_", " ").split()))


def read_classes(text: str) -> tuple[ClassName, ...]:
    """Read the value of ``--classes``.

    In this order: a library name (``./cifar10`` means the folder of that name), a folder of class
    folders, a file with one class a line (``name`` or ``name<TAB>prompt name``; blank lines and
    lines that begin with ``#`` are skipped), a comma list (``dog,`` is a list of one).

    Returns:
        The classes in the order given; a folder's are sorted by name.

    Raises:
        UsageError: nothing of that name exists, the list is empty, or a name occurs twice.
    """
    if not text.strip():
        raise UsageError(
            f"--classes: is empty; give {_FORMS} ({', '.join(library_names('classes'))})"
        )
    library = library_file("classes", text)
    if library is not None:
        return _from_file(library)
    path = Path(text)
    is_folder, exists = is_folder_and_exists(path)
    if is_folder:
        return _from_folder(path)
    if exists or path.suffix == ".txt":
        return _warned(_from_file(path))
    if "," in text:
        names = [(place, name.strip()) for place, name in enumerate(text.split(","), start=1)]
        listed = [(place, ClassName.of(name)) for place, name in names if name]
        return _warned(_checked(listed, "--classes", "entry", "entries"))
    raise UsageError(_unknown(text))


def label_lookup(classes: Sequence[ClassName]) -> dict[str, int]:
    """Map every way a data set may write a class's label to its index.

    A label is the class's name, its prompt, either with spaces for underscores or the reverse, or,
    where no class has a number for its name, the class's index (as in OpenOOD's lists). A spelling
    that two classes share is left out; an exact name always counts.
    """
    spellings: dict[str, set[int]] = {}
    for index, each in enumerate(classes):
        for text in (each.name, each.prompt):
            for spelling in spellings_of(text):
                spellings.setdefault(spelling, set()).add(index)
    lookup = {text: next(iter(found)) for text, found in spellings.items() if len(found) == 1}
    if not any(each.name.isdecimal() for each in classes):
        lookup.update({str(index): index for index in range(len(classes))})
    lookup.update({each.name: index for index, each in enumerate(classes)})
    return lookup


def spellings_of(text: str) -> tuple[str, str, str]:
    """Return a label as it is, with underscores for spaces, and with spaces for underscores."""
    return text, text.replace(" ", "_"), text.replace("_", " ")


def _from_folder(folder: Path) -> tuple[ClassName, ...]:
    from vlood.images.sources import labelled_classes

    names = labelled_classes(folder)
    if not names:
        raise UsageError(
            f"--classes {folder}: holds no folder with images in it; "
            "give a folder with one sub-folder a class, or a .txt of names"
        )
    return tuple(ClassName.of(name) for name in names)


def _from_file(path: Path) -> tuple[ClassName, ...]:
    option = f"--classes {path}"
    listed = []
    for number, line in read_lines(path, "--classes"):
        name, *rest = (part.strip() for part in line.split("\t", maxsplit=1))
        if not name or rest == [""]:
            raise UsageError(
                f"{option}, line {number}: one side of the tab is empty; expected "
                "'name' or 'name<TAB>prompt name': fill it in or remove the tab"
            )
        listed.append((number, ClassName(name, *rest) if rest else ClassName.of(name)))
    return _checked(listed, option, "line", "lines")


def _checked(
    listed: Sequence[tuple[int, ClassName]], option: str, place: str, places: str
) -> tuple[ClassName, ...]:
    if not listed:
        raise UsageError(f"{option}: names no class; write at least one name")
    for _, each in listed:
        if not each.prompt:
            raise UsageError(
                f"{option}: the class {each.name!r} has no words for a prompt; rename it"
            )
    found: dict[str, list[int]] = {}
    for number, each in listed:
        found.setdefault(each.name, []).append(number)
    twice = [
        f"{name!r} ({places} {', '.join(map(str, numbers))})"
        for name, numbers in found.items()
        if len(numbers) > 1
    ]
    if twice:
        raise UsageError(f"{option}: {_some(twice)} named more than once; keep one {place} of each")
    return tuple(each for _, each in listed)


def _warned(classes: tuple[ClassName, ...]) -> tuple[ClassName, ...]:
    """Warn when two labels share their words: only the first of them can ever be predicted."""
    first: dict[str, str] = {}
    for each in classes:
        other = first.setdefault(each.prompt, each.name)
        if other != each.name:
            logger.warning(
                "the classes %r and %r have the same prompt name %r; images of both get the first",
                other,
                each.name,
                each.prompt,
            )
    return classes


def _some(names: Iterable[str]) -> str:
    shown = list(names)
    more = len(shown) - _SHOWN
    verb = "is" if len(shown) == 1 else "are"
    return ", ".join(shown[:_SHOWN]) + (f" and {more} more" if more > 0 else "") + f" {verb}"


def _unknown(text: str) -> str:
    known = library_names("classes")
    close = difflib.get_close_matches(text.lower(), known, n=1)
    hint = f"did you mean {close[0]}? It takes" if close else "give"
    return (
        f"--classes {text}: is no file, folder or library list; {hint} {_FORMS} "
        f"({', '.join(known)}); for one class alone write '{text},'"
    )
