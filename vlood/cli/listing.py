"""``vlood methods`` and ``vlood models``: what there is to choose from."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from vlood.cli import options as opt
from vlood.cli.guard import guarded
from vlood.cli.talk import start_logging

if TYPE_CHECKING:
    from vlood.methods.contract import Method


@guarded
def methods(
    name: Annotated[
        str | None, typer.Argument(help="Show one method with its settings.", show_default=False)
    ] = None,
    json_lines: opt.JsonLines = False,
) -> None:
    """List the detectors: what they need, what their temperature is, and where they are from.

    Examples:

      vlood methods

      vlood methods gl-mcm
    """
    start_logging(quiet=False)
    from vlood.methods import registry

    chosen = [registry.get(name)] if name else list(registry.all_methods())
    if json_lines or not sys.stdout.isatty():
        for method in chosen:
            sys.stdout.write(json.dumps(_as_dict(method)) + "\n")
    elif name:
        _print_one(chosen[0])
    else:
        _print_table(chosen)


@guarded
def models(
    pattern: Annotated[
        str | None,
        typer.Argument(help="Show only names that hold this text.", show_default=False),
    ] = None,
) -> None:
    """List the models open_clip knows by ARCH:TAG, and the one inside the package.

    Examples:

      vlood models

      vlood models ViT-B-16
    """
    from vlood.backbone.library import open_clip

    names = ["bundled", *(f"{arch}:{tag}" for arch, tag in open_clip.list_pretrained())]
    wanted = (pattern or "").lower()
    shown = [name for name in names if wanted in name.lower()]
    for name in shown:
        sys.stdout.write(f"{name}\n")
    if sys.stdout.isatty():
        sys.stdout.flush()
        typer.echo(
            "Use one with --model. All but bundled are fetched on first use; a file or folder of "
            "your own: ARCH:FILE, local-dir:FOLDER.",
            err=True,
        )


def _as_dict(method: Method) -> dict[str, object]:
    record = dataclasses.asdict(method.record)
    record["settings"] = [
        {"name": each.name, "default": each.default, **dict(each.metadata)}
        for each in dataclasses.fields(method.settings)
    ]
    return record


def _print_table(chosen: list[Method]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("method", no_wrap=True)
    table.add_column("score, needs, paper")
    for method in chosen:
        record = method.record
        facts = [f"needs {', '.join(record.needs)}", f"{record.venue} {record.year}"]
        if record.trains:
            facts.append("trained by vlood tune" if method.learns else "trained elsewhere")
        # The mark stands apart: it is what a reader must not miss.
        mark = Text(f"; {record.stream}" if record.stream else "", style="bold")
        note = Text(record.score_note + "\n").append(Text("; ".join(facts), style="dim"))
        table.add_row(record.name, note.append(mark))
    console = Console(highlight=False)
    console.print(table)
    if any(method.record.stream for method in chosen):
        console.print(
            "order-dependent: a score depends on the images before it; transductive: on those "
            "beside it. Eval compares neither unless it is asked to by name."
        )


def _print_one(method: Method) -> None:
    from rich.console import Console

    record = method.record
    console = Console(highlight=False)
    console.print(f"[bold]{record.title}[/bold]: {record.summary}")
    console.print(f"score: {record.score_note}", markup=False)
    console.print(f"needs: {', '.join(record.needs)}; trains: {'yes' if record.trains else 'no'}")
    if record.stream:
        console.print(f"mark: {record.stream}; goes through the images as a stream (--state)")
    console.print(f"paper: {record.paper}, {record.venue} {record.year}, {record.url}")
    console.print(f"licence of the reference code: {record.licence}")
    for each in dataclasses.fields(method.settings):
        console.print(
            f"--set {each.name}={each.default}  {each.metadata.get('help', '')} "
            f"({each.metadata.get('unit', '-')}; {each.metadata.get('source', '-')})",
            markup=False,
        )
