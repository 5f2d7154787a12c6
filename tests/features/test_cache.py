"""The embedding cache as a run uses it: spaces, limits, damage, two processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest

from vlood.features import cache as cache_module
from vlood.features.cache import (
    BANKS_FOLDER,
    FEATURES_FOLDER,
    FeatureCache,
    FeatureSpace,
    default_cache_folder,
)
from vlood.features.file_digests import FileDigests
from vlood.features.keyed_rows import list_parts

KEY = {"weights": "abc", "preprocessing": "resize 224", "precision": "fp32"}


def digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()


def features_of(*names: str, dim: int = 4) -> np.ndarray:
    seeds = [int.from_bytes(digest(name)[:4], "big") for name in names]
    rows = [np.random.default_rng(seed).standard_normal(dim) for seed in seeds]
    return np.array(rows, dtype=np.float32).reshape(-1, dim)


def add(space: FeatureSpace, *names: str) -> None:
    space.add([digest(name) for name in names], features_of(*names, dim=space.dim))


def test_a_second_run_finds_what_the_first_computed(tmp_path: Path) -> None:
    with FeatureCache(tmp_path).space(KEY, 4) as space:
        assert len(space) == 0
        add(space, "a", "b")
    again = FeatureCache(tmp_path).space(dict(reversed(KEY.items())), 4)
    assert digest("a") in again
    found = again.get([digest("b"), digest("a")])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, features_of("b", "a"))


def test_anything_that_decides_an_embedding_is_a_space_of_its_own(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    with cache.space(KEY, 4) as space:
        add(space, "a")
    others = [cache.space({**KEY, name: "other"}, 4) for name in KEY]
    others += [cache.space(KEY, 5), cache.space(KEY, 4, np.float16)]
    assert not any(digest("a") in other for other in others)
    assert len({other.folder for other in (space, *others)}) == len(others) + 1


def test_half_precision_halves_the_rows(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    with cache.space(KEY, 64, np.float16) as space:
        add(space, "a", "b")
    reopened = cache.space(KEY, 64, np.float16)
    found = reopened.get([digest("a")])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[0], features_of("a", dim=64)[0].astype(np.float16))
    (part,) = list_parts(reopened.folder)
    assert part.stat().st_size == 64 + 2 * (16 + 128)


def test_opening_and_looking_write_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    space = FeatureCache(folder).space(KEY, 4)
    assert digest("a") not in space
    space.close()
    assert FeatureCache(folder).info().spaces == ()
    assert not folder.exists()


def test_info_says_whose_embeddings_lie_there(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, limit_bytes=10**6)
    with cache.space(KEY, 4) as space:
        add(space, "a", "b")
    with cache.space({**KEY, "weights": "xyz"}, 8) as space:
        add(space, "c")
    info = cache.info()
    assert sorted((space.key["weights"], space.rows) for space in info.spaces) == [
        ("abc", 2),
        ("xyz", 1),
    ]
    assert info.size_bytes == sum(space.size_bytes for space in info.spaces) > 0
    assert info.limit_bytes == 10**6
    assert all(abs(space.last_used - time.time()) < 60 for space in info.spaces)


def test_info_survives_a_damaged_key(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    with cache.space(KEY, 4) as space:
        add(space, "a")
    (space.folder / "key.json").write_text("[")
    assert cache.info().spaces[0].key == {}


def test_clear_removes_only_its_own(tmp_path: Path) -> None:
    mine = tmp_path / "features" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("years of work")
    cache = FeatureCache(tmp_path)
    with cache.space(KEY, 4) as space:
        add(space, "a")
    size = cache.info().size_bytes
    assert cache.clear() == size > 0
    assert cache.info().size_bytes == 0
    assert mine.read_text() == "years of work"
    assert digest("a") not in cache.space(KEY, 4)


def test_clearing_under_a_running_writer_is_survived(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    space = cache.space(KEY, 4)
    add(space, "a")
    space.commit()
    FeatureCache(tmp_path).clear()
    add(space, "b")
    space.commit()
    np.testing.assert_array_equal(space.get([digest("a"), digest("b")]), features_of("a", "b"))
    assert cache.info().spaces[0].key == KEY


def _age(folder: Path, seconds: float) -> None:
    for part in list_parts(folder):
        then = time.time() - seconds
        os.utime(part, (then, then))


def test_the_limit_removes_what_was_used_longest_ago(tmp_path: Path) -> None:
    part_bytes = 64 + 10 * (16 + 4 * 4)
    folders = {}
    for age, name in ((300, "used again"), (200, "oldest"), (100, "older")):
        with FeatureCache(tmp_path).space({"model": name}, 4) as space:
            add(space, *(f"{name}{n}" for n in range(10)))
        folders[name] = space.folder
        _age(space.folder, age)
    cache = FeatureCache(tmp_path, limit_bytes=3 * part_bytes + 10)
    used = cache.space({"model": "used again"}, 4)
    assert digest("used again3") in used
    with cache.space({"model": "new"}, 4) as space:
        add(space, *(f"new{n}" for n in range(10)))
    assert not folders["oldest"].exists()
    assert {space.key["model"] for space in cache.info().spaces} == {"used again", "older", "new"}
    assert cache.info().size_bytes <= 3 * part_bytes + 10


def test_a_run_larger_than_the_limit_goes_on_without_writing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = FeatureCache(tmp_path, limit_bytes=1000)
    space = cache.space(KEY, 4)
    for start in range(0, 100, 10):
        names = [str(n) for n in range(start, start + 10)]
        add(space, *names)
        space.commit()
        np.testing.assert_array_equal(
            space.get([digest(name) for name in names]), features_of(*names)
        )
    assert 0 < cache.info().size_bytes <= 1000
    assert "size limit" in caplog.text
    assert len(caplog.records) == 1


def test_a_nearly_full_disk_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usage = shutil._ntuple_diskusage(10**12, 10**12 - 10**7, 10**7)  # type: ignore[attr-defined]
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda path: usage)
    space = FeatureCache(tmp_path).space(KEY, 4)
    add(space, "a")
    space.commit()
    assert "10 MB free" in caplog.text
    np.testing.assert_array_equal(space.get([digest("a")]), features_of("a"))
    assert not (tmp_path / FEATURES_FOLDER).exists()


def test_a_write_that_fails_half_way_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    space = FeatureCache(tmp_path).space(KEY, 4)
    add(space, "a")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    space.commit()
    add(space, "b")
    space.commit()
    assert [record.getMessage().count("No space left") for record in caplog.records] == [1]
    assert list(space.folder.glob("*.part")) == []
    assert list(space.folder.glob(".*")) == []
    np.testing.assert_array_equal(space.get([digest("b"), digest("a")]), features_of("b", "a"))


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="root may write in a read-only folder"
)
def test_a_read_only_cache_still_serves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with FeatureCache(tmp_path).space(KEY, 4) as space:
        add(space, "a")
    space.folder.chmod(0o500)
    try:
        again = FeatureCache(tmp_path).space(KEY, 4)
        assert digest("a") in again
        add(again, "b")
        again.commit()
    finally:
        space.folder.chmod(0o700)
    assert len(caplog.records) == 1


_WRITER = """
import sys
from pathlib import Path
import numpy as np
from hashlib import blake2b
from vlood.features.cache import FeatureCache
first, last = int(sys.argv[2]), int(sys.argv[3])
space = FeatureCache(Path(sys.argv[1])).space({"model": "shared"}, 2)
for n in range(first, last):
    space.add([blake2b(str(n).encode(), digest_size=16).digest()], np.array([[n, -n]], np.float32))
    if n % 3 == 0:
        space.commit()
