"""Put scores of different detectors on one scale, by curves through points of each one's scores.

A curve is two arrays of the same length: points on the score's axis, ascending, and the level in
(0, 1) at each. A level never falls as the score grows. Three kinds:

- ranks: a point's level is the share of known images that score below it, those that tie counted
  half. Between points it is linear; beyond the ends it goes on towards 0 and 1 and never reaches
  them, so images that are stranger than all known ones still compare.
- platt: the logistic function through two points (Platt 1999).
- isotonic: the steps that fit best among all that never fall (Zadrozny and Elkan 2002), linear
  between.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlood.errors import UsageError

MOST_POINTS = 2000
"""Points a curve keeps; more scores are thinned evenly, which moves a level by 1/2000 at most."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Points and levels, float32 [Q] each."""

    points: NDArray[np.float32]
    levels: NDArray[np.float32]

    def padded(self, length: int) -> Curve:
        """Repeat the last point until there are ``length``."""
        more = length - len(self.points)
        return Curve(*(np.pad(each, (0, more), "edge") for each in (self.points, self.levels)))


def rank_curve(scores: ArrayLike) -> Curve:
    """Return the curve of ranks among known images' scores [n].

    Raises:
        UsageError: fewer than two different scores.
    """
    # Rounded as they are kept, or a point's own image would lie beside it.
    values = np.sort(np.asarray(scores, np.float64).astype(np.float32))
    points, counts = np.unique(values, return_counts=True)
    if len(points) < 2:
        raise UsageError("gives all the images the same score")
    # The ranks of ties are 1 + below ... below + count; their mean over n + 1.
    levels = (np.cumsum(counts) - (counts - 1) / 2) / (len(values) + 1)
    if len(points) > MOST_POINTS:
        kept = np.linspace(0, len(points) - 1, MOST_POINTS).round().astype(np.intp)
        points, levels = points[kept], levels[kept]
    return Curve(points, levels.astype(np.float32))


def platt_curve(known: ArrayLike, strange: ArrayLike) -> Curve:
    """Return the logistic curve that best tells known [N] from strange [M] images' scores.

    Both sides weigh the same, however many images each has. Scores are standardised, and the slope
    is held by an L2 penalty of strength 1, as sides that part completely ask for an endless one.

    Raises:
        UsageError: the known images do not score above the strange ones.
    """
    from sklearn.linear_model import LogisticRegression

    inside, outside, values = _sides(known, strange)
    centre, spread = float(values.mean()), float(values.std())
    rows = ((values - centre) / spread)[:, None]
    is_known = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
    fitted = LogisticRegression(class_weight="balanced").fit(rows, is_known)
    slope, offset = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    if not slope > 0:
        raise _against()
    logits = np.array([-1.0, 1.0])
    points = centre + spread * (logits - offset) / slope
    return Curve(points.astype(np.float32), _sigmoid(logits).astype(np.float32))


def isotonic_curve(known: ArrayLike, strange: ArrayLike) -> Curve:
    """Return the rising curve that best fits which of scores [N] and [M] are known, sides equal.

    Levels stay 1 / (n + 2) away from 0 and 1, n the images of the smaller side.

    Raises:
        UsageError: the known images do not score above the strange ones.
    """
    from sklearn.isotonic import IsotonicRegression

    inside, outside, values = _sides(known, strange)
    values = values.astype(np.float32).astype(np.float64)
    is_known = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
    weight = np.r_[np.full(len(inside), 1 / len(inside)), np.full(len(outside), 1 / len(outside))]
    least = 1 / (min(len(inside), len(outside)) + 2)
    found = IsotonicRegression(y_min=least, y_max=1 - least).fit(values, is_known, weight)
    points, levels = found.X_thresholds_, found.y_thresholds_
    if len(points) > MOST_POINTS:
        kept = np.linspace(0, len(points) - 1, MOST_POINTS).round().astype(np.intp)
        points, levels = points[kept], levels[kept]
    return Curve(points.astype(np.float32), levels.astype(np.float32))


def levels_at(
    kind: str,
    points: NDArray[np.float32],
    levels: NDArray[np.float32],
    scores: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the level float64 [N] of scores [N]; ``kind`` is ranks, platt or isotonic."""
    at, level = points.astype(np.float64), levels.astype(np.float64)
    if kind == "platt":
        low, high = np.log(level[:2] / (1 - level[:2]))
        return _sigmoid(low + (high - low) * (scores - at[0]) / (at[1] - at[0]))
    found = np.interp(scores, at, level)
    if kind == "ranks":
        width = tail_width(at, level)
        below = level[0] / (1 + np.maximum(at[0] - scores, 0) / width)
        above = 1 - (1 - level[-1]) / (1 + np.maximum(scores - at[-1], 0) / width)
        found = np.where(scores < at[0], below, np.where(scores > at[-1], above, found))
    return np.asarray(found)


def tail_width(points: NDArray[np.float64], levels: NDArray[np.float64]) -> float:
    """Return how far beyond the last of points [n] what is left of levels [n] has halved.

    It is the distance between the quartiles of the known images' scores, or, where half of them
    score the same, that between the ends.
    """
    low, high = np.interp([0.25, 0.75], levels, points)
    return float(high - low) if high > low else float(points[-1] - points[0])


def _sides(
    known: ArrayLike, strange: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    inside, outside = np.asarray(known, np.float64), np.asarray(strange, np.float64)
    values = np.concatenate([inside, outside])
    if not values.std() > 0:
        raise UsageError("gives all the images the same score")
    from scipy.stats import rankdata

    # Mann-Whitney: ties count half.
    wins = rankdata(values)[: len(inside)].sum() - len(inside) * (len(inside) + 1) / 2
    if not wins > len(inside) * len(outside) / 2:
        raise _against()
    return inside, outside, values


def _against() -> UsageError:
    return UsageError("scores the OOD images as high as the known ones")


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(
        np.where(values >= 0, 1.0, np.exp(-np.abs(values))) / (1 + np.exp(-np.abs(values)))
    )
