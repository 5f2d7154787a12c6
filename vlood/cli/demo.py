"""``vlood demo``: the whole story, offline, on the bundled model."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlood.cli import options as opt
from vlood.cli.guard import guarded
from vlood.cli.interrupt import INTERRUPTED, interruptible
from vlood.cli.talk import console, progress, start_logging
from vlood.errors import UsageError, VloodError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_COMMANDS = "commands.sh"
_OURS = (
    *(_COMMANDS, "world", "scores.jsonl", "negatives", "detectors", "report", "maps"),
    *("explained.jsonl", "lapt.safetensors", "other-classes.jsonl"),
)
_AFTER = """
Where everything lies, in {folder}/:
  report/report.html     open it in a browser: tables, curves, the worst mistakes
  maps/                  heat maps of the explained pictures
  detectors/             a folder each: `vlood show {folder}/detectors/lapt`
  scores.jsonl           a record a picture; explained.jsonl says why
  commands.sh            the commands above, to run again or to change
  world/                 the pictures

Next, on your own images (the default model, some 600 MB, is fetched on first use):
  vlood score my-photos/ --classes cat,dog,bird
  vlood pick --id known-good/ --ood strange/                 which method fits them
  vlood eval --classes classes.txt --id known-good/ --ood strange/ -o my-report
"""


@guarded
def demo(
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="Folder for all it makes; an earlier demo is replaced."
        ),
    ] = Path("vlood-demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer pictures and fewer steps of training.")
    ] = False,
    format: opt.FormatOption = None,
    seed: opt.Seed = 0,
    device: opt.DeviceOption = opt.Device.auto,
    quiet: opt.Quiet = False,
) -> None:
    """Tell the whole story in a small drawn world: offline, two or three minutes.

    It scores, mines negatives, tunes, calibrates, evaluates, explains, exports and applies, each
    with the command that you could type. The results go to stdout, the story to stderr.

    Examples:

      vlood demo

      vlood demo --quick -o my-demo

      vlood demo --quick -q | jq -r '[.detector, .ood, .auroc] | @tsv'
    """
    start_logging(quiet)
    if format is opt.Format.parquet:
        raise UsageError("--format parquet: the demo has few results; use jsonl, csv or table")
    _clear(output)
    from vlood.cli.demo_story import story
    from vlood.engines.demo import FULL, QUICK, demo_pictures, write_world

    began = time.monotonic()
    teller = _Teller(console(), quiet)
    size = QUICK if quick else FULL
    teller.say(
        "This demo draws a small world of pictograms, tells the bundled model twelve of their "
        "names, and finds the pictures that are none of the twelve. It runs offline, and every "
        "step is a command that you could type."
    )
    # Libraries swallow an interrupt while they are imported, so that comes before the steps.
    with teller.waiting("starting"):
        from vlood.backbone.library import open_clip  # noqa: F401
    with progress("drawing", size.pictures, quiet=quiet) as bar:

        def told() -> Iterator[Any]:
            for picture in demo_pictures(size, seed):
                bar.advance(1)
                yield picture

        write_world(output / "world", told())
    steps = story(output, quick=quick, seed=seed, device=device.value)
    lines = ["#!/bin/sh", "# The commands of `vlood demo`; run them where you ran the demo."]
    for step in steps:
        lines += ["", f"# {step.title}", *map(_typed, step.commands)]
    (output / _COMMANDS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    for number, step in enumerate(steps, 1):
        teller.title(f"{number} of {len(steps)}  {step.title}")
        teller.say(step.before)
        said = []
        for command in step.commands:
            teller.command(_typed(command))
            with teller.waiting(step.title.lower()):
                said.append(_run(command))
        if step.commands[0][0] == "eval":
            _show([json.loads(line) for line in said[0].splitlines()], format)
        teller.say(step.after(said))
    teller.title(f"Done in {time.monotonic() - began:.0f} s")
    teller.found(_AFTER.format(folder=output).strip("\n"))


def _clear(folder: Path) -> None:
    """Remove what an earlier demo left, and nothing else.

    Raises:
        UsageError: the folder holds something of another's.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"-o {folder}: is a file; name a folder for the demo")
    held = list(folder.iterdir()) if folder.is_dir() else []
    if held and not (folder / _COMMANDS).is_file():
        raise UsageError(
            f"-o {folder}: exists and holds something else than an earlier demo; name another "
            "folder"
        )
    for each in held:
        if each.name in _OURS:
            shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    # From here on the folder is known as a demo's, also where it is stopped half way.
    (folder / _COMMANDS).touch()


