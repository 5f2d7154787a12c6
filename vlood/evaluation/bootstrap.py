"""How far a metric would move on other images of the same kind: stratified bootstrap intervals.

Both sides are resampled with replacement, each to its own size, so a resample never loses a side.
Intervals are percentile intervals (Efron and Tibshirani, An Introduction to the Bootstrap, 1993).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlood.errors import UsageError
from vlood.evaluation.metrics import auroc, checked_scores

Statistic = Callable[[NDArray[np.float64], NDArray[np.float64]], float]


@dataclass(frozen=True)
class Interval:
    """A metric's value and the interval its resamples fill.

    Attributes:
        value: the metric on the images themselves.
        low: lower end.
        high: upper end.
        level: share of resamples inside, e.g. 0.95.
        resamples: how many were drawn.
        seed: what they were drawn with.
    """

    value: float
    low: float
    high: float
    level: float
    resamples: int
    seed: int


def bootstrap_interval(
    statistic: Statistic,
    id_scores: ArrayLike,
    ood_scores: ArrayLike,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the interval of any `statistic(id_scores, ood_scores)`; for AUROC use the faster form.

    Raises:
        UsageError: a side is empty or not finite, or an option is out of range.
    """
    id_values, ood_values = checked_scores(id_scores, "ID"), checked_scores(ood_scores, "OOD")
    _check_options(resamples, level)
    rng = np.random.default_rng(seed)
    drawn = np.array(
        [
            statistic(
                id_values[rng.integers(id_values.size, size=id_values.size)],
                ood_values[rng.integers(ood_values.size, size=ood_values.size)],
            )
            for _ in range(resamples)
        ]
    )
    return _interval(statistic(id_values, ood_values), drawn, level, seed)


def auroc_interval(
    id_scores: ArrayLike,
    ood_scores: ArrayLike,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the AUROC's interval, sorting once: a resample costs one pass over both sides.

    A resample is a weight per image. With OOD sorted, the weight of OOD below an ID score is a
    cumulative sum at a place that never changes, so AUROC is one weighted sum of such places.

    Raises:
        UsageError: a side is empty or not finite, or an option is out of range.
    """
    id_values = np.sort(checked_scores(id_scores, "ID"))
    ood_values = np.sort(checked_scores(ood_scores, "OOD"))
    _check_options(resamples, level)
    n_id, n_ood = id_values.size, ood_values.size
    below = np.searchsorted(ood_values, id_values, side="left")
    up_to = np.searchsorted(ood_values, id_values, side="right")
    rng = np.random.default_rng(seed)
    total = np.zeros(n_ood + 1, dtype=np.int64)
    drawn = np.empty(resamples)
    for i in range(resamples):
        id_weight = np.bincount(rng.integers(n_id, size=n_id), minlength=n_id)
        ood_weight = np.bincount(rng.integers(n_ood, size=n_ood), minlength=n_ood)
        np.cumsum(ood_weight, out=total[1:])
        drawn[i] = int(id_weight @ (total[below] + total[up_to])) / (2 * n_id * n_ood)
    return _interval(auroc(id_values, ood_values), drawn, level, seed)


def _interval(value: float, drawn: NDArray[np.float64], level: float, seed: int) -> Interval:
    tail = (1.0 - level) / 2
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    return Interval(value, float(low), float(high), level, drawn.size, seed)


def _check_options(resamples: int, level: float) -> None:
    if resamples < 1:
        raise UsageError(f"The number of resamples is {resamples}; at least 1 was expected.")
    if not 0.0 < level < 1.0:
        raise UsageError(
            f"The interval's level is {level}; a fraction between 0 and 1 was expected."
        )
