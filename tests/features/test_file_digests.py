"""The memo of file digests: an unchanged file is known, any change makes it unknown."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest

from vlood.features import file_digests
from vlood.features.cache import FeatureCache
from vlood.features.file_digests import FileDigests, KnownImages

OTHER = bytes(range(16))


@dataclass(frozen=True)
class Item:
    path: Path
    shard: str | None = None

    def stat(self) -> os.stat_result | None:
        return self.path.stat() if self.path.exists() else None


def digest_of(path: Path) -> bytes:
    return blake2b(path.read_bytes(), digest_size=16).digest()


@pytest.fixture
def known(tmp_path: Path) -> KnownImages:
    cache = FeatureCache(tmp_path / "cache")
    return KnownImages(cache.space({"model": "m"}, 2), FileDigests(cache.folder))


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file the memo takes as settled: its clock is an hour ahead."""
    monkeypatch.setattr(file_digests.time, "time_ns", lambda: _REAL_TIME_NS() + 3600 * 10**9)
    path = tmp_path / "a.jpg"
    path.write_bytes(b"pixels")
    return path


_REAL_TIME_NS = time.time_ns


def test_an_unchanged_file_is_known_in_the_next_run(tmp_path: Path, image: Path) -> None:
    memo = FileDigests(tmp_path / "cache")
    assert memo.digest_of(image.stat()) is None
    memo.remember(image.stat(), digest_of(image))
    assert memo.digest_of(image.stat()) == digest_of(image)
    memo.close()
    assert FileDigests(tmp_path / "cache").digest_of(image.stat()) == digest_of(image)


def test_a_changed_file_is_unknown(tmp_path: Path, image: Path) -> None:
    memo = FileDigests(tmp_path / "cache")
    status = image.stat()
    memo.remember(status, digest_of(image))
    image.write_bytes(b"pixelz")
    # Putting the old modification time back does not hide it: the change time cannot be set.
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert image.stat().st_size == status.st_size
    assert memo.digest_of(image.stat()) is None


def test_a_replaced_file_is_unknown_and_a_renamed_one_is_its_content(
    tmp_path: Path, image: Path
) -> None:
    memo = FileDigests(tmp_path / "cache")
    memo.remember(image.stat(), digest_of(image))
    other = tmp_path / "b.jpg"
    other.write_bytes(b"other!")
    assert memo.digest_of(other.stat()) is None
    other.replace(image)
    assert memo.digest_of(image.stat()) is None


def test_a_file_just_written_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "fresh.jpg"
    path.write_bytes(b"pixels")
    memo = FileDigests(tmp_path / "cache")
    memo.remember(path.stat(), digest_of(path))
    assert memo.digest_of(path.stat()) is None
    assert len(memo) == 0


@pytest.mark.parametrize("ahead", ["st_mtime_ns", "st_ctime_ns"])
def test_times_ahead_of_the_clock_are_not_trusted(tmp_path: Path, ahead: str) -> None:
    times = {"st_mtime_ns": 10**9, "st_ctime_ns": 10**9, ahead: time.time_ns() + 10**10}
    status = os.stat_result([0o100644, 5, 1, 1, 0, 0, 6, 1, 1, 1], times)
    memo = FileDigests(tmp_path)
    memo.remember(status, OTHER)
    assert memo.digest_of(status) is None


def test_files_without_an_inode_are_not_told_apart(tmp_path: Path) -> None:
    times = {"st_mtime_ns": 10**9, "st_ctime_ns": 10**9}
    status = os.stat_result([0o100644, 0, 1, 1, 0, 0, 6, 1, 1, 1], times)
    memo = FileDigests(tmp_path)
    memo.remember(status, OTHER)
    assert memo.digest_of(status) is None


def test_known_images_join_the_memo_and_the_space(tmp_path: Path, image: Path) -> None:
    cache = FeatureCache(tmp_path / "cache")
    space = cache.space({"model": "m"}, 2)
    known = KnownImages(space, FileDigests(cache.folder))
    item = Item(image)
    known.remember(item, image.stat(), digest_of(image))
    assert known.digest_of(item) == digest_of(image)
    assert digest_of(image) not in known
    space.add([digest_of(image)], np.ones((1, 2), np.float32))
    assert digest_of(image) in known


def test_shards_folders_and_absent_files_are_never_remembered(
    known: KnownImages, image: Path
) -> None:
    member = Item(image, shard="a.tar")
    known.remember(member, image.stat(), OTHER)
    known.remember(Item(image.parent), image.parent.stat(), OTHER)
    known.remember(Item(image), None, OTHER)
    assert known.digest_of(member) is None
    assert known.digest_of(Item(image)) is None
    assert known.digest_of(Item(image.parent)) is None
    assert known.digest_of(Item(image.parent / "absent.jpg")) is None
