"""Class means, a shared covariance and its inverse, from as few or as many images as there are.

The covariance is shrunk towards a multiple of the identity, S(g) = (1 - g) S + g tr(S)/D I, so that
it can be inverted where there are fewer images than numbers an embedding;
:mod:`vlood.training.shrinkage` chooses g.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FOLDS = 5
_BLOCK = 16_384
# Above so many products, blocks are multiplied in single precision and summed in double.
_DOUBLE_UP_TO = 2e11


@dataclass(frozen=True, eq=False)
class Moments:
    """What a Gaussian per class needs to know of rows: sums, not the rows.

    Attributes:
        counts: float64 [K], rows of each class.
        sums: float64 [K, D].
        second: float64 [D, D], the sum of x x' over all rows.
    """

    counts: Floats
    sums: Floats
    second: Floats

    def plus(self, other: Moments) -> Moments:
        """Return the moments of both sets of rows."""
        return Moments(
            self.counts + other.counts, self.sums + other.sums, self.second + other.second
        )

    def minus(self, other: Moments) -> Moments:
        """Return the moments of the rows that are not among the others."""
        return Moments(
            self.counts - other.counts, self.sums - other.sums, self.second - other.second
        )

    def means(self) -> Floats:
        """Return the class means [K, D]; zero for a class without rows."""
        return np.asarray(self.sums / np.maximum(self.counts, 1)[:, None])

    def mean(self) -> Floats:
        """Return the mean of all rows, [D]."""
        return np.asarray(self.sums.sum(axis=0) / self.counts.sum())

    def scatter(self, means: Floats | None = None) -> Floats:
        """Return the sum of (x - m)(x - m)' [D, D] about the class means, own or given [K, D]."""
        centres = self.means() if means is None else means
        crossed = self.sums.T @ centres
        inner = (centres * self.counts[:, None]).T @ centres
        return np.asarray(self.second - crossed - crossed.T + inner)

    def total_scatter(self) -> Floats:
        """Return the sum of (x - m)(x - m)' [D, D] about the mean of all rows."""
        mean = self.mean()
        return np.asarray(self.second - self.counts.sum() * np.outer(mean, mean))


def moments(
    rows: NDArray[np.float32], labels: NDArray[np.int64], classes: int, origin: Floats
) -> Moments:
    """Sum up rows [N, D] less ``origin`` [D], block by block.

    An origin near their mean keeps the digits that differences of large sums would lose.
    """
    count, width = rows.shape
    single = count * width * width > _DOUBLE_UP_TO
    kind = np.float32 if single else np.float64
    from scipy.sparse import csr_array

    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    sums, second = np.zeros((classes, width)), np.zeros((width, width))
    shift = origin.astype(kind)
    for start in range(0, count, _BLOCK):
        block = rows[start : start + _BLOCK].astype(kind) - shift
        second += block.T @ block
        own, ones = labels[start : start + _BLOCK], np.ones(len(block), kind)
        members = csr_array((ones, (own, np.arange(len(block)))), (classes, len(block)))
        sums += members @ block
    return Moments(counts, sums, second)


def fold_moments(
    rows: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    origin: Floats,
    folds: int = FOLDS,
) -> list[Moments]:
    """Return the moments of each fold of rows [N, D]; the images of a class go round in turn."""
    turn = turns(labels, classes) % folds
    return [
        moments(rows[turn == fold], labels[turn == fold], classes, origin) for fold in range(folds)
    ]


def turns(labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Return which image of its class each is, counted from 0 in their order, int64 [N]."""
    turn = np.empty(len(labels), np.int64)
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(classes))
    turn[order] = np.arange(len(labels)) - starts[labels[order]]
    return turn


def whole(parts: Sequence[Moments]) -> Moments:
    """Return the moments of all folds."""
    return reduce(Moments.plus, parts)


def shrunk_covariance(covariance: Floats, shrinkage: float) -> Floats:
    """Return (1 - g) S + g tr(S)/D I, S [D, D]."""
    width = len(covariance)
    mean = float(np.trace(covariance)) / width
    return np.asarray((1 - shrinkage) * covariance + shrinkage * mean * np.eye(width))


def whitening(covariance: Floats) -> Floats:
    """Return W [D, D] with W W' the inverse of a covariance.

    Directions whose variance is not above the rounding of the largest get the least variance that
    is, so that nothing is divided by rounding.
    """
    eigenvalues, vectors = np.linalg.eigh(covariance)
    least = float(eigenvalues.max()) * len(covariance) * np.finfo(np.float64).eps
    return np.asarray(vectors / np.sqrt(np.maximum(eigenvalues, max(least, 1e-300))))
