"""``vlood demo``: the whole story, offline, on the bundled model."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from vlood.cli import options as opt
from vlood.cli.guard import guarded
from vlood.cli.talk import progress, start_logging

_BEFORE = (
    "A CLIP model answers for any picture, even one it does not know. This demo draws a small "
    "world of pictograms, tells the bundled model 12 of their names, and finds the pictures that "
    "are none of the 12.\n"
)
_AFTER = """
Done in {seconds:.0f} s. In {folder}/:
  contact-sheet.png   the least and the most in-distribution pictures
  records.jsonl       one record a picture
  report/             results.json, results.csv, ROC curves and score histograms
  world/              the pictures

Next, on your own photographs (the model, some 600 MB, is fetched on first use):
  vlood score my-photos/ --classes cat,dog,bird
  vlood score my-photos/ --classes classes.txt --calibrate-on known-good/ -o scores.jsonl
  vlood eval --classes classes.txt --id known-good/ --ood strange/ -o report/"""


@guarded
def demo(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for the images, records and pictures.")
    ] = Path("vlood-demo"),
    seed: opt.Seed = 0,
    device: opt.DeviceOption = opt.Device.auto,
    quiet: opt.Quiet = False,
) -> None:
    """Find out-of-distribution images in a small drawn world: offline, about a minute.

    Example:

      vlood demo -o my-demo
    """
    start_logging(quiet)
    from rich.console import Console

    from vlood.engines.demo import CALIBRATION_PICTURES, METHODS, PICTURES, run_demo
    from vlood.evaluation.table import results_table

    started = time.monotonic()
    console = Console(highlight=False, markup=False, soft_wrap=not sys.stdout.isatty())
    console.print(_BEFORE)
    with progress("drawing and scoring", 2 * PICTURES, quiet=quiet) as bar:
        result = run_demo(
            output, seed=seed, device=device.value, advance=lambda _, count: bar.advance(count)
        )
    console.print(results_table(result.rows))
    console.print(
        "others: the 230 other pictograms; letters: letters of other scripts, textures and noise.\n"
    )
    console.print(
        f"With a threshold that keeps 95 % of {CALIBRATION_PICTURES} known pictures kept apart, "
        "called OOD by"
    )
    console.print(f"  {'':<32}" + "".join(f"{method:>11}" for method in METHODS))
    for name, shares in result.called_ood.items():
        cells = "".join(f"{shares[method]:>11.1%}" for method in METHODS)
        console.print(f"  {f'{result.sizes[name]} of {name}':<32}{cells}")
    console.print(_AFTER.format(seconds=time.monotonic() - started, folder=output))
