"""``vlood score``: one record an image."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlood.cli import options as opt
from vlood.cli.guard import OOD_FOUND, SOME_UNREADABLE, guarded, leave
from vlood.cli.interrupt import INTERRUPTED
from vlood.cli.talk import note, progress, start_logging, warn
from vlood.errors import UsageError, VloodError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vlood.backbone.backbone import Backbone
    from vlood.cli.prepare import ClassOptions, ModelOptions, ReadOptions, Source
    from vlood.engines.explaining import NearestNegatives
    from vlood.engines.records import Record, Sink, Tally
    from vlood.engines.scoring import ScoredBatch, Scorer
    from vlood.features.cache import FeatureCache
    from vlood.methods.contract import Detector

_SHOWN_ERRORS = 20


@guarded
def score(
    inputs: opt.Inputs,
    detector: Annotated[
        Path | None,
        typer.Option(
            help="A saved detector's folder: it needs no other option.",
            rich_help_panel="Classes and method",
            show_default=False,
        ),
    ] = None,
    classes: opt.Classes = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Which score; `vlood methods` lists them. Default: mcm.",
            rich_help_panel="Classes and method",
            show_default=False,
        ),
    ] = None,
    model: opt.ModelOrOwn = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Write to a file.", rich_help_panel="Output", show_default=False
        ),
    ] = None,
    format: opt.FormatOption = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Call images that score below it OOD.",
            rich_help_panel="Decide",
            show_default=False,
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Call images OOD whose p-value is at most this: of images like the calibration's, "
            "at most this share is. For calibrated detectors.",
            rich_help_panel="Decide",
            show_default=False,
        ),
    ] = None,
    tpr: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Find the threshold that keeps this share of the --calibrate-on images; "
            "0.95 by default.",
            rich_help_panel="Decide",
            show_default=False,
        ),
    ] = None,
    calibrate_on: Annotated[
        list[str] | None,
        typer.Option(
            help="Images known to be in-distribution; repeatable.",
            rich_help_panel="Decide",
            show_default=False,
        ),
    ] = None,
    fail_on_ood: Annotated[
        bool,
        typer.Option(
            "--fail-on-ood", help="Exit 4 when anything is OOD.", rich_help_panel="Decide"
        ),
    ] = False,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Add the likeliest classes, the nearest negatives and a sentence to each record.",
            rich_help_panel="Output",
        ),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with an interrupted -o file.", rich_help_panel="Output"
        ),
    ] = False,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state",
            help="State of a test-time method (.safetensors): gone on with if it is there, "
            "written at the end.",
            rich_help_panel="Classes and method",
            show_default=False,
        ),
    ] = None,
    negatives: opt.Negatives = None,
    template: opt.Template = None,
    class_embeddings: opt.ClassEmbeddings = None,
    negative_embeddings: opt.NegativeEmbeddings = None,
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

      find . -name '*.jpg' -print0 | vlood score -0 - --model bundled --classes world | jq .score
    """
    start_logging(quiet)
    from vlood.cli.prepare import (
        ClassOptions,
        ModelOptions,
        ReadOptions,
        check_decidable,
        check_width,
        detectors_of,
        embedding_width,
        load_model,
        open_cache,
        open_detector,
        refuse_with_detector,
        sources_of,
    )
    from vlood.detector.saved import check_backbone
    from vlood.engines.records import FileSink
    from vlood.engines.scoring import Decision, records_of
    from vlood.methods import registry

    if tpr is not None and not calibrate_on:
        raise UsageError("--tpr: needs --calibrate-on IN..., images known to be in-distribution")
    if threshold is not None and calibrate_on:
        raise UsageError("--threshold and --calibrate-on: give one, they both set the threshold")
    if fail_on_ood and threshold is None and not calibrate_on and detector is None:
        raise UsageError("--fail-on-ood: needs --threshold or --calibrate-on to know what is OOD")
    if alpha is not None and (detector is None or threshold is not None or calibrate_on):
        raise UsageError(
            "--alpha: goes with a calibrated --detector, without --threshold and --calibrate-on"
        )
    if resume and output is None:
        raise UsageError("--resume: needs -o FILE, the file to go on with")
    chosen = _chosen_format(output, format)
    saved = None if detector is None else open_detector(detector)
    run = ModelOptions(
        model or (saved and saved.model_name) or opt.DEFAULT_MODEL,
        device.value,
        precision.value,
        batch_size,
        workers,
        cache,
        no_cache,
    )
    read = ReadOptions(root, null, fast_decode, background)
    source = sources_of(inputs)
    source.check(read)
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
        check_decidable(saved, detector, alpha, fail_on_ood and threshold is None)
    method = wanted.methods[0]
    _check_stream(method, state, calibrate_on)
    unused = wanted.negatives.named and "negatives" not in registry.get(method).record.needs
    if unused and not explain:
        warn(f"--negatives: {method} scores without them; --explain shows them", quiet=quiet)

    if resume and output is not None and _is_complete(output):
        tally = _complete_tally(output, chosen, source, read, method)
        warn(f"{output} is complete; leave --resume out to score again", quiet=quiet)
        _finish(tally, fail_on_ood, quiet)
        return

    store = open_cache(run)
    only_arrays = source.embeddings is not None and (bool(class_embeddings) or saved is not None)
    only_arrays = only_arrays and (known is None or known.embeddings is not None)
    only_arrays = only_arrays and not (explain and saved is not None and wanted.negatives.named)
    backbone = None if only_arrays else load_model(run)
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
        threshold = _calibrated(known, scoring, backbone, run, read, store, tpr or 0.95, quiet)

    scorer = _scorer(scoring, state)
    sink, tally, skip = _open_sink(
        output,
        chosen,
        explain,
        resume and source.embeddings is None,
        _fingerprint(
            inputs, run, wanted, read, (threshold, alpha), explain, backbone, scoring, detector
        )
        | {"stream": scorer.order.digest},
        batch_size,
        quiet,
    )
    nearest = _nearest_negatives(wanted, scoring, backbone, store, quiet) if explain else None
    calibration = None if saved is None or calibrate_on else saved.calibration
    if threshold is None and saved is not None:
        threshold = saved.threshold
    decision = Decision(threshold, explain, nearest, calibration, alpha)
    total = source.count(read) if sys.stderr.isatty() and not quiet else None
    unreadable: list[str] = []
    try:
        with progress("scoring", total, quiet=quiet) as bar:
            bar.advance(len(skip))
            for batch in _scored(source, skip, scorer, backbone, run, read, store):
                records = records_of(batch, scoring, decision)
                sink.write(records)
                for record in records:
                    tally.add(record)
                    if "error" in record and len(unreadable) < _SHOWN_ERRORS:
                        unreadable.append(_error_line(record))
                bar.advance(len(records))
        sink.close()
    except KeyboardInterrupt:
        _abandon(sink, tally)
        if not isinstance(sink, FileSink):
            _save_state(scorer, state)
        leave(INTERRUPTED)
    except BaseException:
        _abandon(sink, None)
        raise
    _save_state(scorer, state)
    for line in unreadable:
        warn(line, quiet=quiet)
    _finish(tally, fail_on_ood, quiet)


