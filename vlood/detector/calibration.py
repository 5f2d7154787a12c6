"""Calibrate a detector on held-out ID images: its threshold, how sure it is, conformal p-values.

A conformal p-value compares a new score with the calibration scores:

    p(x) = (1 + #{i: s_i <= s(x)}) / (n + 1)

Calling an image OOD when p <= alpha raises a false alarm on at most the share alpha of new ID
images, on average over calibration sets, if those are exchangeable with the calibration images;
nothing is assumed of the scores. Ties count against an alarm. Vovk, Gammerman and Shafer,
"Algorithmic learning in a random world", 2005; Bates et al., "Testing for outliers with conformal
p-values", Annals of Statistics, 2023.

The label-conditional variant (Mondrian by predicted class) compares with the calibration scores of
the same predicted class only, so the promise holds within each class. A class of few calibration
images keeps it: its p-values are coarse, with 1 / (n_c + 1) the smallest. A class of none has
nothing to compare with and uses all scores. That fallback is the one approximation: it can raise
the overall false-alarm rate above alpha by no more than the chance that a new image is of such a
class, whose estimate is the share of calibration images that are the only one of theirs.

Above 20,000 scores without classes, k = 20,000 of the n are kept: the ascending ranks
r_j = floor(j (n + 1) / (k + 1)). With j kept scores at or below s(x), at most r_(j+1) - 1 of all n
are (r_(k+1) = n + 1), and p(x) = r_(j+1) / (n + 1) counts that many. It is never smaller than the
full p-value, hence as valid, and larger by less than 1 / k. With k = n it is the formula above.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlood.detector.calibration_fields import MOST_IMAGES, checked_data
from vlood.detector.threshold import threshold_from_id
from vlood.errors import UsageError

KEPT_SCORES = 20_000
"""Above this many calibration scores a grid of this many is kept, unless classes are compared."""

SIGNIFICANT_DIGITS = 7


@dataclass(frozen=True, eq=False)
class Calibration:
    """What held-out ID images say of a detector's scores.

    The interval of the true TPR allows for the threshold having been set from the same n scores.
    The threshold is the k-th smallest of them, k = n + 1 - ceil(target_tpr * n), and the share of
    new ID images that reach the k-th smallest of n scores without ties has the distribution
    Beta(n + 1 - k, k), whatever the scores' own distribution. Its 2.5 % and 97.5 % quantiles are
    the interval. Its mean, (n + 1 - k) / (n + 1), lies a little below the target: the threshold
    fits the images it was set from. Where scores tie at the threshold, more images reach it and the
    lower end only gets safer; the upper end is then Clopper and Pearson's for the share counted.

    Attributes:
        threshold: of the whole detector, rounded as records are; a score below it is OOD.
        target_tpr: the share of ID images that should reach it, in (0, 1].
        tpr: the share of the n calibration scores that does.
        tpr_low: lower end of the 95 % interval of the share of new ID images that will.
        tpr_high: upper end.
        n: how many calibration scores there were.
        scores: float64 [k], calibration scores, ascending, rounded as records are; all n up to
            20,000 or with labels, else a grid of 20,000 (see the module).
        labels: int64 [n], predicted class of each score; None unless label-conditional.
        per_class: thresholds by predicted class, if label-conditional; a class that is not in it
            had too few calibration images and uses the threshold of the whole.
        data: JSON-able facts of the images, such as ``digest`` of the set, ``images``,
            ``unreadable``, ``labels`` and ``predicted_classes`` (how many classes were seen).
    """

    threshold: float
    target_tpr: float
    tpr: float
    tpr_low: float
    tpr_high: float
    n: int
    scores: NDArray[np.float64]
    labels: NDArray[np.int64] | None = None
    per_class: Mapping[int, float] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)


def significant(values: ArrayLike) -> NDArray[np.float64]:
    """Round scores of any shape to seven significant digits, exactly as records show them."""
    given = np.asarray(values, dtype=np.float64)
    texts = (f"{value:.{SIGNIFICANT_DIGITS}g}" for value in given.ravel().tolist())
    return np.fromiter((float(text) for text in texts), np.float64, given.size).reshape(given.shape)


def calibrate(
    scores: ArrayLike,
    predicted: ArrayLike | None = None,
    *,
    tpr: float = 0.95,
    per_class: bool = False,
    data: Mapping[str, Any] | None = None,
) -> Calibration:
    """Set the threshold and keep the scores that p-values need.

    A class gets a threshold of its own from ceil(1 / (1 - tpr)) images on; with fewer its lowest
    score would decide alone.

    Args:
        scores: [n] scores of held-out ID images, higher = more in-distribution.
        predicted: whole numbers [n], the predicted class of each.
        tpr: the share of ID images that should reach the threshold, in (0, 1].
        per_class: make it label-conditional; needs ``predicted``.
        data: JSON-able facts of the images, to go with it.

    Raises:
        UsageError: no scores, unusable ones, classes that do not fit them, a ``tpr`` out of range,
            or ``data`` that JSON cannot hold.
    """
    values = significant(_one_a_row(scores, "calibration scores"))
    overall = threshold_from_id(values, tpr)
    n = int(values.size)
    facts = checked_data({} if data is None else data)
    classes = None if predicted is None else _classes(predicted, n)
    if classes is not None:
        facts["predicted_classes"] = int(np.unique(classes).size)
    if per_class and classes is None:
        raise UsageError(
            "thresholds by class need the predicted class of each calibration image and there is "
            "none; give them, or calibrate without classes"
        )
    low, high = _tpr_interval(values, overall.value, tpr)
    labels, thresholds = None, {}
    if per_class and classes is not None:
        order = np.lexsort((classes, values))
        kept, labels = values[order], classes[order]
        least = least_images(tpr)
        for number, of_class in by_class(kept, labels):
            if of_class.size >= least:
                thresholds[number] = threshold_from_id(of_class, tpr).value
    else:
        size = min(n, KEPT_SCORES)
        kept = np.sort(values)[_ranks(size, n)[:-1] - 1]
    return Calibration(
        threshold=overall.value,
        target_tpr=float(tpr),
        tpr=float((values >= overall.value).mean()),
        tpr_low=low,
        tpr_high=high,
        n=n,
        scores=kept,
        labels=labels,
        per_class=thresholds,
        data=facts,
    )


def p_values(
    calibration: Calibration, scores: ArrayLike, predicted: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Return conformal p-values float64 [N] in (0, 1]; at most alpha means OOD at level alpha.

    Scores are rounded as records are, so an image of the calibration set ties with itself. A NaN
    score is as far out as can be and gets the smallest p-value.

    Args:
        calibration: label-conditional or not.
        scores: [N], higher = more in-distribution.
        predicted: whole numbers [N], the predicted classes; without them, or with a calibration
            that is not label-conditional, all calibration scores are compared.

    Raises:
        UsageError: not one score an image, or not one class a score.
    """
    values = significant(_one_a_row(scores, "scores"))
    values = np.where(np.isnan(values), -np.inf, values)
    found = _compare(calibration.scores, calibration.n, values)
    if predicted is None or calibration.labels is None:
        return found
    classes = _classes(predicted, values.size)
    wanted = set(np.unique(classes).tolist())
    for number, of_class in by_class(calibration.scores, calibration.labels):
        if number in wanted:
            rows = classes == number
            found[rows] = _compare(of_class, of_class.size, values[rows])
    return found


