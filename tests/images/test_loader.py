"""Fetching: batches in order, bad images told, bounded look-ahead, a prompt end."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vlood.images.decode import DecodeSettings
from vlood.images.item import ImageItem
from vlood.images.loader import (
    LOOK_AHEAD,
    Fetched,
    image_digest,
    load_batches,
)
from vlood.images.sources import find_images


def prepare(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((8, 8)))


def load(items: Iterable[ImageItem], **options: Any) -> Iterator[list[Fetched]]:
    chosen: dict[str, Any] = {
        "batch_size": 4,
        "prepare": prepare,
        "settings": DecodeSettings(),
        "workers": 3,
        **options,
    }
    return load_batches(items, **chosen)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("vlood-fetch")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of 22 small images of different colours."""
    for index in range(22):
        Image.new("RGB", (10, 10), (index * 10, 0, 255 - index)).save(tmp_path / f"{index:02}.png")
    return tmp_path


@pytest.fixture
def items(folder: Path) -> list[ImageItem]:
    return list(find_images([str(folder)]))


class Memory:
    """A plain Known: digests by path, features by digest."""

    def __init__(self, known: Iterable[bytes] = ()) -> None:
        self.digests: dict[str, bytes] = {}
        self.known = set(known)

    def digest_of(self, item: ImageItem) -> bytes | None:
        return self.digests.get(item.path)

    def remember(self, item: ImageItem, stat: os.stat_result, digest: bytes) -> None:
        assert stat.st_size > 0
        self.digests[item.path] = digest

    def __contains__(self, digest: bytes) -> bool:
        return digest in self.known


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("batch_size", [1, 4, 22, 100])
def test_batches_hold_exactly_their_items_in_order(items, workers, batch_size):
    batches = list(load(items, workers=workers, batch_size=batch_size))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    fetched = [entry for batch in batches for entry in batch]
    assert [entry.item for entry in fetched] == items
    for index, entry in enumerate(fetched):
        assert entry.error is None
        assert entry.pixels[0, 0].tolist() == [index * 10, 0, 255 - index]
        assert entry.digest == image_digest(entry.item.read())
        assert len(entry.digest) == 16
    assert not threads()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 4))
