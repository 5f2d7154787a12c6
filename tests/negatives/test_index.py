from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlood.errors import UsageError
from vlood.negatives import index as module
from vlood.negatives.index import (
    SearchIndex,
    build_index,
    choose_kind,
    measure_recall,
    read_index,
    write_index,
)


def draw(count: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def clustered(count: int, dim: int, seed: int = 0) -> np.ndarray:
    """Draw random rows around random centres, 200 to a centre."""
    rng = np.random.default_rng(seed)
    centres = draw(max(1, count // 200), dim, seed + 1)
    return centres[rng.integers(0, len(centres), count)] + 0.8 * draw(count, dim, seed + 2)


def nearest(queries: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    first = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    second = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = first.astype(np.float64) @ second.T.astype(np.float64)
    ids = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(cosines, ids, 1), ids


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return 5 * clustered(12_000, 32)


@pytest.fixture(scope="module", params=["flat", "hnsw", "ivfpq"])
def built(request: pytest.FixtureRequest, rows: np.ndarray) -> SearchIndex:
    return build_index(rows, request.param)


def test_kinds_are_chosen_by_size() -> None:
    chosen = {
        (199_999, 512): "flat",
        (200_000, 512): "hnsw",
        (5_000_000, 512): "hnsw",
        (5_000_001, 512): "ivfpq",
        (4_000_000, 2048): "ivfpq",  # a graph of 18 GB
    }
    for (count, dim), kind in chosen.items():
        found, reason = choose_kind(count, dim)
        assert found == kind
        assert reason.startswith(f"{kind}: ")
        assert "\n" not in reason
    assert choose_kind(100_000, 512, memory=1 << 20)[0] == "ivfpq"


@settings(max_examples=25)
@given(st.integers(1, 80), st.integers(1, 100), st.integers(0, 10**6))
def test_flat_is_exact(count: int, k: int, seed: int) -> None:
    rows, queries = draw(count, seed=seed) * 7, draw(5, seed=seed + 1) / 3
    index = build_index(rows)
    cosines, ids = index.search(queries, k)
    expected, expected_ids = nearest(queries, rows, k)
    np.testing.assert_allclose(cosines, expected, atol=1e-5)
    np.testing.assert_array_equal(ids, expected_ids)
    assert (ids.dtype, cosines.dtype) == ("i8", "f4")
    assert (index.kind, index.rows, index.dim, index.recall) == ("flat", count, 16, 1.0)


def test_every_kind_finds_a_row_by_itself_and_its_neighbours(
    built: SearchIndex, rows: np.ndarray
) -> None:
    queries = rows[:200] + draw(200, 32, 9)
    _, expected = nearest(queries, rows, 10)
    cosines, ids = built.search(queries, 10, rows=rows)
    assert (ids[:, :, None] == expected[:, None, :]).any(axis=1).mean() >= 0.97
    every, order = nearest(queries, rows, len(rows))
    true = np.take_along_axis(every, np.argsort(order, axis=1), 1)
    np.testing.assert_allclose(cosines, np.take_along_axis(true, ids, 1), atol=1e-5)
    assert (np.diff(cosines, axis=1) <= 0).all()
    assert (built.search(rows[:50], 1, rows=rows)[1][:, 0] == np.arange(50)).mean() > 0.95


def test_recall_and_parameters_are_kept(built: SearchIndex, rows: np.ndarray) -> None:
    assert built.recall is not None
    assert built.recall >= 0.98
    assert measure_recall(built, rows, sample=500, seed=7) >= 0.975
    assert json.loads(json.dumps(built.parameters)) == built.parameters
    assert built.parameters["recall"] == pytest.approx(built.recall, abs=1e-4)
    effort = {"flat": None, "hnsw": "efSearch", "ivfpq": "nprobe"}[built.kind]
    assert effort is None or built.parameters[effort] > 0


def test_recall_of_a_wrong_index_is_low(rows: np.ndarray) -> None:
    other = build_index(rows[::-1].copy(), "flat")
    assert measure_recall(other, rows, sample=100) < 0.05
    assert measure_recall(build_index(rows[:3], "flat"), rows[:3], k=10) == 1.0


def test_recall_is_measured_block_by_block(
    rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlood.negatives import recall

    monkeypatch.setattr(recall, "_BLOCK_BYTES", 4 * 32 * 1000)
    queries = rows[:40] + draw(40, 32, 3)
    _, expected = nearest(queries, rows, 10)
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    np.testing.assert_array_equal(recall.exact_neighbours(rows, unit, 10), expected)


def test_a_memory_map_is_indexed_in_blocks(
    tmp_path: Path, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "rows.npy", rows[:1000])
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    monkeypatch.setattr(module, "_BLOCK_BYTES", 4 * 32 * 300)
    seen: list[tuple[int, int]] = []
    index = build_index(mapped, on_progress=lambda *done: seen.append(done))
    assert seen == [(300, 1000), (600, 1000), (900, 1000), (1000, 1000)]
    np.testing.assert_array_equal(index.search(rows[:1000], 1)[1][:, 0], np.arange(1000))


def test_rows_without_neighbourhoods_fall_back_to_an_exact_index(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FLAT_BELOW", 1000)
    monkeypatch.setattr(module, "_EFFORTS", {"hnsw": (10,)})
    random = draw(8000, 128)
    index = build_index(random, "auto")
    assert index.kind == "flat"
    assert "hnsw would find only" in index.parameters["reason"]
    asked = build_index(random, "hnsw")
    assert asked.kind == "hnsw"
    assert asked.recall is not None
    assert asked.recall < 0.98  # and says so


def test_few_found_are_filled_up_with_minus_one(rows: np.ndarray) -> None:
    index = build_index(rows, "ivfpq")
    faiss.extract_index_ivf(index.faiss_index).nprobe = 1
    for given_rows in (None, rows):
        cosines, ids = index.search(rows[:20], 2000, rows=given_rows)
        assert ids.shape == (20, 2000)
        assert (ids == -1).any()
        np.testing.assert_array_equal(ids == -1, np.isneginf(cosines))


def test_range_search_finds_all_at_least_as_near() -> None:
    rows = np.array([[1, 0], [3, 4], [0, 2], [-1, 0], [2, 0]], np.float32)
    index = build_index(rows)
    limits, cosines, ids = index.range_search(np.array([[5.0, 0.0], [0.0, 1.0]]), 0.6)
    assert limits.tolist() == [0, 3, 5]
    assert ids.tolist() == [0, 1, 4, 1, 2]
    np.testing.assert_allclose(cosines, [1, 0.6, 1, 0.8, 1], atol=1e-6)
    assert index.range_search(rows, 1.5)[0].tolist() == [0] * 6
    with pytest.raises(UsageError, match="hnsw, which cannot find every row"):
        build_index(draw(500), "hnsw").range_search(draw(1), 0.9)


def test_every_kind_comes_back_from_disk(
    built: SearchIndex, rows: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "negatives.faiss"
    record = json.loads(json.dumps(write_index(path, built)))
    assert [each.name for each in tmp_path.iterdir()] == ["negatives.faiss"]
    back = read_index(path, record)
    assert (back.kind, back.rows, back.dim) == (built.kind, built.rows, built.dim)
    assert (back.recall, back.parameters) == (built.recall, built.parameters)
    for mine, its in zip(built.search(rows[:30], 7), back.search(rows[:30], 7), strict=True):
        np.testing.assert_array_equal(mine, its)


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :]


DAMAGE = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "first byte": lambda data: flipped(data, 0),
    "a length": lambda data: flipped(data, 37),
    "in the middle": lambda data: flipped(data, len(data) // 2),
    "last byte": lambda data: flipped(data, len(data) - 1),
    "text": lambda data: b"these are no vectors\n" * 50,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_a_damaged_file_is_refused(tmp_path: Path, kind: str, damage: Any) -> None:
    path = tmp_path / "negatives.faiss"
    record = write_index(path, build_index(draw(300), kind))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UsageError, match=r"negatives\.faiss: the index .*; mine again or rebuild"):
        read_index(path, record)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 299}, "holds 300 x 16 numbers, expected 299 x 16"),
        ({"dim": 32}, "holds 300 x 16 numbers, expected 300 x 32"),
        ({"kind": "hnsw"}, "is no hnsw index"),
        ({"kind": "tree"}, "its kind tree is unknown"),
        ({"rows": "many"}, "its record in the bank is incomplete"),
        ({"parameters": None}, "its record in the bank is incomplete"),
        ({"recall": "good"}, "its record in the bank is incomplete"),
        ({"sha256": None}, "does not match the digest"),
    ],
)
def test_a_record_of_another_index_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "negatives.faiss"
    record = write_index(path, build_index(draw(300)))
    with pytest.raises(UsageError, match=message):
        read_index(path, record | change)


def test_foreign_bytes_with_their_own_digest_are_refused(tmp_path: Path) -> None:
    from hashlib import sha256

    path = tmp_path / "negatives.faiss"
    record = write_index(path, build_index(draw(300)))
    lengths = faiss.IndexFlatL2(16)
    lengths.add(draw(300))
    for data, message in (
        (b"words", "no FAISS index"),
        (path.read_bytes()[:200], "no FAISS index"),
        (faiss.serialize_index(lengths).tobytes(), "does not compare by cosine"),
    ):
        path.write_bytes(data)
        with pytest.raises(UsageError, match=message):
            read_index(path, record | {"sha256": sha256(data).hexdigest()})


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    record = write_index(tmp_path / "one", build_index(draw(3)))
    with pytest.raises(UsageError, match=r"two: the index No such file.*; mine again"):
        read_index(tmp_path / "two", record)


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "negatives.faiss"
    index = build_index(draw(30))
    record = write_index(path, index)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("vlood.features.atomic.os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_index(path, build_index(draw(40)))
    assert [each.name for each in tmp_path.iterdir()] == ["negatives.faiss"]
    assert read_index(path, record).rows == 30


def test_bad_input_is_refused() -> None:
    rows = draw(40)
    with pytest.raises(UsageError, match="index tree: is unknown"):
        build_index(rows, "tree")
    with pytest.raises(UsageError, match="no rows to index"):
        build_index(rows[:0])
    with pytest.raises(UsageError, match="40 rows are too few to learn from"):
        build_index(rows, "ivfpq")
    index = build_index(rows)
    with pytest.raises(UsageError, match="the queries are 9 wide and the index 16"):
        index.search(rows[:, :9], 3)
    with pytest.raises(UsageError, match="the query embedding in row 0 is NaN"):
        index.search(np.zeros((1, 16), np.float32), 3)
    assert index.search(rows[:0], 3)[1].shape == (0, 3)
    rows[33] = np.nan
    with pytest.raises(UsageError, match="the negative embedding in row 33 is NaN"):
        build_index(rows)


@pytest.mark.slow
def test_a_large_bank_is_searched_through_a_graph_with_little_loss() -> None:
    rows = clustered(40_000, 64)
    index = build_index(rows, "hnsw")
    assert measure_recall(index, rows, sample=1000, seed=1) >= 0.98
