"""``vlood apply``: a saved detector's shared prompts and settings, for other class names."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlood.cli import options as opt
from vlood.cli.guard import guarded
from vlood.cli.talk import note, start_logging, warn
from vlood.errors import UsageError

if TYPE_CHECKING:
    from vlood.detector.saved import SavedDetector


@guarded
def apply(
    detector: Annotated[Path, typer.Argument(metavar="DIR", help="A saved detector's folder.")],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="Folder of the new detector.", rich_help_panel="Output"
        ),
    ],
    classes: opt.Classes = None,
    negatives: opt.Negatives = None,
    negative_embeddings: opt.NegativeEmbeddings = None,
    global_prompts: opt.GlobalPrompts = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Call images that score below it OOD; by default none: calibrate the new one.",
            show_default=False,
        ),
    ] = None,
    overwrite: opt.OverwriteDetector = False,
    model: opt.ModelOrOwn = None,
    device: opt.DeviceOption = opt.Device.auto,
    precision: opt.PrecisionOption = opt.Precision.auto,
    cache: opt.CacheFolder = None,
    no_cache: opt.NoCache = False,
    quiet: opt.Quiet = False,
) -> None:
    """Apply shared tuned prompts, or zero-shot settings, to other class names or negatives.

    Nothing is trained. Contexts that were learned for each class of their own are refused.

    Examples:

      vlood apply my-detector --classes other.txt -o other-detector

      vlood apply my-detector --negatives bank -o same-classes-other-negatives

      vlood apply my-regions --global-prompts my-prompts -o both
    """
    start_logging(quiet)
    from dataclasses import replace

    from vlood.cli.model_options import ModelOptions, load_model, open_cache
    from vlood.cli.saved_detectors import open_detector, with_global_prompts_of
    from vlood.detector.folder import check_new
    from vlood.engines.applying import apply_detector, check_applicable
    from vlood.engines.mining import Encoder
    from vlood.engines.negatives import NegativesChoice
    from vlood.prompts.classes import read_classes

    check_new(output, overwrite=overwrite)
    saved = open_detector(detector)
    check_applicable(saved, str(detector))
    calibrated = saved.calibration is not None
    saved = with_global_prompts_of(saved, global_prompts)
    if global_prompts is not None and classes is None and not (negatives or negative_embeddings):
        # Arrays of the two detectors are all that is needed.
        made = replace(saved, threshold=threshold)
        _finish(output, made, calibrated, quiet)
        return
    if saved.backbone is None and model is None:
        raise UsageError(
            f"{detector}: was made from embeddings alone, so there is no model to encode other "
            "names with; tune it with a model"
        )
    named = saved.classes if classes is None else read_classes(classes)
    choice = NegativesChoice(negatives, tuple(negative_embeddings or []))
    run = ModelOptions(
        model or saved.model_name or opt.DEFAULT_MODEL,
        device.value,
        precision.value,
        32,
        None,
        cache,
        no_cache,
    )
    made = apply_detector(
        saved,
        named,
        choice,
        Encoder(load_model(run), open_cache(run)),
        threshold=threshold,
        where=str(detector),
        announce=lambda text: warn(text, quiet=quiet),
    )
    _finish(output, made, calibrated, quiet)


def _finish(output: Path, made: SavedDetector, calibrated: bool, quiet: bool) -> None:
    """Write the new detector and say what it is."""
    from vlood.detector.folder import save_detector

    save_detector(output, made)
    if calibrated:
        note("the calibration was for another detector and is gone: calibrate again", quiet=quiet)
    facts = {
        "detector": str(output),
        "method": made.detector.method,
        "classes": len(made.classes),
        "negatives": len(made.negatives),
        "threshold": made.threshold,
    }
    if not sys.stdout.isatty():
        sys.stdout.write(json.dumps(facts) + "\n")
        return
    sys.stdout.write(
        f"{output}: {made.detector.method}, {len(made.classes)} classes, "
        f"{len(made.negatives)} negatives\nnext: vlood calibrate {output} --id IN\n"
    )
