"""Training images as pixels, read again in every step by threads beside the model."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlood.errors import ImageError, VloodError
from vlood.images.augment import Augmentation
from vlood.images.decode import decode
from vlood.images.item import ImageItem

if TYPE_CHECKING:
    from vlood.engines.tuning import ItemViews

# Whole images that need no more than this are read once and kept.
_KEPT_BYTES = 1 << 30

_Key = tuple[int, int, int, Augmentation]


class ItemPixels:
    """The pixels of images, or of a random part of each.

    Args:
        views: gives the images, the model and how they are read.
        paths: of the images, in the order of their rows.
    """

    def __init__(self, views: ItemViews, paths: Sequence[str]) -> None:
        self._views, self._paths = views, tuple(paths)
        self._items: list[ImageItem] | None = None
        self._reading: dict[_Key, Future[NDArray[Any]]] = {}
        self._whole: dict[int, NDArray[Any]] = {}
        self._pool: ThreadPoolExecutor | None = None

    def of(
        self, rows: NDArray[np.int64], number: int, seed: int, augmentation: Augmentation
    ) -> NDArray[Any]:
        """Return prepared pictures [n, ...], as :class:`vlood.training.pixels.PixelSource` says.

        Raises:
            VloodError: an image that was read before cannot be read any more.
        """
        asked = self._begin(rows, number, seed, augmentation)
        pictures = []
        for row, future in zip(rows.tolist(), asked, strict=True):
            picture = future.result() if isinstance(future, Future) else future
            self._reading.pop((row, number, seed, augmentation), None)
            if augmentation.is_none and len(self._paths) * picture.nbytes <= _KEPT_BYTES:
                self._whole[row] = picture
            pictures.append(picture)
        return np.stack(pictures)

    def expect(
        self, rows: NDArray[np.int64], number: int, seed: int, augmentation: Augmentation
    ) -> None:
        """Begin to read the pictures of the next step, rows [B]."""
        self._begin(rows, number, seed, augmentation)

    def _begin(
        self, rows: NDArray[np.int64], number: int, seed: int, augmentation: Augmentation
    ) -> list[Future[NDArray[Any]] | NDArray[Any]]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(
                self._views.settings.workers, thread_name_prefix="vlood-pixels"
            )
            weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)
        if self._items is None:
            self._items = self._views.named(self._paths)
        found: list[Future[NDArray[Any]] | NDArray[Any]] = []
        for row in rows.tolist():
            if augmentation.is_none and row in self._whole:
                found.append(self._whole[row])
                continue
            key = (row, number, seed, augmentation)
            if key not in self._reading:
                item = self._items[row]
                self._reading[key] = self._pool.submit(
                    _read, item, self._views, number, seed, augmentation
                )
            found.append(self._reading[key])
        return found


def _read(
    item: ImageItem, views: ItemViews, number: int, seed: int, augmentation: Augmentation
) -> NDArray[Any]:
    """Decode an image and prepare it, or a view of it."""
    preprocessing = views.backbone.preprocessing
    settings = views.settings.decode
    if not augmentation.is_none:
        settings = replace(settings, view=augmentation.view(number, seed, preprocessing.size))
    try:
        picture = decode(item.read(), settings, draft_side=preprocessing.draft_side)
        return preprocessing.prepare(picture)
    except (ImageError, OSError, ValueError, ArithmeticError) as error:
        raise VloodError(f"{item.path}: {error}; run the command again") from error
