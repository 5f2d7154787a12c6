"""How close each candidate is to the ID classes: what NegMine chooses negatives by.

Jiang et al., "Negative Label Guided OOD Detection with Pretrained Vision-Language Models"
(ICLR 2024), section 3.1: a candidate is judged by a high quantile of its cosines with the K
classes, so that one or two accidental neighbours do not rule it out. The paper's distance is the
same number negated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError
from vlood.negatives.unit_blocks import Rows, unit_blocks, unit_rows

# A block of cosines stays below 64 MB, however many classes there are.
_BLOCK_COSINES = 16 * 1024 * 1024
# q * (K - 1) of decimal fractions misses the whole number it stands for by less than this.
_DIGITS = 9


@dataclass(frozen=True, eq=False)
class Closeness:
    """How N candidates lie to K classes.

    Attributes:
        value: float32 [N], the quantile of the cosines that candidates are ranked by.
        largest: float32 [N], the cosine with the nearest class.
        nearest: int32 [N], the row of the nearest class.
    """

    value: NDArray[np.float32]
    largest: NDArray[np.float32]
    nearest: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.value)


def closeness_to_classes(
    features: Rows,
    class_features: NDArray[np.floating],
    *,
    quantile: float = 0.95,
    rule: str = "linear",
    block: int = 8192,
    on_progress: Callable[[int, int], None] | None = None,
) -> Closeness:
    """Compare N candidates with K classes.

    Memory does not grow with N, but for the three results (12 bytes a candidate).

    Args:
        features: [N, D] candidates of any length; an array, a memory map, or anything that has a
            length and can be sliced.
        class_features: [K, D], of any length.
        quantile: from 0 to 1.
        rule: ``linear`` interpolates between the two neighbouring cosines, as numpy.quantile and
            torch.quantile do (NegLabel); ``index`` takes element floor(quantile * K) of the
            ascending cosines, at most the last (OpenOOD-VLM).
        block: candidates compared at once; fewer where there are many classes.
        on_progress: called with (candidates compared, all of them).

    Raises:
        UsageError: no class, different widths, a row without a direction, or an unknown rule.
    """
    classes = unit_rows(class_features, "class")
    count, total = len(classes), len(features)
    if count == 0:
        raise UsageError("there are no class embeddings; give at least one class")
    lower, fraction = _place(quantile, rule, count)
    value = np.empty(total, np.float32)
    largest = np.empty(total, np.float32)
    nearest = np.empty(total, np.int32)
    size = max(1, min(block, _BLOCK_COSINES // count))
    columns = np.ascontiguousarray(classes.T)
    for first, candidates in unit_blocks(features, size, "candidate"):
        if candidates.shape[1] != classes.shape[1]:
            raise UsageError(
                f"the candidate embeddings are {candidates.shape[1]} wide and those of the classes "
                f"{classes.shape[1]}; encode both with one model"
            )
        last = first + len(candidates)
        cosines = candidates @ columns
        nearest[first:last] = cosines.argmax(axis=1)
        largest[first:last] = np.take_along_axis(cosines, nearest[first:last, None], axis=1)[:, 0]
        value[first:last] = _partitioned(cosines, lower, fraction)
        if on_progress is not None:
            on_progress(last, total)
    return Closeness(value, largest, nearest)


def _place(quantile: float, rule: str, count: int) -> tuple[int, float]:
    """Return the 0-based place among ``count`` ascending cosines, and the fraction beyond it."""
    if not 0 <= quantile <= 1:
        raise UsageError(f"quantile {quantile}: expected a share from 0 to 1; 0.95 is usual")
    if rule == "index":
        return min(math.floor(round(quantile * count, _DIGITS)), count - 1), 0.0
    if rule != "linear":
        raise UsageError(f"rule {rule}: is unknown; take linear or index")
    place = quantile * (count - 1)
    # A fraction this small changes no cosine, but a place that slipped would cost a second look.
    if abs(place - round(place)) < 10**-_DIGITS:
        place = float(round(place))
    lower = math.floor(place)
    return lower, place - lower


def _partitioned(cosines: NDArray[np.float32], lower: int, fraction: float) -> NDArray[np.floating]:
    """Return the quantile of each row; the rows are reordered in place."""
    # One place to partition by is several times faster than two.
    cosines.partition(lower, axis=1)
    below = cosines[:, lower]
    if fraction == 0.0:
        return below
    above = cosines[:, lower + 1 :].min(axis=1)
    return np.asarray(below + np.float64(fraction) * (above.astype(np.float64) - below))
