"""How far a metric would move on other images of the same kind: stratified bootstrap intervals.

Both sides are resampled with replacement, each to its own size, so a resample never loses a side.
Intervals are percentile intervals (Efron and Tibshirani, An Introduction to the Bootstrap, 1993).
Drawing images and measuring anew sorts at every draw; the figures every evaluation reports have a
form that sorts once (`FigureResampler`) and gives the same answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlood.errors import UsageError
from vlood.evaluation.metrics import auroc, checked_scores

Statistic = Callable[[NDArray[np.float64], NDArray[np.float64]], float]

Figure = Literal["auroc", "aupr_in", "aupr_out", "fpr95_id_pos", "fpr95_ood_pos"]
"""The figures of `EvalMetrics` that scores alone decide, in their canonical modes."""

FIGURES: tuple[Figure, ...] = get_args(Figure)


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
    """Return the interval of a `statistic` of scores [N] and [M]; for AUROC use the faster form.

    Raises:
        UsageError: a side is empty or not finite, or an option is out of range.
    """
    id_values, ood_values = checked_scores(id_scores, "ID"), checked_scores(ood_scores, "OOD")
    check_options(resamples, level)
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
    """Return the AUROC's interval from scores [N] and [M], sorting once: a pass a resample.

    A resample is a weight per image. With OOD sorted, the weight of OOD below an ID score is a
    cumulative sum at a place that never changes, so AUROC is one weighted sum of such places.

    Raises:
        UsageError: a side is empty or not finite, or an option is out of range.
    """
    id_values = np.sort(checked_scores(id_scores, "ID"))
    ood_values = np.sort(checked_scores(ood_scores, "OOD"))
    check_options(resamples, level)
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


def figure_intervals(
    id_scores: ArrayLike,
    ood_scores: ArrayLike,
    figures: Sequence[Figure] = FIGURES,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[Figure, Interval]:
    """Return the interval of each figure of scores [N] and [M], all from the same draws.

    Draw for draw what `bootstrap_interval` measures on the scores as given.

    Raises:
        UsageError: a side is empty or not finite, an option is out of range, or a figure unknown.
    """
    check_options(resamples, level)
    check_figures(figures)
    measured = FigureResampler(id_scores, ood_scores)
    drawn = np.empty((resamples, len(figures)))
    weights = draw_weights(measured.n_id, measured.n_ood, resamples, seed)
    for i, (id_weight, ood_weight) in enumerate(weights):
        drawn[i] = measured.figures(figures, id_weight, ood_weight)
    values = measured.figures(figures)
    return {
        figure: _interval(values[k], drawn[:, k], level, seed) for k, figure in enumerate(figures)
    }


def draw_weights(
    n_id: int, n_ood: int, resamples: int, seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield how often each ID image [N] and each OOD image [M] is in each resample."""
    for id_rows, ood_rows in draw_rows(n_id, n_ood, resamples, seed):
        yield np.bincount(id_rows, minlength=n_id), np.bincount(ood_rows, minlength=n_ood)


