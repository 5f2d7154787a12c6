"""How sure an AUROC is, and whether two differ, in closed form: no resampling and no seed.

AUROC is a mean over pairs of an ID and an OOD image, so it is also the mean of one component an
image: for an ID image the share of OOD it outscores, for an OOD image the share of ID that outscore
it, ties counting half. DeLong's variance is that of those components, each side's over its number
of images. DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated
receiver operating characteristic curves", Biometrics 44, 1988. A component is a difference of two
midranks (Sun and Xu, "Fast implementation of DeLong's algorithm", IEEE Signal Processing Letters
21, 2014), here counted by binary search in sorted scores: O(n log n) and whole numbers throughout.

The variance is estimated and can come out as 0: constant scores, perfect separation, two detectors
that rank alike. The interval is then a point, which says that these images show no spread and not
that there is none; `degenerate` marks it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlood.errors import UsageError
from vlood.evaluation.bootstrap import check_level
from vlood.evaluation.metrics import checked_scores


@dataclass(frozen=True)
class DelongInterval:
    """An AUROC and the interval its estimated variance gives.

    Attributes:
        value: the AUROC.
        low: lower end, at least 0.
        high: upper end, at most 1.
        level: share of samples whose interval holds the true value, in the limit, e.g. 0.95.
        variance: DeLong's variance of the AUROC.
    """

    value: float
    low: float
    high: float
    level: float
    variance: float

    @property
    def degenerate(self) -> bool:
        """Whether the images show no spread at all, so that the interval is a point."""
        return self.variance == 0.0


@dataclass(frozen=True)
class Paired:
    """The AUROCs of two detectors on the same images, and how sure their difference is.

    Attributes:
        first: the first detector's AUROC.
        second: the second's.
        difference: first - second.
        low: lower end of the difference's interval, at least -1.
        high: upper end, at most 1.
        level: the interval's, e.g. 0.95.
        variance: DeLong's variance of the difference.
        p_value: two-sided, of the two AUROCs being equal; 0 when too small for a float.
        n_id: ID images.
        n_ood: OOD images.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    level: float
    variance: float
    p_value: float
    n_id: int
    n_ood: int

    @property
    def degenerate(self) -> bool:
        """Whether every image speaks alike, so that the interval is a point."""
        return self.variance == 0.0


