"""Embeddings from every format, and every way they can be wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from vlood.errors import UsageError
from vlood.features.embeddings import looks_like_embeddings, read_embeddings
from vlood.features.row_names import read_labels, read_names
from vlood.features.store import EmbeddingStoreWriter

FEATURES = np.arange(1, 13, dtype=np.float32).reshape(4, 3) / 7
IDS = ["a.jpg", "dir/b.jpg", "c d.jpg", "ü.jpg"]
LABELS = ["cat", "dog", "cat", "owl"]


def write(path: Path, array: Any, **more: Any) -> Path:
    """Write an array, and perhaps ids and labels, in the format of the path's suffix."""
    array = np.asarray(array)
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez(path, features=array, **more)
    elif path.suffix == ".safetensors":
        text = {name: json.dumps(values) for name, values in more.items()}
        save_file({"features": np.ascontiguousarray(array)}, path, metadata=text or None)
    else:
        columns: dict[str, Any] = {"embedding": pa.array(list(array))}
        if "ids" in more:
            columns["id"] = more["ids"]
        if "labels" in more:
            columns["label"] = more["labels"]
        pq.write_table(pa.table(columns), path)
    return path


every_format = pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".parquet"])
with_names = pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".parquet"])


@every_format
@pytest.mark.parametrize("kind", ["float32", "float16", "float64", "int64", "uint8"])
def test_every_format_and_number_becomes_float32(tmp_path: Path, suffix: str, kind: str) -> None:
    stored = (FEATURES * 100).astype(kind)
    read = read_embeddings(write(tmp_path / f"e{suffix}", stored))
    assert read.features.dtype == np.float32
    np.testing.assert_array_equal(read.features, stored.astype(np.float32))
    assert read.ids == ["0", "1", "2", "3"]
    assert read.labels is None
    assert len(read) == 4


@with_names
def test_ids_and_labels_travel(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"e{suffix}", FEATURES, ids=IDS, labels=LABELS)
    read = read_embeddings(path)
    assert read.ids == IDS
    assert read.labels == LABELS


@with_names
def test_numbered_labels_become_text(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"e{suffix}", FEATURES, labels=[3, 0, 3, 1])
    assert read_embeddings(path).labels == ["3", "0", "3", "1"]


def test_class_names_are_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", features=FEATURES, names=LABELS)
    assert read_embeddings(tmp_path / "e.npz").labels == LABELS


def test_tensors_of_labels_and_local_embeddings(tmp_path: Path) -> None:
    local = np.ones((4, 2, 3), dtype=np.float16)
    tensors = {"features": FEATURES, "labels": np.array([1, 0, 1, 2]), "local": local}
    save_file(tensors, tmp_path / "e.safetensors")
    read = read_embeddings(tmp_path / "e.safetensors")
    assert read.labels == ["1", "0", "1", "2"]
    assert isinstance(read.local, np.ndarray)
    assert read.local.dtype == np.float32
    assert read.local.shape == (4, 2, 3)


def test_brain_floats_are_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_tensors

    tensor = torch.tensor(FEATURES).to(torch.bfloat16)
    save_tensors({"features": tensor}, tmp_path / "e.safetensors")
    read = read_embeddings(tmp_path / "e.safetensors")
    np.testing.assert_array_equal(read.features, tensor.float().numpy())


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float16()), pa.large_list(pa.float64()), pa.list_(pa.float32(), 3)]
)
def test_every_kind_of_list_column_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    rows = [list(row) for row in FEATURES.astype(np.float16)]
    table = pa.table({"embedding": pa.array(rows, type=kind), "path": IDS, "other": LABELS})
    pq.write_table(table, tmp_path / "e.parquet", row_group_size=2)
    read = read_embeddings(tmp_path / "e.parquet")
    np.testing.assert_array_equal(read.features, FEATURES.astype(np.float16).astype(np.float32))
    assert read.ids == IDS


def test_a_row_without_a_label_has_an_empty_one(tmp_path: Path) -> None:
    path = write(tmp_path / "e.parquet", FEATURES, labels=["cat", None, "dog", None])
    assert read_embeddings(path).labels == ["cat", "", "dog", ""]
    path = write(tmp_path / "n.parquet", FEATURES, labels=pa.array([None] * 4, pa.string()))
    assert read_embeddings(path).labels is None


def test_fortran_order_and_foreign_bytes_are_read(tmp_path: Path) -> None:
    for array in (np.asfortranarray(FEATURES), FEATURES.astype(">f4"), FEATURES[::-1]):
        read = read_embeddings(write(tmp_path / "e.npy", array))
        np.testing.assert_array_equal(read.features, array)
        assert read.features.flags.c_contiguous


