"""Choose how much a covariance is shrunk, on the training images alone.

With three classes or more, by classes that are left out: what tells their images from new ones of
the others also tells near-OOD images. With fewer, by the likelihood of images left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.training.gaussians import Moments, fold_moments, moments, turns, whole

SHRINKAGES: tuple[float, ...] = (
    *(0.001, 0.003, 0.01, 0.03, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    1.0,
)
GROUPS = 5
_MOST_CLASSES = 200
_MOST_ROWS = 20_000
_MOST_SCORED = 1000


def choose_shrinkage(
    rows: NDArray[np.float32], labels: NDArray[np.int64], classes: int, *, seed: int = 0
) -> float:
    """Choose from :data:`SHRINKAGES`; of many classes and images a sample decides.

    Args:
        rows: float32 [N, D].
        labels: int64 [N], every class among them.
        classes: K.
        seed: of the sample.
    """
    if classes > _MOST_CLASSES:
        drawn = np.random.default_rng(seed).permutation(classes)[:_MOST_CLASSES]
        number = np.full(classes, -1)
        number[np.sort(drawn)] = np.arange(_MOST_CLASSES)
        kept = np.flatnonzero(number[labels] >= 0)
        rows, labels, classes = rows[kept], number[labels[kept]], _MOST_CLASSES
    turn = turns(labels, classes)
    if len(labels) > _MOST_ROWS:
        # The first so many of each class after a shuffle, for each class alike.
        rng = np.random.default_rng(seed)
        shuffled = rng.permutation(len(labels))
        turn[shuffled] = turns(labels[shuffled], classes)
        kept = np.flatnonzero(turn < max(2, _MOST_ROWS // classes))
        rows, labels, turn = rows[kept], labels[kept], turn[kept]
    fewest = int(np.bincount(labels, minlength=classes).min())
    if classes >= 3 and fewest >= 2:
        return by_left_out_classes(rows, labels, classes, turn % min(GROUPS, fewest), seed=seed)
    origin = rows.mean(axis=0, dtype=np.float64)
    return by_likelihood(fold_moments(rows, labels, classes, origin))


def by_left_out_classes(
    rows: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    folds: NDArray[np.int64],
    *,
    seed: int,
) -> float:
    """Choose the shrinkage with the best mean AUROC of Mahalanobis distances.

    For each group of classes: the others are the known ones, less a fold of their images; the
    distances of that fold are compared with those of the group's images.

    Args:
        rows: float32 [N, D].
        labels: int64 [N].
        classes: K, 3 or more.
        folds: int64 [N], a fold of each image; every class has images in two of them.
        seed: of the samples that are scored.
    """
    rng = np.random.default_rng(seed)
    origin = rows.mean(axis=0, dtype=np.float64)
    groups, parts = min(GROUPS, classes), int(folds.max()) + 1
    group_of = np.arange(classes) % groups
    values = []
    for group in range(groups):
        out = group_of[labels] == group
        held = ~out & (folds == group % parts)
        rest = ~out & ~held
        known = moments(rows[rest], labels[rest], classes, origin)
        seen = known.counts > 0
        eigenvalues, vectors = np.linalg.eigh(
            known.scatter() / max(1.0, known.counts.sum() - seen.sum())
        )
        if not eigenvalues.mean() > 0:
            continue
        inside, outside = (_sample(rows[which], rng) for which in (held, out))
        both = (np.concatenate([inside, outside]) - origin) @ vectors
        means = known.means()[seen] @ vectors
        shares = []
        for shrinkage in SHRINKAGES:
            variance = _shrunk(eigenvalues, shrinkage)
            near = _least_distance(both, means, variance)
            shares.append(_auroc(-near[: len(inside)], -near[len(inside) :]))
        values.append(shares)
    if not values:
        return SHRINKAGES[-1]
    return SHRINKAGES[int(np.mean(values, axis=0).argmax())]


def by_likelihood(parts: Sequence[Moments]) -> float:
    """Choose the shrinkage by the Gaussian likelihood of the fold that is left out.

    The strongest within one standard error of the best is taken (the rule of Breiman et al. 1984),
    as the probe does with its penalty. Where no two folds can be left out, the strongest of all.

    Args:
        parts: the moments of each fold.
    """
    everything = whole(parts)
    values = []
    for part in parts:
        rest = everything.minus(part)
        seen = rest.counts > 0.5
        freedom = rest.counts.sum() - seen.sum()
        # What a class without other images adds to the second moment cannot be told from it.
        if freedom < 1 or part.counts.sum() < 1 or (part.counts[~seen] > 0).any():
            continue
        eigenvalues, vectors = np.linalg.eigh(rest.scatter() / freedom)
        if not eigenvalues.mean() > 0:
            continue
        about = part.scatter(rest.means())
        spread = np.einsum("dk,dk->k", vectors, about @ vectors) / part.counts.sum()
        variances = [_shrunk(eigenvalues, shrinkage) for shrinkage in SHRINKAGES]
        values.append([-0.5 * (np.log(one) + spread / one).sum() for one in variances])
    if len(values) < 2:
        return SHRINKAGES[-1]
    table = np.asarray(values)
    average = table.mean(axis=0)
    best = int(average.argmax())
    error = table[:, best].std(ddof=1) / np.sqrt(len(table))
    return SHRINKAGES[int(np.flatnonzero(average >= average[best] - error)[-1])]


def _shrunk(eigenvalues: NDArray[np.float64], shrinkage: float) -> NDArray[np.float64]:
    mean = float(eigenvalues.mean())
    return np.asarray((1 - shrinkage) * np.maximum(eigenvalues, 0) + shrinkage * mean)


def _least_distance(
    rows: NDArray[np.float64], means: NDArray[np.float64], variance: NDArray[np.float64]
) -> NDArray[np.float64]:
    scaled = means / variance
    distances = (rows**2 @ (1 / variance))[:, None] - 2 * rows @ scaled.T
    return np.asarray((distances + (means * scaled).sum(axis=1)).min(axis=1))


def _sample(rows: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float64]:
    if len(rows) > _MOST_SCORED:
        rows = rows[np.sort(rng.choice(len(rows), _MOST_SCORED, replace=False))]
    return rows.astype(np.float64)


def _auroc(inside: NDArray[Any], outside: NDArray[Any]) -> float:
    """Return the share of pairs in order, ties half (Mann and Whitney)."""
    ordered = np.sort(outside)
    below = np.searchsorted(ordered, inside, side="left")
    upto = np.searchsorted(ordered, inside, side="right")
    return float((below + upto).mean() / 2 / max(1, len(outside)))
