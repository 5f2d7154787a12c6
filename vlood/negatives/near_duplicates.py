"""Leave out negatives that say what a better one says already."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlood.negatives.unit_blocks import unit_rows

_BLOCK = 1024
_COLUMNS = 8192
# Two equal rows may have a float32 cosine just below 1.
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Distinct:
    """Rows that are no near duplicates of each other.

    Attributes:
        kept: int64, the kept rows in the order given.
        duplicate_of: for each row left out before the last one kept (or before the end, where the
            limit was not reached), the first kept row that it is a near duplicate of.
    """

    kept: NDArray[np.int64]
    duplicate_of: dict[int, int]


def keep_distinct(
    features: NDArray[np.floating],
    limit: int,
    cosine: float,
    *,
    groups: NDArray[np.integer] | None = None,
) -> Distinct:
    """Walk the rows in order and keep each that is not too similar to one kept before.

    Exact. Beside the kept rows it needs about 100 MB, whatever N is.

    Args:
        features: [N, D] of any length, the best first.
        limit: stop when so many are kept.
        cosine: leave a row out when its cosine with a kept one is at least this (to within 1e-6).
        groups: integers [N]; where given, only rows of one group can be duplicates.

    Raises:
        UsageError: a row is not finite or is all zeros.
    """
    total = len(features)
    threshold = np.float32(cosine - _ROUNDING)
    kept: list[int] = []
    kept_rows = np.empty((0, 0), np.float32)
    duplicate_of: dict[int, int] = {}
    for first in range(0, total if limit > 0 else 0, _BLOCK):
        block = unit_rows(features[first : first + _BLOCK], "candidate", first)
        numbers = np.arange(first, first + len(block))
        if kept_rows.size == 0:
            kept_rows = np.empty((min(limit, total), block.shape[1]), np.float32)
        duplicated = _first_similar(
            block, numbers, kept_rows[: len(kept)], np.array(kept, np.int64), threshold, groups
        )
        fresh = _walk(block, numbers, duplicated, threshold, groups)
        stopped = len(kept) + len(fresh) >= limit
        fresh = fresh[: limit - len(kept)]
        kept_rows[len(kept) : len(kept) + len(fresh)] = block[fresh]
        kept.extend(numbers[fresh].tolist())
        seen = int(fresh[-1]) if stopped else len(block)
        for place in np.flatnonzero(duplicated[:seen] >= 0).tolist():
            duplicate_of[first + place] = int(duplicated[place])
        if stopped:
            break
    return Distinct(np.array(kept, np.int64), duplicate_of)


def _first_similar(
    block: NDArray[np.float32],
    numbers: NDArray[np.int64],
    kept_rows: NDArray[np.float32],
    kept: NDArray[np.int64],
    threshold: np.float32,
    groups: NDArray[np.integer] | None,
) -> NDArray[np.int64]:
    """Return for each row of the block the first kept row that it duplicates, or -1."""
    found = np.full(len(block), -1, np.int64)
    for start in range(0, len(kept), _COLUMNS):
        columns = slice(start, start + _COLUMNS)
        similar = block @ kept_rows[columns].T >= threshold
        if groups is not None:
            similar &= groups[numbers][:, None] == groups[kept[columns]][None]
        hit = similar.any(axis=1) & (found < 0)
        found[hit] = kept[columns][similar[hit].argmax(axis=1)]
    return found


def _walk(
    block: NDArray[np.float32],
    numbers: NDArray[np.int64],
    duplicated: NDArray[np.int64],
    threshold: np.float32,
    groups: NDArray[np.integer] | None,
) -> NDArray[np.int64]:
    """Return the places in the block to keep; fill in what the others duplicate within it."""
    similar = np.triu(block @ block.T >= threshold, k=1)
    if groups is not None:
        similar &= groups[numbers][:, None] == groups[numbers][None]
    for place in np.flatnonzero(similar.any(axis=1)).tolist():
        if duplicated[place] < 0:
            later = similar[place] & (duplicated < 0)
            duplicated[later] = numbers[place]
    return np.flatnonzero(duplicated < 0)