def _typed(command: Sequence[str]) -> str:
    """Return a command as a user types it."""
    return shlex.join(["vlood", *command])


def _run(command: Sequence[str]) -> str:
    """Run a command in this process; return what it wrote to stdout.

    Raises:
        VloodError: it failed.
        KeyboardInterrupt: it was stopped, which the command line turns into an exit code.
    """
    from vlood.cli.app import app

    out, before = io.StringIO(), sys.argv
    sys.argv = [before[0], *command]  # reports say which command made them
    # What a command says while it runs would stand in the middle of the story.
    told = list(command) if command[0] == "export" else [*command, "--quiet"]
    try:
        with contextlib.redirect_stdout(out):
            code = app(told, prog_name="vlood", standalone_mode=False)
    finally:
        sys.argv = before
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        raise VloodError(f"the demo's step `{_typed(command)}` ended with exit code {code}")
    return out.getvalue()


class _Teller:
    """Tells the story on stderr; says nothing when quiet."""

    def __init__(self, console: Console, quiet: bool) -> None:
        self._console = console
        self._quiet = quiet

    def title(self, text: str) -> None:
        """Begin a step."""
        if not self._quiet:
            self._console.print(f"\n{text}", style="bold", markup=False)

    def say(self, text: str) -> None:
        """Say a paragraph, its lines broken between words."""
        if not self._quiet and text:
            self._console.print(text, markup=False, soft_wrap=False)

    def found(self, text: str) -> None:
        """Say what came of a step, as it is."""
        if not self._quiet:
            self._console.print(text, markup=False)

    def command(self, text: str) -> None:
        """Show what a user would type."""
        if not self._quiet:
            self._console.print(f"  $ {text}", style="cyan", markup=False)

    @contextlib.contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Show that something is being done, where somebody watches. Ctrl-C ends the block."""
        with interruptible():
            if self._quiet or not sys.stderr.isatty():
                yield
                return
            with self._console.status(f"{text} ..."):
                yield


def _show(records: Sequence[dict[str, Any]], format: opt.Format | None) -> None:
    """Print the results: a small table on a terminal, else the rows that eval prints."""
    chosen = format or (opt.Format.table if sys.stdout.isatty() else opt.Format.jsonl)
    if chosen is opt.Format.table:
        from rich.console import Console

        Console(highlight=False).print(_table(records))
    elif chosen is opt.Format.csv:
        import csv

        writer = csv.DictWriter(sys.stdout, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    else:
        for record in records:
            sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


def _table(records: Sequence[dict[str, Any]]) -> Table:
    """Return a row a detector: AUROC on each set with its interval, alarms, accuracy."""
    from rich import box
    from rich.table import Table

    sets = list(dict.fromkeys(record["ood"] for record in records))
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),  # as wide as 80 columns allow
        caption="Percent. [ ] 95 % interval. let through: pictures of other things that the "
        "detector's own threshold accepts.",
        caption_justify="left",
    )
    table.add_column("detector", no_wrap=True)
    for name in sets:
        table.add_column(f"AUROC\n{name}", justify="right", no_wrap=True)
        table.add_column("let\nthrough", justify="right", no_wrap=True)
    table.add_column("ID\naccuracy", justify="right", no_wrap=True)
    for detector in dict.fromkeys(record["detector"] for record in records):
        own = {one["ood"]: one for one in records if one["detector"] == detector}
        cells = [detector]
        for name in sets:
            one = own[name]
            low, high = 100 * one["auroc_ci_low"], 100 * one["auroc_ci_high"]
            cells += [f"{100 * one['auroc']:.1f} \\[{low:.1f}, {high:.1f}]", f"{one['fpr']:.1%}"]
        table.add_row(*cells, f"{own[sets[0]]['id_accuracy']:.1%}")
    return table
