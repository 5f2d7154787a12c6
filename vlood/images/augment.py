"""Augmentation in training: every pass sees another part of each picture, in other colours.

The parts are those of :mod:`vlood.images.views`. What is drawn follows from the seed, the picture's
number and the pass alone, so threads may make them in any order, and a run that goes on sees what
it would have seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from vlood.images.views import View

_COLOURS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


@dataclass(frozen=True)
class Augmentation:
    """How a picture is varied.

    Attributes:
        size: side of what comes out.
        seed: of the run.
        smallest_crop: smallest share of the picture's area that is shown; 1 with ``size`` squashes
            whole pictures.
        flip: mirror every other one.
        colour: most that brightness, contrast and saturation change, as a share.
        interpolation: ``bilinear`` or ``bicubic``.
    """

    size: int
    seed: int
    smallest_crop: float = 0.08
    flip: bool = True
    colour: float = 0.0
    interpolation: str = "bilinear"

    def of(self, picture: Image.Image, number: int, epoch: int) -> NDArray[np.uint8]:
        """Return picture ``number`` as it is seen in a pass, uint8 [size, size, 3]."""
        view = View(
            epoch,
            self.seed,
            (self.size, self.size),
            self.interpolation,
            (self.smallest_crop, 1.0),
            mirror=self.flip,
        )
        seen = view.of(picture, str(number).encode())
        if self.colour:
            random = np.random.default_rng([abs(self.seed), number, epoch])
            for row in random.permutation(len(_COLOURS)).tolist():
                factor = 1 + random.uniform(-self.colour, self.colour)
                seen = _COLOURS[row](seen).enhance(factor)
        return np.asarray(seen, np.uint8)
