"""``vlood export``: vlood's own for other tools."""

from __future__ import annotations

import json
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from vlood.cli.guard import guarded
from vlood.cli.talk import start_logging
from vlood.errors import UsageError


class ExportFormat(str, Enum):
    """What can be written."""

    txt = "txt"


@guarded
def export(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a bank.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")],
    format: Annotated[
        ExportFormat,
        typer.Option(
            "--format", help="txt: a line a negative, template applied, as NegLabel publishes."
        ),
    ] = ExportFormat.txt,
    plain: Annotated[bool, typer.Option("--plain", help="Words without their templates.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Write the negatives of a bank as a list that other code reads.

    Examples:

      vlood export bank --format txt -o negatives.txt

      vlood export bank --plain -o words.txt
    """
    start_logging(quiet=False)
    from vlood.engines.published_banks import exported_lines
    from vlood.engines.records import check_place
    from vlood.features.atomic import write_atomically
    from vlood.negatives.bank_folder import load_bank

    check_place(output)
    if output.exists() and not overwrite:
        raise UsageError(f"-o {output}: exists already; use --overwrite, or another name")
    lines = exported_lines(load_bank(source), plain=plain)
    write_atomically(output, "".join(line + "\n" for line in lines).encode())
    if not sys.stdout.isatty():
        sys.stdout.write(json.dumps({"file": str(output), "negatives": len(lines)}) + "\n")
    else:
        sys.stdout.write(f"{len(lines)} negatives in {output}\n")