def threshold_at_alpha(
    calibration: Calibration, alpha: float, predicted: int | None = None
) -> float:
    """Return the threshold below which exactly the scores with p-value <= alpha lie.

    It may differ from ``calibration.threshold`` by one calibration image: that one is reached by
    the target share of the calibration images, this one by the share 1 - alpha of new ones or more.

    Args:
        calibration: label-conditional or not.
        alpha: the share of false alarms among ID images, in (0, 1).
        predicted: a predicted class, for its own threshold in a label-conditional calibration.

    Raises:
        UsageError: alpha is out of range, or there are too few calibration images for it.
    """
    if not 1 / MOST_IMAGES <= alpha < 1:
        raise UsageError(f"alpha is {alpha}; expected a share above 0 and below 1, such as 0.05")
    scores, n, whose = calibration.scores, calibration.n, ""
    if predicted is not None and calibration.labels is not None:
        of_class = scores[calibration.labels == predicted]
        if of_class.size:
            scores, n, whose = of_class, int(of_class.size), f" of class {predicted}"
    levels = p_value_levels(scores.size, n)
    place = int(np.searchsorted(levels[:-1], alpha, side="right"))
    if place:
        return float(scores[place - 1])
    if alpha >= 1 / (n + 1):
        raise UsageError(
            f"alpha is {alpha}, and the {scores.size:,} scores kept of {n:,} calibration images "
            f"tell no levels below {levels[0]:.3g} apart; give at least that"
        )
    needed = math.ceil(1 / alpha)
    if needed > 1 and 1 / (needed - 1) <= alpha:
        needed -= 1
    raise UsageError(
        f"alpha is {alpha}, which needs {needed - 1:,} calibration images{whose} and there are "
        f"{n:,}; calibrate with more, or give an alpha of at least {1 / (n + 1):.3g}"
    )


