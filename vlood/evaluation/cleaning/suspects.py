"""Put together what the separate looks at a labelled set found: one suspect an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vlood.evaluation.cleaning.duplicates import Pairs, join_pairs
from vlood.evaluation.cleaning.mislabelled import LabelDoubt
from vlood.evaluation.cleaning.outliers import Outliers

PROBLEMS = ("mislabelled", "ood", "unlike-class", "duplicate")
"""In the order of records and pages; an image with several is listed under the first."""


@dataclass(frozen=True)
class Suspect:
    """One image with something wrong.

    Attributes:
        row: its number.
        problem: the first of ``problems``.
        problems: all of them.
        severity: larger = more certain; comparable within one problem. ``mislabelled``: 1 minus the
            probability of its label over what is usual of that label; ``ood`` and ``unlike-class``:
            robust standard deviations below the median; ``duplicate``: the similarity.
        suggested: the class it probably is, or -1.
        duplicate_of: the row of the copy that is kept, or -1.
        similarity: with that copy; 1 for the same bytes.
        exact: whether it has the same bytes as that copy.
        conflict: whether that copy has another label.
    """

    row: int
    problem: str
    problems: tuple[str, ...]
    severity: float
    suggested: int = -1
    duplicate_of: int = -1
    similarity: float | None = None
    exact: bool = False
    conflict: bool = False


@dataclass(frozen=True, eq=False)
class Copies:
    """The copies among N images.

    Attributes:
        group: int64 [N], the smallest row of each row's group: copies, and copies of copies.
        content: int64 [N], the first row with the same bytes.
        near: by row and row, the smaller first, the similarity of those with other bytes; both are
            the first rows of their content.
    """

    group: NDArray[np.int64]
    content: NDArray[np.int64]
    near: dict[tuple[int, int], float]

    @classmethod
    def of(cls, content: NDArray[np.int64], near: Pairs) -> Copies:
        """Join rows of the same content and near pairs of first rows to groups."""
        same = np.flatnonzero(content != np.arange(len(content)))
        rows = np.concatenate([near.rows, np.stack([content[same], same], axis=1)])
        pairs = map(tuple, near.rows.tolist())
        similarity = dict(zip(pairs, near.similarity.tolist(), strict=True))
        return cls(join_pairs(rows, len(content)), content, similarity)

    def similarity(self, one: int, other: int) -> float | None:
        """Return how alike two rows are, None where they are no copies."""
        first, second = sorted((int(self.content[one]), int(self.content[other])))
        return 1.0 if first == second else self.near.get((first, second))


def find_suspects(
    labels: NDArray[np.int64],
    doubt: LabelDoubt,
    outliers: Outliers,
    copies: Copies,
    sizes: NDArray[np.int64],
    *,
    z_limit: float,
    score_z: NDArray[np.float64] | None = None,
) -> list[Suspect]:
    """List the suspects, problem by problem, the most certain first.

    Of copies the best is kept: one that is otherwise no suspect, then (where their labels differ)
    the one whose label is likeliest, then the largest file, then the first. In a chain, where the
    ends are no copies of each other, what is no copy of anything kept is kept as well.

    Args:
        labels: int64 [N], -1 for none.
        doubt: of the labels.
        outliers: how strange the images are.
        copies: which are copies of each other.
        sizes: int64 [N], bytes of the files.
        z_limit: at least so many robust standard deviations below the median is an outlier.
        score_z: a detector's score as robust z [N], which flags outliers as well.
    """
    strange = outliers.best if score_z is None else np.fmin(outliers.best, score_z)
    with np.errstate(invalid="ignore"):
        is_ood = strange <= -z_limit
        is_unlike = (outliers.own <= -z_limit) & ~is_ood & ~doubt.flagged
    found: dict[int, Suspect] = {}

    def add(row: int, one: Suspect) -> None:
        before = found.get(row)
        if before is None:
            found[row] = one
            return
        later = {name: getattr(one, name) for name in _OF_COPIES}
        found[row] = replace(before, problems=(*before.problems, one.problem), **later)

    # What fits no class has no label to suggest, however doubtful the one it has.
    for row in np.flatnonzero(doubt.flagged & ~is_ood).tolist():
        severity = 1.0 - float(doubt.ratio[row])
        suggested = int(doubt.suggested[row])
        add(row, Suspect(row, "mislabelled", ("mislabelled",), severity, suggested))
    for row in np.flatnonzero(is_ood).tolist():
        add(row, Suspect(row, "ood", ("ood",), -float(strange[row])))
    for row in np.flatnonzero(is_unlike).tolist():
        severity = -float(outliers.own[row])
        suggested = int(doubt.suggested[row])
        add(row, Suspect(row, "unlike-class", ("unlike-class",), severity, suggested))
    for one in _duplicates(labels, doubt, copies, sizes, set(found)):
        add(one.row, one)

    def order(one: Suspect) -> tuple[int, bool, float, int]:
        # Copies that contradict each other matter more than those that are merely too many.
        urgent = one.problem == "duplicate" and one.conflict
        return (PROBLEMS.index(one.problem), not urgent, -one.severity, one.row)

    return sorted(found.values(), key=order)


_OF_COPIES = ("duplicate_of", "similarity", "exact", "conflict")


def _duplicates(
    labels: NDArray[np.int64],
    doubt: LabelDoubt,
    copies: Copies,
    sizes: NDArray[np.int64],
    suspects: set[int],
) -> list[Suspect]:
    order = np.argsort(copies.group, kind="stable")
    starts = np.flatnonzero(np.diff(copies.group[order], prepend=-1))
    found = []
    for members in np.split(order, starts[1:]):
        if len(members) < 2:
            continue
        conflict = len(set(labels[members].tolist()) - {-1}) > 1
        ranked = _best_first(members.tolist(), doubt.ratio, sizes, suspects, conflict)
        kept: list[int] = []
        for row in ranked:
            alike = [(copies.similarity(row, other) or 0.0, -at) for at, other in enumerate(kept)]
            similarity, place = max(alike, default=(0.0, 0))
            if similarity == 0.0:
                kept.append(row)
                continue
            of = kept[-place]
            found.append(
                Suspect(
                    row=row,
                    problem="duplicate",
                    problems=("duplicate",),
                    severity=similarity,
                    duplicate_of=of,
                    similarity=similarity,
                    exact=bool(copies.content[row] == copies.content[of]),
                    conflict=bool(labels[row] != labels[of] and min(labels[row], labels[of]) >= 0),
                )
            )
    return found


def _best_first(
    members: Sequence[int],
    ratio: NDArray[np.float64],
    sizes: NDArray[np.int64],
    suspects: set[int],
    conflict: bool,
) -> list[int]:
    def rank(row: int) -> tuple[bool, float, int, int]:
        likely = float(ratio[row]) if conflict and np.isfinite(ratio[row]) else 0.0
        return (row in suspects, -likely, -int(sizes[row]), row)

    return sorted(members, key=rank)
