"""``vlood calibrate``: a threshold and p-values for a saved detector, from known images."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlood.cli import options as opt
from vlood.cli.guard import guarded
from vlood.cli.talk import progress, start_logging, warn
from vlood.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vlood.engines.scoring import ScoredBatch


@guarded
def calibrate(
    detector: Annotated[Path, typer.Argument(metavar="DIR", help="A saved detector's folder.")],
    id_inputs: Annotated[
        list[str],
        typer.Option(
            "--id",
            metavar="IN",
            help="Held-out images of the known classes, or their embeddings; repeat to join.",
        ),
    ],
    tpr: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="The share of the --id images that the threshold keeps."
        ),
    ] = 0.95,
    per_class: Annotated[
        bool,
        typer.Option(
            "--per-class",
            help="A threshold and p-values for each predicted class (label-conditional).",
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write another folder instead.", show_default=False),
    ] = None,
    model: opt.ModelOrOwn = None,
    classifier: opt.Classifier = None,
    classifier_set: opt.ClassifierSetting = None,
    root: opt.Root = None,
    fast_decode: opt.FastDecode = False,
    background: opt.Background = "255,255,255",
    device: opt.DeviceOption = opt.Device.auto,
    precision: opt.PrecisionOption = opt.Precision.auto,
    batch_size: opt.BatchSize = 32,
    workers: opt.Workers = None,
    cache: opt.CacheFolder = None,
    no_cache: opt.NoCache = False,
    quiet: opt.Quiet = False,
) -> None:
    """Set a detector's threshold and p-values from known images that it was not made from.

    The threshold keeps --tpr of them. Their scores give every image a p-value, by which
    `score --alpha` decides with a guarantee on false alarms.

    Examples:

      vlood calibrate my-detector --id known-good/

      vlood calibrate my-detector --id known-good/ --tpr 0.99 --per-class
    """
    start_logging(quiet)
    from vlood.cli.model_options import ModelOptions, ReadOptions, load_model, open_cache
    from vlood.cli.saved_detectors import open_detector
    from vlood.cli.sources import check_width, scored, sources_of
    from vlood.detector.calibration_report import describe, warnings_of
    from vlood.detector.folder import adapter_of, check_new, save_detector
    from vlood.detector.saved import check_backbone
    from vlood.engines.classifiers import choose_for
    from vlood.engines.saved_detectors import calibrated
    from vlood.engines.scoring import is_stream

    if output is not None:
        check_new(output)
    saved = open_detector(detector)
    if is_stream(saved.detector):
        raise UsageError(
            f"{detector}: {saved.detector.method}'s scores depend on the images before, so a "
            "threshold found on others does not hold; give score --threshold"
        )
    beside = choose_for([saved], [detector], classifier, classifier_set)
    run = ModelOptions(
        model or saved.model_name or opt.DEFAULT_MODEL,
        device.value,
        precision.value,
        batch_size,
        workers,
        cache,
        no_cache,
        beside,
    )
    read = ReadOptions(root, False, fast_decode, background)
    source = sources_of(id_inputs)
    if "-" in source.inputs:
        raise UsageError("--id -: stdin is not read here; name files or folders")
    source.check(read)
    backbone = None
    if source.embeddings is None:
        backbone = load_model(run)
        check_backbone(saved, backbone.identity(), str(detector))
    else:
        check_width(source.embeddings, source.inputs, saved.width)
    total = source.count(read) if sys.stderr.isatty() and not quiet else None
    with progress("calibrating", total, quiet=quiet) as bar:
        batches = scored(source, [saved.detector], backbone, run, read, open_cache(run))

        def told() -> Iterator[ScoredBatch]:
            for batch in batches:
                yield batch
                bar.advance(len(batch.ids))

        made = calibrated(saved, told(), tpr=tpr, per_class=per_class, data={"id": id_inputs})
    calibration = made.calibration
    assert calibration is not None
    made_of = saved.provenance.get("training_digest")
    for sentence in warnings_of(calibration, made_of, classes=len(saved.classes)):
        warn(sentence, quiet=quiet)
    save_detector(output or detector, made, adapter=adapter_of(detector))
    if sys.stdout.isatty():
        sys.stdout.write(f"{output or detector}: {describe(calibration)}\n")
        return
    facts = {
        "detector": str(output or detector),
        "threshold": calibration.threshold,
        "target_tpr": calibration.target_tpr,
        "tpr": calibration.tpr,
        "tpr_low": calibration.tpr_low,
        "tpr_high": calibration.tpr_high,
        "n": calibration.n,
        "per_class": len(calibration.per_class),
    }
    sys.stdout.write(json.dumps(facts) + "\n")
