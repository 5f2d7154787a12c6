"""How the inputs of ``vlood score`` become scored batches, a stream's state included."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vlood.cli.talk import note, progress, warn
from vlood.errors import UsageError, VloodError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vlood.backbone.backbone import Backbone
    from vlood.cli.class_options import ClassOptions
    from vlood.cli.model_options import ModelOptions, ReadOptions
    from vlood.cli.sources import Source
    from vlood.engines.explaining import NearestNegatives
    from vlood.engines.heatmaps import Heatmaps
    from vlood.engines.records import Record
    from vlood.engines.scoring import ScoredBatch, Scorer
    from vlood.features.cache import FeatureCache
    from vlood.methods.contract import Detector


def scored_batches(
    source: Source,
    skip: list[Record],
    scorer: Scorer,
    backbone: Backbone | None,
    run: ModelOptions,
    read: ReadOptions,
    store: FeatureCache | None,
    heatmaps: Heatmaps | None = None,
) -> Iterator[ScoredBatch]:
    """Yield the scored batches that come after the records of ``skip``.

    Those that ``heatmaps`` draws come with local embeddings.
    """
    from itertools import chain, islice

    from vlood.cli.model_options import stream_settings
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
    settings = stream_settings(run, read)
    parts: Iterator[ScoredBatch]
    if heatmaps is None:
        parts = score_images(chain(seen, items), backbone, scorer, settings, cache=store)
    else:
        whole = chain(seen, heatmaps.watched(items, after=len(skip)))
        # The model runs once over each image: with local embeddings, which are not cached, as far
        # as pictures are drawn, and from the first batch without any as it always does.
        drawn = heatmaps.first_inputs(run.batch_size, before=len(skip) - len(seen))
        parts = chain(
            score_images(islice(whole, drawn), backbone, scorer, settings, local=True),
            score_images(whole, backbone, scorer, settings, cache=store),
        )
    for batch in parts:
        if passed >= len(seen):
            yield batch
        passed += len(batch.ids)


def check_stream(method: str, state: Path | None, calibrate_on: list[str] | None) -> None:
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


def scorer_of(detector: Detector, state: Path | None) -> Scorer:
    """Return what scores: from the start, or from where a stored state ended."""
    from vlood.engines.scoring import Scorer
    from vlood.engines.streaming import load_state

    if state is None or not state.exists():
        return Scorer([detector])
    loaded, order = load_state(state, detector)
    return Scorer([detector], [loaded], order)


def write_state(scorer: Scorer, path: Path | None) -> None:
    """Keep the state of a test-time method, if it is asked for."""
    from vlood.engines.streaming import save_state

    state = scorer.states[0]
    if path is not None and state is not None:
        save_state(path, scorer.detectors[0], state, scorer.order)


def nearest_negatives(
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


def calibrated_threshold(
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
        for batch in scored_batches(known, [], Scorer([detector]), backbone, run, read, store):
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
