"""The decision threshold: set from scores of ID images, or given."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlood.errors import UsageError


@dataclass(frozen=True)
class Threshold:
    """A score below ``value`` is OOD.

    Attributes:
        value: the threshold, in the score's own units.
        target_tpr: the share of ID images that should pass it; None when the value was given.
        tpr: the share of the n ID scores that do pass it; None when the value was given.
        n: how many ID scores it was set from.
    """

    value: float
    target_tpr: float | None = None
    tpr: float | None = None
    n: int = 0

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise UsageError(f"the threshold is {self.value}; expected a finite number")

    def is_ood(self, scores: ArrayLike) -> NDArray[np.bool_]:
        """Decide for scores of any shape: True where the threshold is not reached, or for NaN."""
        return np.asarray(~(np.asarray(scores, dtype=np.float64) >= self.value))


def threshold_from_id(scores: ArrayLike, target_tpr: float = 0.95) -> Threshold:
    """Return the largest threshold that at least ``target_tpr`` of the ID scores reach.

    It is one of the scores: the ceil(target_tpr * n)-th largest. Equal scores pass together, so the
    share that passes may be above the target.

    Args:
        scores: [n] scores of ID images, higher = more in-distribution.
        target_tpr: in (0, 1].

    Raises:
        UsageError: no score, a score that is not finite, or a target outside (0, 1].
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64).ravel())[::-1]
    if not 0 < target_tpr <= 1:
        raise UsageError(
            f"--tpr {target_tpr}: expected a share above 0 and at most 1, such as 0.95"
        )
    if ordered.size == 0:
        raise UsageError("a threshold needs scores of ID images and there are none; give some")
    unusable = int((~np.isfinite(ordered)).sum())
    if unusable:
        raise UsageError(
            f"{unusable} of {ordered.size} ID scores are NaN or infinite; leave those images out"
        )
    # The rounding keeps a product such as 0.07 * 100 = 7.000000000000001 from asking for one more.
    needed = max(1, math.ceil(round(target_tpr * ordered.size, 9)))
    value = float(ordered[needed - 1])
    return Threshold(value, target_tpr, float((ordered >= value).mean()), int(ordered.size))
