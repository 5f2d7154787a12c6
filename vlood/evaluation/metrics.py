"""Detection metrics on scores, in float64, with tied scores merged.

Every function takes ID scores [N] and OOD scores [M], higher = more in-distribution, and answers in
fractions of one. All of them read one curve: at each distinct score, how many ID and how many OOD
images score at least as high. Published code disagrees on two points, so both are options with the
canonical choice as default: how FPR at a TPR is read off (`FprMode`) and how the area under the
precision-recall curve is taken (`AuprMode`). Forms only one code base has are in `parity`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlood.errors import UsageError

Positive = Literal["id", "ood"]
"""Which side counts as positive: `id` in MCM's family and NegLabel, `ood` in OpenOOD v1.5."""

FprMode = Literal["canonical", "interp", "nearest"]
"""How FPR at a TPR is read off the curve.

`canonical`: at the strictest threshold whose TPR reaches the target. `interp`: linear interpolation
between the curve's points (CLIPN, CMA). `nearest`: at the threshold whose TPR is closest to the
target, which may fall short of it (MCM, GL-MCM, LoCoOp, NegLabel, COOkeD).
"""

AuprMode = Literal["average_precision", "trapezoid"]
"""Area under the precision-recall curve: stepwise (MCM, NegLabel) or linear (OpenOOD, CMA)."""


@dataclass(frozen=True)
class RocCurve:
    """How many images are accepted at each distinct score, from the strictest threshold down.

    Attributes:
        thresholds: distinct scores [T], falling; an image is accepted when its score >= threshold.
        positives: accepted images of the positive side [T], rising to their number.
        negatives: accepted images of the negative side [T], rising to their number.
    """

    thresholds: NDArray[np.float64]
    positives: NDArray[np.int64]
    negatives: NDArray[np.int64]

    @property
    def tpr(self) -> NDArray[np.float64]:
        """True positive rate at each threshold [T]."""
        return _rising_to_one(self.positives)

    @property
    def fpr(self) -> NDArray[np.float64]:
        """False positive rate at each threshold [T]."""
        return _rising_to_one(self.negatives)


@dataclass(frozen=True)
class EvalMetrics:
    """What one detector achieves on one ID set and one OOD set; fractions, `None` = not known.

    Attributes:
        n_id: scored ID images.
        n_ood: scored OOD images.
        auroc: area under the ROC curve.
        aupr_in: area under the precision-recall curve, ID positive.
        aupr_out: the same, OOD positive.
        fpr95_id_pos: share of OOD accepted when 95 % of ID are.
        fpr95_ood_pos: share of ID rejected when 95 % of OOD are.
        id_accuracy: share of ID images given their own class; `None` without labels.
        auroc_ci_low: lower end of the AUROC's bootstrap interval; `None` when not drawn.
        auroc_ci_high: upper end.
        oscr: area under the open-set classification rate; `None` without labels.
        threshold: the deployed threshold, set on other images; `None` without one, and where
            classes have their own.
        tpr: share of ID images accepted at that threshold.
        fpr: share of OOD images accepted at it.

    The other fields are the ends of 95 % intervals: of the bootstrap like the AUROC's, of `tpr` and
    `fpr` exact ones.
    """

    n_id: int
    n_ood: int
    auroc: float
    aupr_in: float
    aupr_out: float
    fpr95_id_pos: float
    fpr95_ood_pos: float
    id_accuracy: float | None = None
    auroc_ci_low: float | None = None
    auroc_ci_high: float | None = None
    aupr_in_ci_low: float | None = None
    aupr_in_ci_high: float | None = None
    aupr_out_ci_low: float | None = None
    aupr_out_ci_high: float | None = None
    fpr95_id_pos_ci_low: float | None = None
    fpr95_id_pos_ci_high: float | None = None
    fpr95_ood_pos_ci_low: float | None = None
    fpr95_ood_pos_ci_high: float | None = None
    oscr: float | None = None
    threshold: float | None = None
    tpr: float | None = None
    tpr_ci_low: float | None = None
    tpr_ci_high: float | None = None
    fpr: float | None = None
    fpr_ci_low: float | None = None
    fpr_ci_high: float | None = None