def _scored(
    source: Source,
    skip: list[Record],
    scorer: Scorer,
    backbone: Backbone | None,
    run: ModelOptions,
    read: ReadOptions,
    store: FeatureCache | None,
) -> Iterator[ScoredBatch]:
    """Yield the scored batches that come after the records of ``skip``."""
    from itertools import chain

    from vlood.cli.prepare import stream_settings
    from vlood.engines.scoring import is_stream, score_embeddings, score_images

    streaming = is_stream(scorer.detectors[0])
    if source.embeddings is not None:
        for one in source.embeddings:
            if streaming:
                yield from score_embeddings(one, scorer, batch_size=run.batch_size)
            else:
                yield from score_embeddings(one, scorer)
        return
    assert backbone is not None
    items = source.items(read)
    seen = []
    for record in skip:
        item = next(items, None)
        if item is None or item.path != record["path"]:
            raise UsageError(
                f"--resume: the inputs changed since: {record['path']} was there; "
                "leave --resume out to start over"
            )
        if streaming:
            seen.append(item)
    # A stream's state is that of every image before: those of the finished records go through it
    # again, in the same batches.
    passed = 0
    whole = chain(seen, items)
    for batch in score_images(whole, backbone, scorer, stream_settings(run, read), cache=store):
        if passed >= len(seen):
            yield batch
        passed += len(batch.ids)


