"""Fetch images in a bounded pool of threads beside the model: read, digest, decode, prepare."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from PIL import Image

from vlood.errors import ImageError
from vlood.images.decode import DecodeSettings, decode
from vlood.images.item import ImageItem

DIGEST_BYTES = 16
"""Length of an image's digest: BLAKE2b of the file's bytes, cut to 128 bits."""

LOOK_AHEAD = 2
"""Batches in the making behind the one that the consumer holds."""


class Known(Protocol):
    """What is already known about images, so that they need not be decoded or even read.

    `digest_of` is asked in the consumer's thread; `remember` and `in` in the pool's threads,
    several at once.
    """

    def digest_of(self, item: ImageItem) -> bytes | None:
        """Return the remembered digest of an unchanged file, or None."""
        ...

    def remember(self, item: ImageItem, stat: os.stat_result, digest: bytes) -> None:
        """Keep the digest of a file whose state was `stat` before it was read."""
        ...

    def __contains__(self, digest: bytes) -> bool:
        """Say whether the features of these bytes are known."""
        ...


@dataclass(frozen=True)
class Fetched:
    """One fetched image: exactly one of pixels, a known digest without pixels, or an error.

    Attributes:
        item: what was fetched.
        digest: 16-byte BLAKE2b of the file's bytes; None where they could not be read.
        pixels: what `prepare` made of the picture, an array or several; None with an error or a
            known digest.
        error: one sentence saying why there are no pixels.

    """

    item: ImageItem
    digest: bytes | None = None
    pixels: Any = None
    error: str | None = None


Prepare = Callable[[Image.Image], Any]


def image_digest(data: bytes) -> bytes:
    """Return the 16-byte BLAKE2b digest that names an image by its content."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def load_batches(
    items: Iterable[ImageItem],
    *,
    batch_size: int,
    prepare: Prepare,
    settings: DecodeSettings,
    workers: int,
    draft_side: int | None = None,
    known: Known | None = None,
) -> Iterator[list[Fetched]]:
    """Yield the images in batches, in order, fetched by threads that run ahead of the consumer.

    Batch k holds exactly items [k * batch_size, (k + 1) * batch_size), unreadable ones included.
    At most `LOOK_AHEAD` batches wait, so memory is bounded. Equal bytes within a batch are decoded
    once and share their pixels. Closing the generator (or an interrupt) cancels what has not
    begun and returns when the threads have ended.

    Args:
        items: the images; pulled in the consumer's thread, only as far as the look-ahead needs.
        batch_size: images a batch, at least 1.
        prepare: the model's own picture-to-array step; runs in the threads.
        settings: how to decode.
        workers: threads, at least 1.
        draft_side: passed to `decode`.
        known: what need not be decoded; None decodes everything.

    Raises:
        ValueError: `batch_size` or `workers` is below 1.

    """
    if batch_size < 1 or workers < 1:
        raise ValueError(f"batch_size and workers must be at least 1: {batch_size}, {workers}")
    fetcher = _Fetcher(prepare, settings, draft_side, known)
    return _batches(iter(items), batch_size, workers, fetcher)


@dataclass(frozen=True)
class _Fetcher:
    """All that fetching one image needs; shared by the threads and never changed."""

    prepare: Prepare
    settings: DecodeSettings
    draft_side: int | None
    known: Known | None

    def remembered(self, item: ImageItem) -> Fetched | None:
        """Return a known image without reading it: one look at the file's state."""
        if self.known is None or item.shard is not None or item.fault is not None:
            return None
        digest = self.known.digest_of(item)
        if digest is None or digest not in self.known:
            return None
        return Fetched(item, digest)

    def fetch(self, item: ImageItem, first_of: _FirstOf) -> Fetched:
        digest = None
        try:
            # Taken before reading: a file that changes in between is then seen as changed.
            state = item.stat() if self.known is not None else None
            data = item.read()
            digest = image_digest(data)
            if self.known is not None:
                if state is not None:
                    self.known.remember(item, state, digest)
                if digest in self.known:
                    return Fetched(item, digest)
            if not first_of.claim(digest):
                return Fetched(item, digest)
            picture = decode(data, self.settings, draft_side=self.draft_side)
            del data
            return Fetched(item, digest, self._prepared(picture))
        except ImageError as error:
            return Fetched(item, digest, error=str(error))
        except MemoryError:
            return Fetched(item, digest, error="there is not enough memory for the image")

    def _prepared(self, picture: Image.Image) -> Any:
        try:
            return self.prepare(picture)
        except (OSError, ValueError, ArithmeticError) as error:
            width, height = picture.size
            raise ImageError(
                f"the {width} x {height} image cannot be preprocessed: {error}"
            ) from None


class _FirstOf:
    """Decides which of the equal images of one batch is decoded."""

    def __init__(self) -> None:
        self._claimed: set[bytes] = set()
        self._lock = threading.Lock()

    def claim(self, digest: bytes) -> bool:
        with self._lock:
            if digest in self._claimed:
                return False
            self._claimed.add(digest)
            return True


_Pending = list["Fetched | Future[Fetched]"]


def _batches(
    items: Iterator[ImageItem], batch_size: int, workers: int, fetcher: _Fetcher
) -> Iterator[list[Fetched]]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="vlood-fetch")
    waiting: deque[_Pending] = deque()
    failure: Exception | None = None
    try:
        while True:
            while failure is None and len(waiting) <= LOOK_AHEAD:
                batch, failure = _pull(items, batch_size)
                if not batch:
                    break
                waiting.append(_submit(pool, fetcher, batch))
            if not waiting:
                break
            yield _finish(waiting.popleft())
        # What came before a broken list is delivered first; then the break is reported.
        if failure is not None:
            raise failure
    finally:
        for batch_of in waiting:
            for entry in batch_of:
                if isinstance(entry, Future):
                    entry.cancel()
        pool.shutdown(wait=True, cancel_futures=True)


def _pull(items: Iterator[ImageItem], batch_size: int) -> tuple[list[ImageItem], Exception | None]:
    batch: list[ImageItem] = []
    try:
        batch.extend(islice(items, batch_size))
    except Exception as error:
        return batch, error
    return batch, None


def _submit(pool: ThreadPoolExecutor, fetcher: _Fetcher, batch: list[ImageItem]) -> _Pending:
    first_of = _FirstOf()
    return [
        fetcher.remembered(item) or pool.submit(fetcher.fetch, item, first_of) for item in batch
    ]


def _finish(batch: _Pending) -> list[Fetched]:
    """Wait for a batch and hand the pixels (or the error) of equal images to all of them."""
    fetched = [entry.result() if isinstance(entry, Future) else entry for entry in batch]
    decoded = {entry.digest: entry for entry in fetched if entry.pixels is not None or entry.error}
    finished = []
    for entry in fetched:
        twin = decoded.get(entry.digest) if entry.digest is not None else None
        if twin is not None and entry.pixels is None and entry.error is None:
            entry = Fetched(entry.item, entry.digest, twin.pixels, twin.error)
        finished.append(entry)
    return finished
