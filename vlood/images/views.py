"""Augmented views: a random part of a picture, resized and maybe mirrored.

The random resized crop of GoogLeNet (Szegedy et al. 2015) with torchvision's published rule of
drawing it, as CoOp, LoCoOp, LAPT and Local-Prompt train with. What a view shows follows from the
image's bytes, the view's number and the seed alone, so its embedding can be remembered.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

VIEWS_VERSION = 1
"""Raised when the same view shows something else, so that remembered embeddings are made anew."""

_TRIES = 10
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class View:
    """One view of every image.

    Attributes:
        number: which one, from 0.
        seed: of the run.
        size: height and width of the model's input.
        interpolation: ``bicubic`` or ``bilinear``.
        scale: smallest and largest share of the picture's area.
        ratio: smallest and largest width over height.
        mirror: whether half of the images are mirrored.
    """

    number: int
    seed: int
    size: tuple[int, int]
    interpolation: str = "bicubic"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    mirror: bool = True

    def describe(self) -> str:
        """Return a stable text of all that changes pixels, for cache keys."""
        low, high = self.scale
        narrow, wide = self.ratio
        return (
            f"view={self.number} seed={self.seed} {self.size[0]}x{self.size[1]} "
            f"{self.interpolation} scale={low:g}-{high:g} ratio={narrow:g}-{wide:g} "
            f"v{VIEWS_VERSION}" + ("" if self.mirror else " upright")
        )

    def of(self, picture: Image.Image, data: bytes) -> Image.Image:
        """Return the view of a picture, of the model's size.

        Args:
            picture: upright RGB.
            data: the bytes of its file.
        """
        place = f"{self.number} {self.seed} ".encode()
        digest = hashlib.blake2b(place + hashlib.sha256(data).digest(), digest_size=16).digest()
        random = np.random.default_rng(int.from_bytes(digest, "big"))
        left, top, width, height = self._part(*picture.size, random)
        rows, columns = self.size
        view = picture.resize(
            (columns, rows),
            _FILTERS[self.interpolation],
            box=(left, top, left + width, top + height),
        )
        if self.mirror and random.random() < 0.5:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return view

    def _part(
        self, width: int, height: int, random: np.random.Generator
    ) -> tuple[int, int, int, int]:
        """Draw the part that is shown: left, top, width and height in whole pixels."""
        low, high = (math.log(one) for one in self.ratio)
        for _ in range(_TRIES):
            area = width * height * random.uniform(*self.scale)
            ratio = math.exp(random.uniform(low, high))
            columns, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < columns <= width and 0 < rows <= height:
                left = int(random.integers(width - columns + 1))
                top = int(random.integers(height - rows + 1))
                return left, top, columns, rows
        # Nothing fitted: the largest centred part whose proportions are allowed.
        columns, rows = width, height
        if width < height * self.ratio[0]:
            rows = max(1, min(height, round(width / self.ratio[0])))
        elif width > height * self.ratio[1]:
            columns = max(1, min(width, round(height * self.ratio[1])))
        return (width - columns) // 2, (height - rows) // 2, columns, rows