def draw_rows(
    n_id: int, n_ood: int, resamples: int, seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the ID rows [N] and the OOD rows [M] of each resample, drawn with replacement."""
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield rng.integers(n_id, size=n_id), rng.integers(n_ood, size=n_ood)


class FigureResampler:
    """Scores sorted once, to be measured under many weights.

    The metrics only ask how many images of a side score at least as high as some image. Under
    weights [N] and [M] that is a cumulative sum read at a place that never changes. A draw costs
    O(N + M), and AUROC and both FPRs equal those of `metrics` to the last digit. One thread at a
    time: the working memory is kept from draw to draw.

    Args:
        id_scores: [N], higher = more in-distribution.
        ood_scores: [M].

    Raises:
        UsageError: a side is empty or not finite.
    """

    def __init__(self, id_scores: ArrayLike, ood_scores: ArrayLike) -> None:
        known, other = checked_scores(id_scores, "ID"), checked_scores(ood_scores, "OOD")
        self.n_id, self.n_ood = known.size, other.size
        # Falling order: of n images, those above an image come first.
        self._id_order, self._ood_order = np.argsort(-known), np.argsort(-other)
        known, other = -known[self._id_order], -other[self._ood_order]
        self._id_from_id = np.searchsorted(known, known, side="right")
        self._ood_from_id = np.searchsorted(other, known, side="right")
        self._ood_above_id = np.searchsorted(other, known, side="left")
        self._ood_above_ood = np.searchsorted(other, other, side="left")
        self._id_above_ood = np.searchsorted(known, other, side="left")
        # Compared as rates, as the metrics do.
        self._id_needed = _least_reaching(0.95, self.n_id)
        self._ood_needed = _least_reaching(0.95, self.n_ood)
        # Written anew at each draw: fresh memory costs more than the sums themselves.
        self._known, self._other = _Side(self.n_id), _Side(self.n_ood)

    def figures(
        self,
        wanted: Sequence[Figure],
        id_weight: NDArray[np.int64] | None = None,
        ood_weight: NDArray[np.int64] | None = None,
    ) -> list[float]:
        """Return the wanted figures under weights [N] and [M] that sum to N and M; default: ones.

        Args:
            wanted: names of `FIGURES`.
            id_weight: how often each ID image counts, in the order the scores were given.
            ood_weight: the same of the OOD images.
        """
        if id_weight is None:
            id_weight = np.ones(self.n_id, dtype=np.int64)
        if ood_weight is None:
            ood_weight = np.ones(self.n_ood, dtype=np.int64)
        known, other = self._known, self._other
        known.weigh(id_weight, self._id_order)
        other.weigh(ood_weight, self._ood_order)
        found: list[float] = []
        for figure in wanted:
            if figure == "auroc":
                pairs = self.n_id * self.n_ood
                # OOD at or above plus OOD above: twice the pairs an ID image does not win.
                lost = known.dot(other.first(self._ood_from_id, known.hits))
                lost += known.dot(other.first(self._ood_above_id, known.hits))
                found.append((2 * pairs - lost) / (2 * pairs))
            elif figure == "aupr_in":
                known.first(self._id_from_id, known.hits)
                other.first(self._ood_from_id, known.misses)
                found.append(known.average_precision())
            elif figure == "aupr_out":
                np.subtract(self.n_ood, other.first(self._ood_above_ood, other.hits), other.hits)
                misses = known.first(self._id_above_ood, other.misses)
                np.subtract(self.n_id, misses, misses)
                found.append(other.average_precision())
            elif figure == "fpr95_id_pos":
                last = int(np.searchsorted(known.total, self._id_needed)) - 1
                found.append(int(other.total[self._ood_from_id[last]]) / self.n_ood)
            else:
                spared = self.n_ood - self._ood_needed
                first = int(np.searchsorted(other.total, spared, side="right")) - 1
                accepted = int(known.total[self._id_above_ood[first]])
                found.append((self.n_id - accepted) / self.n_id)
        return found


class _Side:
    """The weights of one side's n images from the highest score down, and room to work in."""

    def __init__(self, n: int) -> None:
        self.weight = np.empty(n, dtype=np.int64)
        self.total = np.zeros(n + 1, dtype=np.int64)
        self.hits = np.empty(n, dtype=np.int64)
        self.misses = np.empty(n, dtype=np.int64)
        self._precision = np.empty(n)

    def weigh(self, weight: NDArray[np.int64], order: NDArray[np.int64]) -> None:
        # Without a mode, `take` would write to a copy of `out` first.
        np.take(weight, order, out=self.weight, mode="clip")
        np.cumsum(self.weight, out=self.total[1:])

    def first(self, counts: NDArray[np.int64], out: NDArray[np.int64]) -> NDArray[np.int64]:
        """Write how much the first `counts` [K] images weigh to `out` [K]."""
        return np.take(self.total, counts, out=out, mode="clip")

    def dot(self, values: NDArray[np.int64]) -> int:
        return int(self.weight @ values)

    def average_precision(self) -> float:
        """Return the mean precision at this side's images; uses up `misses`."""
        np.add(self.hits, self.misses, out=self.misses)
        # An image that weighs nothing may have nothing accepted before it.
        np.maximum(self.misses, 1, out=self.misses)
        np.divide(self.hits, self.misses, out=self._precision)
        np.multiply(self._precision, self.weight, out=self._precision)
        return float(self._precision.sum()) / self.weight.size


def check_figures(figures: Sequence[str]) -> None:
    """Refuse a figure that is not one of `FIGURES`.

    Raises:
        UsageError: one is unknown.
    """
    for figure in figures:
        if figure not in FIGURES:
            raise UsageError(
                f"The figure {figure!r} has no resampled form; one of {', '.join(FIGURES)} "
                "was expected."
            )


def _least_reaching(rate: float, n: int) -> int:
    """Return the smallest whole k with k / n >= rate."""
    return int(np.searchsorted(np.arange(n + 1) / n, rate))


def _interval(value: float, drawn: NDArray[np.float64], level: float, seed: int) -> Interval:
    tail = (1.0 - level) / 2
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    return Interval(value, float(low), float(high), level, drawn.size, seed)


def check_options(resamples: int, level: float) -> None:
    """Refuse fewer than one resample, or a level that is not a fraction.

    Raises:
        UsageError: an option is out of range.
    """
    if resamples < 1:
        raise UsageError(f"The number of resamples is {resamples}; at least 1 was expected.")
    check_level(level)


def check_level(level: float) -> None:
    """Refuse an interval's level that is not a fraction.

    Raises:
        UsageError: `level` is not in (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise UsageError(
            f"The interval's level is {level}; a fraction between 0 and 1 was expected."
        )
