"""What ``vlood pick`` shows: a record or a row a method on stdout, the reasons on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from vlood.cli import options as opt
from vlood.cli.talk import console


def print_records(found: Sequence[Mapping[str, Any]], format: opt.Format | None) -> None:
    """Print the records as JSON Lines, CSV or a table."""
    chosen = format or (opt.Format.table if sys.stdout.isatty() else opt.Format.jsonl)
    if chosen is opt.Format.jsonl:
        for one in found:
            sys.stdout.write(json.dumps(one) + "\n")
    elif chosen is opt.Format.csv:
        import csv

        writer = csv.DictWriter(sys.stdout, list(found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    else:
        _print_table(found)
    sys.stdout.flush()


def _print_table(found: Sequence[Mapping[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    table.add_column("AUROC [95 %]", justify="right", no_wrap=True)
    table.add_column("ID\nacc.", justify="right", no_wrap=True)
    table.add_column("fit", justify="right", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    skipped = [one for one in found if one["status"] == "skipped"]
    for one in found:
        if one["status"] == "skipped":
            continue
        auroc = accuracy = "-"
        if one["auroc"] is not None:
            low, high = 100 * one["auroc_ci_low"], 100 * one["auroc_ci_high"]
            auroc = f"{100 * one['auroc']:.1f} \\[{low:.1f}, {high:.1f}]"
        if one["id_accuracy"] is not None:
            accuracy = f"{one['id_accuracy']:.1%}"
        table.add_row(
            *(one["method"], auroc, accuracy, f"{one['fit_seconds']:.2f} s"),
            *(f"{one['score_microseconds']:.0f} µs", one["status"]),
            style="bold" if one["status"] == "recommended" else None,
        )
    shown = Console(highlight=False)
    shown.print(table)
    if skipped:
        by_reason: dict[str, list[str]] = {}
        for one in skipped:
            by_reason.setdefault(one["reason"], []).append(one["method"])
        shown.print("Not tried:", markup=False)
        for reason, names in by_reason.items():
            shown.print(f"  {', '.join(names)}: {reason}", markup=False)


def tell_reasons(
    said: Sequence[str], lines: Sequence[str], exact: bool, facts: Mapping[str, Any]
) -> None:
    """Say why a method is recommended, what it cost, and the commands that make it."""
    to = console()
    to.print()
    to.print(" ".join(said), markup=False, soft_wrap=False)
    to.print(
        f"It took {facts['total_seconds']:.0f} s (budget: {facts['budget_seconds']:.0f} s), "
        f"{facts['encoding_seconds']:.0f} s of them to load the model and encode images.",
        markup=False,
    )
    to.print(
        "\nTo make it" + (", with the same figures:" if exact else
        " of all your images (calibrate a method that learned on others; -o FOLDER keeps the two "
        "halves apart):"),
        markup=False,
    )  # fmt: skip
    for line in lines:
        to.print(f"  {line}", markup=False)
