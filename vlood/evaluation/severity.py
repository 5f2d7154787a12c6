"""How detection fares as ID images get worse: one row a detector, kind of shift and severity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

from vlood.evaluation.metrics import auroc, checked_scores


@dataclass(frozen=True)
class SeverityRow:
    """One detector on the ID set under one shift.

    Attributes:
        detector: what results call it.
        shift: the kind of shift, such as ``fog``; each kind has a row of severity 0, no shift.
        severity: 0 (the ID set itself) to 5.
        n: images.
        accepted: share of them that score at or above the detector's threshold.
        auroc: of the shifted ID images against the OOD sets, the unweighted mean over the sets;
            None without OOD sets.
        id_accuracy: share given their own class, of the labelled ones; None without labels.
    """

    detector: str
    shift: str
    severity: int
    n: int
    accepted: float
    auroc: float | None
    id_accuracy: float | None

    def record(self) -> dict[str, str | int | float | None]:
        """Return the row flat."""
        return asdict(self)


def severity_row(
    detector: str,
    shift: str,
    severity: int,
    scores: ArrayLike,
    ood_scores: Sequence[ArrayLike],
    accepted: float,
    id_accuracy: float | None,
) -> SeverityRow:
    """Measure one detector's scores [N] of ID images under a shift.

    Args:
        detector: what results call it.
        shift: the kind of shift.
        severity: 0 to 5.
        scores: of the shifted images.
        ood_scores: of each OOD set [M], not shifted.
        accepted: share of the shifted images that the detector's threshold accepts.
        id_accuracy: on the shifted images, or None.

    Raises:
        UsageError: a side is empty or not finite.
    """
    values = checked_scores(scores, "shifted ID")
    areas = [auroc(values, one) for one in ood_scores]
    return SeverityRow(
        detector=detector,
        shift=shift,
        severity=severity,
        n=values.size,
        accepted=accepted,
        auroc=float(np.mean(areas)) if areas else None,
        id_accuracy=id_accuracy,
    )
