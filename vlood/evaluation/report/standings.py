"""Where each detector stands over all OOD sets, every group of sets counting the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vlood.evaluation.report.inputs import ReportDetector, ReportInputs, ReportSet
from vlood.evaluation.results import ResultRow

OOD_GROUPS = ("near", "far", "-")


def id_set(sets: Sequence[ReportSet]) -> ReportSet:
    """Return the ID set: the first."""
    return sets[0]


def ood_sets(sets: Sequence[ReportSet]) -> list[ReportSet]:
    """Return the sets that are to be rejected."""
    return [each for each in sets if each.group in OOD_GROUPS and not each.shift]


def threshold_sets(sets: Sequence[ReportSet]) -> list[ReportSet]:
    """Return the sets a threshold is watched on: all but those of the severity curves."""
    return [each for each in sets if not each.severity]


def main_rows(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """Return the rows detectors are compared by: one a detector and set, no full spectrum.

    Rows of a learning curve are left out; a detector fitted once only, from few images, has no
    curve and stays.
    """
    fits = _fits(rows)
    return [
        row
        for row in rows
        if not row.spectrum
        and (row.shots is None or (len(fits[row.detector]) == 1 and None not in fits[row.detector]))
    ]


def curve_rows(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """Return the rows of learning curves: fits that differ in their shots or seeds."""
    fits = _fits(rows)
    return [
        row
        for row in rows
        if not row.spectrum and row.shots is not None and len(fits[row.detector] - {None}) > 1
    ]


def _fits(rows: Sequence[ResultRow]) -> dict[str, set[tuple[int, int | None] | None]]:
    fits: dict[str, set[tuple[int, int | None] | None]] = defaultdict(set)
    for row in rows:
        fits[row.detector].add(None if row.shots is None else (row.shots, row.seed))
    return fits


def balanced_mean(values: Mapping[str, tuple[str, float]]) -> tuple[float, dict[str, float]]:
    """Return the mean over groups of the means over each group's sets, and those means.

    Args:
        values: by set, its group and its value; at least one.
    """
    groups: dict[str, list[float]] = {}
    for group, value in values.values():
        groups.setdefault(group, []).append(value)
    means = {name: sum(groups[name]) / len(groups[name]) for name in OOD_GROUPS if name in groups}
    return sum(means.values()) / len(means), means


@dataclass(frozen=True)
class Standing:
    """One detector over all OOD sets; fractions.

    Attributes:
        name: of the detector.
        method: its method's name.
        stream: "", or how its scores depend on other images.
        mean: its AUROC, every group of OOD sets counting the same.
        groups: its mean AUROC by group.
        sets: its AUROC by OOD set.
        low: lower end of the AUROC's interval where there is one OOD set only, else None.
        high: upper end.
        fpr95: mean share of OOD accepted when 95 % of ID are.
        id_accuracy: share of ID images given their own class, or None.
        threshold: of the report.
        threshold_note: where it is from.
        id_accepted: share of ID images accepted at it, or None without scores.
        ood_accepted: mean share of OOD images accepted at it, or None without scores.
        ood_accepted_sets: the same by OOD set.
    """

    name: str
    method: str
    stream: str
    mean: float
    groups: Mapping[str, float]
    sets: Mapping[str, float]
    low: float | None
    high: float | None
    fpr95: float
    id_accuracy: float | None
    threshold: float
    threshold_note: str
    id_accepted: float | None
    ood_accepted: float | None
    ood_accepted_sets: Mapping[str, float]


def standings(inputs: ReportInputs) -> list[Standing]:
    """Return the detectors that have results on OOD sets, the largest mean AUROC first."""
    found = []
    for detector in inputs.detectors:
        rows = [
            row
            for row in main_rows(inputs.rows)
            if row.detector == detector.name and row.group in OOD_GROUPS
        ]
        if rows:
            found.append(_standing(detector, rows, inputs.sets))
    return sorted(found, key=lambda each: -each.mean)


def _standing(
    detector: ReportDetector, rows: Sequence[ResultRow], sets: Sequence[ReportSet]
) -> Standing:
    mean, groups = balanced_mean({row.ood: (row.group, row.metrics.auroc) for row in rows})
    fpr95, _ = balanced_mean({row.ood: (row.group, row.metrics.fpr95_id_pos) for row in rows})
    shares = {
        each.name: (each.group, accepted_share(detector, each.name))
        for each in ood_sets(sets)
        if len(detector.scores.get(each.name, ()))
    }
    inside = id_set(sets).name
    only = rows[0].metrics if len(rows) == 1 else None
    accuracies = [row.metrics.id_accuracy for row in rows if row.metrics.id_accuracy is not None]
    return Standing(
        name=detector.name,
        method=detector.method,
        stream=detector.stream,
        mean=mean,
        groups=groups,
        sets={row.ood: row.metrics.auroc for row in rows},
        low=only.auroc_ci_low if only else None,
        high=only.auroc_ci_high if only else None,
        fpr95=fpr95,
        id_accuracy=accuracies[0] if accuracies else None,
        threshold=detector.threshold,
        threshold_note=detector.threshold_note,
        id_accepted=(
            accepted_share(detector, inside) if len(detector.scores.get(inside, ())) else None
        ),
        ood_accepted=balanced_mean(shares)[0] if shares else None,
        ood_accepted_sets={name: share for name, (_, share) in shares.items()},
    )


def accepted_share(detector: ReportDetector, name: str) -> float:
    """Return the share of a set's images at or above the detector's threshold."""
    return float(np.mean(np.asarray(detector.scores[name]) >= detector.threshold))
