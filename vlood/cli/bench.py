"""``vlood bench``: published protocols: what they consist of, what is there, what can be built."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlood.cli.guard import FAILED, guarded
from vlood.cli.talk import note, start_logging, warn
from vlood.errors import UsageError

if TYPE_CHECKING:
    from vlood.evaluation.suites import BuiltList, SetStatus, Suite

_FOLDERS = {"world": "world --model bundled"}


@guarded
def bench(
    suite: Annotated[
        str | None,
        typer.Argument(
            metavar="SUITE",
            help="A published protocol, or a .json file of your own; none: list them.",
            show_default=False,
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder that the datasets and lists lie in.", show_default=False
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Say what is present, and what is missing and where.")
    ] = False,
    build_lists: Annotated[
        Path | None,
        typer.Option(
            "--build-lists",
            metavar="OUT",
            help="Write the image lists that the datasets' folders determine; OUT may be DIR.",
            show_default=False,
        ),
    ] = None,
    json_lines: Annotated[bool, typer.Option("--json", help="JSON Lines, as when piped.")] = False,
) -> None:
    """Check the datasets of a published protocol, or build its image lists.

    Examples:

      vlood bench

      vlood bench openood-imagenet1k --root data/ --check

      vlood bench traditional-four --root data/ --build-lists data/ --check
    """
    start_logging(quiet=False)
    from vlood.evaluation import suites

    as_json = json_lines or not sys.stdout.isatty()
    if suite is None:
        if root is not None or check or build_lists is not None:
            raise UsageError("these options are about one suite; name it, such as traditional-four")
        _list_suites([suites.read_suite(name) for name in suites.suite_names()], as_json)
        return
    chosen = suites.read_suite(suite)
    if not check and build_lists is None:
        raise UsageError(_later(chosen, root))
    if root is None:
        raise UsageError("--check and --build-lists need --root, the folder of the datasets")
    if not root.is_dir():
        raise UsageError(f"--root {root}: is no folder; name the one that holds the datasets")
    failed = False
    if build_lists is not None:
        if build_lists.exists() and not build_lists.is_dir():
            raise UsageError(f"--build-lists {build_lists}: is a file; name a folder")
        built = suites.build_lists(chosen, root, build_lists)
        _print_built(built, as_json)
        failed = all(one.path is None for one in built)
    if check:
        statuses = suites.check_suite(chosen, root)
        _print_statuses(statuses, as_json)
        for overlap in suites.find_overlaps(chosen, root):
            warn(
                f"{overlap.count:,} images of {overlap.ood} are in {overlap.id} too, such as "
                f"{_shown(overlap.example)}: each is a sure error"
            )
        lacking = [one for one in statuses if one.state != "present"]
        if lacking:
            warn(f"{len(lacking)} of the {len(statuses)} sets of {chosen.name} are not whole")
        else:
            note(f"all {len(statuses)} sets of {chosen.name} are there")
        failed = failed or bool(lacking)
    if failed:
        raise typer.Exit(FAILED)


def _list_suites(found: list[Suite], as_json: bool) -> None:
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


def _print_statuses(statuses: list[SetStatus], as_json: bool) -> None:
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
        sys.stdout.write(_shown(f"{one.state} {one.set.group} {one.set.name}{rows}") + "\n")
        if one.state != "present":
            sys.stdout.write(f"    expected: {_shown(one.how)}\n")
            sys.stdout.write(f"    licence: {_shown(one.set.licence)}\n")
        for each in one.set.notes:
            sys.stdout.write(f"    note: {_shown(each)}\n")


def _print_built(built: list[BuiltList], as_json: bool) -> None:
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
            sys.stdout.write(_shown(line) + "\n")
        else:
            line = f"not made {one.set.group} {one.set.name}: {one.refused}"
            sys.stdout.write(_shown(line) + "\n")


def _later(chosen: Suite, root: Path | None) -> str:
    """Say that suites do not run yet, and which command measures the same today."""
    base = Path("DIR") if root is None else root
    known = chosen.group("id")[0]
    others = [one for one in chosen.sets if one.group != "id"]
    # One run has one --root, so an OOD set of the ID images' own folder makes a whole example.
    near = next((one for one in others if one.images == known.images), others[0])
    classes = chosen.classes if isinstance(chosen.classes, str) else "FILE"
    places = [base / (one.list or one.place) for one in (known, near)]
    folder = "" if known.list is None else f" --root {base / known.images}"
    return (
        f"running the suite {chosen.name} comes with a later version; today --check it, then run "
        f"'vlood eval{folder} --classes {_FOLDERS.get(classes, classes)} --id {places[0]} "
        f"--ood {near.group}:{near.name}={places[1]}', with one --ood for each set"
        + ("" if known.list is None else " and one run for each image folder")
    )


def _shown(text: str) -> str:
    from vlood.evaluation.report_files import printable

    return printable(text)
