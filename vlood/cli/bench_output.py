"""What ``vlood bench`` prints of suites: those there are, what is present, which lists are made."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from vlood.evaluation.suites import BuiltList, SetStatus, Suite


def list_suites(found: list[Suite], as_json: bool) -> None:
    """Print the suites: a table on a terminal, or JSON Lines."""
    if as_json:
        for one in found:
            sys.stdout.write(json.dumps(_facts(one)) + "\n")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("suite", "what", "near", "far", "shifted ID"):
        table.add_column(column, overflow="fold")
    for one in found:
        groups = (", ".join(each.name for each in one.group(g)) for g in ("near", "far", "shift"))
        table.add_row(one.name, one.title, *groups)
    Console(highlight=False).print(table)
    typer.echo("'vlood bench SUITE --root DIR --check' says what is there.", err=True)


def _facts(one: Suite) -> dict[str, Any]:
    return {
        "suite": one.name,
        "title": one.title,
        "protocol": one.protocol,
        "classes": list(one.classes) if isinstance(one.classes, tuple) else one.classes,
        "class_count": one.class_count,
        "sets": {group: [each.name for each in one.group(group)] for group in _groups()},
        "notes": list(one.notes),
    }


def _groups() -> tuple[str, ...]:
    from vlood.evaluation.suites.suite import GROUPS

    return GROUPS


def print_statuses(statuses: list[SetStatus], as_json: bool) -> None:
    """Print what is present of each set, and what is missing and where."""
    for one in statuses:
        if as_json:
            record = {
                "set": one.set.name,
                "group": one.set.group,
                "state": one.state,
                "rows": one.rows,
                "expected": one.set.rows,
                "absent": one.absent,
                "problem": one.problem,
                "how": one.how,
                "licence": one.set.licence,
                "notes": list(one.set.notes),
            }
            sys.stdout.write(json.dumps(record) + "\n")
            continue
        rows = f" ({one.rows:,} images)" if one.state == "present" else f": {one.problem}"
        sys.stdout.write(shown(f"{one.state} {one.set.group} {one.set.name}{rows}") + "\n")
        if one.state != "present":
            sys.stdout.write(f"    expected: {shown(one.how)}\n")
            sys.stdout.write(f"    licence: {shown(one.set.licence)}\n")
        for each in one.set.notes:
            sys.stdout.write(f"    note: {shown(each)}\n")


def print_built(built: list[BuiltList], as_json: bool) -> None:
    """Print which lists were written, and why others were not."""
    for one in built:
        if as_json:
            record = {
                "set": one.set.name,
                "group": one.set.group,
                "list": None if one.path is None else str(one.path),
                "rows": one.rows,
                "refused": one.refused,
            }
            sys.stdout.write(json.dumps(record) + "\n")
        elif one.path is not None:
            line = f"written {one.set.group} {one.set.name}: {one.path} ({one.rows:,} images)"
            sys.stdout.write(shown(line) + "\n")
        else:
            line = f"not made {one.set.group} {one.set.name}: {one.refused}"
            sys.stdout.write(shown(line) + "\n")


def shown(text: str) -> str:
    """Return a name on one line of plain text."""
    from vlood.evaluation.report_files import printable

    return printable(text)
