"""Train the compressed index: a learnt rotation, lists around centres, and product codes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vlood.errors import UsageError
from vlood.negatives.unit_blocks import GatherableRows, unit_rows

_LEAST_ROWS = 10_000
_ROWS_A_LIST = 40
_NUMBERS_A_CODE = 4
_CODES_AT_MOST = 128
_ROTATION_SAMPLE = 20_000
_ROUNDS = 4


def train_compressed(features: GatherableRows, dim: int, seed: int) -> tuple[Any, dict[str, Any]]:
    """Return an empty trained FAISS index (OPQ, IVF, PQ) and its parameters, JSON-able.

    About 4 sqrt(N) lists; a byte for every four numbers, at most 128 bytes a row. Trained on a
    seeded sample of 40 rows a list.

    Args:
        features: [N, D].
        dim: D.
        seed: of the sample and of the centres.

    Raises:
        UsageError: there are too few rows to train on.
    """
    import faiss

    total = len(features)
    if total < _LEAST_ROWS:
        raise UsageError(
            f"index ivfpq: {total} rows are too few to learn from; give at least {_LEAST_ROWS:,}, "
            "or take flat"
        )
    lists = min(round(4 * math.sqrt(total)), total // _ROWS_A_LIST)
    codes = min(_CODES_AT_MOST, math.ceil(dim / _NUMBERS_A_CODE))
    width = codes * math.ceil(dim / codes)
    size = min(total, max(_ROWS_A_LIST * lists, _LEAST_ROWS))
    chosen = np.random.default_rng(seed).choice(total, size, replace=False)
    sample = unit_rows(features[np.sort(chosen)], "negative")

    rotation = faiss.OPQMatrix(dim, codes, width)
    rotation.niter = rotation.niter_pq_0 = rotation.niter_pq = _ROUNDS
    rotation.max_train_points = _ROTATION_SAMPLE
    centres = faiss.IndexFlatIP(width)
    coded = faiss.IndexIVFPQ(centres, width, lists, codes, 8, faiss.METRIC_INNER_PRODUCT)
    coded.cp.seed = coded.pq.cp.seed = seed
    coded.cp.spherical = True
    coded.pq.cp.niter = 2 * _ROUNDS
    rotated = faiss.IndexPreTransform(rotation, coded)
    rotated.train(sample)
    return rotated, {"nlist": lists, "code_bytes": codes, "training_rows": size, "seed": seed}