def checked_scores(scores: ArrayLike, side: str) -> NDArray[np.float64]:
    """Return `scores` as float64 [N], or refuse what no metric is defined on.

    Raises:
        UsageError: not one-dimensional, not numbers, empty, or with NaN or infinite entries.
    """
    try:
        values = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"The {side} scores are not numbers; give one number an image.") from error
    if values.ndim != 1:
        raise UsageError(
            f"The {side} scores have shape {values.shape}; one score an image [N] was expected."
        )
    if values.size == 0:
        raise UsageError(
            f"There are no {side} scores, and metrics compare ID with OOD; "
            f"give at least one readable {side} image."
        )
    finite = np.isfinite(values)
    if not finite.all():
        nan = int(np.isnan(values).sum())
        infinite = int(values.size - finite.sum()) - nan
        raise UsageError(
            f"{nan + infinite} of {values.size} {side} scores are not finite "
            f"({nan} NaN, {infinite} infinite, first at position {int(np.argmin(finite))}); "
            "look for damaged embeddings."
        )
    return values


def roc_curve(
    id_scores: ArrayLike, ood_scores: ArrayLike, *, positive: Positive = "id"
) -> RocCurve:
    """Count both sides, scores [N] and [M], at every distinct score.

    With `positive="ood"` the scores are negated first, so thresholds are on the negated scores.

    Raises:
        UsageError: a side is empty or not finite, or `positive` is unknown.
    """
    pos = checked_scores(id_scores, "ID")
    neg = checked_scores(ood_scores, "OOD")
    if positive == "ood":
        pos, neg = -neg, -pos
    elif positive != "id":
        raise UsageError(f"The positive side is {positive!r}; 'id' or 'ood' was expected.")
    values, codes = np.unique(np.concatenate([pos, neg]), return_inverse=True)
    pos_counts = np.bincount(codes[: pos.size], minlength=values.size)
    neg_counts = np.bincount(codes[pos.size :], minlength=values.size)
    return RocCurve(
        values[::-1],
        pos_counts[::-1].cumsum(dtype=np.int64),
        neg_counts[::-1].cumsum(dtype=np.int64),
    )


