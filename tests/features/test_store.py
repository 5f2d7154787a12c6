"""The folder of embeddings: whatever moment it is killed at, it resumes to the same store."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlood.errors import UsageError, VloodError
from vlood.features import store_writer
from vlood.features.atomic import atomic_file
from vlood.features.embeddings import read_embeddings
from vlood.features.store import EmbeddingStore, EmbeddingStoreWriter

META = {"model": "m", "precision": "fp32", "inputs": ["a", "b"]}
DIM = 3
BATCH = 4
INPUTS = 42


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_writer, "PART_ROWS", 8)


def row(number: int) -> list[float]:
    return [number + 1, number / 7, -1.0]


def is_broken(number: int) -> bool:
    return number % 10 == 3


def batches(first: int = 0, inputs: int = INPUTS) -> Iterator[dict[str, Any]]:
    """Yield what an embedding run appends; every tenth input cannot be read."""
    for start in range(first, inputs, BATCH):
        numbers = range(start, min(start + BATCH, inputs))
        good = [n for n in numbers if not is_broken(n)]
        yield {
            "ids": [f"{n}.jpg" for n in good],
            "labels": [None if n % 2 else f"class {n % 4}" for n in good],
            "features": np.array([row(n) for n in good], dtype=np.float32).reshape(-1, DIM),
            "errors": [(f"{n}.jpg", "the file is empty") for n in numbers if is_broken(n)],
        }


def write(folder: Path, *, resume: bool = False, stop: int | None = None) -> int:
    """Run to the end, or be killed after ``stop`` batches; return where the run went on from."""
    writer = EmbeddingStoreWriter(folder, META, resume=resume)
    first = writer.done
    for count, batch in enumerate(batches(first)):
        if count == stop:
            writer._unlock()
            return first
        writer.append(**batch)
    writer.finish()
    return first


def assert_whole(folder: Path) -> None:
    store = EmbeddingStore.open(folder, verify=True)
    good = [n for n in range(INPUTS) if not is_broken(n)]
    assert store.complete
    assert store.ids == [f"{n}.jpg" for n in good]
    assert store.labels == ["" if n % 2 else f"class {n % 4}" for n in good]
    assert [one for one, _ in store.errors] == [f"{n}.jpg" for n in range(INPUTS) if is_broken(n)]
    np.testing.assert_array_equal(store.features(), np.array([row(n) for n in good], np.float32))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_store_gives_back_what_was_appended(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    assert write(folder) == 0
    assert_whole(folder)
    store = EmbeddingStore.open(folder)
    assert store.meta == META
    assert len(store.parts) > 3
    assert "38 embeddings of 3 numbers" in (folder / "README.md").read_text()


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_batches_are_the_whole_in_order(tmp_path: Path, size: int) -> None:
    write(tmp_path / "store")
    store = EmbeddingStore.open(tmp_path / "store")
    parts = list(store.batches(size))
    assert all(len(part) <= size for part in parts)
    assert [one for part in parts for one in part.ids] == store.ids
    np.testing.assert_array_equal(
        np.concatenate([part.features for part in parts]), store.features()
    )


def test_local_embeddings_stay_on_disk_until_sliced(tmp_path: Path) -> None:
    local = np.arange(20 * 2 * 5, dtype=np.float16).reshape(20, 2, 5)
    with EmbeddingStoreWriter(tmp_path / "store", META) as writer:
        writer.append([], None, np.empty((0, DIM), np.float32), errors=[("x", "unreadable")] * 9)
        for start in range(0, 20, 5):
            rows = slice(start, start + 5)
            features = np.array([row(n) for n in range(start, start + 5)], np.float32)
            writer.append([str(n) for n in range(start, start + 5)], None, features, local[rows])
        writer.finish()
    read = read_embeddings(tmp_path / "store")
    assert read.local is not None
    assert len(read.local) == 20
    for rows in (slice(0, 20), slice(7, 13), slice(19, 50), slice(5, 5), slice(-3, None)):
        found = read.local[rows]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, local[rows].astype(np.float32))
    blocks = [batch.local for batch in EmbeddingStore.open(tmp_path / "store").batches(3)]
    np.testing.assert_array_equal(np.concatenate(blocks), local.astype(np.float32))  # type: ignore[arg-type]


@pytest.mark.parametrize("stop", range(0, 11, 2))
def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path, stop: int) -> None:
    write(tmp_path / "straight")
    write(tmp_path / "killed", stop=stop)
    first = write(tmp_path / "killed", resume=True)
    assert first % BATCH == 0
    assert first <= stop * BATCH
    assert_whole(tmp_path / "killed")
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "straight")


def _cuts(path: Path) -> Iterable[int]:
    size = path.stat().st_size
    return (0, size // 2, size - 1)


def test_every_file_may_be_cut_or_missing(tmp_path: Path) -> None:
    """Damage each part's files and the manifest in turn, as a kill or a bad disk would."""
    write(tmp_path / "straight")
    write(tmp_path / "killed", stop=9)
    names = [
        p.name for p in (tmp_path / "killed").iterdir() if p.suffix in (".safetensors", ".jsonl")
    ]
    assert len(names) > 6
    for name in names:
        for cut in (None, *_cuts(tmp_path / "killed" / name)):
            folder = tmp_path / "copy"
            shutil.copytree(tmp_path / "killed", folder)
            if cut is None:
                (folder / name).unlink()
            else:
                with open(folder / name, "r+b") as stream:
                    stream.truncate(cut)
            write(folder, resume=True)
            assert_whole(folder)
            assert files_of(folder) == files_of(tmp_path / "straight"), (name, cut)
            shutil.rmtree(folder)


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    write(folder, stop=5)
    (folder / ".part-000009.safetensors.1234.partial").write_bytes(b"half")
    # Both files of a part have their names, its manifest line was never written.
    (folder / "part-000009.safetensors").write_bytes(b"whole?")
    (folder / "part-000009.jsonl").write_bytes(b"{}\n")
    write(folder, resume=True)
    assert_whole(folder)
    assert not list(folder.glob("part-000009*"))
    assert not list(folder.glob("*.partial"))


