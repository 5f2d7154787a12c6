"""How like each class an image is, judged by the class's other images.

The cosine with a class's mean embedding, leaving the image itself out, and its copies too: a copy
under the same wrong label would speak for it. This is a closed form, so it needs no folds and no
seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class ClassMeans:
    """N labelled embeddings and the sums that the leave-one-out means come from.

    Attributes:
        features: float32 [N, D], unit rows.
        labels: int64 [N], a class in 0..K-1, or -1 for none.
        sums: float64 [K, D], the sum of each class's rows.
        counts: int64 [K].
        copies: for each row that has copies, what to leave out: class -> (sum of rows, how many).
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    sums: NDArray[np.float64]
    counts: NDArray[np.int64]
    copies: dict[int, dict[int, tuple[NDArray[np.float64], int]]]

    @classmethod
    def of(
        cls,
        features: NDArray[np.float32],
        labels: NDArray[np.int64],
        classes: int,
        groups: NDArray[np.int64] | None = None,
    ) -> ClassMeans:
        """Sum the classes.

        Args:
            features: [N, D], unit rows.
            labels: [N], -1 for none.
            classes: K.
            groups: [N]; rows of one number are copies of one picture. None: there are no copies.
        """
        sums = np.zeros((classes, features.shape[1]))
        for number in range(classes):
            sums[number] = features[labels == number].sum(axis=0, dtype=np.float64)
        counts = np.bincount(labels[labels >= 0], minlength=classes).astype(np.int64)
        copies = {} if groups is None else _copies(features, labels, groups)
        return cls(features, labels, sums, counts, copies)

    def cosines(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the cosine [n, K] of the rows with each class's other images.

        NaN where a class has no other image (for the row's own class: none but its copies).
        """
        images = self.features[rows].astype(np.float64)
        lengths = np.linalg.norm(self.sums, axis=1)
        known = self.counts > 0
        directions = self.sums / np.where(known, np.maximum(lengths, 1e-12), 1.0)[:, None]
        cosines = np.where(known, images @ directions.T, np.nan)
        places = np.flatnonzero(self.labels[rows] >= 0)
        own = self.labels[rows[places]]
        others = self.sums[own] - images[places]
        found = np.einsum("nd,nd->n", others, images[places])
        found /= np.maximum(np.linalg.norm(others, axis=1), 1e-12)
        cosines[places, own] = np.where(self.counts[own] > 1, found, np.nan)
        for place, row in enumerate(rows.tolist()):
            for label, (left_out, count) in self.copies.get(row, {}).items():
                if self.counts[label] == count:
                    cosines[place, label] = np.nan
                    continue
                rest = self.sums[label] - left_out
                cosines[place, label] = rest @ images[place] / max(np.linalg.norm(rest), 1e-12)
        return cosines


def _copies(
    features: NDArray[np.float32], labels: NDArray[np.int64], groups: NDArray[np.int64]
) -> dict[int, dict[int, tuple[NDArray[np.float64], int]]]:
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=groups[order[:1]] - 1))
    copies: dict[int, dict[int, tuple[NDArray[np.float64], int]]] = {}
    for members in np.split(order, starts[1:]):
        if len(members) < 2:
            continue
        left_out = {}
        for label in np.unique(labels[members]).tolist():
            if label >= 0:
                same = members[labels[members] == label]
                left_out[label] = (features[same].sum(axis=0, dtype=np.float64), len(same))
        copies.update(dict.fromkeys(members.tolist(), left_out))
    return copies