def test_any_count_is_cut_into_whole_batches(count, batch_size, workers):
    items = [ImageItem(str(index), fault="not there") for index in range(count)]
    batches = list(load(items, batch_size=batch_size, workers=workers))
    assert [entry.item for batch in batches for entry in batch] == items
    assert all(entry.error == "not there" for batch in batches for entry in batch)
    assert len(batches) == -(-count // batch_size)


def test_bad_images_are_told_and_stop_nothing(folder, picture, encode):
    whole = encode(picture, "JPEG")
    (folder / "a-empty.jpg").touch()
    (folder / "b-text.jpg").write_text("this is text")
    (folder / "c-cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "d-cut.png").write_bytes(encode(picture, "PNG")[:2000])
    (folder / "e-cut.webp").write_bytes(encode(picture, "WEBP")[:800])
    (folder / "f-line.png").write_bytes(encode(Image.new("RGB", (65_500, 1)), "PNG"))
    (folder / "g-link.jpg").symlink_to("gone")
    os.mkfifo(folder / "h-pipe.jpg")
    items = [*find_images([str(folder)]), ImageItem(str(folder)), ImageItem("no/such.jpg")]
    fetched = [entry for batch in load(items, draft_side=224) for entry in batch]
    assert [entry.item for entry in fetched] == items
    errors = {Path(e.item.path).name: e.error for e in fetched if e.error is not None}
    expected = {
        "a-empty.jpg": "0 bytes",
        "b-text.jpg": "text",
        "c-cut.jpg": "truncated",
        "d-cut.png": "truncated",
        "e-cut.webp": "truncated",
        "f-line.png": "narrow",
        "g-link.jpg": "link is broken",
        "h-pipe.jpg": "pipe",
        folder.name: "folder",
        "such.jpg": "does not exist",
    }
    assert errors.keys() == expected.keys()
    for name, part in expected.items():
        assert part in (errors[name] or "")
    assert all((entry.pixels is None) == (entry.error is not None) for entry in fetched)


def test_equal_images_of_a_batch_are_decoded_once(folder, items):
    calls = []

    def counting(image: Image.Image) -> np.ndarray:
        calls.append(image.size)
        return prepare(image)

    bad = folder / "bad.jpg"
    bad.write_text("text")
    copy = folder / "copy.png"
    copy.write_bytes(Path(items[0].path).read_bytes())
    same = [items[0], items[1], items[0], ImageItem(str(copy)), ImageItem(str(bad))]
    (batch,) = load([*same, ImageItem(str(bad))], batch_size=6, prepare=counting)
    assert len(calls) == 2
    assert np.array_equal(batch[0].pixels, batch[2].pixels)
    assert np.array_equal(batch[0].pixels, batch[3].pixels)
    assert batch[3].item.path == str(copy)
    assert batch[4].error == batch[5].error is not None


def test_known_images_are_not_decoded_and_remembered_ones_not_read(items, monkeypatch):
    memory = Memory()
    first = [entry for batch in load(items, known=memory) for entry in batch]
    assert all(entry.pixels is not None for entry in first)
    assert memory.digests == {entry.item.path: entry.digest for entry in first}

    memory.known = {entry.digest for entry in first[:10]}
    second = [entry for batch in load(items, known=memory) for entry in batch]
    assert [entry.pixels is None for entry in second] == [True] * 10 + [False] * 12
    assert [entry.digest for entry in second] == [entry.digest for entry in first]
    assert not any(entry.error for entry in second)

    memory.known |= {entry.digest for entry in first}
    monkeypatch.setattr(ImageItem, "read", lambda item: pytest.fail(f"{item.path} was read"))
    third = [entry for batch in load(items, known=memory) for entry in batch]
    assert [entry.digest for entry in third] == [entry.digest for entry in first]


def test_known_bytes_under_a_new_name_are_not_decoded(folder, items):
    memory = Memory([image_digest(Path(items[3].path).read_bytes())])

    def refusing(image: Image.Image) -> np.ndarray:
        pytest.fail("it was decoded")

    ((entry,),) = load([items[3]], known=memory, prepare=refusing)
    assert entry.pixels is None
    assert entry.error is None
    assert memory.digests == {items[3].path: entry.digest}


def test_preprocessing_errors_are_records(items):
    def failing(image: Image.Image) -> np.ndarray:
        raise ValueError("height and width must be > 0")

    (batch,) = load(items[:2], prepare=failing)
    assert all("10 x 10" in (entry.error or "") for entry in batch)


def test_bugs_keep_their_traceback(items):
    def buggy(image: Image.Image) -> np.ndarray:
        raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        list(load(items, prepare=buggy))
    assert not threads()


def test_look_ahead_is_bounded_and_runs_beside_the_consumer(items):
    pulled = []

    def endless() -> Iterator[ImageItem]:
        while True:
            pulled.append(1)
            yield items[len(pulled) % len(items)]

    batches = load(endless(), batch_size=4)
    for taken in range(1, 6):
        next(batches)
        assert len(pulled) == 4 * (taken + LOOK_AHEAD)
    batches.close()
    assert not threads()


def test_closing_cancels_what_has_not_begun(items):
    begun = []
    gate = threading.Event()

    def slow(image: Image.Image) -> np.ndarray:
        begun.append(1)
        if len(begun) > 4:
            gate.wait(5)
        return prepare(image)

    batches = load(items, workers=2, prepare=slow)
    next(batches)
    threading.Timer(0.1, gate.set).start()
    batches.close()
    assert len(begun) <= 8
    assert not threads()


def test_an_interrupt_in_the_consumer_ends_the_threads(items):
    def consume() -> None:
        for _ in load(items * 50):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consume()
    assert not threads()


def test_an_interrupt_while_items_are_listed(items):
    def interrupted() -> Iterator[ImageItem]:
        yield from items[:5]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(load(interrupted()))
    assert not threads()


def test_a_broken_listing_delivers_what_came_before(items):
    def broken() -> Iterator[ImageItem]:
        yield from items[:6]
        raise RuntimeError("the list broke")

    batches = load(broken())
    got = [entry.item for batch in (next(batches), next(batches)) for entry in batch]
    assert got == items[:6]
    with pytest.raises(RuntimeError, match="the list broke"):
        next(batches)


def test_nothing_runs_before_the_first_batch_is_asked_for(items):
    batches = load(items)
    assert not threads()
    batches.close()


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"workers": 0}])
def test_sizes_below_one_are_refused(options):
    with pytest.raises(ValueError, match="at least 1"):
        load([], **options)


@pytest.mark.shared
def test_photos_equal_a_plain_loop(shared):
    listed = list(find_images([str(shared / "photos" / "id_imagenette" / "test")]))[::40]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fetched = [entry for batch in load(listed) for entry in batch]
    assert len(fetched) == len(listed) > 10
    for entry in fetched:
        plain = prepare(Image.open(entry.item.path).convert("RGB"))
        assert np.array_equal(entry.pixels, plain)
