"""Set the thresholds of an evaluation's detectors on images that are not evaluated on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlood.detector.calibration import significant
from vlood.detector.threshold import threshold_from_id
from vlood.engines.evaluating.run import Entrant
from vlood.engines.evaluating.state import read_state
from vlood.engines.scoring import ScoredBatch, is_stream
from vlood.errors import UsageError


def calibratable(entrants: Sequence[Entrant]) -> list[Entrant]:
    """Return the detectors whose thresholds hold on other images: those without a stream."""
    return [one for one in entrants if not is_stream(one.detector)]


def remembered(
    entrants: Sequence[Entrant], folder: Path, calibration: Mapping[str, object]
) -> list[Entrant] | None:
    """Return the detectors with the thresholds a stopped run had set, or None where it had none.

    Args:
        entrants: all of them.
        folder: of the report.
        calibration: what sets the thresholds; another one has to be done anew.

    Raises:
        UsageError: there is no report, or its state is damaged.
    """
    state = read_state(folder)
    held = {(one.name, one.digest): one for one in state.contestants}
    keys = [(one.contestant.name, one.contestant.digest) for one in entrants]
    if state.fingerprint.reading.get("calibration") != calibration or not set(keys) <= set(held):
        return None
    return [Entrant(held[key], one.detector) for key, one in zip(keys, entrants, strict=True)]


def calibrated(
    entrants: Sequence[Entrant], batches: Iterable[ScoredBatch], tpr: float
) -> list[Entrant]:
    """Return the detectors with thresholds that keep the share ``tpr`` of ID images.

    Args:
        entrants: all of them; test-time ones stay as they are.
        batches: of held-out ID images, scored by `calibratable` ones in their order.
        tpr: in (0, 1].

    Raises:
        UsageError: no image could be read, or ``tpr`` is out of range.
    """
    own = calibratable(entrants)
    parts: list[list[NDArray[np.float64]]] = [[np.zeros(0)] for _ in own]
    for batch in batches:
        for part, found in zip(parts, batch.scores, strict=True):
            part.append(found.score)
    scores = {id(one): np.concatenate(part) for one, part in zip(own, parts, strict=True)}
    return [_with_threshold(one, scores[id(one)], tpr) if one in own else one for one in entrants]


def _with_threshold(one: Entrant, scores: NDArray[np.float64], tpr: float) -> Entrant:
    if not scores.size:
        raise UsageError("--calibrate-on: none of its images could be read; name others")
    threshold = threshold_from_id(significant(scores), tpr).value
    told = f"set to keep {tpr:.0%} of {scores.size:,} other ID images"
    contestant = replace(one.contestant, threshold=threshold, per_class={}, threshold_note=told)
    return Entrant(contestant, one.detector)
