"""The FAISS index of a bank: the nearest negatives of a text or an image, by cosine.

Inner products of unit rows are cosines. Small banks are searched exactly (``flat``); large ones
by a graph over half-precision rows (``hnsw``: Malkov and Yashunin 2018), and very large ones by
compressed rows in lists (``ivfpq``: Jegou et al. 2011, with the rotation of Ge et al. 2013).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from vlood.errors import UsageError
from vlood.negatives.compressed_index import train_compressed
from vlood.negatives.index_file import read_index, write_index
from vlood.negatives.recall import exact_neighbours, measure_recall, perturbed_rows, recall_of
from vlood.negatives.search_index import SearchIndex
from vlood.negatives.unit_blocks import GatherableRows, unit_blocks, unit_rows

__all__ = [
    "SearchIndex",
    "build_index",
    "choose_kind",
    "measure_recall",
    "read_index",
    "write_index",
]

KINDS = ("flat", "hnsw", "ivfpq")
FLAT_BELOW = 200_000
HNSW_UP_TO = 5_000_000
MEMORY_BUDGET = 8 << 30
# Aimed at a little above the 0.98 that is promised: another sample of queries differs.
TARGET_RECALL = 0.985

_BLOCK_BYTES = 64 << 20
_HNSW_LINKS = 32
_HNSW_CONSTRUCTION = 80
_EFFORTS = {"hnsw": (64, 128, 256, 512, 1024), "ivfpq": (8, 16, 32, 64, 128, 256, 512, 1024)}
_EFFORT_NAME = {"hnsw": "efSearch", "ivfpq": "nprobe"}
_TUNING_QUERIES = 500


def choose_kind(rows: int, dim: int, memory: int = MEMORY_BUDGET) -> tuple[str, str]:
    """Choose the kind of index for so many rows; return it with a line that says why.

    Args:
        rows: how many.
        dim: their width.
        memory: bytes the index may take.
    """
    flat, graph = 4 * dim * rows, (2 * dim + 8 * _HNSW_LINKS + 16) * rows
    if rows < FLAT_BELOW and flat <= memory:
        return "flat", f"flat: {rows:,} rows are few enough to search exactly"
    if rows > HNSW_UP_TO:
        return "ivfpq", f"ivfpq: {rows:,} rows are more than {HNSW_UP_TO:,}, so they are compressed"
    if graph > memory:
        return "ivfpq", (
            f"ivfpq: a graph over {rows:,} rows of {dim} would take {graph / 2**30:.1f} GiB, more "
            f"than {memory / 2**30:.1f}, so they are compressed"
        )
    return "hnsw", f"hnsw: {rows:,} rows are searched fastest through a graph"


def build_index(
    features: GatherableRows,
    kind: str = "auto",
    *,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> SearchIndex:
    """Build an index and, where it is approximate, set its effort so that the recall is 0.98.

    The effort (efSearch, nprobe) is the smallest on a ladder with which perturbed rows find 98.5 %
    of their true 10 nearest. Where the graph misses that (rows without any neighbourhoods, in
    many dimensions) ``auto`` falls back to an exact index and says so in its parameters.
    Rows are added in blocks, so that a memory map is never read whole. A graph built by several
    threads differs a little from run to run.

    Args:
        features: [N, D] of any length; an array or a memory map.
        kind: ``auto`` (by :func:`choose_kind`), ``flat``, ``hnsw`` or ``ivfpq``.
        seed: of the training sample and of the tuning queries.
        on_progress: called with (rows added, all of them).

    Raises:
        UsageError: an unknown kind, no row, or a row that is not finite or is all zeros.
    """
    if kind not in ("auto", *KINDS):
        raise UsageError(f"index {kind}: is unknown; take auto, {', '.join(KINDS)}")
    total = len(features)
    if total == 0:
        raise UsageError("there are no rows to index; give at least one")
    dim = unit_rows(features[slice(0, 1)], "negative").shape[1]
    chosen, reason = choose_kind(total, dim) if kind == "auto" else (kind, f"{kind}: as asked")
    index = _filled(features, dim, chosen, reason, seed, on_progress)
    if chosen == "flat":
        return index
    index = _tuned(index, features, seed)
    short = index.recall is not None and index.recall < TARGET_RECALL
    if kind == "auto" and short and 4 * dim * total <= MEMORY_BUDGET:
        why = f"flat: {chosen} would find only {index.recall:.3f} of the nearest in these rows"
        return _filled(features, dim, "flat", why, seed, on_progress)
    return index


def _filled(
    features: GatherableRows,
    dim: int,
    kind: str,
    reason: str,
    seed: int,
    on_progress: Callable[[int, int], None] | None,
) -> SearchIndex:
    import faiss

    total = len(features)
    made: Any
    recall: float | None = None
    parameters: dict[str, Any] = {"reason": reason}
    if kind == "flat":
        made, recall = faiss.IndexFlatIP(dim), 1.0
        parameters["recall"] = recall
    elif kind == "hnsw":
        # Half precision: half the memory and half the time to build, at the same recall.
        half: Any = faiss.ScalarQuantizer.QT_fp16
        made = faiss.IndexHNSWSQ(dim, half, _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        made.hnsw.efConstruction = _HNSW_CONSTRUCTION
        parameters |= {"M": _HNSW_LINKS, "efConstruction": _HNSW_CONSTRUCTION, "rows": "float16"}
        made.train(unit_rows(features[slice(0, 1)], "negative"))
    else:
        made, described = train_compressed(features, dim, seed)
        parameters |= described
    for first, block in unit_blocks(features, max(1, _BLOCK_BYTES // (4 * dim)), "negative"):
        if block.shape[1] != dim:
            raise UsageError(
                f"row {first} is {block.shape[1]} wide and the first {dim}; give rows of one width"
            )
        made.add(block)
        if on_progress is not None:
            on_progress(first + len(block), total)
    return SearchIndex(kind, total, dim, parameters, recall, made)


def _tuned(index: SearchIndex, features: GatherableRows, seed: int) -> SearchIndex:
    """Return the index with the smallest effort that reaches the target, or with the largest."""
    queries = perturbed_rows(features, _TUNING_QUERIES, seed)
    neighbours = exact_neighbours(features, queries, min(10, index.rows))
    effort, recall = 0, 0.0
    for effort in _EFFORTS[index.kind]:
        _set_effort(index, effort)
        recall = recall_of(index, features, queries, neighbours)
        if recall >= TARGET_RECALL:
            break
    tuned = {
        _EFFORT_NAME[index.kind]: effort,
        "recall": round(recall, 4),
        "recall_of": f"10 nearest of {len(queries)} perturbed rows, seed {seed}",
    }
    return dataclasses.replace(index, parameters=index.parameters | tuned, recall=recall)


def _set_effort(index: SearchIndex, effort: int) -> None:
    import faiss

    if index.kind == "hnsw":
        index.faiss_index.hnsw.efSearch = effort
    else:
        lists = faiss.extract_index_ivf(index.faiss_index)
        lists.nprobe = min(effort, lists.nlist)