def auroc_variance(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Return DeLong's variance of the AUROC of ID scores [N] against OOD scores [M].

    0 for constant scores and for perfect separation.

    Raises:
        UsageError: a side has fewer than two images or is not finite.
    """
    parts = _components(id_scores, ood_scores)
    return _variance(parts.id_won, parts.ood_lost)


def auroc_interval_delong(
    id_scores: ArrayLike, ood_scores: ArrayLike, *, level: float = 0.95
) -> DelongInterval:
    """Return the AUROC of ID scores [N] against OOD scores [M] with its normal interval.

    The interval is symmetric and cut at 0 and 1. Where the AUROC is close to 1 and a side small,
    `bootstrap.auroc_interval` follows the skew better.

    Raises:
        UsageError: a side has fewer than two images or is not finite, or `level` is not in (0, 1).
    """
    check_level(level)
    parts = _components(id_scores, ood_scores)
    value, variance = parts.auroc, _variance(parts.id_won, parts.ood_lost)
    reach = _quantile(level) * math.sqrt(variance)
    return DelongInterval(value, max(0.0, value - reach), min(1.0, value + reach), level, variance)


def paired_delong(
    first_id: ArrayLike,
    first_ood: ArrayLike,
    second_id: ArrayLike,
    second_ood: ArrayLike,
    *,
    level: float = 0.95,
) -> Paired:
    """Test whether two detectors have the same AUROC, from their scores of the same images.

    Row i of both ID arrays [N] must be the same image, and row j of both OOD arrays [M]. What moves
    both detectors alike cancels, so this sees smaller differences than two intervals side by side.

    With an estimated variance of 0 no normal test exists. Equal AUROCs then have p = 1. Otherwise
    all N + M images differ by the same amount in the same direction, and p is that of so many
    tosses of a fair coin falling alike, 2^(1 - N - M): small sets stay unconvincing.

    Raises:
        UsageError: a side has fewer than two images or is not finite, the detectors differ in their
            number of images, or `level` is not in (0, 1).
    """
    return paired_mean_delong([(first_id, first_ood, second_id, second_ood)], level=level)


def paired_mean_delong(
    sets: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]], *, level: float = 0.95
) -> Paired:
    """Test whether two detectors have the same mean AUROC over several OOD sets.

    The mean is unweighted, and the ID images are the same in every set: an ID image's component is
    its mean over the sets, so that what the sets share is counted once. OOD sets are independent of
    each other.

    Args:
        sets: for each OOD set the first detector's ID [N] and OOD scores [M], then the second's.
        level: the interval's.

    Raises:
        UsageError: there is no set, a side has fewer than two images or is not finite, the
            detectors or the sets differ in their images, or `level` is not in (0, 1).
    """
    check_level(level)
    one = [_components(first, other) for first, other, _, _ in sets]
    two = [_components(first, other) for _, _, first, other in sets]
    for a, b in zip(one, two, strict=True):
        check_same_images(a.id_won, b.id_won, "ID")
        check_same_images(a.ood_lost, b.ood_lost, "OOD")
    # Whole numbers, so detectors that rank alike differ by exactly nothing.
    apart = [
        _Components(a.id_won - b.id_won, a.ood_lost - b.ood_lost)
        for a, b in zip(one, two, strict=True)
    ]
    variance = _mean_variance(apart)
    difference = sum(part.auroc for part in apart) / len(apart)
    reach = _quantile(level) * math.sqrt(variance)
    n_id, n_ood = apart[0].id_won.size, sum(part.ood_lost.size for part in apart)
    if variance > 0.0:
        p_value = math.erfc(abs(difference) / math.sqrt(2 * variance))
    else:
        p_value = 1.0 if difference == 0.0 else math.ldexp(1.0, 1 - n_id - n_ood)
    return Paired(
        first=sum(part.auroc for part in one) / len(one),
        second=sum(part.auroc for part in two) / len(two),
        difference=difference,
        low=max(-1.0, difference - reach),
        high=min(1.0, difference + reach),
        level=level,
        variance=variance,
        p_value=p_value,
        n_id=n_id,
        n_ood=n_ood,
    )


def mean_auroc_interval(
    sets: Sequence[tuple[ArrayLike, ArrayLike]], *, level: float = 0.95
) -> DelongInterval:
    """Return the unweighted mean AUROC over several OOD sets, with its normal interval.

    Args:
        sets: for each OOD set the scores of the ID images [N], the same images in every set, and of
            the OOD images [M].
        level: the interval's.

    Raises:
        UsageError: there is no set, a side has fewer than two images or is not finite, the sets
            differ in their number of ID images, or `level` is not in (0, 1).
    """
    check_level(level)
    parts = [_components(known, other) for known, other in sets]
    value, variance = sum(part.auroc for part in parts) / max(1, len(parts)), _mean_variance(parts)
    reach = _quantile(level) * math.sqrt(variance)
    return DelongInterval(value, max(0.0, value - reach), min(1.0, value + reach), level, variance)


def check_same_images(first: NDArray[np.generic], second: NDArray[np.generic], side: str) -> None:
    """Refuse arrays [N] of two detectors that cannot be of the same images.

    Raises:
        UsageError: the lengths differ.
    """
    if first.size != second.size:
        raise UsageError(
            f"The first detector has {first.size} {side} scores and the second {second.size}; "
            "a paired comparison needs both on the same images in the same order."
        )


class _Components(NamedTuple):
    """Twice the number of images each image wins against: `id_won` [N], `ood_lost` [M]."""

    id_won: NDArray[np.int64]
    ood_lost: NDArray[np.int64]

    @property
    def twice_pairs(self) -> int:
        return int(self.id_won.sum())

    @property
    def auroc(self) -> float:
        return self.twice_pairs / (2 * self.id_won.size * self.ood_lost.size)


def _components(id_scores: ArrayLike, ood_scores: ArrayLike) -> _Components:
    known, other = checked_scores(id_scores, "ID"), checked_scores(ood_scores, "OOD")
    for side, values in (("ID", known), ("OOD", other)):
        if values.size < 2:
            raise UsageError(
                f"There is 1 {side} score, and a variance needs two or more; "
                f"give at least 2 {side} images."
            )
    won = _twice_below(known, np.sort(other))
    lost = 2 * known.size - _twice_below(other, np.sort(known))
    return _Components(won, lost)


def _twice_below(values: NDArray[np.float64], rising: NDArray[np.float64]) -> NDArray[np.int64]:
    """Count, twice, how many of `rising` lie below each value, an equal one counting once."""
    # Values in order make the search walk through memory in order.
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    counts = np.empty(values.size, dtype=np.int64)
    counts[order] = np.searchsorted(rising, ordered, side="left")
    counts[order] += np.searchsorted(rising, ordered, side="right")
    return counts


def _mean_variance(parts: Sequence[_Components]) -> float:
    """Return the variance of the mean AUROC (or difference of AUROCs) over sets of one ID side."""
    if not parts:
        raise UsageError("There is no OOD set to take a mean over; give at least one.")
    if len(parts) == 1:
        return _variance(parts[0].id_won, parts[0].ood_lost)
    n_id, count = parts[0].id_won.size, len(parts)
    if any(part.id_won.size != n_id for part in parts):
        raise UsageError(
            "The OOD sets are compared with different numbers of ID images; a mean over them needs "
            "the same ID images in every set."
        )
    won = sum(part.id_won / (2 * part.ood_lost.size) for part in parts) / count
    of_id = float(np.var(won, ddof=1)) / n_id
    of_ood = sum(
        _sample_variance(part.ood_lost) / (2 * n_id) ** 2 / part.ood_lost.size for part in parts
    )
    return of_id + of_ood / count**2


def _variance(id_won: NDArray[np.int64], ood_lost: NDArray[np.int64]) -> float:
    n_id, n_ood = id_won.size, ood_lost.size
    of_id = _sample_variance(id_won) / (2 * n_ood) ** 2
    of_ood = _sample_variance(ood_lost) / (2 * n_id) ** 2
    return of_id / n_id + of_ood / n_ood


def _sample_variance(counts: NDArray[np.int64]) -> float:
    # Around a whole number, so that counts that are all equal have a variance of exactly 0.
    around = (counts - counts[0]).astype(np.float64)
    return float(np.var(around, ddof=1))


def _quantile(level: float) -> float:
    return NormalDist().inv_cdf((1.0 + level) / 2)