def _check_stream(method: str, state: Path | None, calibrate_on: list[str] | None) -> None:
    """Refuse what does not go together with a method that goes through a stream, or does not."""
    from vlood.methods import registry

    streaming = registry.get(method).stream is not None
    if state is not None and not streaming:
        raise UsageError(f"--state: {method} scores each image by itself and keeps no state")
    if state is not None:
        # It is written after the last image: too late to learn that it cannot be.
        if not state.parent.is_dir():
            raise UsageError(f"--state {state}: the folder {state.parent} does not exist; make it")
        if state.is_dir():
            raise UsageError(f"--state {state}: is a folder; name a .safetensors file")
        if not os.access(state.parent, os.W_OK):
            raise VloodError(f"--state {state}: cannot be written there; name another place")
    if streaming and calibrate_on:
        raise UsageError(
            f"--calibrate-on: {method}'s scores depend on the images before, so a threshold found "
            "on others does not hold; give --threshold"
        )


def _scorer(detector: Detector, state: Path | None) -> Scorer:
    from vlood.engines.scoring import Scorer
    from vlood.engines.streaming import load_state

    if state is None or not state.exists():
        return Scorer([detector])
    loaded, order = load_state(state, detector)
    return Scorer([detector], [loaded], order)


def _save_state(scorer: Scorer, path: Path | None) -> None:
    from vlood.engines.streaming import save_state

    state = scorer.states[0]
    if path is not None and state is not None:
        save_state(path, scorer.detectors[0], state, scorer.order)


def _nearest_negatives(
    wanted: ClassOptions,
    detector: Detector,
    backbone: Backbone | None,
    store: FeatureCache | None,
    quiet: bool,
) -> NearestNegatives | None:
    """Return the negatives to explain with: the detector's own, or those the user named."""
    from vlood.engines.detectors import negatives_beside
    from vlood.engines.explaining import NearestNegatives
    from vlood.engines.mining import Encoder

    own = NearestNegatives.of_detector(detector)
    if own is not None or not wanted.negatives.named:
        return own
    encoder = None if backbone is None else Encoder(backbone, store)
    return NearestNegatives.of(
        negatives_beside(
            detector,
            wanted.side,
            wanted.negatives,
            encoder,
            announce=lambda text: warn(text, quiet=quiet),
        )
    )


def _calibrated(
    known: Source,
    detector: Detector,
    backbone: Backbone | None,
    run: ModelOptions,
    read: ReadOptions,
    store: FeatureCache | None,
    tpr: float,
    quiet: bool,
) -> float:
    """Return the threshold that keeps ``tpr`` of images known to be in-distribution."""
    import numpy as np

    from vlood.detector.threshold import threshold_from_id
    from vlood.engines.records import rounded
    from vlood.engines.scoring import Scorer

    total = known.count(read) if sys.stderr.isatty() and not quiet else None
    scores, unreadable = [], 0
    with progress("calibrating", total, quiet=quiet) as bar:
        for batch in _scored(known, [], Scorer([detector]), backbone, run, read, store):
            scores.append(batch.scores[0].score)
            unreadable += len(batch.errors)
            bar.advance(len(batch.ids))
    values = np.concatenate(scores)
    if not len(values):
        raise UsageError("--calibrate-on: none of the images could be read")
    if unreadable:
        warn(
            f"--calibrate-on: {unreadable} images could not be read and were left out", quiet=quiet
        )
    value = rounded(threshold_from_id(values, tpr).value)
    note(f"threshold {value:.7g} keeps {tpr:.0%} of {len(values)} known images", quiet=quiet)
    return value


def _open_sink(
    output: Path | None,
    chosen: str,
    explain: bool,
    resume: bool,
    fingerprint: dict[str, object],
    batch_size: int,
    quiet: bool,
) -> tuple[Sink, Tally, list[Record]]:
    """Open where the records go, and return those kept from an interrupted run."""
    from vlood.engines.records import (
        CsvLines,
        FileSink,
        JsonLines,
        Tally,
        TerminalTable,
        columns_of,
    )

    tally = Tally()
    columns = columns_of(explain)
    if output is None or _is_stream(output):
        stream = sys.stdout if output is None else output.open("w", encoding="utf-8")
        if chosen == "csv":
            return CsvLines(stream, columns), tally, []
        if chosen == "table":
            return TerminalTable(stream, colour=stream.isatty()), tally, []
        return JsonLines(stream), tally, []
    sink = FileSink(output, chosen, columns, fingerprint)
    kept = sink.start(resume=resume, batch_size=batch_size)
    for record in kept:
        tally.add(record)
    if kept:
        note(f"{len(kept)} finished records kept", quiet=quiet)
    return sink, tally, kept


