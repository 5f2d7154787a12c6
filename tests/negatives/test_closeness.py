from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlood.errors import UsageError
from vlood.negatives import closeness as module
from vlood.negatives.closeness import closeness_to_classes


def draw(count: int, dim: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def cosines(rows: np.ndarray, classes: np.ndarray) -> np.ndarray:
    first, second = rows.astype(np.float64), classes.astype(np.float64)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    return first @ second.T


@pytest.mark.parametrize("classes", [1, 2, 3, 20, 21, 41, 100, 101, 999])
@pytest.mark.parametrize("quantile", [0.0, 0.05, 0.5, 0.9, 0.95, 1.0])
def test_linear_is_numpys_quantile(classes: int, quantile: float) -> None:
    rows, ids = 3 * draw(70), draw(classes, seed=1)
    close = closeness_to_classes(rows, ids, quantile=quantile, block=16)
    expected = cosines(rows, ids)
    np.testing.assert_allclose(close.value, np.quantile(expected, quantile, axis=1), atol=1e-6)
    np.testing.assert_allclose(close.largest, expected.max(axis=1), atol=1e-6)
    np.testing.assert_array_equal(close.nearest, expected.argmax(axis=1))
    assert (close.value.dtype, close.largest.dtype, close.nearest.dtype) == ("f4", "f4", "i4")


@pytest.mark.parametrize("classes", [1, 2, 10, 19, 20, 21, 40, 100])
@pytest.mark.parametrize("quantile", [0.0, 0.29, 0.95, 1.0])
def test_index_takes_one_element(classes: int, quantile: float) -> None:
    rows, ids = draw(30), draw(classes, seed=1)
    place = min(int(round(quantile * classes, 9)), classes - 1)
    close = closeness_to_classes(rows, ids, quantile=quantile, rule="index")
    expected = np.sort(cosines(rows, ids), axis=1)[:, place]
    np.testing.assert_allclose(close.value, expected, atol=1e-6)


def test_of_a_thousand_classes_the_index_takes_the_fiftieth_largest() -> None:
    rows, ids = draw(8), draw(1000, seed=1)
    close = closeness_to_classes(rows, ids, quantile=0.95, rule="index")
    top = -np.sort(-cosines(rows, ids), axis=1)[:, :50]
    np.testing.assert_allclose(close.value, top[:, -1], atol=1e-6)


def test_a_place_does_not_slip_by_rounding() -> None:
    for quantile, classes in ((0.95, 21), (0.29, 101), (0.57, 101), (0.1, 11), (0.7, 11)):
        place = quantile * (classes - 1)
        assert module._place(quantile, "linear", classes) == (round(place), 0.0)


@given(st.integers(1, 60), st.floats(0, 1), st.integers(0, 10**6))
def test_the_quantile_lies_between_the_extremes(classes: int, quantile: float, seed: int) -> None:
    rows, ids = draw(9, seed=seed), draw(classes, seed=seed + 1)
    for rule in ("linear", "index"):
        close = closeness_to_classes(rows, ids, quantile=quantile, rule=rule)
        assert (close.value <= close.largest + 1e-6).all()
    close = closeness_to_classes(rows, ids, quantile=quantile)
    np.testing.assert_allclose(
        close.value, np.quantile(cosines(rows, ids), quantile, axis=1), atol=1e-6
    )


def test_of_one_class_the_quantile_is_its_cosine() -> None:
    close = closeness_to_classes(draw(5), draw(1, seed=1), quantile=0.3)
    np.testing.assert_array_equal(close.value, close.largest)
    assert not close.nearest.any()


def test_blocks_lengths_and_dtypes_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, ids = draw(103), draw(17, seed=1)
    expected = closeness_to_classes(rows, ids)
    np.save(tmp_path / "rows.npy", rows * 40)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    seen: list[tuple[int, int]] = []
    close = closeness_to_classes(
        mapped, 7 * ids, block=10, on_progress=lambda *done: seen.append(done)
    )
    np.testing.assert_allclose(close.value, expected.value, atol=1e-6)
    np.testing.assert_array_equal(close.nearest, expected.nearest)
    assert seen == [*((done, 103) for done in range(10, 101, 10)), (103, 103)]
    # Many classes make blocks of a few rows, at worst of one.
    monkeypatch.setattr(module, "_BLOCK_COSINES", 5)
    small = closeness_to_classes(rows, ids)
    np.testing.assert_allclose(small.value, expected.value, atol=1e-6)
    half = closeness_to_classes(rows.astype(np.float16), ids)
    np.testing.assert_allclose(half.value, expected.value, atol=2e-3)


def test_anything_with_a_length_that_can_be_sliced_will_do() -> None:
    class Words:
        def __init__(self) -> None:
            self.largest_slice = 0

        def __len__(self) -> int:
            return 50

        def __getitem__(self, rows: slice) -> np.ndarray:
            found = draw(50)[rows]
            self.largest_slice = max(self.largest_slice, len(found))
            return found

    words = Words()
    close = closeness_to_classes(words, draw(4, seed=1), block=8)
    expected = closeness_to_classes(draw(50), draw(4, seed=1))
    np.testing.assert_allclose(close.value, expected.value, atol=1e-6)
    assert words.largest_slice == 8


def test_no_candidates_are_no_values() -> None:
    assert len(closeness_to_classes(np.empty((0, 12), np.float32), draw(3))) == 0


def test_what_cannot_be_compared_is_refused() -> None:
    rows, ids = draw(30), draw(4, seed=1)
    with pytest.raises(UsageError, match="no class embeddings"):
        closeness_to_classes(rows, ids[:0])
    with pytest.raises(UsageError, match=r"12 wide and those of the classes 9; encode both"):
        closeness_to_classes(rows, ids[:, :9])
    with pytest.raises(UsageError, match="rule cubic: is unknown"):
        closeness_to_classes(rows, ids, rule="cubic")
    for quantile in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match="expected a share from 0 to 1"):
            closeness_to_classes(rows, ids, quantile=quantile)
    for bad in (0.0, np.nan, np.inf):
        rows[17] = bad
        with pytest.raises(UsageError, match="the candidate embedding in row 17 is NaN"):
            closeness_to_classes(rows, ids, block=8)
    with pytest.raises(UsageError, match=r"shape \(12,\); expected one row"):
        closeness_to_classes(draw(3), ids[0])
