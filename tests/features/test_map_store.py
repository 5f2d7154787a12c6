"""The store of regional maps: what is written is read, what is unfinished is gone on with."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from vlood.errors import UsageError, VloodError
from vlood.features.map_store import ABOUT_FILE, MAPS_FILE, MapStore, map_bytes, size_text

SHAPE = (5, 3, 4, 8)
MAPS = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def store(folder: Path, key: str = "a") -> MapStore:
    return MapStore(folder, SHAPE, {"of": key}, instead="do without")


def test_rows_and_views_come_back_in_half_precision(tmp_path: Path) -> None:
    made = store(tmp_path / "maps")
    assert made.done == 0
    assert (tmp_path / "maps" / MAPS_FILE).stat().st_size == map_bytes(SHAPE) == 960
    for row in range(5):
        made.write(np.full(3, row), np.arange(3), MAPS[row])
    made.commit(5)
    again = store(tmp_path / "maps")
    assert again.done == 5
    rows = np.array([4, 0])
    found = again.read(rows, (2, 1))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, MAPS[rows][:, [2, 1]].astype(np.float16))


def test_another_key_or_a_torn_file_starts_over(tmp_path: Path) -> None:
    store(tmp_path).commit(3)
    assert store(tmp_path).done == 3
    assert store(tmp_path, "b").done == 0
    store(tmp_path, "b").commit(2)
    with open(tmp_path / MAPS_FILE, "r+b") as stream:
        stream.truncate(100)
    assert store(tmp_path, "b").done == 0
    (tmp_path / ABOUT_FILE).write_text("{")
    assert store(tmp_path, "b").done == 0
    about = json.loads((tmp_path / ABOUT_FILE).read_text())
    assert about["shape"] == [*SHAPE]


def test_a_disk_that_is_too_small_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 1000, 1000))
    with pytest.raises(UsageError, match=r"need 1 kB and the disk has 1 kB free; .* do without"):
        store(tmp_path / "x")
    assert not (tmp_path / "x" / MAPS_FILE).exists()
    monkeypatch.undo()
    (tmp_path / "file").write_text("")
    with pytest.raises(VloodError, match="regional maps cannot be written"):
        store(tmp_path / "file" / "maps")


def test_sizes_for_people() -> None:
    assert [size_text(one) for one in (1500, 7_077_888, 12_845_056_000)] == [
        "2 kB",
        "7.1 MB",
        "12.8 GB",
    ]
