"""Choose one of several detectors that were measured on the same images, and say why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError
from vlood.evaluation.delong import mean_auroc_interval, paired_mean_delong
from vlood.evaluation.metrics import auroc

OOD_SETS = "ood-sets"
LEFT_OUT = "left-out-classes"
NOTHING = "nothing"
KINDS = (OOD_SETS, LEFT_OUT, NOTHING)
"""What detectors were measured on: OOD sets, classes left out in turn, or nothing."""

Question = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Trial:
    """One detector as it was tried.

    Attributes:
        name: its method.
        level: how much it asks for: 0 class names, 1 negatives, 2 images, 3 a trained text tower.
        size: bytes of its arrays.
        questions: scores of ID images [N] and of the others [M], for each OOD set (the same N ID
            images in each), or for each fold of left-out classes (other images in each).
    """

    name: str
    level: int
    size: int
    questions: tuple[Question, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        chosen: the recommended detector.
        best: the one of the highest mean AUROC, or None where nothing was measured.
        tied: those not told apart from the best, itself included, the simplest first.
        aurocs: mean AUROC of each.
        behind: how far each lies behind the best, by the images that both have scored.
    """

    chosen: str
    best: str | None
    tied: tuple[str, ...]
    aurocs: Mapping[str, Estimate]
    behind: Mapping[str, Estimate]


def choose(trials: Sequence[Trial], kind: str, *, margin: float = 0.005) -> Choice:
    """Choose the simplest of the detectors that are not told apart from the best one.

    A detector is not told apart from the best one where the 95 % interval of their difference,
    taken on the same images, reaches zero, or where the difference is at most ``margin``. Simpler
    is what asks for less (`Trial.level`), then what has smaller arrays. Times are left out, so that
    the same images give the same choice on every machine.

    On OOD sets the intervals are DeLong's; on left-out classes they are Student's over the folds,
    since which classes are left out matters more than which images.

    Args:
        trials: at least one; with the same questions each, none of them where ``kind`` is nothing.
        kind: one of `KINDS`.
        margin: an AUROC difference that is not worth a more demanding method, as a fraction.

    Raises:
        UsageError: there is no trial, or a side of a question has fewer than two images.
    """
    if not trials:
        raise UsageError("no method could be tried; the list of what was skipped says why")
    simplest = sorted(trials, key=lambda one: (one.level, one.size, one.name))
    if kind == NOTHING:
        return Choice(simplest[0].name, None, tuple(one.name for one in simplest), {}, {})
    aurocs = {one.name: _mean(one, kind) for one in trials}
    # Of equals the simplest is the best, so that order of trial decides nothing.
    best = max(simplest, key=lambda one: aurocs[one.name].value)
    behind = {one.name: _difference(best, one, kind) for one in trials}
    tied = tuple(
        one.name
        for one in simplest
        if behind[one.name].low <= 0 or behind[one.name].value <= margin
    )
    return Choice(tied[0], best.name, tied, aurocs, behind)


def folds_of(classes: int, seed: int, *, most: int = 5) -> list[NDArray[np.int64]]:
    """Split K classes into at most ``most`` groups, each to be left out once.

    At least two classes stay every time. Fewer than three classes leave no folds.
    """
    if classes < 3:
        return []
    order = np.random.default_rng(seed).permutation(classes)
    return [np.sort(part) for part in np.array_split(order, min(most, classes))]


def _mean(one: Trial, kind: str) -> Estimate:
    if kind == OOD_SETS:
        found = mean_auroc_interval(one.questions)
        return Estimate(found.value, found.low, found.high)
    found_folds = _over_folds(_fold_aurocs(one))
    return Estimate(found_folds.value, max(0.0, found_folds.low), min(1.0, found_folds.high))


def _difference(best: Trial, other: Trial, kind: str) -> Estimate:
    if best is other:
        return Estimate(0.0, 0.0, 0.0)
    if kind == OOD_SETS:
        pairs = zip(best.questions, other.questions, strict=True)
        found = paired_mean_delong([(*one, *two) for one, two in pairs])
        return Estimate(found.difference, found.low, found.high)
    return _over_folds(_fold_aurocs(best) - _fold_aurocs(other))


def _fold_aurocs(one: Trial) -> NDArray[np.float64]:
    return np.array([auroc(known, other) for known, other in one.questions])


def _over_folds(values: NDArray[np.float64]) -> Estimate:
    """Return the mean with Student's interval; with one fold, nothing is known of the spread."""
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean, -math.inf, math.inf)
    from scipy.special import stdtrit

    reach = float(stdtrit(len(values) - 1, 0.975)) * float(values.std(ddof=1))
    reach /= math.sqrt(len(values))
    return Estimate(mean, mean - reach, mean + reach)