def set_digest(digests: Iterable[bytes]) -> str:
    """Return one hex digest of a set of images from their own; order and repeats do not matter."""
    joined = blake2b(digest_size=16)
    for digest in sorted(set(digests)):
        joined.update(len(digest).to_bytes(8, "little") + digest)
    return joined.hexdigest()


def overlap(train_digests: Collection[Hashable], calibration_digests: Collection[Hashable]) -> int:
    """Count the distinct calibration images that are training images as well."""
    return len(set(train_digests) & set(calibration_digests))


def _one_a_row(values: ArrayLike, what: str) -> NDArray[np.float64]:
    try:
        given = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"the {what} are not numbers; give one number an image") from error
    if given.ndim != 1:
        raise UsageError(f"the {what} have shape {given.shape}; expected one an image, [N]")
    return given


def _classes(predicted: ArrayLike, n: int) -> NDArray[np.int64]:
    given = np.asarray(predicted)
    if given.size == 0 and given.ndim == 1:
        given = given.astype(np.int64)
    if given.ndim != 1 or given.dtype.kind not in "iu" or (given.size and int(given.min()) < 0):
        raise UsageError(
            f"the predicted classes are {given.dtype} of shape {given.shape}; expected class "
            "numbers from 0 on, one an image"
        )
    if given.size != n:
        raise UsageError(
            f"{given.size} predicted classes meet {n} scores; give one class for each score"
        )
    return given.astype(np.int64)


def by_class(
    scores: NDArray[np.float64], labels: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield each class number with its scores, of N scores [N] and labels [N], in their order."""
    order = np.argsort(labels, kind="stable")  # stable: the scores of a class stay ascending
    numbers, starts = np.unique(labels[order], return_index=True)
    parts = np.split(scores[order], starts[1:])
    return zip(numbers.tolist(), parts, strict=True)


def _ranks(k: int, n: int) -> NDArray[np.int64]:
    return np.arange(1, k + 2, dtype=np.int64) * (n + 1) // (k + 1)


def p_value_levels(k: int, n: int) -> NDArray[np.float64]:
    """Return p-values float64 [k + 1]; entry j is of a score that j of the kept do not exceed."""
    levels: NDArray[np.float64] = _ranks(k, n) / (n + 1)
    return levels


def _compare(
    ascending: NDArray[np.float64], n: int, values: NDArray[np.float64]
) -> NDArray[np.float64]:
    below = np.searchsorted(ascending, values, side="right")
    return p_value_levels(ascending.size, n)[below]


def least_images(tpr: float) -> float:
    """Return how many images keep the threshold from being the lowest score alone."""
    # The rounding keeps 1 / (1 - 0.9) = 10.000000000000002 from asking for one more.
    return math.inf if tpr >= 1 else math.ceil(round(1 / (1 - tpr), 6))


def _tpr_interval(
    scores: NDArray[np.float64], threshold: float, target: float
) -> tuple[float, float]:
    from scipy.special import betaincinv  # comes with scikit-learn; only calibrating waits for it

    n = int(scores.size)
    needed = max(1, math.ceil(round(target * n, 9)))
    low = float(betaincinv(needed, n + 1 - needed, 0.025))
    if int((scores == threshold).sum()) == 1:
        return low, float(betaincinv(needed, n + 1 - needed, 0.975))
    reached = int((scores >= threshold).sum())
    return low, 1.0 if reached == n else float(betaincinv(reached + 1, n - reached, 0.975))
