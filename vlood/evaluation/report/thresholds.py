"""What every threshold would do: exact counts on a grid, and the images that would flip first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GRID = 300
"""Thresholds of a grid, the report's own not counted."""


@dataclass(frozen=True)
class ThresholdGrid:
    """How many images each threshold accepts.

    Attributes:
        thresholds: float64 [T], rising; scores of images, and the start.
        start: position of the report's threshold.
        accepted: by set, int64 [T], images with score >= threshold.
        totals: by set, its images.
    """

    thresholds: NDArray[np.float64]
    start: int
    accepted: Mapping[str, NDArray[np.int64]]
    totals: Mapping[str, int]


def threshold_grid(
    id_scores: NDArray[np.float64],
    other_scores: Mapping[str, NDArray[np.float64]],
    threshold: float,
    *,
    id_name: str,
    size: int = GRID,
) -> ThresholdGrid:
    """Count what the thresholds of a grid accept.

    Half the grid are quantiles of the ID scores and half of the other scores pooled, all of them
    scores that occur, so that both sides are fine where they matter however unequal their sizes.
    The last threshold is just above all scores and accepts nothing.

    Args:
        id_scores: [N], finite.
        other_scores: by set [M], finite.
        threshold: the report's; kept exactly.
        id_name: of the ID set.
        size: about how many thresholds.
    """
    pools = [id_scores]
    if others := [scores for scores in other_scores.values() if scores.size]:
        pools.append(np.concatenate(others))
    levels = np.linspace(0.0, 1.0, max(2, size // len(pools)))
    marks = [np.quantile(pool, levels, method="inverted_cdf") for pool in pools if pool.size]
    top = max((float(mark[-1]) for mark in marks), default=threshold)
    ends = [np.nextafter(top, math.inf), threshold]
    thresholds = np.unique(np.concatenate([*marks, ends]))
    sets = {id_name: id_scores, **other_scores}
    return ThresholdGrid(
        thresholds=thresholds,
        start=int(np.searchsorted(thresholds, threshold)),
        accepted={
            name: scores.size - np.searchsorted(np.sort(scores), thresholds, side="left")
            for name, scores in sets.items()
        },
        totals={name: scores.size for name, scores in sets.items()},
    )


def nearest_to(
    scores: Mapping[str, NDArray[np.float64]], threshold: float, each_side: int
) -> list[tuple[str, int]]:
    """Return the images (set, row) that change their decision first as the threshold moves.

    At most `each_side` of those accepted and as many of those rejected, the nearest first, both
    sides in turn; equal distances keep the order of sets and rows.
    """
    names: Sequence[str] = list(scores)
    if not names:
        return []
    values = np.concatenate([scores[name] for name in names])
    owners = np.concatenate([np.full(scores[name].size, i) for i, name in enumerate(names)])
    rows = np.concatenate([np.arange(scores[name].size) for name in names])
    order = np.argsort(np.abs(values - threshold), kind="stable")
    above = order[values[order] >= threshold][:each_side].tolist()
    below = order[values[order] < threshold][:each_side].tolist()
    mixed = []
    for i in range(max(len(above), len(below))):
        mixed += above[i : i + 1] + below[i : i + 1]
    return [(names[int(owners[at])], int(rows[at])) for at in mixed]
