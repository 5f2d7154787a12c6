"""Compute everything one row of an evaluation reports."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vlood.evaluation.bootstrap import FIGURES, Figure, figure_intervals
from vlood.evaluation.deployed import Deployed
from vlood.evaluation.metrics import AuprMode, EvalMetrics, FprMode, aupr, auroc, fpr_at_tpr
from vlood.evaluation.oscr import oscr

_FPR_FIGURES = ("fpr95_id_pos", "fpr95_ood_pos")
_AUPR_FIGURES = ("aupr_in", "aupr_out")


def evaluate(
    id_scores: ArrayLike,
    ood_scores: ArrayLike,
    *,
    id_correct: tuple[ArrayLike, ArrayLike] | None = None,
    deployed: Deployed | None = None,
    threshold: float | None = None,
    fpr_mode: FprMode = "canonical",
    aupr_mode: AuprMode = "average_precision",
    resamples: int = 1000,
    seed: int = 0,
) -> EvalMetrics:
    """Return the metrics of ID scores [N] against OOD scores [M], higher = more ID.

    Args:
        id_scores: [N].
        ood_scores: [M].
        id_correct: scores and marks of correctness of the ID images whose class is known, both [L];
            they give accuracy and OSCR. None: no class is known.
        deployed: the rates at a threshold that was set before, or None.
        threshold: that threshold, where all classes share one.
        fpr_mode: how FPR is read off the curve.
        aupr_mode: how the area under the precision-recall curve is taken.
        resamples: how often images are drawn anew for the 95 % intervals; 0 leaves them out, and so
            does a mode that is not the canonical one for its figures.
        seed: of those draws.

    Raises:
        UsageError: a side is empty or not finite, or an option is unknown.
    """
    figures: list[Figure] = []
    if resamples:
        figures = [
            figure
            for figure in FIGURES
            if not (figure in _FPR_FIGURES and fpr_mode != "canonical")
            and not (figure in _AUPR_FIGURES and aupr_mode != "average_precision")
        ]
    value = auroc(id_scores, ood_scores)
    found = {}
    if figures:
        found = figure_intervals(id_scores, ood_scores, figures, resamples=resamples, seed=seed)
    ends = {
        f"{figure}_ci_{end}": getattr(interval, end)
        for figure, interval in found.items()
        for end in ("low", "high")
    }
    rates = {}
    if deployed is not None:
        rates = {
            f"{name}{suffix}": getattr(share, what)
            for name, share in (("tpr", deployed.tpr), ("fpr", deployed.fpr))
            for suffix, what in (("", "value"), ("_ci_low", "low"), ("_ci_high", "high"))
        }
    accuracy = curve = None
    if id_correct is not None:
        known, marks = id_correct
        accuracy = float(np.mean(np.asarray(marks, dtype=bool)))
        curve = oscr(known, marks, ood_scores)
    return EvalMetrics(
        n_id=np.size(id_scores),
        n_ood=np.size(ood_scores),
        auroc=value,
        aupr_in=aupr(id_scores, ood_scores, positive="id", mode=aupr_mode),
        aupr_out=aupr(id_scores, ood_scores, positive="ood", mode=aupr_mode),
        fpr95_id_pos=fpr_at_tpr(id_scores, ood_scores, positive="id", mode=fpr_mode),
        fpr95_ood_pos=fpr_at_tpr(id_scores, ood_scores, positive="ood", mode=fpr_mode),
        id_accuracy=accuracy,
        oscr=curve,
        threshold=threshold,
        **ends,
        **rates,
    )
