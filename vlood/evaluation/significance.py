"""Which detectors truly differ: paired tests on the same images, corrected for their number.

Every pair of detectors is tested on every OOD set, and once on the mean over the sets (DeLong's
test, see `delong`); Holm's correction then goes over all single-set tests together, and over all
mean tests together, so that a large table does not find differences by its size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations

from numpy.typing import ArrayLike

from vlood.evaluation.delong import Paired, paired_mean_delong
from vlood.evaluation.paired import holm

SIGNIFICANT = 0.05
"""Differences with a corrected p-value up to this are called significant."""

Pair = tuple[ArrayLike, ArrayLike]
"""The scores of the ID images [N] and of the OOD images [M]."""


@dataclass(frozen=True)
class PairedRow:
    """The AUROCs of two detectors on the same images.

    Attributes:
        id: name of the ID side.
        ood: name of the OOD set, or `mean` for the unweighted mean over them.
        first: name of a detector.
        second: name of another.
        auroc_first: of the first.
        auroc_second: of the second.
        difference: auroc_first - auroc_second.
        low: lower end of the difference's 95 % interval, not corrected.
        high: upper end.
        p_value: two-sided, of no difference.
        p_holm: the same, corrected for the number of tests.
    """

    id: str
    ood: str
    first: str
    second: str
    auroc_first: float
    auroc_second: float
    difference: float
    low: float
    high: float
    p_value: float
    p_holm: float

    @property
    def significant(self) -> bool:
        """Whether the two differ after correction."""
        return self.p_holm <= SIGNIFICANT

    def record(self) -> dict[str, str | float]:
        """Return the row flat."""
        return asdict(self)


def paired_rows(
    id_name: str, scores: Mapping[str, Mapping[str, Pair]], *, mean_name: str = "mean"
) -> list[PairedRow]:
    """Test every two detectors on every OOD set, and on the mean over the sets where several are.

    Args:
        id_name: what results call the ID side.
        scores: by detector and then OOD set, the scores of the ID and of the OOD images; the same
            images in the same order for all detectors. A detector that lacks a set is not compared
            on it.
        mean_name: what rows of the mean call their OOD side.

    Raises:
        UsageError: a side has fewer than two images or is not finite, or detectors differ in their
            number of images.
    """
    single: list[PairedRow] = []
    means: list[PairedRow] = []
    for first, second in combinations(scores, 2):
        both = [name for name in scores[first] if name in scores[second]]
        pairs = {name: (*scores[first][name], *scores[second][name]) for name in both}
        for name, four in pairs.items():
            single.append(_row(id_name, name, first, second, paired_mean_delong([four])))
        if len(both) > 1:
            mean = paired_mean_delong(list(pairs.values()))
            means.append(_row(id_name, mean_name, first, second, mean))
    return [*_corrected(single), *_corrected(means)]


def tied_with_best(
    rows: Sequence[PairedRow], ood: str, aurocs: Mapping[str, float]
) -> tuple[str, frozenset[str]]:
    """Return the detector of the largest AUROC on an OOD set, and those not told apart from it.

    Args:
        rows: from `paired_rows`.
        ood: the set's name, or `mean`.
        aurocs: at least one detector's AUROC on it.
    """
    best = max(aurocs, key=lambda name: aurocs[name])
    apart = {
        row.second if row.first == best else row.first
        for row in rows
        if row.ood == ood and best in (row.first, row.second) and row.significant
    }
    return best, frozenset(name for name in aurocs if name != best and name not in apart)


def _row(id_name: str, ood: str, first: str, second: str, found: Paired) -> PairedRow:
    return PairedRow(
        id=id_name,
        ood=ood,
        first=first,
        second=second,
        auroc_first=found.first,
        auroc_second=found.second,
        difference=found.difference,
        low=found.low,
        high=found.high,
        p_value=found.p_value,
        p_holm=found.p_value,
    )


def _corrected(rows: list[PairedRow]) -> list[PairedRow]:
    adjusted = holm([row.p_value for row in rows]).tolist()
    return [replace(row, p_holm=p) for row, p in zip(rows, adjusted, strict=True)]
