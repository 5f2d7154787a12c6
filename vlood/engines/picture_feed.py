"""Pictures for training a network: decoded once where they fit in memory, augmented in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlood.errors import ImageError, VloodError
from vlood.features.stream import StreamSettings
from vlood.images.augment import Augmentation
from vlood.images.decode import decode
from vlood.images.item import ImageItem
from vlood.images.loader import image_digest, load_batches

MEMORY_BYTES = 2 * 10**9
"""Pictures that take more than this together are decoded anew in every pass."""


@dataclass(frozen=True, eq=False)
class ReadPictures:
    """Images that were looked at once.

    Attributes:
        items: those that could be read.
        digests: of their bytes.
        kept: their pictures, reduced for training, or none where they are too many for memory.
        errors: reasons by path, of the others.
    """

    items: list[ImageItem]
    digests: list[bytes]
    kept: list[NDArray[np.uint8]]
    errors: dict[str, str] = field(default_factory=dict)


def reduced(picture: Image.Image, side: int) -> NDArray[np.uint8]:
    """Return a picture with a short side of at most ``side``, uint8 [H, W, 3]."""
    factor = side / min(picture.size)
    if factor < 1:
        width, height = (max(1, round(length * factor)) for length in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(picture, np.uint8)


def read_pictures(
    items: Sequence[ImageItem],
    size: int,
    settings: StreamSettings,
    *,
    memory: int = MEMORY_BYTES,
    advance: Callable[[int], None] = lambda count: None,
) -> ReadPictures:
    """Decode every image once, in threads; keep pictures of twice the size that is trained on."""
    found: list[ImageItem] = []
    digests: list[bytes] = []
    kept: list[NDArray[np.uint8]] = []
    errors: dict[str, str] = {}
    held, keeps = 0, True
    batches = load_batches(
        items,
        batch_size=settings.batch_size,
        prepare=lambda picture: reduced(picture, 2 * size),
        settings=settings.decode,
        workers=settings.workers,
        draft_side=2 * size,
    )
    for batch in batches:
        for one in batch:
            if one.error is not None or one.digest is None:
                errors[one.item.path] = one.error or "cannot be read"
                continue
            found.append(one.item)
            digests.append(one.digest)
            if keeps:
                kept.append(one.pixels)
                held += one.pixels.nbytes
                keeps = held <= memory
        advance(len(batch))
    return ReadPictures(found, digests, kept if keeps else [], errors)


class PictureFeed:
    """Give augmented pictures, made by threads ahead of the network.

    Args:
        read: the images.
        augmentation: how they are varied.
        settings: how images are read.
        pool: the threads.
        side: of the pictures.
        seed: of the run.
    """

    def __init__(
        self,
        read: ReadPictures,
        augmentation: Augmentation,
        settings: StreamSettings,
        pool: ThreadPoolExecutor,
        *,
        side: int,
        seed: int,
    ) -> None:
        self._read, self._augmentation = read, augmentation
        self._side, self._seed = side, seed
        self._settings, self._pool = settings, pool
        self._ready: dict[tuple[int, int], Future[NDArray[np.uint8]]] = {}

    def upcoming(self, rows: NDArray[np.int64], epoch: int) -> None:
        """Begin to make the pictures of these rows [B], unless they are in the making."""
        for row in rows.tolist():
            if (row, epoch) not in self._ready:
                self._ready[row, epoch] = self._pool.submit(self._one, row, epoch)

    def pictures(self, rows: NDArray[np.int64], epoch: int) -> NDArray[np.uint8]:
        """Return the pictures of these rows as a pass sees them, uint8 [n, size, size, 3].

        Raises:
            VloodError: an image that was read before cannot be read any more.
        """
        self.upcoming(rows, epoch)
        return np.stack([self._ready.pop((row, epoch)).result() for row in rows.tolist()])

    def _one(self, row: int, epoch: int) -> NDArray[np.uint8]:
        if self._read.kept:
            picture = Image.fromarray(self._read.kept[row])
        else:
            side = 2 * self._side
            picture = Image.fromarray(reduced(self.decoded(row, side), side))
        return self._augmentation.of(picture, row, epoch, seed=self._seed, side=self._side)

    def decoded(self, row: int, side: int) -> Image.Image:
        """Decode an image anew.

        Raises:
            VloodError: it cannot be read any more, or is another one now.
        """
        item = self._read.items[row]
        try:
            data = item.read()
            if image_digest(data) != self._read.digests[row]:
                raise VloodError(f"{item.path}: changed during training; run the command again")
            return decode(data, self._settings.decode, draft_side=side)
        except ImageError as error:
            raise VloodError(f"{item.path}: {error}; run the command again") from error

    def plain(
        self, rows: NDArray[np.int64], prepare: Callable[[Image.Image], Any], size: int
    ) -> NDArray[np.uint8]:
        """Return images as a finished classifier sees them, uint8 [n, size, size, 3]."""
        made = [
            self._pool.submit(lambda row: prepare(self.decoded(row, size)), row)
            for row in rows.tolist()
        ]
        if not made:
            return np.zeros((0, size, size, 3), np.uint8)
        return np.stack([one.result() for one in made])


@contextmanager
def feeding(
    read: ReadPictures,
    augmentation: Augmentation,
    settings: StreamSettings,
    *,
    side: int,
    seed: int,
) -> Iterator[PictureFeed]:
    """Yield a feed whose threads end with the block."""
    pool = ThreadPoolExecutor(settings.workers, thread_name_prefix="vlood-augment")
    try:
        yield PictureFeed(read, augmentation, settings, pool, side=side, seed=seed)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
