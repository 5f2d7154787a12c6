"""The most confident mistakes of a detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlood.evaluation.report.inputs import NearestWords, ReportDetector, ReportSet
from vlood.evaluation.report.standings import id_set, ood_sets

Where = tuple[str, int]
"""An image: the name of its set and its row."""


@dataclass(frozen=True)
class Mistakes:
    """Images of one kind of mistake, the most confident first.

    Attributes:
        images: the first few.
        total: how many there are in all.
    """

    images: tuple[Where, ...]
    total: int


def accepted_ood(detector: ReportDetector, sets: Sequence[ReportSet], most: int) -> Mistakes:
    """Return the OOD images taken for ID, the highest scores first."""
    return _ranked(
        [
            (each.name, scores, scores >= detector.threshold)
            for each in ood_sets(sets)
            if (scores := scores_of(detector, each)).size
        ],
        most,
        highest=True,
    )


def rejected_id(detector: ReportDetector, sets: Sequence[ReportSet], most: int) -> Mistakes:
    """Return the ID images taken for OOD, the lowest scores first."""
    inside = id_set(sets)
    scores = scores_of(detector, inside)
    return _ranked([(inside.name, scores, scores < detector.threshold)], most, highest=False)


def wrong_class(detector: ReportDetector, sets: Sequence[ReportSet], most: int) -> Mistakes:
    """Return the accepted ID images given another class than their own, highest scores first.

    Images whose label is not one of the detector's classes are left out.
    """
    inside = id_set(sets)
    scores = scores_of(detector, inside)
    own, predicted = own_classes(detector, inside), predicted_of(detector, inside)
    if not scores.size or predicted.size != scores.size:
        return Mistakes((), 0)
    wrong = (own >= 0) & (own != predicted) & (scores >= detector.threshold)
    return _ranked([(inside.name, scores, wrong)], most, highest=True)


def scores_of(detector: ReportDetector, each: ReportSet) -> NDArray[np.float64]:
    """Return a detector's scores of a set [N], empty where it has none."""
    return np.asarray(detector.scores.get(each.name, ()), dtype=np.float64)


def predicted_of(detector: ReportDetector, each: ReportSet) -> NDArray[np.int64]:
    """Return the classes a detector predicts for a set [N], empty where it has none."""
    return np.asarray(detector.predicted.get(each.name, ()), dtype=np.int64)


def own_classes(detector: ReportDetector, each: ReportSet) -> NDArray[np.int64]:
    """Return the index of every image's own class [N], -1 where it is none of the detector's."""
    index = {name: i for i, name in enumerate(detector.class_names)}
    return np.array(
        [-1 if label is None else index.get(label, -1) for label in each.labels], dtype=np.int64
    )


def nearest_words(nearest: NearestWords | None, where: Where) -> list[tuple[str, float]]:
    """Return the negatives nearest to an image with their similarities, the nearest first."""
    name, row = where
    if nearest is None or name not in nearest.index:
        return []
    index, similarity = nearest.index[name][row], nearest.similarity[name][row]
    return [
        (nearest.names[i], float(s))
        for i, s in zip(index.tolist(), similarity.tolist(), strict=True)
        if i >= 0
    ]


def _ranked(
    sides: Sequence[tuple[str, NDArray[np.float64], NDArray[np.bool_]]], most: int, *, highest: bool
) -> Mistakes:
    found = [
        (-float(scores[row]) if highest else float(scores[row]), place, int(row))
        for place, (_, scores, chosen) in enumerate(sides)
        for row in np.flatnonzero(chosen)
    ]
    found.sort()
    return Mistakes(tuple((sides[place][0], row) for _, place, row in found[:most]), len(found))
