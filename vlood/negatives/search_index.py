"""Look up the nearest rows of a bank, by cosine."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError
from vlood.negatives.unit_blocks import GatherableRows, unit_rows

# Approximate cosines put the true neighbours among so many times more.
_RERANK = {"flat": 1, "hnsw": 2, "ivfpq": 20}


@dataclass(frozen=True, eq=False)
class SearchIndex:
    """An index over the unit rows of a bank.

    Attributes:
        kind: ``flat`` (exact), ``hnsw`` or ``ivfpq``.
        rows: how many rows it holds.
        dim: their width.
        parameters: how it was built and is searched, JSON-able.
        recall: the measured share of the true 10 nearest that it finds; 1 for flat; None where
            it was not measured.
        faiss_index: the FAISS object.
    """

    kind: str
    rows: int
    dim: int
    parameters: dict[str, Any]
    recall: float | None
    faiss_index: Any = dataclasses.field(repr=False)

    def search(
        self, queries: NDArray[np.floating], k: int, *, rows: GatherableRows | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the nearest rows of each query, the nearest first.

        Args:
            queries: [n, D], of any length.
            k: how many; at most as many as there are rows.
            rows: the rows the index was built of; where given, more candidates than k are looked
                up and put in order by their exact cosines. Compressed rows (ivfpq) need this for
                a good recall.

        Returns:
            Cosines float32 [n, k] and row numbers int64 [n, k]. An approximate index that finds
            fewer fills up with -inf and -1; a flat one never does.

        Raises:
            UsageError: the queries have another width, or one has no direction.
        """
        asked = self._checked(queries)
        k = max(1, min(k, self.rows))
        if rows is None or self.kind == "flat":
            cosines, ids = self.faiss_index.search(asked, k)
            return np.where(ids < 0, np.float32(-np.inf), cosines), ids
        _, ids = self.faiss_index.search(asked, min(self.rows, _RERANK[self.kind] * k))
        cosines = _exact_cosines(asked, ids, rows)
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(cosines, order, 1), np.take_along_axis(ids, order, 1)

    def range_search(
        self, queries: NDArray[np.floating], cosine: float
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
        """Return every row whose cosine with a query is at least ``cosine``.

        Returns:
            Limits int64 [n + 1], cosines and row numbers: those of query i are at
            ``limits[i]:limits[i + 1]``, by row number.

        Raises:
            UsageError: the index is not flat, or the queries do not fit.
        """
        if self.kind != "flat":
            raise UsageError(
                f"the index is {self.kind}, which cannot find every row above a cosine; "
                "build a flat one"
            )
        # FAISS looks for larger cosines only.
        radius = np.nextafter(np.float32(cosine), np.float32(-2))
        limits, cosines, ids = self.faiss_index.range_search(self._checked(queries), float(radius))
        starts = limits.astype(np.int64)
        query_of = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        order = np.lexsort((ids, query_of))
        return starts, cosines[order], ids[order]

    def _checked(self, queries: NDArray[np.floating]) -> NDArray[np.float32]:
        asked = unit_rows(queries, "query")
        if asked.shape[1] != self.dim:
            raise UsageError(
                f"the queries are {asked.shape[1]} wide and the index {self.dim}; "
                "encode them with the bank's model"
            )
        return np.ascontiguousarray(asked)


def _exact_cosines(
    queries: NDArray[np.float32], ids: NDArray[np.int64], rows: GatherableRows
) -> NDArray[np.float32]:
    """Return the cosines [n, c] of the queries with the rows ``ids`` [n, c]; -inf for id -1."""
    cosines = np.full(ids.shape, -np.inf, np.float32)
    for place, query in enumerate(queries):
        there = ids[place] >= 0
        if there.any():
            cosines[place, there] = unit_rows(rows[ids[place, there]], "negative") @ query
    return cosines
