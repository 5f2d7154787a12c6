"""``vlood import``: what others published becomes vlood's own."""

from __future__ import annotations

import json
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from vlood.cli import options as opt
from vlood.cli.guard import guarded
from vlood.cli.talk import note, start_logging


class ImportFormat(str, Enum):
    """What can be imported."""

    neglabel_txt = "neglabel-txt"
    cma_npy = "cma-npy"


@guarded
def import_(
    format: Annotated[
        ImportFormat,
        typer.Argument(
            metavar="FORMAT",
            help="neglabel-txt: NegLabel's list, templates applied; cma-npy: CMA's array of them.",
        ),
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The published file.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the bank.")],
    classes: opt.Classes = None,
    dedup: Annotated[
        bool,
        typer.Option("--dedup", help="Keep a word once; published lists repeat some."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bank.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the groups.")] = 0,
    quiet: opt.Quiet = False,
) -> None:
    """Turn a published list of negative labels into a bank, its words without their templates.

    The bank holds words alone: the model that scores with it encodes them, once. With --classes
    it is for those classes; without it fits any.

    Examples:

      vlood import neglabel-txt selected_neg_labels_in1k_10k.txt --classes imagenet-1k -o bank

      vlood import cma-npy neg_label_10000.npy -o bank
    """
    start_logging(quiet)
    from vlood.engines.published_banks import import_bank
    from vlood.negatives.bank_folder import check_new, save_bank
    from vlood.prompts.classes import read_classes

    check_new(output, overwrite=overwrite)
    named = () if classes is None else read_classes(classes)
    bank, report = import_bank(format.value, file, named, dedup=dedup, seed=seed)
    save_bank(output, bank)
    if not sys.stdout.isatty():
        sys.stdout.write(json.dumps({"bank": str(output), **report}) + "\n")
    else:
        counted = ", ".join(f"{name} {value}" for name, value in report.items())
        sys.stdout.write(f"{output}: {counted}\n")
    note("templates were taken off and are put on again when the words are encoded", quiet=quiet)
