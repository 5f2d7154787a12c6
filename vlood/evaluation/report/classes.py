"""How a detector fares class by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlood.evaluation.report.inputs import ReportDetector, ReportSet
from vlood.evaluation.report.mistakes import own_classes, predicted_of, scores_of
from vlood.evaluation.report.standings import id_set, ood_sets


@dataclass(frozen=True)
class ClassLine:
    """One class.

    Attributes:
        name: of the class.
        n: ID images with this label.
        accuracy: share of them given it, None without images.
        accepted: share of them accepted, None without images.
        confused: the wrong class given most often, "" where none was.
        confused_count: how often.
        attracted: accepted OOD images that were given this class.
    """

    name: str
    n: int
    accuracy: float | None
    accepted: float | None
    confused: str
    confused_count: int
    attracted: int


def class_lines(detector: ReportDetector, sets: Sequence[ReportSet]) -> list[ClassLine]:
    """Return one line a class, the least accurate first, then the least accepted.

    Classes without labelled ID images come last, the one that attracts most OOD first.
    """
    k = len(detector.class_names)
    inside = id_set(sets)
    scores, predicted = scores_of(detector, inside), predicted_of(detector, inside)
    own = own_classes(detector, inside)
    known = own >= 0 if own.size == scores.size == predicted.size else np.zeros(own.size, bool)
    own, label_known = own[known], known[: predicted.size]
    predicted, scores = predicted[label_known], scores[label_known]
    n = np.bincount(own, minlength=k)
    right = np.bincount(own[own == predicted], minlength=k)
    accepted = np.bincount(own[scores >= detector.threshold], minlength=k)
    confused = _confused(own, predicted)
    attracted = attracted_counts(detector, sets)
    lines = []
    for i, name in enumerate(detector.class_names):
        other, count = confused.get(i, (-1, 0))
        lines.append(
            ClassLine(
                name=name,
                n=int(n[i]),
                accuracy=float(right[i] / n[i]) if n[i] else None,
                accepted=float(accepted[i] / n[i]) if n[i] else None,
                confused=detector.class_names[other] if other >= 0 else "",
                confused_count=count,
                attracted=int(attracted[i]),
            )
        )
    return sorted(lines, key=_worst_first)


def attracted_counts(detector: ReportDetector, sets: Sequence[ReportSet]) -> np.ndarray:
    """Return how many accepted OOD images were given each class, int64 [K]."""
    counts = np.zeros(len(detector.class_names), dtype=np.int64)
    for each in ood_sets(sets):
        scores, predicted = scores_of(detector, each), predicted_of(detector, each)
        if scores.size and predicted.size == scores.size:
            taken = predicted[scores >= detector.threshold]
            counts += np.bincount(taken, minlength=counts.size)
    return counts


def _confused(own: np.ndarray, predicted: np.ndarray) -> dict[int, tuple[int, int]]:
    """Return each class's most common wrong class and its count; ties take the earlier class."""
    wrong = own != predicted
    pairs, counts = np.unique(
        np.stack([own[wrong], predicted[wrong]], axis=1), axis=0, return_counts=True
    )
    most: dict[int, tuple[int, int]] = {}
    for (label, other), count in zip(pairs.tolist(), counts.tolist(), strict=True):
        if count > most.get(label, (-1, 0))[1]:
            most[label] = (other, count)
    return most


def _worst_first(line: ClassLine) -> tuple[float, float, int]:
    if line.accuracy is None or line.accepted is None:
        return 2.0, 0.0, -line.attracted
    return line.accuracy, line.accepted, -line.attracted
