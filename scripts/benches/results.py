"""Result files: one section of BENCHMARKS.md each, read, checked and written whole.

A file is JSON: what it is about in words, and tables of figures. Every table says when, on what and
by which commands it was measured, so that one table can be measured again without the others.

A cell is a number, a word, ``null`` (not measured), a list of numbers (one a run), or an object: a
``mean`` with ``sd`` (standard deviation over runs), with ``low`` and ``high`` (ends of an
interval), or both.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "results"
GROUPS = {
    "world": "Quality on the pictogram world",
    "photographs": "Quality on photographs, a small CLIP",
    "embeddings": "Quality on real CLIP embeddings",
    "data": "Cleaning and collecting images",
    "speed": "Speed",
    "memory": "Memory",
    "missing": "What was not measured",
}
WIDEST = 100
PARTS_OF_A_CELL = ({"mean", "sd"}, {"mean", "low", "high"}, {"mean", "sd", "low", "high"})


class ResultError(Exception):
    """A result file that cannot be used; the message names the file, the field and the cure."""


@dataclass(frozen=True)
class Column:
    """A column: its heading, and how many decimals its numbers are shown with, if that is fixed."""

    name: str
    digits: int | None = None


@dataclass(frozen=True)
class Table:
    """Figures measured together.

    Args:
        name: tells the tables of a file apart; a table measured again replaces that of its name.
        caption: lines above it.
        date: of the measurement, YYYY-MM-DD.
        hardware: what it was measured on, with the versions that matter.
        commands: what measures it again; a continued command is several lines.
        columns: headings.
        rows: as many cells each as there are columns.
        keys: how many leading columns name a row.
        weights: digest of the bundled model's weights, where the figures are of that model.
        notes: lines below it.
        notes_of: the date of the figures that the notes were written for, where those are older.
    """

    name: str
    date: str
    hardware: str
    commands: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    caption: tuple[str, ...] = ()
    keys: int = 1
    weights: str | None = None
    notes: tuple[str, ...] = ()
    notes_of: str | None = None

    def value(self, row: str, column: str) -> tuple[Any, Column]:
        """Return the cell of a row, named by its leading cells joined by " / ", and its column."""
        number = next((n for n, one in enumerate(self.columns) if one.name == column), None)
        found = [one for one in self.rows if row == " / ".join(map(str, one[: self.keys]))]
        if number is None or len(found) != 1:
            raise ResultError(f"table {self.name!r} has no one cell at row {row!r}, {column!r}")
        return found[0][number], self.columns[number]


@dataclass(frozen=True)
class Headline:
    """A figure for the summary: its words, and where it stands."""

    text: str
    table: str
    row: str
    column: str


@dataclass(frozen=True)
class Result:
    """A section: a title, words, and tables."""

    name: str
    title: str
    group: str
    order: int
    about: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    headlines: tuple[Headline, ...] = field(default=())


def read_results(folder: Path = FOLDER) -> list[Result]:
    """Read every result file, in the order of the page.

    Raises:
        ResultError: a file is not one; says which and why.
    """
    found = [read_result(path) for path in sorted(folder.glob("*.json"))]
    groups = list(GROUPS)
    return sorted(found, key=lambda one: (groups.index(one.group), one.order, one.name))


def read_result(path: Path) -> Result:
    """Read and check one file.

    Raises:
        ResultError: it is not a result file; says which field is missing or wrong.
    """
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ResultError(f"{path.name}: not JSON: {error}") from None
    known = _checked(given, Result, path.name, without=("name",))
    if known["group"] not in GROUPS:
        raise ResultError(
            f"{path.name}: the group {known['group']!r} is unknown; take one of {', '.join(GROUPS)}"
        )
    tables = [_table(one, path.name) for one in known.pop("tables", [])]
    names = [one.name for one in tables]
    if len(set(names)) < len(names):
        raise ResultError(f"{path.name}: two tables have the same name; give each its own")
    for key in ("about", "notes"):
        known[key] = _lines(known.get(key, []), f"{path.name}: {key}")
    headlines = tuple(
        Headline(**_checked(one, Headline, f"{path.name}, a headline"))
        for one in known.pop("headlines", [])
    )
    result = Result(**known, name=path.stem, tables=tuple(tables), headlines=headlines)
    for one in headlines:
        cell_of(result, one)
    return result


def cell_of(result: Result, headline: Headline) -> tuple[Table, Any, Column]:
    """Return the table, the cell and the column that a headline points at.

    Raises:
        ResultError: there is no such cell.
    """
    for table in result.tables:
        if table.name == headline.table:
            try:
                return table, *table.value(headline.row, headline.column)
            except ResultError as error:
                raise ResultError(f"{result.name}.json, a headline: {error}") from None
    raise ResultError(f"{result.name}.json, a headline: no table is named {headline.table!r}")


def write_result(result: Result, folder: Path = FOLDER) -> Path:
    """Write a file at once: whoever reads sees the old one or the new one, whole."""
    path = folder / f"{result.name}.json"
    given = _plain(result)
    del given["name"]
    folder.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(aside, "w", encoding="utf-8") as file:
            file.write(_written(given) + "\n")
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def renewed(old: Result, tables: Iterable[Table]) -> Result:
    """Put newly measured tables in the place of those of the same names.

    Words stay: the caption and the notes of a table are written by hand. The notes then say which
    figures they were written for.
    """
    kept = {one.name: one for one in old.tables}
    for new in tables:
        before = kept.get(new.name)
        if before is not None:
            notes_of = before.notes_of or before.date
            same = notes_of == new.date and before.weights == new.weights
            new = dataclasses.replace(
                new,
                caption=new.caption or before.caption,
                notes=before.notes,
                notes_of=None if same or not before.notes else notes_of,
            )
        kept[new.name] = new
    return dataclasses.replace(old, tables=tuple(kept.values()))


def _table(given: Any, place: str) -> Table:
    named = given.get("name", "?") if isinstance(given, Mapping) else "?"
    place = f"{place}, table {named!r}"
    known = _checked(given, Table, place)
    columns = tuple(
        Column(one) if isinstance(one, str) else Column(**_checked(one, Column, place))
        for one in known["columns"]
    )
    rows = tuple(tuple(row) for row in known["rows"])
    for number, row in enumerate(rows, 1):
        if len(row) != len(columns):
            raise ResultError(
                f"{place}: row {number} has {len(row)} cells, but there are {len(columns)} columns"
            )
        for cell in row:
            _check_cell(cell, f"{place}, row {number}")
    for key in ("caption", "notes", "commands"):
        known[key] = _lines(known.get(key, []), f"{place}: {key}")
    return Table(**{**known, "columns": columns, "rows": rows})


def _check_cell(cell: Any, place: str) -> None:
    if cell is None or isinstance(cell, str | int | float):
        return
    if isinstance(cell, list) and all(isinstance(one, int | float) for one in cell):
        return
    if isinstance(cell, Mapping) and set(cell) in PARTS_OF_A_CELL:
        return
    raise ResultError(
        f"{place}: the cell {cell!r} is none; give a number, a word, null, a list of numbers, or "
        "a mean with sd, or with low and high"
    )


def _checked(given: Any, kind: type, place: str, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the fields of an object, none missing and none unknown."""
    if not isinstance(given, Mapping):
        raise ResultError(f"{place}: an object is expected, not {given!r}")
    fields = {one.name: one for one in dataclasses.fields(kind) if one.name not in without}
    missing = [
        name
        for name, one in fields.items()
        if one.default is dataclasses.MISSING
        and one.default_factory is dataclasses.MISSING
        and given.get(name) is None
    ]
    if missing:
        raise ResultError(f"{place}: the field {missing[0]!r} is missing")
    unknown = [name for name in given if name not in fields]
    if unknown:
        raise ResultError(
            f"{place}: the field {unknown[0]!r} is unknown; there are {', '.join(fields)}"
        )
    return dict(given)


