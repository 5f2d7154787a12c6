"""Training images as pixels, for methods that train an image tower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vlood.images.augment import Augmentation


class PixelSource(Protocol):
    """Gives the pixels of training images, by their rows."""

    def of(
        self, rows: NDArray[np.int64], number: int, seed: int, augmentation: Augmentation
    ) -> NDArray[Any]:
        """Return prepared pictures [n, ...] of the images in these rows, in order.

        Args:
            rows: of the images.
            number: of the view; the same number and seed show the same part of an image.
            seed: of the views.
            augmentation: how they are shown.

        Raises:
            VloodError: an image that was read before cannot be read any more.
        """
        ...

    def expect(
        self, rows: NDArray[np.int64], number: int, seed: int, augmentation: Augmentation
    ) -> None:
        """Begin to read rows [B], which will be asked for next; may do nothing."""
        ...


@dataclass(frozen=True)
class BlankPixels:
    """Pictures of nothing, for measuring what a step costs.

    Attributes:
        size: height and width.
        split: whether pictures are bytes [H, W, 3], else floats [3, H, W].
    """

    size: tuple[int, int]
    split: bool

    def of(
        self, rows: NDArray[np.int64], number: int, seed: int, augmentation: Augmentation
    ) -> NDArray[Any]:
        """Return black pictures."""
        if self.split:
            return np.zeros((len(rows), *self.size, 3), np.uint8)
        return np.zeros((len(rows), 3, *self.size), np.float32)

    def expect(
        self, rows: NDArray[np.int64], number: int, seed: int, augmentation: Augmentation
    ) -> None:
        """Do nothing."""
