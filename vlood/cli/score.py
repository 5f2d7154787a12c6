"""``vlood score``: one record an image."""

from __future__ import annotations

import sys

from vlood.cli import options as opt
from vlood.cli import score_options as own
from vlood.cli.guard import guarded, leave
from vlood.cli.interrupt import INTERRUPTED
from vlood.cli.score_output import (
    abandon,
    check_heatmap,
    chosen_format,
    complete_tally,
    error_line,
    fingerprint_of,
    finish,
    heatmaps_of,
    is_finished,
    open_sink,
)
from vlood.cli.score_stream import (
    calibrated_threshold,
    check_stream,
    nearest_negatives,
    scored_batches,
    scorer_of,
    write_state,
)
from vlood.cli.talk import SHOWN_ERRORS, progress, start_logging, warn
from vlood.errors import UsageError


@guarded
def score(
    inputs: opt.Inputs,
    detector: own.Detector = None,
    classes: opt.Classes = None,
    method: own.Method = None,
    model: opt.ModelOrOwn = None,
    classifier: opt.Classifier = None,
    classifier_set: opt.ClassifierSetting = None,
    output: own.Output = None,
    format: opt.FormatOption = None,
    threshold: own.Threshold = None,
    threshold_free: own.ThresholdFree = False,
    alpha: own.Alpha = None,
    tpr: own.Tpr = None,
    calibrate_on: own.CalibrateOn = None,
    fail_on_ood: own.FailOnOod = False,
    explain: own.Explain = False,
    heatmap: own.Heatmap = None,
    heatmap_limit: own.HeatmapLimit = None,
    resume: own.Resume = False,
    state: own.State = None,
    negatives: opt.Negatives = None,
    template: opt.Template = None,
    class_embeddings: opt.ClassEmbeddings = None,
    negative_embeddings: opt.NegativeEmbeddings = None,
    global_prompts: opt.GlobalPrompts = None,
    logit_scale: opt.LogitScale = None,
    setting: opt.Setting = None,
    root: opt.Root = None,
    null: opt.NullSeparated = False,
    fast_decode: opt.FastDecode = False,
    background: opt.Background = "255,255,255",
    device: opt.DeviceOption = opt.Device.auto,
    precision: opt.PrecisionOption = opt.Precision.auto,
    batch_size: opt.BatchSize = 32,
    workers: opt.Workers = None,
    seed: opt.Seed = 0,
    cache: opt.CacheFolder = None,
    no_cache: opt.NoCache = False,
    quiet: opt.Quiet = False,
) -> None:
    """Score images: one record each, higher = more in-distribution.

    Examples:

      vlood score photos/ --classes cats,dogs,birds

      vlood score photos/ --classes cifar10 --calibrate-on known/ -o scores.jsonl

      vlood score photos/ --classes cats,dogs --method neglabel --explain

      vlood score photos/ --detector my-detector --alpha 0.05

      vlood score photos/ --classes cats,dogs --heatmap maps -o scores.jsonl

      find . -name '*.jpg' -print0 | vlood score -0 - --model bundled --classes world | jq .score
    """
    start_logging(quiet)
    from vlood.cli.class_options import ClassOptions, detectors_of
    from vlood.cli.model_options import ModelOptions, ReadOptions, load_model, open_cache
    from vlood.cli.saved_detectors import (
        check_decidable,
        open_detector,
        refuse_with_detector,
        with_global_prompts_of,
    )
    from vlood.cli.sources import check_width, embedding_width, sources_of
    from vlood.detector.saved import check_backbone
    from vlood.engines.classifiers import choose_for, classifier_digest
    from vlood.engines.heatmaps import check_model
    from vlood.engines.record_files import FileSink
    from vlood.engines.records import columns_of
    from vlood.engines.scoring import Decision, check_own_rule, records_of
    from vlood.methods import registry

    if tpr is not None and not calibrate_on:
        raise UsageError("--tpr: needs --calibrate-on IN..., images known to be in-distribution")
    if threshold is not None and calibrate_on:
        raise UsageError("--threshold and --calibrate-on: give one, they both set the threshold")
    decides = threshold is not None or threshold_free
    if fail_on_ood and not decides and not calibrate_on and detector is None:
        raise UsageError("--fail-on-ood: needs --threshold or --calibrate-on to know what is OOD")
    if alpha is not None and (detector is None or threshold is not None or calibrate_on):
        raise UsageError(
            "--alpha: goes with a calibrated --detector, without --threshold and --calibrate-on"
        )
    if threshold_free and (threshold is not None or calibrate_on or alpha is not None):
        raise UsageError(
            "--threshold-free: decides without --threshold, --alpha and --calibrate-on; leave it "
            "or them out"
        )
    if resume and output is None:
        raise UsageError("--resume: needs -o FILE, the file to go on with")
    if heatmap_limit is not None and heatmap is None:
        raise UsageError("--heatmap-limit: needs --heatmap DIR, where the pictures go")
    chosen = chosen_format(output, format)
    saved = None if detector is None else open_detector(detector)
    if global_prompts is not None:
        if saved is None:
            raise UsageError("--global-prompts: goes with --detector, one of local-prompt")
        calibrated = saved.calibration is not None
        saved = with_global_prompts_of(saved, global_prompts)
        if calibrated and not calibrate_on and threshold is None:
            warn(
                "--global-prompts: the calibration was for other prompts and is left out; use "
                "`vlood apply`, then calibrate",
                quiet=quiet,
            )
    if saved is None and (classifier or classifier_set):
        raise UsageError(
            "--classifier: goes with --detector, one of cooked: `vlood tune cooked --classifier`"
        )
    beside = None
    if saved is not None and detector is not None:
        beside = choose_for([saved], [detector], classifier, classifier_set)
    run = ModelOptions(
        model or (saved and saved.model_name) or opt.DEFAULT_MODEL,
        device.value,
        precision.value,
        batch_size,
        workers,
        cache,
        no_cache,
        beside,
    )
    read = ReadOptions(root, null, fast_decode, background)
    source = sources_of(inputs)
    source.check(read)
    if heatmap is not None:
        check_heatmap(heatmap, source)
    known = sources_of(calibrate_on) if calibrate_on else None
    if known is not None:
        if "-" in known.inputs:
            raise UsageError("--calibrate-on -: stdin is not read here; name files or folders")
        known.check(read)
    if saved is None:
        wanted = ClassOptions.read(
            classes,
            template,
            class_embeddings,
            logit_scale,
            [method or "mcm"],
            setting,
            negatives,
            negative_embeddings,
        )
        if len(wanted.methods) > 1:
            raise UsageError("--method all: is for eval, which compares; score takes one method")
    else:
        refuse_with_detector(
            {
                "--method": method,
                "--template": template,
                "--class-embeddings": class_embeddings,
                "--logit-scale": logit_scale,
                "--set": setting,
            }
        )
        wanted = ClassOptions.of_saved(saved, classes, negatives, negative_embeddings, detector)
        check_decidable(saved, detector, alpha, fail_on_ood and not decides)
    method = wanted.methods[0]
    check_stream(method, state, calibrate_on)
    if threshold_free:
        check_own_rule(method)
    unused = wanted.negatives.named and "negatives" not in registry.get(method).record.needs
    unused = unused and not (saved is not None and saved.detector.negative_names)
    if unused and not explain:
        warn(f"--negatives: {method} scores without them; --explain shows them", quiet=quiet)

    if resume and output is not None and is_finished(output):
        tally = complete_tally(output, chosen, source, read, method)
        warn(f"{output} is complete; leave --resume out to score again", quiet=quiet)
        finish(tally, fail_on_ood, quiet)
        return

    store = open_cache(run)
    only_arrays = source.embeddings is not None and (bool(class_embeddings) or saved is not None)
    only_arrays = only_arrays and (known is None or known.embeddings is not None)
    only_arrays = only_arrays and not (explain and saved is not None and wanted.negatives.named)
    backbone = None if only_arrays else load_model(run)
    if heatmap is not None and backbone is not None:
        check_model(backbone)
    if saved is None:
        scoring = detectors_of(wanted, backbone, store, quiet=quiet)[0]
    else:
        if backbone is not None:
            check_backbone(saved, backbone.identity(), f"--detector {detector}")
        scoring = saved.detector
    width = embedding_width(scoring)
    for one in (source, known):
        if one is not None and one.embeddings is not None:
            check_width(one.embeddings, one.inputs, width)
    if known is not None:
        threshold = calibrated_threshold(
            known, scoring, backbone, run, read, store, tpr or 0.95, quiet
        )

    heatmaps = None
    if heatmap is not None and backbone is not None:
        heatmaps = heatmaps_of(heatmap, heatmap_limit, scoring, backbone, run, read)
        heatmaps.open(resume=resume)
    scorer = scorer_of(scoring, state)
    sink, tally, skip = open_sink(
        output,
        chosen,
        columns_of(
            explain,
            heatmap=heatmap is not None,
            regions="local" in registry.get(method).record.needs,
            members=bool(scoring.members),
        ),
        resume and source.embeddings is None,
        fingerprint_of(
            inputs, run, wanted, read, (threshold, alpha), explain, backbone, scoring, detector
        )
        | {"stream": scorer.order.digest}
        | ({} if beside is None else {"classifier": classifier_digest(scoring, backbone)})
        | ({"threshold_free": True} if threshold_free else {})
        | {"heatmap": heatmaps and [str(heatmaps.folder), heatmaps.limit]},
        batch_size,
        quiet,
    )
    nearest = nearest_negatives(wanted, scoring, backbone, store, quiet) if explain else None
    calibration = None if saved is None or calibrate_on else saved.calibration
    if threshold is None and saved is not None:
        threshold = saved.threshold
    decision = Decision(threshold, explain, nearest, calibration, alpha, threshold_free)
    total = source.count(read) if sys.stderr.isatty() and not quiet else None
    unreadable: list[str] = []
    try:
        with progress("scoring", total, quiet=quiet) as bar:
            bar.advance(len(skip))
            for batch in scored_batches(source, skip, scorer, backbone, run, read, store, heatmaps):
                records = records_of(batch, scoring, decision)
                if heatmaps is not None:
                    heatmaps.draw(batch, records)
                sink.write(records)
                for record in records:
                    tally.add(record)
                    if "error" in record and len(unreadable) < SHOWN_ERRORS:
                        unreadable.append(error_line(record))
                bar.advance(len(records))
        sink.close()
    except KeyboardInterrupt:
        abandon(sink, tally)
        if not isinstance(sink, FileSink):
            write_state(scorer, state)
        leave(INTERRUPTED)
    except BaseException:
        abandon(sink, None)
        raise
    write_state(scorer, state)
    for line in unreadable:
        warn(line, quiet=quiet)
    if heatmaps is not None and heatmaps.left_out:
        warn(
            f"--heatmap {heatmap}: the first {heatmaps.limit} inputs were drawn; --heatmap-limit 0 "
            "draws all",
            quiet=quiet,
        )
    finish(tally, fail_on_ood, quiet)