def _lines(given: Any, place: str) -> tuple[str, ...]:
    if isinstance(given, str) or not all(isinstance(one, str) for one in given):
        raise ResultError(f"{place}: a list of lines is expected, not {given!r}")
    return tuple(given)


def _plain(value: Any) -> Any:
    """Return what JSON can hold, fields at their defaults left out."""
    if isinstance(value, Column) and value.digits is None:
        return value.name
    if dataclasses.is_dataclass(value):
        return {
            one.name: _plain(getattr(value, one.name))
            for one in dataclasses.fields(value)
            if one.default is dataclasses.MISSING or getattr(value, one.name) != one.default
        }
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return value


def _written(value: Any, indent: str = "", key: str = "") -> str:
    """Write JSON that people read: a row a line, a line of words a line."""
    short = json.dumps(value, ensure_ascii=False)
    fits = len(short) <= WIDEST and key != "rows"
    if not isinstance(value, list | dict) or not value or fits:
        return short
    deeper = indent + "  "
    if isinstance(value, dict):
        opened, closed = "{}"
        inner = [
            f"{json.dumps(name)}: {_written(one, deeper, name)}" for name, one in value.items()
        ]
    else:
        opened, closed = "[]"
        flat = key == "rows"
        inner = [
            json.dumps(one, ensure_ascii=False) if flat else _written(one, deeper) for one in value
        ]
    return opened + "\n" + ",\n".join(deeper + one for one in inner) + f"\n{indent}{closed}"