def _is_complete(output: Path) -> bool:
    from vlood.engines.records import is_complete

    return output.is_file() and is_complete(output)


def _complete_tally(
    output: Path, format: str, source: Source, read: ReadOptions, method: str
) -> Tally:
    """Count the records of a complete file, after making sure that they are of these inputs."""
    from vlood.engines.records import Tally, path_cell, read_records

    tally = Tally()
    if source.embeddings is not None:
        paths = (one_id for one in source.embeddings for one_id in one.ids)
    else:
        paths = (item.path for item in source.items(read))
    refusal = UsageError(
        f"--resume: {output} is complete, but of other inputs or another method; leave --resume "
        "out to start over, or name another file"
    )
    try:
        for record in read_records(output, format):
            path = next(paths, None)
            if path is None or record["path"] not in (path, path_cell(path)):
                raise refusal
            if record.get("method") not in (None, "", method):
                raise refusal
            tally.add(record)
    except (ValueError, KeyError, OSError):
        raise refusal from None
    if next(paths, None) is not None:
        raise refusal
    return tally


def _chosen_format(output: Path | None, format: opt.Format | None) -> str:
    """Return the format asked for, or the one that fits the place.

    Raises:
        UsageError: there can be no such file, or the format is not for the place.
    """
    from vlood.engines.records import check_place

    if output is None or _is_stream(output):
        plain = "table" if output is None and sys.stdout.isatty() else "jsonl"
        chosen = plain if format is None else format.value
        if chosen == "parquet":
            raise UsageError("--format parquet: is not for a stream; name a file with -o")
        return chosen
    check_place(output)
    if format is opt.Format.table:
        raise UsageError("--format table: is for a terminal; use jsonl, csv or parquet with -o")
    by_ending = {".csv": "csv", ".parquet": "parquet"}.get(output.suffix.lower(), "jsonl")
    return by_ending if format is None else format.value


def _is_stream(path: Path) -> bool:
    """Say whether a path is a pipe or a device: written as it comes, never renamed over."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _fingerprint(
    inputs: list[str],
    run: ModelOptions,
    wanted: ClassOptions,
    read: ReadOptions,
    decides: tuple[float | None, float | None],
    explain: bool,
    backbone: Backbone | None,
    detector: Detector,
    saved: Path | None,
) -> dict[str, object]:
    """Describe all that decides the records, so that a resumed run is the same run."""
    from hashlib import blake2b

    from vlood.engines.streaming import arrays_digest
    from vlood.features.checksums import sha256_of_file

    digest = None if saved is None else sha256_of_file(saved / "detector.json")

    side = wanted.side
    described = repr((side.classes, side.templates, detector.class_names, detector.negative_names))
    names = blake2b(described.encode("utf-8", "surrogateescape"), digest_size=16)
    if side.class_embeddings:
        names.update(arrays_digest(detector.tensors).encode())
    return {
        "inputs": inputs,
        "model": None if backbone is None else backbone.identity(),
        "batch size": run.batch_size,
        "classes": names.hexdigest(),
        "method": [*wanted.methods, wanted.settings, side.logit_scale],
        "reading": repr(read),
        "threshold": decides[0],
        "alpha": decides[1],
        "explain": explain,
        "detector": digest,
    }


def _error_line(record: Record) -> str:
    from vlood.engines.records import printable

    return f"{printable(record['path'])}: {printable(record['error'])}"


def _abandon(sink: Sink, tally: Tally | None) -> None:
    """Keep what is finished; say where it is when a person stopped the run."""
    from vlood.engines.records import FileSink

    if not isinstance(sink, FileSink):
        if tally is not None:
            warn("stopped")
        return
    sink.abandon()
    if tally is not None:
        warn(
            f"stopped; {tally.records} finished records kept in {sink.partial}: "
            "add --resume to go on"
        )


def _finish(tally: Tally, fail_on_ood: bool, quiet: bool) -> None:
    """Sum up, and leave with the code that scripts read."""
    if tally.errors:
        warn(f"{tally.errors} of {tally.records} inputs could not be read", quiet=quiet)
    if fail_on_ood and tally.ood:
        raise typer.Exit(OOD_FOUND)
    if tally.errors:
        raise typer.Exit(SOME_UNREADABLE)