@every_format
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_counted(tmp_path: Path, suffix: str, value: float) -> None:
    array = FEATURES.copy()
    array[2, 1] = array[3, 0] = value
    path = write(tmp_path / f"e{suffix}", array)
    with pytest.raises(UsageError, match=r"2 of 4 rows hold NaN or infinite.*first is row 2"):
        read_embeddings(path)


def test_a_number_too_large_for_single_precision_is_not_finite(tmp_path: Path) -> None:
    path = write(tmp_path / "e.npy", FEATURES.astype(np.float64) * 1e300)
    with pytest.raises(UsageError, match="4 of 4 rows"):
        read_embeddings(path)


def test_rows_of_zeros_are_refused(tmp_path: Path) -> None:
    array = np.ones((20_000, 2), dtype=np.float32)
    array[[9_000, 19_999]] = 0
    with pytest.raises(UsageError, match=r"2 of 20000 rows are all zero.*first is row 9000"):
        read_embeddings(write(tmp_path / "e.npy", array))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(3), r"\[N, D\], not \[3\]"),
        (np.zeros((2, 3, 4)), r"not \[2, 3, 4\]"),
        (np.zeros((0, 3)), "no embeddings"),
        (np.zeros((3, 0)), "no embeddings"),
        (np.array([["a", "b"]]), "are numbers, not <U1"),
        (np.ones((2, 2), dtype=complex), "are numbers, not complex128"),
        (np.ones((2, 2), dtype=bool), "are numbers, not bool"),
    ],
)
def test_what_is_no_matrix_of_numbers_is_refused(
    tmp_path: Path, array: np.ndarray, message: str
) -> None:
    for suffix in (".npy", ".npz"):
        with pytest.raises(UsageError, match=message):
            read_embeddings(write(tmp_path / f"e{suffix}", array))


def test_the_wrong_width_names_both(tmp_path: Path) -> None:
    path = write(tmp_path / "e.npy", FEATURES)
    assert read_embeddings(path, expected_dim=3).features.shape == (4, 3)
    with pytest.raises(UsageError, match="3 numbers where 512 were expected"):
        read_embeddings(path, expected_dim=512)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    bomb = np.array([{"a": 1}, None], dtype=object)
    np.save(tmp_path / "e.npy", bomb, allow_pickle=True)
    np.savez(tmp_path / "e.npz", features=FEATURES, ids=bomb)
    for name in ("e.npy", "e.npz"):
        with pytest.raises(UsageError, match="Python objects"):
            read_embeddings(tmp_path / name)