def test_resuming_a_finished_store_repairs_or_leaves_it(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    write(folder)
    before = files_of(folder)
    with EmbeddingStoreWriter(folder, META, resume=True) as writer:
        assert writer.complete
        assert writer.done == INPUTS
    assert files_of(folder) == before
    (folder / "part-000002.safetensors").write_bytes(b"")
    with EmbeddingStoreWriter(folder, META, resume=True) as writer:
        assert not writer.complete
        assert 0 < writer.done < INPUTS
    write(folder, resume=True)
    assert files_of(folder) == before


def test_a_finished_store_that_grows_is_unfinished_until_it_ends(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    write(folder)
    with EmbeddingStoreWriter(folder, META, resume=True) as writer:
        for batch in batches(INPUTS, INPUTS + 8):
            writer.append(**batch)
    with pytest.raises(UsageError, match="not complete"):
        EmbeddingStore.open(folder)
    assert len(EmbeddingStore.open(folder, partial=True).ids) == 38 + 7


def test_stopping_keeps_what_is_buffered(tmp_path: Path) -> None:
    folder = tmp_path / "store"

    def interrupted() -> None:
        with EmbeddingStoreWriter(folder, META) as writer:
            for count, batch in enumerate(batches()):
                if count == 3:
                    raise KeyboardInterrupt
                writer.append(**batch)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with EmbeddingStoreWriter(folder, META, resume=True) as writer:
        assert writer.done == 3 * BATCH


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    write(folder, stop=3)
    with pytest.raises(UsageError, match=r"other settings \(extra, precision\)"):
        EmbeddingStoreWriter(folder, {**META, "precision": "fp16", "extra": 1}, resume=True)
    # What is recorded without deciding the embeddings may differ.
    EmbeddingStoreWriter(folder, {**META, "provenance": {"date": 1}}, resume=True).close()


def test_folders_with_something_in_them_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "store")
    with pytest.raises(UsageError, match="use --resume"):
        EmbeddingStoreWriter(tmp_path / "store", META)
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(b"x")
    for resume in (False, True):
        with pytest.raises(UsageError, match="not empty"):
            EmbeddingStoreWriter(photos, META, resume=resume)
    assert [path.name for path in photos.iterdir()] == ["a.jpg"]
    with pytest.raises(UsageError, match="is a file"):
        EmbeddingStoreWriter(photos / "a.jpg", META)
    (tmp_path / "empty").mkdir()
    assert write(tmp_path / "empty") == 0


def test_two_writers_do_not_share_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    writer = EmbeddingStoreWriter(tmp_path / "store", META)
    with pytest.raises(VloodError, match="another vlood embed"):
        EmbeddingStoreWriter(tmp_path / "store", META, resume=True)
    writer.close()
    EmbeddingStoreWriter(tmp_path / "store", META, resume=True).close()


def test_batches_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    writer = EmbeddingStoreWriter(tmp_path / "store", META)
    ones = np.ones((2, DIM), np.float32)
    writer.append(["a", "b"], None, ones)
    with pytest.raises(ValueError, match="1 labels for 2 ids"):
        writer.append(["a", "b"], ["x"], ones)
    with pytest.raises(ValueError, match="for 3 ids"):
        writer.append(["a", "b", "c"], None, ones)
    with pytest.raises(ValueError, match=r"features \[4\]"):
        writer.append(["a"], None, np.ones((1, 4), np.float32))
    with pytest.raises(ValueError, match="local"):
        writer.append(["a"], None, ones[:1], np.ones((1, 2, DIM), np.float32))
    writer.finish()
    assert EmbeddingStore.open(tmp_path / "store").ids == ["a", "b"]


def test_a_full_disk_is_one_sentence_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "store"
    real = store_writer.write_atomically

    def full(path: Path, data: bytes) -> None:
        if path.name == "part-000003.jsonl":
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(store_writer, "write_atomically", full)
    with pytest.raises(VloodError, match=r"No space left.*\); the 16 inputs done so far are kept"):
        write(folder)
    monkeypatch.setattr(store_writer, "write_atomically", real)
    assert write(folder, resume=True) == 16
    assert_whole(folder)


def test_damage_to_a_finished_store_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    write(folder)
    arrays = folder / "part-000002.safetensors"
    data = arrays.read_bytes()
    arrays.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(VloodError, match=r"part-000002\.safetensors: is damaged"):
        EmbeddingStore.open(folder, verify=True)
    arrays.write_bytes(data[:-4])
    with pytest.raises(VloodError, match=r"part-000002\.safetensors: is damaged"):
        EmbeddingStore.open(folder).features()
    arrays.write_bytes(data)
    lines = (folder / "part-000001.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "part-000001.jsonl").write_bytes(b"".join(lines[1:]))
    with pytest.raises(VloodError, match=r"part-000001\.jsonl: is damaged"):
        EmbeddingStore.open(folder)
    manifest = (folder / "manifest.jsonl").read_bytes()
    (folder / "manifest.jsonl").write_bytes(manifest[:-20])
    with pytest.raises(VloodError, match=r"manifest\.jsonl: is damaged"):
        EmbeddingStore.open(folder)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("{", VloodError, "is damaged"),
        ("[]", VloodError, "is damaged"),
        ('{"schema": 1}', VloodError, "is damaged"),
        ('{"schema": 99}', VloodError, "newer vlood"),
    ],
)
def test_a_state_that_is_not_understood_is_told(
    tmp_path: Path, text: str, kind: type[VloodError], message: str
) -> None:
    (tmp_path / "store.json").write_text(text)
    with pytest.raises(kind, match=message):
        EmbeddingStore.open(tmp_path)


