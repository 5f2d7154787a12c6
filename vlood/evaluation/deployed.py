"""Detection at the threshold that is deployed, with exact intervals on both rates.

FPR95 asks what a threshold set on these very ID images lets through. A deployed threshold was set
before, on other images, so here both rates are measured: neither is 95 % by construction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from numpy.typing import ArrayLike

from vlood.errors import UsageError
from vlood.evaluation.bootstrap import check_level
from vlood.evaluation.metrics import checked_scores


@dataclass(frozen=True)
class Proportion:
    """A share of images and its exact interval.

    Attributes:
        count: images counted.
        total: images there are.
        low: lower end of the interval.
        high: upper end.
        level: at least this share of samples has an interval that holds the true rate, e.g. 0.95.
    """

    count: int
    total: int
    low: float
    high: float
    level: float

    @property
    def value(self) -> float:
        """The share itself."""
        return self.count / self.total


@dataclass(frozen=True)
class Deployed:
    """What one threshold does to both sides; an image is accepted when its score >= threshold.

    Attributes:
        threshold: it.
        tpr: ID images accepted, of all ID images.
        fpr: OOD images accepted, of all OOD images.
    """

    threshold: float
    tpr: Proportion
    fpr: Proportion

    @property
    def id_accepted(self) -> int:
        """ID images taken as ID."""
        return self.tpr.count

    @property
    def id_rejected(self) -> int:
        """ID images taken as OOD."""
        return self.tpr.total - self.tpr.count

    @property
    def ood_accepted(self) -> int:
        """OOD images taken as ID."""
        return self.fpr.count

    @property
    def ood_rejected(self) -> int:
        """OOD images taken as OOD."""
        return self.fpr.total - self.fpr.count


def at_threshold(
    id_scores: ArrayLike, ood_scores: ArrayLike, threshold: float, *, level: float = 0.95
) -> Deployed:
    """Return the rates of ID scores [N] and OOD scores [M] at a threshold, ID positive.

    Where every predicted class has a threshold of its own, pass scores less thresholds and 0.

    Raises:
        UsageError: a side is empty or not finite, the threshold is NaN, or `level` is not in
            (0, 1).
    """
    known, other = checked_scores(id_scores, "ID"), checked_scores(ood_scores, "OOD")
    if math.isnan(threshold):
        raise UsageError("The threshold is NaN; give the score from which images are accepted.")
    accepted = int((known >= threshold).sum()), int((other >= threshold).sum())
    return Deployed(
        float(threshold),
        clopper_pearson(accepted[0], known.size, level=level),
        clopper_pearson(accepted[1], other.size, level=level),
    )


def clopper_pearson(count: int, total: int, *, level: float = 0.95) -> Proportion:
    """Return the share `count` of `total` with its exact interval.

    Each end leaves out at most (1 - level) / 2, whatever the true rate is. Clopper and Pearson,
    "The use of confidence or fiducial limits illustrated in the case of the binomial", Biometrika
    26, 1934.

    Raises:
        UsageError: not 0 <= count <= total with total at least 1, or `level` is not in (0, 1).
    """
    check_level(level)
    if total < 1 or not 0 <= count <= total:
        raise UsageError(
            f"{count} of {total} images is no share; 0 up to all of them was expected."
        )
    from scipy.special import betaincinv  # comes with scikit-learn; only this waits for it

    tail = (1.0 - level) / 2
    low = 0.0 if count == 0 else float(betaincinv(count, total - count + 1, tail))
    high = 1.0 if count == total else float(betaincinv(count + 1, total - count, 1.0 - tail))
    return Proportion(count, total, low, high, level)