@every_format
def test_every_truncation_is_one_sentence(tmp_path: Path, suffix: str) -> None:
    data = write(tmp_path / f"whole{suffix}", FEATURES).read_bytes()
    path = tmp_path / f"cut{suffix}"
    for length in sorted({*range(0, min(len(data), 140), 9), len(data) // 2, len(data) - 1}):
        path.write_bytes(data[:length])
        with pytest.raises(UsageError) as failure:
            read_embeddings(path)
        assert "\n" not in str(failure.value)
        assert str(path) in str(failure.value)


@every_format
@settings(max_examples=25, deadline=None)
@given(noise=st.binary(max_size=200))
def test_noise_is_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, noise: bytes
) -> None:
    path = tmp_path_factory.mktemp("noise") / f"e{suffix}"
    path.write_bytes(noise)
    with pytest.raises(UsageError):
        read_embeddings(path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_ids_and_labels_must_be_as_many_as_rows(tmp_path: Path, suffix: str) -> None:
    for name in ("ids", "labels"):
        path = write(tmp_path / f"{name}{suffix}", FEATURES, **{name: ["a", "b"]})
        with pytest.raises(UsageError, match=f"2 {name} for 4 embeddings"):
            read_embeddings(path)


def test_a_file_without_embeddings_says_what_is_missing(tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", other=FEATURES)
    save_file({"other": FEATURES}, tmp_path / "e.safetensors")
    for name in ("e.npz", "e.safetensors"):
        with pytest.raises(UsageError, match="no array named features"):
            read_embeddings(tmp_path / name)
    pq.write_table(pa.table({"vector": [[1.0]]}), tmp_path / "e.parquet")
    with pytest.raises(UsageError, match="no column named embedding, only vector"):
        read_embeddings(tmp_path / "e.parquet")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([[1.0, 2.0], [1.0]], "rows of 1 to 2 numbers"),
        ([[1.0], None], "1 rows of the column embedding are empty"),
        ([[1.0], [None]], "1 numbers of the column embedding are empty"),
        ([1.0, 2.0], "holds double, not lists"),
        ([["a"], ["b"]], "are numbers"),
    ],
)
def test_columns_that_are_no_matrix_are_refused(
    tmp_path: Path, column: list[Any], message: str
) -> None:
    pq.write_table(pa.table({"embedding": column}), tmp_path / "e.parquet")
    with pytest.raises(UsageError, match=message):
        read_embeddings(tmp_path / "e.parquet")


def test_absent_and_foreign_paths_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_embeddings(tmp_path / "absent.npy")
    (tmp_path / "e.csv").write_text("1,2")
    with pytest.raises(UsageError, match=r"are read from \.npy"):
        read_embeddings(tmp_path / "e.csv")
    with pytest.raises(UsageError, match="holds no embeddings"):
        read_embeddings(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the platform has no FIFOs")
def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "e.npy")
    with pytest.raises(UsageError):
        read_embeddings(tmp_path / "e.npy")


def test_a_store_reads_like_a_file(tmp_path: Path) -> None:
    with EmbeddingStoreWriter(tmp_path / "store", {"model": "m"}) as writer:
        writer.append(IDS, ["cat", None, "cat", "owl"], FEATURES)
        writer.finish()
    assert looks_like_embeddings(tmp_path / "store")
    read = read_embeddings(tmp_path / "store", expected_dim=3)
    np.testing.assert_array_equal(read.features, FEATURES)
    assert read.ids == IDS
    assert read.labels == ["cat", "", "cat", "owl"]
    assert read.meta == {"model": "m"}


def test_embeddings_are_told_from_images_by_name(tmp_path: Path) -> None:
    assert looks_like_embeddings(Path("a/B.NPY"))
    assert looks_like_embeddings(Path("x.parquet"))
    assert not looks_like_embeddings(Path("x.jpg"))
    assert not looks_like_embeddings(tmp_path)


def test_labels_are_read_from_arrays_and_text(tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", np.array([2, 0]))
    assert read_labels(tmp_path / "labels.npy", count=2) == ["2", "0"]
    np.save(tmp_path / "names.npy", np.array(["cat", "dog"]))
    assert read_labels(tmp_path / "names.npy") == ["cat", "dog"]
    (tmp_path / "labels.txt").write_text("cat\ndog \n", encoding="utf-8")
    assert read_labels(tmp_path / "labels.txt") == ["cat", "dog"]
    with pytest.raises(UsageError, match="2 labels for 3"):
        read_labels(tmp_path / "labels.npy", count=3)
    np.save(tmp_path / "soft.npy", np.array([0.5, 1.0]))
    with pytest.raises(UsageError, match=r"whole numbers or names, not 0\.5"):
        read_labels(tmp_path / "soft.npy")
    np.save(tmp_path / "matrix.npy", np.zeros((2, 2)))
    with pytest.raises(UsageError, match="one number or name a row"):
        read_labels(tmp_path / "matrix.npy")
    with pytest.raises(UsageError, match="does not exist"):
        read_labels(tmp_path / "absent.npy")


def test_names_lie_beside_their_embeddings(tmp_path: Path) -> None:
    path = write(tmp_path / "text.npy", FEATURES)
    with pytest.raises(UsageError, match=r"text\.txt beside it"):
        read_names(path)
    (tmp_path / "class_names.txt").write_text("a\nb\n")
    assert read_names(path) == ["a", "b"]
    (tmp_path / "text.txt").write_text("\ufefftabby cat\tcat\n\n great owl\n", encoding="utf-8")
    assert read_names(path) == ["tabby cat", "great owl"]
    assert read_names(tmp_path / "text.txt", count=2) == ["tabby cat", "great owl"]
    with pytest.raises(UsageError, match="2 names for 4"):
        read_names(path, count=4)
    (tmp_path / "text.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="UTF-8"):
        read_names(path)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("cifar10_500_vitb32/features.npy", (500, 512)),
        ("food10_vitb32/test_features.npy", (500, 512)),
        ("micrographs_867_vitb32/features.npy", (867, 512)),
        ("text_imagenet1k_vitb32/features.npy", (1000, 512)),
    ],
)
def test_real_embeddings_are_read(shared: Path, name: str, shape: tuple[int, int]) -> None:
    read = read_embeddings(shared / "embeddings" / name, expected_dim=512)
    assert read.features.shape == shape
    assert read.features.dtype == np.float32


@pytest.mark.shared
def test_real_names_and_labels_are_found(shared: Path) -> None:
    folder = shared / "embeddings"
    assert len(read_names(folder / "text_imagenet1k_vitb32/features.npy", count=1000)) == 1000
    assert read_names(folder / "cifar10_500_vitb32/features.npy")[0] == "airplane"
    labels = read_labels(folder / "cifar10_500_vitb32/labels.npy", count=500)
    assert set(labels) == {str(n) for n in range(10)}
