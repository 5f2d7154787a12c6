"""Augmentation in training: every pass sees another part of each picture, maybe in other colours.

The parts are those of :mod:`vlood.images.views`. What is drawn follows from the seed, the picture
and the pass alone, so threads may make them in any order, and a run that goes on sees what it would
have seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlood.images.views import View


@dataclass(frozen=True)
class Augmentation:
    """How training shows a picture.

    Attributes:
        scale: smallest and largest share of its area that is shown.
        mirror: whether half of the views are mirrored.
        colour: most that brightness, contrast and saturation change, as a share.
        interpolation: ``bilinear`` or ``bicubic``.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    mirror: bool = False
    colour: float = 0.0
    interpolation: str = "bicubic"

    @property
    def is_none(self) -> bool:
        """Say whether pictures are shown whole and as they are, as in scoring."""
        return self.scale == (1.0, 1.0) and not self.mirror and not self.colour

    def view(self, number: int, seed: int, size: tuple[int, int]) -> View:
        """Return the view of a number, which shows a part of a picture in a height and width."""
        from vlood.images.views import View

        return View(number, seed, size, self.interpolation, self.scale, mirror=self.mirror)

    def of(
        self, picture: Image, number: int, epoch: int, *, seed: int, side: int
    ) -> NDArray[np.uint8]:
        """Return picture ``number`` as it is seen in a pass, uint8 [side, side, 3]."""
        seen = self.view(epoch, seed, (side, side)).of(picture, str(number).encode())
        if self.colour:
            from PIL import ImageEnhance

            colours = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
            random = np.random.default_rng([abs(seed), number, epoch])
            for row in random.permutation(len(colours)).tolist():
                factor = 1 + random.uniform(-self.colour, self.colour)
                seen = colours[row](seen).enhance(factor)
        return np.asarray(seen, np.uint8)
