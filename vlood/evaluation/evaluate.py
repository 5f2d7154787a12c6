"""Compute everything one row of an evaluation reports."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vlood.evaluation.bootstrap import auroc_interval
from vlood.evaluation.metrics import AuprMode, EvalMetrics, FprMode, aupr, auroc, fpr_at_tpr


def evaluate(
    id_scores: ArrayLike,
    ood_scores: ArrayLike,
    *,
    id_accuracy: float | None = None,
    fpr_mode: FprMode = "canonical",
    aupr_mode: AuprMode = "average_precision",
    resamples: int = 1000,
    seed: int = 0,
) -> EvalMetrics:
    """Return the metrics of ID scores [N] against OOD scores [M], higher = more ID.

    `resamples` draws the AUROC's 95 % bootstrap interval; 0 leaves it out. `id_accuracy` is carried
    along: it needs labels, not scores.

    Raises:
        UsageError: a side is empty or not finite, or an option is unknown.
    """
    low = high = None
    value = auroc(id_scores, ood_scores)
    if resamples:
        interval = auroc_interval(id_scores, ood_scores, resamples=resamples, seed=seed)
        low, high = interval.low, interval.high
    return EvalMetrics(
        n_id=np.size(id_scores),
        n_ood=np.size(ood_scores),
        auroc=value,
        aupr_in=aupr(id_scores, ood_scores, positive="id", mode=aupr_mode),
        aupr_out=aupr(id_scores, ood_scores, positive="ood", mode=aupr_mode),
        fpr95_id_pos=fpr_at_tpr(id_scores, ood_scores, positive="id", mode=fpr_mode),
        fpr95_ood_pos=fpr_at_tpr(id_scores, ood_scores, positive="ood", mode=fpr_mode),
        id_accuracy=id_accuracy,
        auroc_ci_low=low,
        auroc_ci_high=high,
    )
