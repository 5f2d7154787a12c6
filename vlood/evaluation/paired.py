"""Compare two detectors on the same images: paired bootstrap intervals and Holm's correction.

Each resample draws images, each side to its own size, and measures both detectors on the very same
draw. What makes images easy or hard for both then cancels in the difference. Works for any metric;
for AUROC alone `delong` needs no resampling. Intervals are percentile intervals (Efron and
Tibshirani, An Introduction to the Bootstrap, 1993).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlood.errors import UsageError
from vlood.evaluation.bootstrap import (
    FIGURES,
    Figure,
    FigureResampler,
    Statistic,
    check_figures,
    check_options,
    draw_rows,
    draw_weights,
)
from vlood.evaluation.delong import check_same_images
from vlood.evaluation.metrics import checked_scores

RowStatistic = Callable[[NDArray[np.int64], NDArray[np.int64]], float]
"""A metric of one detector on the ID rows and the OOD rows it is given; rows may repeat."""


@dataclass(frozen=True)
class Difference:
    """A metric of two detectors on the same images, and the interval its difference fills.

    Attributes:
        first: the metric of the first detector.
        second: of the second.
        difference: first - second.
        low: lower end of the difference's interval.
        high: upper end.
        level: share of resamples inside, e.g. 0.95.
        p_value: two-sided, of no difference: twice the smaller share of resamples on or beyond 0,
            the images themselves counting as one more, so at least 2 / (resamples + 1).
        resamples: how many were drawn.
        seed: what they were drawn with.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    level: float
    p_value: float
    resamples: int
    seed: int


def paired_figures(
    first_id: ArrayLike,
    first_ood: ArrayLike,
    second_id: ArrayLike,
    second_ood: ArrayLike,
    figures: Sequence[Figure] = FIGURES,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[Figure, Difference]:
    """Return the difference of each figure between two detectors, all from the same draws.

    Row i of both ID arrays [N] must be the same image, and row j of both OOD arrays [M]. Draw for
    draw what `paired_bootstrap` measures, but sorting once.

    Raises:
        UsageError: a side is empty or not finite, the detectors differ in their number of images,
            an option is out of range, or a figure is unknown.
    """
    check_options(resamples, level)
    check_figures(figures)
    id_scores, ood_scores = _same_images(first_id, second_id, first_ood, second_ood)
    one = FigureResampler(id_scores[0], ood_scores[0])
    other = FigureResampler(id_scores[1], ood_scores[1])
    drawn = np.empty((2, resamples, len(figures)))
    for i, weights in enumerate(draw_weights(one.n_id, one.n_ood, resamples, seed)):
        drawn[0, i] = one.figures(figures, *weights)
        drawn[1, i] = other.figures(figures, *weights)
    values = zip(figures, one.figures(figures), other.figures(figures), strict=True)
    return {
        figure: _difference(first, second, drawn[0, :, k] - drawn[1, :, k], level, seed)
        for k, (figure, first, second) in enumerate(values)
    }


def paired_bootstrap(
    statistic: Statistic,
    first_id: ArrayLike,
    first_ood: ArrayLike,
    second_id: ArrayLike,
    second_ood: ArrayLike,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Return the difference of any `statistic(id_scores, ood_scores)` between two detectors.

    Row i of both ID arrays [N] must be the same image, and row j of both OOD arrays [M]. For the
    usual figures `paired_figures` is much faster.

    Raises:
        UsageError: a side is empty or not finite, the detectors differ in their number of images,
            or an option is out of range.
    """
    id_scores, ood_scores = _same_images(first_id, second_id, first_ood, second_ood)
    return paired_bootstrap_rows(
        lambda known, other: statistic(id_scores[0][known], ood_scores[0][other]),
        lambda known, other: statistic(id_scores[1][known], ood_scores[1][other]),
        id_scores[0].size,
        ood_scores[0].size,
        resamples=resamples,
        level=level,
        seed=seed,
    )


def paired_bootstrap_rows(
    first: RowStatistic,
    second: RowStatistic,
    n_id: int,
    n_ood: int,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Return the difference of a metric that needs more of an image than its score.

    OSCR, for one, needs whether each ID image was classified correctly, which differs from detector
    to detector: give one function of rows for each.

    Args:
        first: measures the first detector on ID rows [n_id] and OOD rows [n_ood].
        second: the same of the second.
        n_id: number of ID images.
        n_ood: number of OOD images.
        resamples: how many to draw.
        level: share of resamples inside the interval.
        seed: of the draws.

    Raises:
        UsageError: a side is empty, or an option is out of range.
    """
    check_options(resamples, level)
    if n_id < 1 or n_ood < 1:
        raise UsageError(
            f"There are {n_id} ID and {n_ood} OOD images; at least one of each was expected."
        )
    drawn = np.array(
        [first(*rows) - second(*rows) for rows in draw_rows(n_id, n_ood, resamples, seed)]
    )
    every = np.arange(n_id), np.arange(n_ood)
    return _difference(first(*every), second(*every), drawn, level, seed)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return p-values [K] adjusted for K comparisons, in the order given.

    Calling significant what is adjusted to at most alpha keeps the chance of any false call at or
    below alpha, however the comparisons depend on each other.
    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6, 1979.

    Raises:
        UsageError: not one-dimensional, or an entry is not in [0, 1].
    """
    values = np.asarray(p_values, dtype=np.float64)
    if values.ndim != 1:
        raise UsageError(f"The p-values have shape {values.shape}; a list [K] was expected.")
    outside = ~((values >= 0.0) & (values <= 1.0))
    if outside.any():
        raise UsageError(
            f"The p-value {values[int(np.argmax(outside))]} is not between 0 and 1; "
            "give one for each comparison."
        )
    order = np.argsort(values, kind="stable")
    left = np.arange(values.size, 0, -1)
    adjusted = np.empty(values.size)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(left * values[order]))
    return adjusted


def _same_images(
    first_id: ArrayLike, second_id: ArrayLike, first_ood: ArrayLike, second_ood: ArrayLike
) -> tuple[
    tuple[NDArray[np.float64], NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]
]:
    """Return both detectors' ID scores and both detectors' OOD scores, checked."""
    known = checked_scores(first_id, "ID"), checked_scores(second_id, "ID")
    other = checked_scores(first_ood, "OOD"), checked_scores(second_ood, "OOD")
    check_same_images(*known, "ID")
    check_same_images(*other, "OOD")
    return known, other


def _difference(
    first: float, second: float, drawn: NDArray[np.float64], level: float, seed: int
) -> Difference:
    tail = (1.0 - level) / 2
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    beyond = 1 + min(int((drawn <= 0.0).sum()), int((drawn >= 0.0).sum()))
    p_value = min(1.0, 2 * beyond / (drawn.size + 1))
    return Difference(
        first, second, first - second, float(low), float(high), level, p_value, drawn.size, seed
    )
