"""``vlood tune``: fit a detector and save it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlood.cli import options as opt
from vlood.cli.guard import guarded
from vlood.cli.talk import start_logging
from vlood.errors import UsageError

if TYPE_CHECKING:
    from vlood.detector.saved import SavedDetector


@guarded
def tune(
    method: Annotated[
        str | None,
        typer.Argument(help="Which method; --list names them.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Folder of the detector.",
            show_default=False,
            rich_help_panel="Output",
        ),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the methods and leave.")] = False,
    classes: opt.Classes = None,
    model: opt.Model = opt.DEFAULT_MODEL,
    negatives: opt.Negatives = None,
    template: opt.Template = None,
    class_embeddings: opt.ClassEmbeddings = None,
    negative_embeddings: opt.NegativeEmbeddings = None,
    logit_scale: opt.LogitScale = None,
    setting: opt.Setting = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a detector.", rich_help_panel="Output")
    ] = False,
    device: opt.DeviceOption = opt.Device.auto,
    precision: opt.PrecisionOption = opt.Precision.auto,
    seed: opt.Seed = 0,
    cache: opt.CacheFolder = None,
    no_cache: opt.NoCache = False,
    quiet: opt.Quiet = False,
) -> None:
    """Fit a detector and save it in a folder that score, eval and Python use without options.

    Zero-shot methods are fitted from the class names alone; nothing is trained.

    Examples:

      vlood tune neglabel --classes classes.txt -o my-detector

      vlood calibrate my-detector --id known-good/

      vlood score photos/ --detector my-detector
    """
    start_logging(quiet)
    if listed:
        _list()
        return
    if method is None or output is None:
        raise UsageError("tune: name a method and -o FOLDER; `vlood tune --list` has the methods")
    from vlood.cli.prepare import ClassOptions, ModelOptions, fitted_of, load_model, open_cache
    from vlood.detector.folder import check_new, save_detector
    from vlood.engines.mining import Encoder
    from vlood.engines.saved_detectors import saved_from

    check_new(output, overwrite=overwrite)
    wanted = ClassOptions.read(
        classes,
        template,
        class_embeddings,
        logit_scale,
        [method],
        setting,
        negatives,
        negative_embeddings,
    )
    run = ModelOptions(model, device.value, precision.value, 32, None, cache, no_cache)
    backbone = None if class_embeddings else load_model(run)
    encoder = None if backbone is None else Encoder(backbone, open_cache(run))
    fitted = fitted_of(wanted, encoder, quiet=quiet)[0]
    saved = saved_from(fitted, wanted.side.classes, encoder, {"command": _command(), "seed": seed})
    save_detector(output, saved)
    _report(output, saved)


def _list() -> None:
    from vlood.methods import registry

    for method in registry.all_methods():
        kind = "needs training" if method.record.trains else "from class names"
        if sys.stdout.isatty():
            sys.stdout.write(f"{method.name:<14} {kind:<18} {method.record.summary}\n")
        else:
            row = {"method": method.name, "trains": method.record.trains}
            sys.stdout.write(json.dumps(row) + "\n")


def _command() -> str:
    """Return the command as it was typed, its program's folder left out."""
    import shlex

    return shlex.join(["vlood", *sys.argv[1:]])


def _report(output: Path, saved: SavedDetector) -> None:
    facts = {
        "detector": str(output),
        "method": saved.detector.method,
        "classes": len(saved.classes),
        "negatives": len(saved.negatives),
        "model": saved.model_name,
    }
    if not sys.stdout.isatty():
        sys.stdout.write(json.dumps(facts) + "\n")
        return
    sys.stdout.write(
        f"{output}: {saved.detector.method}, {len(saved.classes)} classes, "
        f"{len(saved.negatives)} negatives, {saved.model_name or 'embeddings alone'}\n"
        f"next: vlood calibrate {output} --id IN   (a threshold and p-values from known images)\n"
    )
