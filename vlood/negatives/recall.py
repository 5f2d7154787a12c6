"""Measure what share of the true nearest rows an index finds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlood.negatives.search_index import SearchIndex
from vlood.negatives.unit_blocks import GatherableRows, unit_blocks, unit_rows

_BLOCK_BYTES = 64 << 20
_PERTURBATION = 0.3


def measure_recall(
    index: SearchIndex, features: GatherableRows, k: int = 10, sample: int = 1000, seed: int = 0
) -> float:
    """Return the share of the true k nearest rows that the index finds.

    The queries are rows drawn at random, each turned away by a vector 0.3 long in a random
    direction. Compressed rows are re-ranked against ``features``, as they are meant to be. The
    exact search goes block by block, so memory does not grow with N.

    Args:
        index: over the same rows.
        features: [N, D].
        k: neighbours that count.
        sample: number of queries.
        seed: of the draw.
    """
    k = min(k, index.rows)
    queries = perturbed_rows(features, sample, seed)
    return recall_of(index, features, queries, exact_neighbours(features, queries, k))


def recall_of(
    index: SearchIndex,
    features: GatherableRows,
    queries: NDArray[np.float32],
    neighbours: NDArray[np.int64],
) -> float:
    """Return the share of the neighbours [n, k] of queries [n, D] that the index finds."""
    k = neighbours.shape[1]
    _, found = index.search(queries, k, rows=features if index.kind == "ivfpq" else None)
    hits = (found[:, :, None] == neighbours[:, None, :]).any(axis=1)
    return float(hits.mean())


def perturbed_rows(features: GatherableRows, sample: int, seed: int) -> NDArray[np.float32]:
    """Return unit rows [n, D]: rows drawn without repetition, each turned away a little."""
    draw = np.random.default_rng(seed)
    chosen = np.sort(draw.choice(len(features), min(sample, len(features)), replace=False))
    rows = unit_rows(features[chosen], "negative")
    away = unit_rows(draw.standard_normal(rows.shape, dtype=np.float32), "query")
    return unit_rows(rows + np.float32(_PERTURBATION) * away, "query")


def exact_neighbours(
    features: GatherableRows, queries: NDArray[np.float32], k: int
) -> NDArray[np.int64]:
    """Return the k nearest rows of each query, int64 [n, k], nearest first, block by block."""
    import faiss

    cosines = np.full((len(queries), k), -np.inf, np.float32)
    ids = np.full((len(queries), k), -1, np.int64)
    size = max(k, _BLOCK_BYTES // (4 * queries.shape[1]))
    for first, block in unit_blocks(features, size, "negative"):
        metric = faiss.METRIC_INNER_PRODUCT
        near, numbers = faiss.knn(queries, block, min(k, len(block)), metric=metric)
        cosines = np.concatenate([cosines, near], axis=1)
        ids = np.concatenate([ids, numbers + first], axis=1)
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        cosines, ids = np.take_along_axis(cosines, best, 1), np.take_along_axis(ids, best, 1)
    return ids