def test_names_that_are_no_text_survive(tmp_path: Path) -> None:
    names = ["bad\udcff.jpg", "line\nbreak.jpg", 'quote".jpg', "\u2028.jpg"]
    with EmbeddingStoreWriter(tmp_path / "store", META) as writer:
        writer.append(names, None, np.ones((4, DIM), np.float32))
        writer.finish()
    assert EmbeddingStore.open(tmp_path / "store").ids == names


def test_a_store_of_errors_only_says_so_when_read(tmp_path: Path) -> None:
    with EmbeddingStoreWriter(tmp_path / "store", META) as writer:
        writer.append([], None, np.empty((0, DIM), np.float32), errors=[("a", "broken")])
        writer.finish()
    assert EmbeddingStore.open(tmp_path / "store", verify=True).errors == [("a", "broken")]
    with pytest.raises(UsageError, match="no embeddings"):
        read_embeddings(tmp_path / "store")


_RUN = """
import sys, time
from pathlib import Path
import numpy as np
from vlood.features import store_writer
from vlood.features.store import EmbeddingStoreWriter
store_writer.PART_ROWS = 8
writer = EmbeddingStoreWriter(Path(sys.argv[1]), {"model": "m"}, resume=True)
for start in range(writer.done, 400, 4):
    ids = [str(n) for n in range(start, start + 4)]
    features = np.array([[n + 1, -n] for n in range(start, start + 4)], np.float32)
    writer.append(ids, None, features)
    time.sleep(0.002)
writer.finish()
"""


def test_kill_minus_nine_at_any_moment(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    command = [sys.executable, "-c", _RUN, str(folder)]
    for wait in (0.0, 0.031, 0.077, 0.102):
        process = subprocess.Popen(command)
        deadline = time.monotonic() + 60
        before = _lines(folder)
        while _lines(folder) == before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(wait)
        process.kill()
        process.wait()
    assert subprocess.run(command, check=False).returncode == 0
    store = EmbeddingStore.open(folder, verify=True)
    assert store.ids == [str(n) for n in range(400)]
    np.testing.assert_array_equal(store.features()[:, 0], np.arange(1, 401, dtype=np.float32))


def _lines(folder: Path) -> int:
    manifest = folder / "manifest.jsonl"
    return len(manifest.read_bytes().splitlines()) if manifest.exists() else 0


def test_the_manifest_is_plain_json(tmp_path: Path) -> None:
    write(tmp_path / "store")
    lines = (tmp_path / "store" / "manifest.jsonl").read_text().splitlines()
    counts = [json.loads(line) for line in lines]
    assert sum(one["rows"] + one["errors"] for one in counts) == INPUTS
    assert [one["part"] for one in counts] == [f"part-{n + 1:06d}" for n in range(len(counts))]


def test_an_atomic_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail() -> None:
        with atomic_file(path) as stream:
            stream.write(b"ne")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert files_of(tmp_path) == {"file": b"old"}
    with atomic_file(path) as stream:
        stream.write(b"new")
        assert path.read_bytes() == b"old"
    assert files_of(tmp_path) == {"file": b"new"}
