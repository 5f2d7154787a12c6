"""Write results as Markdown: cells, tables, sections, and the summary at the top."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from benches.results import GROUPS, Result, Table, cell_of


def page(introduction: str, results: Sequence[Result], weights: str) -> str:
    """Write the whole page.

    Args:
        introduction: its title and first words.
        results: in the order of the page.
        weights: the bundled model's present weights; figures of others are marked.
    """
    parts = [introduction.strip(), summary(results, weights), contents(results)]
    for group, title in GROUPS.items():
        within = [one for one in results if one.group == group]
        if within:
            parts.append(f"## {title}")
        parts += [section(one, weights) for one in within]
    parts += lacking(results, weights)
    return "\n\n".join(parts) + "\n"


def summary(results: Sequence[Result], weights: str) -> str:
    """Write the figures that the results name as headlines, as one table."""
    lines = ["## In short", "", "| what | figure | measured |", "|---|---|---|"]
    for result in results:
        for one in result.headlines:
            table, value, column = cell_of(result, one)
            older = ", earlier weights" if is_older(table, weights) else ""
            lines.append(
                f"| {one.text} | [{cell(value, column.digits)}](#{anchor(result.title)}) | "
                f"{table.date}{older} |"
            )
    return "\n".join(lines)


def lacking(results: Sequence[Result], weights: str) -> list[str]:
    """List the sections without figures, and those with figures of earlier weights."""
    empty = [one for one in results if not one.tables and one.group != "missing"]
    older = [one for one in results if any(is_older(each, weights) for each in one.tables)]
    return [
        f"- **{said}**: {', '.join(link(one) for one in some)}."
        for said, some in (
            (f"The bundled model's present weights (`{weights}`), in some tables of", older),
            ("There are commands, but no figures yet, for", empty),
        )
        if some
    ]


def link(result: Result) -> str:
    return f"[{result.title}](#{anchor(result.title)})"


def contents(results: Sequence[Result]) -> str:
    lines = []
    for group, title in GROUPS.items():
        within = [link(one) for one in results if one.group == group]
        if within:
            lines.append(f"- **{title}**: {', '.join(within)}")
    return "\n".join(lines)


def section(result: Result, weights: str) -> str:
    """Write a result under its heading."""
    parts = [f"### {result.title}", *_words(result.about)]
    for one in result.tables:
        parts += table(one, weights)
    parts += _words(result.notes)
    if len(parts) == 1 or (not result.tables and result.group != "missing"):
        parts.append("Not measured yet.")
    return "\n\n".join(parts)


def table(one: Table, weights: str) -> list[str]:
    """Write a table: its caption, its rows, where it was measured and how, its notes."""
    lines = [f"| {' | '.join(column.name for column in one.columns)} |", "|---" * len(one.columns)]
    lines[1] += "|"
    above: tuple[Any, ...] = ()
    for row in one.rows:
        same = 0  # a leading cell that repeats the one above is left empty
        while same < one.keys - 1 and row[: same + 1] == above[: same + 1]:
            same += 1
        cells = [cell(value, column.digits) for value, column in zip(row, one.columns, strict=True)]
        lines.append(f"| {' | '.join([''] * same + cells[same:])} |")
        above = row
    parts = [*_words(one.caption), "\n".join(lines), measured(one, weights)]
    if one.commands:
        parts.append("\n".join(["```sh", *one.commands, "```"]))
    if one.notes and one.notes_of:
        parts.append(f"*Written for the figures of {one.notes_of}, before these:*")
    return parts + _words(one.notes)


def measured(one: Table, weights: str) -> str:
    """Say when and on what a table was measured, and of which weights."""
    said = f"*{one.date}. {one.hardware}.*"
    if is_older(one, weights):
        said += (
            f" **Of the bundled model's earlier weights (`{one.weights}`), not measured again on "
            f"the present ones (`{weights}`).**"
        )
    elif one.weights:
        said += f" *The bundled model's present weights (`{one.weights}`).*"
    return said


def is_older(one: Table, weights: str) -> bool:
    return one.weights is not None and one.weights != weights


def cell(value: Any, digits: int | None = None) -> str:
    """Write a cell.

    Args:
        value: as a result file holds it.
        digits: decimals of numbers; without it a number is written as it is.
    """
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return _number(value, digits)
    if isinstance(value, list | tuple):
        return ", ".join(_number(one, digits) for one in value)
    said = _number(value["mean"], digits)
    if "sd" in value:
        said += f" ± {_number(value['sd'], digits)}"
    if "low" in value:
        said += f" ({_number(value['low'], digits)} to {_number(value['high'], digits)})"
    return said


def _number(value: float, digits: int | None) -> str:
    if value and abs(value) < 1e-3 and digits is None:
        return f"{value:.1e}"
    if digits is not None:
        return f"{value:,.{digits}f}"
    return f"{value:,}"


def anchor(title: str) -> str:
    """Return what both GitHub and the documentation's site make of a heading."""
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip())


def _words(lines: Sequence[str]) -> list[str]:
    return ["\n".join(lines)] if lines else []
