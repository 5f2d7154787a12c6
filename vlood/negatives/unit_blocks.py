"""Read candidate embeddings block by block as unit rows, wherever they lie."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError


class Rows(Protocol):
    """N embeddings that can be sliced: an array, a memory map, or words encoded on demand."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Any: ...


class GatherableRows(Rows, Protocol):
    """Rows that can also be taken by their numbers, such as an array or a memory map."""

    def __getitem__(self, rows: slice | NDArray[np.int64], /) -> Any: ...


def unit_blocks(rows: Rows, size: int, what: str) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield (first row number, float32 [size, D] of unit rows) from the first row to the last.

    Args:
        rows: N embeddings of any length and any floating dtype.
        size: rows a block; the last may be shorter.
        what: what a row is, for errors.

    Raises:
        UsageError: the rows are not [N, D], or one is not finite or is all zeros.
    """
    for first in range(0, len(rows), size):
        yield first, unit_rows(rows[slice(first, first + size)], what, first)


def unit_rows(rows: Any, what: str, first: int = 0) -> NDArray[np.float32]:
    """Scale rows [n, D] to length 1, as float32; ``first`` is the number of the first, for errors.

    Raises:
        UsageError: not [n, D], or a row that is not finite or is all zeros.
    """
    block = np.asarray(rows, dtype=np.float32)
    if block.ndim != 2 or block.shape[1] == 0:
        raise UsageError(
            f"the {what} embeddings have shape {block.shape}; expected one row of numbers for each "
            f"{what}: give them as a 2-D array"
        )
    # In float64, so that a row of numbers near float32's largest has a length.
    lengths = np.sqrt(np.einsum("nd,nd->n", block, block, dtype=np.float64))
    bad = ~np.isfinite(lengths) | (lengths == 0)
    if bad.any():
        row = first + int(np.flatnonzero(bad)[0])
        raise UsageError(
            f"the {what} embedding in row {row} is NaN, infinite or all zeros; encode it again or "
            "leave it out"
        )
    return np.asarray(block / lengths[:, None], dtype=np.float32)
