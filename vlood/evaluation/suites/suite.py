"""What a suite is, and its JSON file: strict, so that a typo is told and not skipped."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vlood.errors import UsageError
from vlood.images.lists import split_joined

GROUPS = ("id", "near", "far", "shift")
"""The sides a set can be on: in-distribution, near-OOD, far-OOD, covariate-shifted ID."""

LAYOUTS = ("ood", "class-names", "class-order", "class-numbers", "none")
"""How a set's own folder gives its list: every image with -1; sub-folders named after the classes,
in the order of the classes, or named by their numbers; or not at all."""

_PUBLISHED = Path(__file__).parent / "published"


@dataclass(frozen=True)
class SuiteSet:
    """One dataset of a suite.

    Attributes:
        name: short name, unique in the suite.
        group: one of `GROUPS`.
        list: place of its image list below the root (several joined by ``///``), or None where
            the folder itself is the set.
        images: folder below the root that the paths of the list are relative to.
        folder: folder below ``images`` that holds the dataset.
        rows: how many images the published set has, or None where that was not verified.
        layout: one of `LAYOUTS`.
        reason: for the layout ``none``, why no list can be made from the folder.
        licence: what the origin says of use; look there before relying on it.
        origin: where the dataset comes from.
        notes: known defects and advice.
    """

    name: str
    group: str
    list: str | None
    images: str
    folder: str
    rows: int | None
    layout: str
    licence: str
    origin: str
    reason: str = ""
    notes: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """The dataset's folder below the root."""
        return str(PurePosixPath(self.images, self.folder))


@dataclass(frozen=True)
class Suite:
    """A published protocol: which sets are compared, and under which class names.

    Attributes:
        name: what it is called on the command line.
        title: what it is.
        protocol: where it was published.
        classes: a name of the class library, the names themselves, or None where the user has to
            name them.
        class_count: how many classes the ID side has.
        notes: known defects and how figures are averaged.
        sets: its datasets, the ID sets first.
    """

    name: str
    title: str
    protocol: str
    classes: str | tuple[str, ...] | None
    class_count: int
    notes: tuple[str, ...]
    sets: tuple[SuiteSet, ...]

    def group(self, name: str) -> tuple[SuiteSet, ...]:
        """Return the sets of one group, in order."""
        return tuple(one for one in self.sets if one.group == name)


def suite_names() -> tuple[str, ...]:
    """Return the names of the suites that come with vlood, sorted."""
    return tuple(sorted(path.stem for path in _PUBLISHED.glob("*.json")))


def read_suite(name_or_path: str) -> Suite:
    """Read a suite that comes with vlood by its name, or one of your own by its file.

    A file of your own has the same fields as those in ``vlood/evaluation/suites/published``.

    Raises:
        UsageError: there is no such suite, or its file is not a valid one.
    """
    names = suite_names()
    if name_or_path in names:
        return _read(_PUBLISHED / f"{name_or_path}.json")
    path = Path(name_or_path)
    if path.is_file() or path.suffix == ".json":
        return _read(path)
    hint = _did_you_mean(name_or_path, names)
    raise UsageError(
        f"no suite is called {name_or_path!r}{hint}; there are {', '.join(names)}, or give a .json "
        "file of your own"
    )


def _read(path: Path) -> Suite:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"the suite {path} cannot be read: {error.strerror}; check the name"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the suite {path} is not JSON ({error}); mend it there") from None
    return suite_of(record, str(path))


def suite_of(record: object, source: str) -> Suite:
    """Return the suite a parsed JSON file describes; ``source`` names the file in messages.

    Raises:
        UsageError: a field is missing, unknown or of the wrong kind, a set occurs twice, a group
            or a layout is unknown, or there is no ID set or nothing to compare it with.
    """
    where = f"the suite {source}"
    fields = _checked(record, _SUITE_FIELDS, _SUITE_OPTIONAL, where)
    _check_name(fields["name"], where)
    if fields["class_count"] < 1:
        raise UsageError(f"{where} has {fields['class_count']} classes; give a number above 0")
    sets = tuple(_set_of(one, number, where) for number, one in enumerate(fields["sets"], start=1))
    for kind in ("name", "list"):
        seen: set[str] = set()
        for one in sets:
            value = getattr(one, kind)
            if value in seen:
                raise UsageError(f"{where} has two sets with the {kind} {value!r}; keep one")
            if value is not None:
                seen.add(value)
    if all(one.group != "id" for one in sets):
        raise UsageError(f"{where} has no set of the group id; add the known images")
    if all(one.group == "id" for one in sets):
        raise UsageError(f"{where} has ID sets alone; add a set of the group near, far or shift")
    classes = fields.get("classes")
    if isinstance(classes, list):
        classes = _texts(classes, f"{where}: classes")
        if len(set(classes)) != len(classes):
            raise UsageError(f"{where} names a class twice; keep one of each")
        if len(classes) != fields["class_count"]:
            raise UsageError(
                f"{where} names {len(classes)} classes and says there are "
                f"{fields['class_count']}; make the two agree"
            )
    return Suite(
        name=fields["name"],
        title=fields["title"],
        protocol=fields["protocol"],
        classes=classes,
        class_count=fields["class_count"],
        notes=_texts(fields.get("notes", []), f"{where}: notes"),
        sets=tuple(sorted(sets, key=lambda one: GROUPS.index(one.group))),
    )


_TEXT = "text"
_Kinds = Mapping[str, tuple[str, tuple[type, ...]]]
"""What a field holds, in words and as types."""

_SUITE_FIELDS: _Kinds = {
    "name": (_TEXT, (str,)),
    "title": (_TEXT, (str,)),
    "protocol": (_TEXT, (str,)),
    "class_count": ("a whole number", (int,)),
    "sets": ("a list of sets", (list,)),
}
_SUITE_OPTIONAL: _Kinds = {
    "classes": ("a library name, a list of names or null", (str, list, type(None))),
    "notes": ("a list of texts", (list,)),
}
_SET_FIELDS: _Kinds = {
    **dict.fromkeys(("name", "group", "images", "folder", "layout"), (_TEXT, (str,))),
    **dict.fromkeys(("licence", "origin"), (_TEXT, (str,))),
    "list": ("text or null", (str, type(None))),
    "rows": ("a whole number or null", (int, type(None))),
}
_SET_OPTIONAL: _Kinds = {"reason": (_TEXT, (str,)), "notes": ("a list of texts", (list,))}


def _set_of(record: object, number: int, where: str) -> SuiteSet:
    named = record.get("name") if isinstance(record, dict) else None
    place = f"{where}, set {named!r}" if isinstance(named, str) else f"{where}, set {number}"
    fields = dict(_checked(record, _SET_FIELDS, _SET_OPTIONAL, place))
    _check_name(fields["name"], place)
    for kind, known in (("group", GROUPS), ("layout", LAYOUTS)):
        if fields[kind] not in known:
            hint = _did_you_mean(fields[kind], known)
            raise UsageError(
                f"{place}: the {kind} {fields[kind]!r} is unknown{hint}; expected one of "
                f"{', '.join(known)}"
            )
    if (fields["layout"] == "none") != bool(fields.get("reason")):
        raise UsageError(f"{place}: a reason goes with the layout none, and with no other")
    if fields["layout"].startswith("class-") and fields["group"] in ("near", "far"):
        raise UsageError(f"{place}: OOD images have no classes; its layout is ood or none")
    if fields["rows"] is not None and fields["rows"] < 1:
        raise UsageError(f"{place}: rows is {fields['rows']}; give a number above 0 or null")
    lists = split_joined(fields["list"]) if fields["list"] is not None else []
    for text in (*lists, fields["images"], fields["folder"]):
        path = PurePosixPath(text)
        if not text or path.is_absolute() or ".." in path.parts:
            raise UsageError(f"{place}: {text!r} does not lie below the root; give a relative path")
    notes = _texts(fields.pop("notes", []), f"{place}: notes")
    return SuiteSet(**fields, notes=notes)


def _checked(record: object, needed: _Kinds, optional: _Kinds, where: str) -> Mapping[str, Any]:
    if not isinstance(record, dict):
        raise UsageError(f"{where} is no JSON object; see the suites that come with vlood")
    kinds = {**needed, **optional}
    for key in record:
        if key not in kinds:
            hint = _did_you_mean(key, kinds)
            raise UsageError(f"{where} has an unknown field {key!r}{hint}; remove or rename it")
    for key in needed:
        if key not in record:
            raise UsageError(f"{where} lacks the field {key!r}; add it")
    for key, value in record.items():
        expected, types = kinds[key]
        if not isinstance(value, types) or isinstance(value, bool):
            raise UsageError(f"{where}: {key} is {value!r}; expected {expected}")
    return record


def _check_name(name: str, where: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
        raise UsageError(
            f"{where}: the name {name!r} may hold letters, digits, '-', '_' and '.' alone; "
            "rename it"
        )


def _texts(values: list[Any], where: str) -> tuple[str, ...]:
    for value in values:
        if not isinstance(value, str) or not value.strip():
            raise UsageError(f"{where} holds {value!r}; expected texts alone")
    return tuple(values)


def _did_you_mean(text: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(text.lower(), known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
