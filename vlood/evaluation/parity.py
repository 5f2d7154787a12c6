"""Metrics as one published code base computes them, for comparing with its printed numbers.

These are parity forms: they reproduce a quirk on purpose and are never vlood's own figures, which
come from `metrics`. Each says what its quirk is. Scores are higher = more in-distribution here too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlood.evaluation.metrics import Positive, aupr, auroc, checked_scores, fpr_at_tpr


class OpenoodFpr(NamedTuple):
    """A false positive rate and the threshold it was read at."""

    fpr: float
    threshold: float


class PytorchOodMetrics(NamedTuple):
    """pytorch-ood's figures, OOD positive in the false positive rate."""

    fpr95: float
    auroc: float
    aupr_in: float
    aupr_out: float


class CmaMetrics(NamedTuple):
    """CMA's figures, ID positive: its FPR is interpolated, its areas are trapezoids."""

    fpr95: float
    detection_error: float
    auroc: float
    aupr_in: float
    aupr_out: float


def openood_fpr(
    id_scores: ArrayLike, ood_scores: ArrayLike, tpr: float = 0.95, *, positive: Positive = "ood"
) -> OpenoodFpr:
    """Return FPR at a TPR of scores [N] and [M] as OpenOOD v1.5 reads it.

    Quirk: scikit-learn's curve has lost its collinear points before the first one with a TPR that
    suffices is looked for, so the answer can be higher than the curve's own. OpenOOD's tables use
    `positive="ood"`; its function `fpr_recall` is `positive="id"`. The threshold is on the scores,
    negated for `ood`.

    Raises:
        UsageError: a side is empty or not finite.
    """
    fpr, rates, thresholds = _thinned_roc(id_scores, ood_scores, positive)
    first = int(np.argmax(rates >= tpr))
    return OpenoodFpr(float(fpr[first]), float(thresholds[first]))


def cma_metrics(id_scores: ArrayLike, ood_scores: ArrayLike) -> CmaMetrics:
    """Return the five figures of CMA's code, of scores [N] and [M].

    Raises:
        UsageError: a side is empty or not finite.
    """
    return CmaMetrics(
        fpr_at_tpr(id_scores, ood_scores, mode="interp"),
        cma_detection_error(id_scores, ood_scores),
        auroc(id_scores, ood_scores),
        aupr(id_scores, ood_scores, positive="id", mode="trapezoid"),
        aupr(id_scores, ood_scores, positive="ood", mode="trapezoid"),
    )


def cma_detection_error(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Return the detection error of scores [N] and [M] as CMA's code computes it.

    Quirks: the two errors are weighted by the share of the *other* side, only thresholds with an ID
    TPR of at least 0.95 are tried, and the curve has lost its collinear points.

    Raises:
        UsageError: a side is empty or not finite.
    """
    fpr, rates, _ = _thinned_roc(id_scores, ood_scores, "id")
    n_id, n_ood = np.size(id_scores), np.size(ood_scores)
    id_share = n_id / (n_id + n_ood)
    errors = (1.0 - id_share) * (1.0 - rates) + id_share * fpr
    return float(errors[rates >= 0.95].min())


def pytorch_ood_metrics(id_scores: ArrayLike, ood_scores: ArrayLike) -> PytorchOodMetrics:
    """Return the figures of pytorch-ood's `OODMetrics`, which hands outlier scores to torchmetrics.

    Quirk: scores are float32, and torchmetrics applies a sigmoid to any vector that leaves [0, 1];
    scores of large magnitude then become ties.

    Raises:
        UsageError: a side is empty or not finite.
    """
    inlier, outlier = checked_scores(id_scores, "ID"), checked_scores(ood_scores, "OOD")
    outlierness = -np.concatenate([inlier, outlier]).astype(np.float32)
    is_ood = np.repeat([False, True], [inlier.size, outlier.size])
    # Sorted as there: torch computes the last few entries of an array by another formula.
    order = np.argsort(outlierness, kind="stable")
    outlierness, is_ood = outlierness[order], is_ood[order]
    outliers, inliers = -_squashed(outlierness), _squashed(-outlierness)
    as_outliers = outliers[~is_ood], outliers[is_ood]
    return PytorchOodMetrics(
        fpr95=fpr_at_tpr(*as_outliers, positive="ood"),
        auroc=auroc(*as_outliers),
        aupr_in=aupr(inliers[~is_ood], inliers[is_ood], mode="trapezoid"),
        aupr_out=aupr(*as_outliers, positive="ood", mode="trapezoid"),
    )


def _thinned_roc(
    id_scores: ArrayLike, ood_scores: ArrayLike, positive: Positive
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return (fpr, tpr, thresholds) of scikit-learn's curve without its collinear points."""
    from sklearn.metrics import roc_curve

    inlier, outlier = checked_scores(id_scores, "ID"), checked_scores(ood_scores, "OOD")
    truth = np.repeat([1, 0], [inlier.size, outlier.size])
    scores = np.concatenate([inlier, outlier])
    if positive == "ood":
        truth, scores = 1 - truth, -scores
    fpr, tpr, thresholds = roc_curve(truth, scores, drop_intermediate=True)
    return fpr, tpr, thresholds


def _squashed(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Apply torch's sigmoid unless all scores lie in [0, 1]."""
    # torch, not numpy: which large scores become ties hangs on the last float32 digit.
    import torch

    if scores.min() >= 0.0 and scores.max() <= 1.0:
        return scores
    squashed: NDArray[np.float32] = torch.sigmoid(torch.from_numpy(scores)).numpy()
    return squashed
