"""Which images are like none of the classes, or unlike their own: robust z-scores.

Iglewicz and Hoaglin, "How to Detect and Handle Outliers", 1993: the distance from the median in
units of 1.4826 times the median absolute deviation; below -3.5 is an outlier. Median and deviation
are each class's own, so a varied class is not punished for its variety.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlood.evaluation.cleaning.mislabelled import BLOCK, Cosines

_TO_DEVIATION = 1.4826
# Below so many images, a class's own deviation says less than that of all classes.
_FEW = 5


@dataclass(frozen=True, eq=False)
class Outliers:
    """How far N images are from what is usual, in robust standard deviations (low = strange).

    Attributes:
        own: float64 [N], within the image's own class; NaN where nothing can be said.
        best: float64 [N], within the class it fits best; NaN where nothing can be said.
    """

    own: NDArray[np.float64]
    best: NDArray[np.float64]


def class_outliers(cosines: Cosines, labels: NDArray[np.int64], classes: int) -> Outliers:
    """Compare each image's likeness to a class with that of the class's own images.

    Args:
        cosines: how like each class an image is, leaving itself out.
        labels: int64 [N], -1 for none.
        classes: K.
    """
    likeness = np.full(len(labels), np.nan)
    for rows in _blocks(len(labels)):
        given = labels[rows]
        likeness[rows] = np.where(given >= 0, cosines(rows)[np.arange(len(rows)), given], np.nan)
    middle, spread = _usual(likeness, labels, classes)
    own = np.where(labels >= 0, (likeness - middle[labels]) / spread[labels], np.nan)
    best = np.full(len(labels), np.nan)
    for rows in _blocks(len(labels)):
        scaled = (cosines(rows) - middle) / spread
        scaled = np.where(np.isfinite(scaled), scaled, -np.inf)
        largest = scaled.max(axis=1)
        best[rows] = np.where(np.isfinite(largest), largest, np.nan)
    return Outliers(own, best)


def score_outliers(
    scores: NDArray[np.float64], labels: NDArray[np.int64], classes: int
) -> NDArray[np.float64]:
    """Return the robust z [N] of a detector's scores [N] among the images of the same label.

    NaN where an image has no label.
    """
    middle, spread = _usual(scores, labels, classes)
    return np.where(labels >= 0, (scores - middle[labels]) / spread[labels], np.nan)


def _usual(
    values: NDArray[np.float64], labels: NDArray[np.int64], classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each class's median and deviation; NaN medians for classes nothing is known of."""
    middle, spread = np.full(classes, np.nan), np.full(classes, np.nan)
    counts = np.zeros(classes, np.int64)
    for number in range(classes):
        own = values[labels == number]
        own = own[np.isfinite(own)]
        counts[number] = len(own)
        if len(own):
            middle[number] = np.median(own)
            spread[number] = _TO_DEVIATION * np.median(np.abs(own - middle[number]))
    sure = spread[counts >= _FEW]
    pooled = float(np.median(sure)) if len(sure) else float(np.nanmax([*spread, 0.0]))
    # A class of near copies has hardly any deviation, and would then make outliers of good images.
    spread = np.where(counts >= _FEW, np.fmax(spread, pooled / 2), np.fmax(spread, pooled))
    return middle, np.fmax(spread, 1e-6)


def _blocks(count: int) -> list[NDArray[np.int64]]:
    return [np.arange(first, min(first + BLOCK, count)) for first in range(0, count, BLOCK)]