space.close()
"""


def test_two_processes_write_one_space(tmp_path: Path) -> None:
    spans = [("0", "150"), ("100", "250")]
    command = [sys.executable, "-c", _WRITER, str(tmp_path)]
    running = [subprocess.Popen([*command, *span]) for span in spans]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    space = FeatureCache(tmp_path).space({"model": "shared"}, 2)
    digests = [digest(str(n)) for n in range(250)]
    expected = np.array([[n, -n] for n in range(250)], dtype=np.float32)
    np.testing.assert_array_equal(space.get(digests), expected)


def test_killed_writers_leave_a_readable_space(tmp_path: Path) -> None:
    # Slow enough to be caught in the middle, wherever that is.
    slow = _WRITER.replace("if n % 3 == 0:", "import time; time.sleep(0.001)\n    if n % 3 == 0:")
    for wait in (0.3, 0.45):
        process = subprocess.Popen([sys.executable, "-c", slow, str(tmp_path), "0", "100000"])
        deadline = time.monotonic() + 60
        before = FeatureCache(tmp_path).info().size_bytes
        while FeatureCache(tmp_path).info().size_bytes <= before and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(wait)
        process.kill()
        process.wait()
        space = FeatureCache(tmp_path).space({"model": "shared"}, 2)
        held = [n for n in range(3000) if digest(str(n)) in space]
        assert held
        expected = np.array([[n, -n] for n in held], dtype=np.float32)
        np.testing.assert_array_equal(space.get([digest(str(n)) for n in held]), expected)


def test_the_default_folder_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLOOD_CACHE", str(tmp_path))
    assert default_cache_folder() == tmp_path
    monkeypatch.delenv("VLOOD_CACHE")
    assert default_cache_folder().name.startswith("vlood")


def test_file_digests_count_in_the_info(tmp_path: Path) -> None:
    memo = FileDigests(tmp_path / "cache")
    settled = os.stat_result(
        [0o100644, 5, 1, 1, 0, 0, 6, 1, 1, 1], {"st_mtime_ns": 10**9, "st_ctime_ns": 10**9}
    )
    memo.remember(settled, digest("a"))
    memo.close()
    info = FeatureCache(tmp_path / "cache").info()
    assert info.files == 1
    assert info.size_bytes > 0
    FeatureCache(tmp_path / "cache").clear()
    assert FeatureCache(tmp_path / "cache").info().files == 0


def test_mined_banks_count_in_the_info_and_are_cleared(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    assert cache.info().banks == 0
    for name in ("one", "two"):
        (tmp_path / BANKS_FOLDER / name).mkdir(parents=True)
        (tmp_path / BANKS_FOLDER / name / "bank.json").write_bytes(b"x" * 100)
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    info = cache.info()
    assert (info.banks, info.size_bytes) == (2, 200)
    assert cache.clear() == 200
    assert cache.info().banks == 0
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]
