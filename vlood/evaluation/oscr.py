"""Open-set classification rate: telling ID classes apart and turning OOD away, in one figure.

At each threshold, the correct classification rate is the share of ID images that are accepted and
given their own class, and the false positive rate the share of OOD images accepted. The figure is
the area under the first over the second. Curve: Dhamija, Guenther and Boult, "Reducing network
agnostophobia", NeurIPS 2018; area: Neal et al., "Open set learning with counterfactual images",
ECCV 2018. `metrics.ccr_at_fpr` reads single points off the same curve.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlood.errors import UsageError
from vlood.evaluation.metrics import checked_scores


@dataclass(frozen=True)
class OscrCurve:
    """Both rates at each distinct score, from the strictest threshold down.

    Attributes:
        thresholds: distinct scores [T], falling; an image is accepted when its score >= threshold.
        ccr: correct classification rate [T], rising to the ID accuracy.
        fpr: false positive rate [T], rising to 1.
    """

    thresholds: NDArray[np.float64]
    ccr: NDArray[np.float64]
    fpr: NDArray[np.float64]


def oscr_curve(id_scores: ArrayLike, id_correct: ArrayLike, ood_scores: ArrayLike) -> OscrCurve:
    """Return both rates of ID scores [N], their marks of correctness [N] and OOD scores [M].

    Raises:
        UsageError: a side is empty or not finite, or the marks are not one true or false an image.
    """
    known, correct, other = _checked(id_scores, id_correct, ood_scores)
    thresholds = np.unique(np.concatenate([known, other]))[::-1]
    accepted = _at_least(known[correct], thresholds)
    return OscrCurve(thresholds, accepted / known.size, _at_least(other, thresholds) / other.size)


def oscr(id_scores: ArrayLike, id_correct: ArrayLike, ood_scores: ArrayLike) -> float:
    """Return the area under the correct classification rate over the false positive rate.

    Trapezoids between distinct scores, from (0, 0): the chance that an ID image is classified
    correctly and outscores an OOD image, ties counting half. So it is the ID accuracy times the
    AUROC of the correctly classified images, it is AUROC when all are, and 0 when none is.

    Args:
        id_scores: [N], higher = more in-distribution.
        id_correct: booleans [N], whether the predicted class is the image's own.
        ood_scores: [M].

    Raises:
        UsageError: a side is empty or not finite, or the marks are not one true or false an image.
    """
    known, correct, other = _checked(id_scores, id_correct, ood_scores)
    rising = np.sort(other)
    won = known[correct]
    # Whole numbers until the division, as in `metrics.auroc`: twice the pairs won.
    twice = np.searchsorted(rising, won, side="left") + np.searchsorted(rising, won, side="right")
    return int(twice.sum()) / (2 * known.size * other.size)


def _checked(
    id_scores: ArrayLike, id_correct: ArrayLike, ood_scores: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    known, other = checked_scores(id_scores, "ID"), checked_scores(ood_scores, "OOD")
    marks = np.asarray(id_correct)
    if marks.shape != known.shape:
        raise UsageError(
            f"{known.size} ID scores meet {marks.size} marks of correctness; "
            "one for each ID image was expected."
        )
    # Class numbers would pass as true.
    if not np.isin(marks, (0, 1)).all():
        raise UsageError(
            "The marks of correctness are not all true or false; "
            "compare each predicted class with the image's own."
        )
    return known, marks.astype(bool), other


def _at_least(scores: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.int64]:
    counts: NDArray[np.int64] = scores.size - np.searchsorted(np.sort(scores), thresholds)
    return counts
