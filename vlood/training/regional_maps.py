"""Regional maps of augmented views as a training asks for them, wherever they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vlood.training.labelled import LabelledFeatures


class RegionalMaps(Protocol):
    """Maps of V views of each of N images."""

    def of(self, rows: NDArray[np.int64], views: Sequence[int]) -> NDArray[np.float32]:
        """Return unit features float32 [n, len(views), R, D] of some images and views.

        Asked again, they are the same.
        """
        ...


class RegionSource(Protocol):
    """What makes regional maps."""

    def __call__(
        self,
        images: LabelledFeatures,
        chosen: NDArray[np.int64],
        seed: int,
        *,
        recompute: bool,
        kept: int,
    ) -> RegionalMaps:
        """Make the maps of chosen views, int64 [N, V] of view numbers, of N images.

        Args:
            images: with their ids.
            chosen: of each image, the numbers of its views.
            seed: of the views.
            recompute: keep nothing on disk: make the maps anew whenever other rows are asked for.
            kept: recompute: of how many askings the maps are held in memory.
        """
        ...


@dataclass(frozen=True, eq=False)
class ArrayMaps:
    """Maps in memory, unit features [N, V, R, D]; one image's serve all where N is 1."""

    maps: NDArray[np.float32]

    def of(self, rows: NDArray[np.int64], views: Sequence[int]) -> NDArray[np.float32]:
        """Return some."""
        rows = rows if len(self.maps) > 1 else np.zeros_like(rows)
        return np.asarray(self.maps[rows[:, None], np.asarray(views)[None]])
