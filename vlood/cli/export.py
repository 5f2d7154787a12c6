"""``vlood export``: vlood's own for other tools."""

from __future__ import annotations

import json
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from vlood.cli.guard import guarded
from vlood.cli.talk import start_logging
from vlood.errors import UsageError


class ExportFormat(str, Enum):
    """What can be written."""

    safetensors = "safetensors"
    npy = "npy"
    onnx = "onnx"
    txt = "txt"
    tar = "tar"
    coop = "coop"
    peft = "peft"
    open_clip = "open-clip"
    hub = "hub"


@guarded
def export(
    source: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of a saved detector or of a bank.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The file or folder to write.", show_default=False),
    ] = None,
    format: Annotated[
        ExportFormat | None,
        typer.Option(
            "--format",
            help="safetensors: arrays and a card, for open_clip alone; npy: arrays and names; "
            "onnx: image to score, checked; txt: readable prompts, or a bank's negatives a line; "
            "tar: the folder, reproducible; coop: learned contexts as CoOp stores them; peft: the "
            "adapter; open-clip: a tuned model with its adapter merged, a folder for --model "
            "local-dir:FOLDER; hub: a repository for the hub. Default: by the ending of -o; txt "
            "for a bank.",
            show_default=False,
        ),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="txt: words without their templates.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="onnx, coop, txt: the detector's model, where its own name for it does not work "
            "here. It runs on the CPU.",
            show_default=False,
        ),
    ] = None,
    repo: Annotated[
        str | None,
        typer.Option("--repo", metavar="ORG/NAME", help="hub: upload there.", show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="hub: list the files and write nothing.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export.")
    ] = False,
) -> None:
    """Write a detector, or the negatives of a bank, in a format that other tools read.

    Examples:

      vlood export my-detector -o detector.safetensors

      vlood export my-detector -o detector.onnx

      vlood export my-detector --format hub --repo acme/fruit --dry-run

      vlood export my-cma --format open-clip -o my-model

      vlood export bank -o negatives.txt
    """
    start_logging(quiet=False)
    from vlood.detector.folder import is_detector
    from vlood.negatives.bank_folder import is_bank

    if not is_detector(source):
        if not is_bank(source):
            raise UsageError(f"{source}: is neither a detector's folder nor a bank's; name one")
        only = {"--model": model, "--repo": repo, "--dry-run": dry_run}
        _say(_export_bank(source, output, format, plain, overwrite, only))
        return
    from vlood.detector.export.formats import Request, export_detector

    name = _format_name(format, output)
    _say(export_detector(Request(source, name, output, plain, overwrite, model, repo, dry_run)))


def _format_name(format: ExportFormat | None, output: Path | None) -> str:
    """Return the format asked for, or the one that the output's ending means."""
    from vlood.detector.export.formats import ENDINGS, FORMATS, format_of

    if format is not None:
        return format.value
    found = None if output is None else format_of(output)
    if found is None:
        raise UsageError(
            f"--format is missing and -o {output or ''} does not end in one of "
            f"{', '.join(ENDINGS)}; give --format {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        )
    return found


def _export_bank(
    source: Path,
    output: Path | None,
    format: ExportFormat | None,
    plain: bool,
    overwrite: bool,
    only_detectors: dict[str, Any],
) -> dict[str, Any]:
    """Write the negatives of a bank, a line each."""
    from vlood.detector.export.formats import format_of
    from vlood.detector.export.places import check_file, check_outside, told
    from vlood.engines.published_banks import exported_lines
    from vlood.features.atomic import write_atomically
    from vlood.negatives.bank_folder import load_bank

    for option, value in only_detectors.items():
        if value:
            raise UsageError(
                f"{option}: {source} is a bank, and this is for detectors; leave it out"
            )
    if output is None:
        raise UsageError("-o is missing: name the file to write")
    asked = format.value if format is not None else format_of(output) or "txt"
    if asked != "txt":
        raise UsageError(
            f"{source}: is a bank, which is exported as txt, not {asked}; its folder holds its "
            "arrays as safetensors and Parquet already"
        )
    check_outside(output, source)
    check_file(output, overwrite=overwrite)
    lines = exported_lines(load_bank(source), plain=plain)
    with told(output):
        write_atomically(output, "".join(line + "\n" for line in lines).encode())
    return {"file": str(output), "negatives": len(lines)}


def _say(written: dict[str, Any]) -> None:
    """Tell a program what was written as one JSON object, and a person in a sentence."""
    if not sys.stdout.isatty():
        sys.stdout.write(json.dumps(written) + "\n")
        return
    from vlood.engines.printable import printable

    if written.get("written") is False:
        for each in written["files"]:
            sys.stdout.write(f"{each['bytes']:>12,}  {each['file']}\n")
        sys.stdout.write("nothing was written\n")
        return
    where = written.get("address") or written.get("file") or written.get("folder")
    where = where or ", ".join(written["files"])
    what = (
        f"{written['negatives']} negatives"
        if "negatives" in written
        else f"the {written['method']} detector as {written['format']}"
    )
    sys.stdout.write(f"{what} in {printable(str(where))}\n")
