"""The nearest training images of a batch: exactly, or in the lists nearest to it (IVF).

Rows lie list by list, and a batch is compared with one list after the other in one product of two
matrices, so a list is read once for all images that look into it. FAISS finds the lists (k-means;
Jegou et al. 2011, section 4) and searches short banks exactly. Everything is arrays: a bank is
stored as it is searched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]

EXACT_UP_TO = 100_000
TARGET_RECALL = 0.985
# Rows without neighbourhoods are all about as far: which of them are found hardly changes a score.
DISTANCE_WITHIN = 0.01
# More would look at so many rows that it is no longer fast: then recall is lower, and said.
_PROBES = (4, 8, 16)
_QUERIES = 256
_TRAINING_PER_LIST = 64
_ASSIGN_BLOCK = 65_536
_QUERY_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class Bank:
    """Unit rows in lists.

    Attributes:
        rows: float32 [N, D] of length 1, list by list.
        centroids: float32 [L, D], unit rows; one list is searched whole.
        ends: int64 [L], where each list ends among the rows.
    """

    rows: Rows
    centroids: Rows
    ends: NDArray[np.int64]

    def nearest(
        self, queries: Rows, k: int, probes: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return cosines [n, k] and row numbers [n, k] of the nearest rows, the nearest first.

        Where fewer than k rows lie in the lists looked into, the rest is -inf and -1.
        """
        asked = np.ascontiguousarray(queries, np.float32)
        if len(self.centroids) == 1:
            return _exact(self.rows, asked, k)
        found = [
            self._in_lists(asked[start : start + _QUERY_BLOCK], k, probes)
            for start in range(0, len(asked), _QUERY_BLOCK)
        ]
        if not found:
            return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
        return np.concatenate([one[0] for one in found]), np.concatenate([one[1] for one in found])

    def _in_lists(
        self, queries: Rows, k: int, probes: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        count, looked = len(queries), min(probes, len(self.centroids))
        _, lists = _exact(self.centroids, queries, looked)
        best = np.full((count, looked, k), -np.inf, np.float32)
        ids = np.full((count, looked, k), -1, np.int64)
        order = np.argsort(lists, axis=None, kind="stable")
        query_of, place_of = order // looked, order % looked
        names, starts = np.unique(lists.ravel()[order], return_index=True)
        stops = np.append(starts[1:], len(order))
        for name, start, stop in zip(names.tolist(), starts.tolist(), stops.tolist(), strict=True):
            first = int(self.ends[name - 1]) if name else 0
            last = int(self.ends[name])
            if first == last:
                continue
            who, where = query_of[start:stop], place_of[start:stop]
            cosines = queries[who] @ self.rows[first:last].T
            kept = min(k, last - first)
            top = np.argpartition(-cosines, kept - 1, axis=1)[:, :kept]
            best[who, where, :kept] = np.take_along_axis(cosines, top, axis=1)
            ids[who, where, :kept] = top + first
        flat, named = best.reshape(count, -1), ids.reshape(count, -1)
        chosen = np.argpartition(-flat, k - 1, axis=1)[:, :k]
        order = np.take_along_axis(
            chosen, np.argsort(-np.take_along_axis(flat, chosen, 1), axis=1, kind="stable"), 1
        )
        return np.take_along_axis(flat, order, axis=1), np.take_along_axis(named, order, axis=1)


def build_bank(rows: Rows, *, seed: int = 0) -> tuple[Bank, NDArray[np.int64]]:
    """Put unit rows [N, D] into lists, or into one where they are few enough to search exactly.

    Args:
        rows: float32 [N, D] of length 1.
        seed: of the k-means.

    Returns:
        The bank, and the number int64 [N] that each of its rows had in the input.
    """
    count, width = rows.shape
    if count <= EXACT_UP_TO:
        whole = rows.mean(axis=0, dtype=np.float64).astype(np.float32)[None]
        return Bank(rows, whole, np.array([count], np.int64)), np.arange(count)
    import faiss

    library: Any = faiss
    wanted = 2 ** round(math.log2(math.sqrt(count)))
    drawn = np.random.default_rng(seed).choice(
        count, min(count, wanted * _TRAINING_PER_LIST), replace=False
    )
    made = library.Kmeans(width, wanted, niter=6, seed=seed + 1, spherical=True)
    made.train(rows[np.sort(drawn)])
    centroids = np.ascontiguousarray(made.centroids, np.float32)
    nearest = np.empty(count, np.int64)
    for start in range(0, count, _ASSIGN_BLOCK):
        block = np.ascontiguousarray(rows[start : start + _ASSIGN_BLOCK])
        nearest[start : start + _ASSIGN_BLOCK] = _exact(centroids, block, 1)[1][:, 0]
    order = np.argsort(nearest, kind="stable")
    ends = np.cumsum(np.bincount(nearest, minlength=wanted)).astype(np.int64)
    return Bank(rows[order], centroids, ends), order


def choose_probes(bank: Bank, k: int, *, seed: int = 0) -> tuple[int, float]:
    """Choose how many lists to look into, and measure the recall of the k nearest.

    The queries lie between pairs of near rows, as new images do: rows themselves are always found.

    Returns:
        The fewest lists on a ladder with which 98.5 % of the true k nearest are found, or the
        distance to the k-th is right to 1 % on the average (or the most it has); and the share
        that are found.
    """
    if len(bank.centroids) == 1:
        return 1, 1.0
    rng = np.random.default_rng(seed)
    picked = bank.rows[np.sort(rng.choice(len(bank.rows), min(_QUERIES, len(bank.rows)), False))]
    _, beside = bank.nearest(picked, 2, _PROBES[-1])
    queries = picked + bank.rows[np.maximum(beside[:, 1], 0)]
    queries /= np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-12)
    cosines, truth = _exact(bank.rows, queries, k)
    far = np.sqrt(np.maximum(2 - 2 * cosines[:, -1], 1e-12))
    probes, recall = 1, 0.0
    for probes in _PROBES:
        near, found = bank.nearest(queries, k, probes)
        off = np.sqrt(np.maximum(2 - 2 * np.maximum(near[:, -1], -1), 1e-12)) / far - 1
        recall = float(
            np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(truth, found, strict=True)])
        )
        good = recall >= TARGET_RECALL or float(off.mean()) <= DISTANCE_WITHIN
        if good or probes >= len(bank.centroids):
            break
    return probes, recall


def _exact(rows: Rows, queries: Rows, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    import faiss

    library: Any = faiss
    if len(queries) == 0:
        return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
    cosines, ids = library.knn(queries, rows, k, metric=library.METRIC_INNER_PRODUCT)
    return cosines, ids