def auroc(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Return the area under the ROC curve: the chance that ID outscores OOD, ties counting half.

    Of scores [N] and [M]. Which side is positive does not matter.

    Raises:
        UsageError: a side is empty or not finite.
    """
    curve = roc_curve(id_scores, ood_scores)
    # Whole numbers until the last division: twice the area, in pairs of images.
    steps = np.diff(curve.negatives, prepend=0)
    heights = 2 * curve.positives - np.diff(curve.positives, prepend=0)
    pairs = int(curve.positives[-1]) * int(curve.negatives[-1])
    return int(np.sum(steps * heights)) / (2 * pairs)


def aupr(
    id_scores: ArrayLike,
    ood_scores: ArrayLike,
    *,
    positive: Positive = "id",
    mode: AuprMode = "average_precision",
) -> float:
    """Return the area under the precision-recall curve; AUPR-in by default, AUPR-out for `ood`.

    Of scores [N] and [M].

    Raises:
        UsageError: a side is empty or not finite, or an option is unknown.
    """
    curve = roc_curve(id_scores, ood_scores, positive=positive)
    precision = curve.positives / (curve.positives + curve.negatives)
    steps = np.diff(curve.tpr, prepend=0.0)
    if mode == "average_precision":
        return float(np.sum(steps * precision))
    if mode == "trapezoid":
        # The curve starts at recall 0 with precision 1.
        before = np.concatenate([[1.0], precision[:-1]])
        return float(np.sum(steps * (precision + before) / 2))
    raise UsageError(f"The AUPR mode is {mode!r}; 'average_precision' or 'trapezoid' was expected.")


def fpr_at_tpr(
    id_scores: ArrayLike,
    ood_scores: ArrayLike,
    tpr: float = 0.95,
    *,
    positive: Positive = "id",
    mode: FprMode = "canonical",
) -> float:
    """Return the false positive rate at a true positive rate; FPR95 by default.

    Of scores [N] and [M]. ID positive: the share of OOD accepted when the share `tpr` of ID is.
    OOD positive: the share of ID rejected when the share `tpr` of OOD is. These are two quantities:
    never compare them.

    Raises:
        UsageError: a side is empty or not finite, `tpr` is not in (0, 1], or an option is unknown.
    """
    _check_rate(tpr, "true positive rate")
    curve = roc_curve(id_scores, ood_scores, positive=positive)
    rates = curve.tpr
    if mode == "canonical":
        return float(curve.fpr[np.argmax(rates >= tpr)])
    if mode == "interp":
        # Where the curve runs level at exactly `tpr`, this returns the far end of the run.
        return float(np.interp(tpr, np.append(0.0, rates), np.append(0.0, curve.fpr)))
    if mode == "nearest":
        # Equally near thresholds: the higher TPR, then the larger FPR. A TPR of 1 counts once,
        # at the threshold that first reaches it.
        reached = int(np.argmax(rates >= 1.0))
        gaps = np.abs(rates[: reached + 1] - tpr)
        return float(curve.fpr[reached - int(np.argmin(gaps[::-1]))])
    raise UsageError(f"The FPR mode is {mode!r}; 'canonical', 'interp' or 'nearest' was expected.")


def threshold_at_tpr(id_scores: ArrayLike, tpr: float = 0.95) -> float:
    """Return the largest threshold at which the share of ID with score >= threshold is >= `tpr`.

    Of ID scores [N].

    Raises:
        UsageError: the scores are empty or not finite, or `tpr` is not in (0, 1].
    """
    _check_rate(tpr, "true positive rate")
    falling = np.sort(checked_scores(id_scores, "ID"))[::-1]
    # Compared as rates, because 0.07 * 100 is above 7 in floating point.
    shares = np.arange(1, falling.size + 1) / falling.size
    return float(falling[np.searchsorted(shares, tpr)])


def detection_error(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Return the smallest error any threshold reaches on scores [N] and [M], sides equally likely.

    min over thresholds of (1 - TPR + FPR) / 2, rejecting everything included, so at most 0.5.
    Liang et al., "Enhancing the reliability of out-of-distribution image detection in neural
    networks", ICLR 2018.

    Raises:
        UsageError: a side is empty or not finite.
    """
    curve = roc_curve(id_scores, ood_scores)
    return float(min(0.5, np.min(1.0 - curve.tpr + curve.fpr) / 2))


def id_accuracy(predicted: ArrayLike, true: ArrayLike) -> float:
    """Return the share of ID images [N] whose predicted class is the true one.

    Raises:
        UsageError: the two differ in length or are empty.
    """
    guesses, labels = np.asarray(predicted), np.asarray(true)
    if guesses.shape != labels.shape or guesses.ndim != 1 or guesses.size == 0:
        raise UsageError(
            f"Accuracy needs one predicted and one true class an image, but {guesses.shape} "
            f"predictions meet {labels.shape} labels; give each ID image its label."
        )
    return float(np.mean(guesses == labels))


def ccr_at_fpr(
    id_scores: ArrayLike, id_correct: ArrayLike, ood_scores: ArrayLike, fpr: float
) -> float:
    """Return the correct classification rate at a false positive rate, ID positive.

    The share of ID images that are both classified correctly (`id_correct`, booleans [N]) and score
    above the ceil(fpr * M)-th highest OOD score.
    Dhamija et al., "Reducing network agnostophobia", NeurIPS 2018.

    Raises:
        UsageError: a side is empty or not finite, `fpr` is not in [0, 1], or lengths differ.
    """
    scores = checked_scores(id_scores, "ID")
    falling = np.sort(checked_scores(ood_scores, "OOD"))[::-1]
    correct = np.asarray(id_correct, dtype=bool)
    if correct.shape != scores.shape:
        raise UsageError(
            f"{scores.size} ID scores meet {correct.size} marks of correctness; "
            "one for each ID image was expected."
        )
    if not 0.0 <= fpr <= 1.0:
        raise UsageError(f"The false positive rate is {fpr}; a fraction from 0 to 1 was expected.")
    rank = max(1, math.ceil(fpr * falling.size))
    return float(np.mean((scores > falling[rank - 1]) & correct))


def _rising_to_one(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    rates: NDArray[np.float64] = counts / counts[-1]
    return rates


def _check_rate(rate: float, what: str) -> None:
    if not 0.0 < rate <= 1.0:
        raise UsageError(f"The {what} is {rate}; a fraction above 0 and up to 1 was expected.")
