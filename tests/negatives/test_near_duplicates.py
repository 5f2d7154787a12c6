from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlood.errors import UsageError
from vlood.negatives import near_duplicates as module
from vlood.negatives.near_duplicates import keep_distinct


def draw(count: int, dim: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def walked(
    rows: np.ndarray, limit: int, cosine: float, groups: np.ndarray | None = None
) -> tuple[list[int], dict[int, int]]:
    """Compare each row with each kept one, one at a time."""
    unit = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1)[:, None]
    kept: list[int] = []
    duplicate_of: dict[int, int] = {}
    left_out: dict[int, int] = {}
    for row in range(len(rows)):
        if len(kept) == limit:
            break
        for other in kept:
            if (groups is None or groups[row] == groups[other]) and unit[row] @ unit[
                other
            ] >= cosine - 1e-6:
                left_out[row] = other
                break
        else:
            kept.append(row)
            duplicate_of.update(left_out)
            left_out = {}
    if len(kept) < limit:
        duplicate_of.update(left_out)
    return kept, duplicate_of


@given(
    st.integers(1, 60),
    st.integers(1, 70),
    st.floats(-0.9, 0.999),
    st.integers(0, 10**6),
    st.booleans(),
    st.integers(1, 13),
)
def test_the_walk_is_that_of_one_row_at_a_time(
    count: int, limit: int, cosine: float, seed: int, grouped: bool, block: int
) -> None:
    rows = draw(count, seed=seed)
    groups = np.random.default_rng(seed).integers(0, 3, count) if grouped else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        patch.setattr(module, "_COLUMNS", 5)
        found = keep_distinct(rows, limit, cosine, groups=groups)
    assert (found.kept.tolist(), found.duplicate_of) == walked(rows, limit, cosine, groups)
    assert found.kept.dtype == np.int64


def test_copies_of_any_length_are_duplicates_at_cosine_one() -> None:
    rows = draw(40, dim=512)
    doubled = np.concatenate([rows, 1000 * rows, rows / 1000])
    found = keep_distinct(doubled, 1000, 1.0)
    assert found.kept.tolist() == list(range(40))
    assert found.duplicate_of == {row: row % 40 for row in range(40, 120)}


def test_a_row_like_one_left_out_is_kept() -> None:
    angles = np.deg2rad([0, 15, 30])  # the third is near the second only, which is not kept
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = keep_distinct(rows, 3, 0.95)
    assert found.kept.tolist() == [0, 2]
    assert found.duplicate_of == {1: 0}


def test_nothing_after_the_last_kept_row_is_looked_at() -> None:
    rows = np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 2]]
    found = keep_distinct(rows, 2, 0.9)
    assert found.kept.tolist() == [0, 2]
    assert found.duplicate_of == {1: 0}
    assert len(keep_distinct(rows, 0, 0.9).kept) == 0
    assert len(keep_distinct(rows[:0], 5, 0.9).kept) == 0


def test_above_one_nothing_is_a_duplicate() -> None:
    assert len(keep_distinct(np.ones((30, 4), np.float32), 100, 1.01).kept) == 30


def test_many_rows_through_several_blocks() -> None:
    rows = draw(3000, dim=32)
    copies = np.random.default_rng(1).integers(0, 1500, 700)
    rows[2000:2700] = rows[copies] * 2
    found = keep_distinct(rows, 3000, 0.999)
    assert len(found.kept) == 2300
    assert found.duplicate_of == {2000 + place: row for place, row in enumerate(copies.tolist())}


def test_a_row_without_a_direction_is_refused() -> None:
    rows = draw(2000)
    rows[1500] = 0
    with pytest.raises(UsageError, match="row 1500"):
        keep_distinct(rows, 2000, 0.99999)
