"""Captioned pictures to train a small CLIP on: the pictogram world, or a tree of class folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlood.images import world
from vlood.images.pictograms import pictograms

_HARDEST = 0.6
_LOOK_WORDS = "blurry noisy small large rotated partly hidden photo of on background"


@dataclass(frozen=True)
class Batch:
    """Pictures, what is said of each, and what could be said of none of them.

    Attributes:
        images: uint8 [B, H, W, 3].
        captions: B texts, one a picture.
        absent: captions of classes that no picture of the batch shows: more wrong answers to tell
            a picture's own caption from.
    """

    images: NDArray[np.uint8]
    captions: list[str]
    absent: list[str]


class CaptionedPictures(Protocol):
    """What the trainer reads: batches that depend on nothing but the seed and the step."""

    def batch(self, size: int, seed: int, step: int) -> Batch:
        """Return one batch of at most ``size`` pictures, no two of one class."""
        ...

    def words(self) -> Sequence[str]:
        """Return texts that between them hold every word of every caption."""
        ...


class WorldPictures:
    """Fresh pictures of the pictogram world, every name at most once a batch."""

    def batch(self, size: int, seed: int, step: int) -> Batch:
        """Draw one batch; difficulty is spread so that easy and hard pictures are both learned."""
        rng = np.random.default_rng([seed, 1000, step])
        shown, kinds = pictograms(), world.far_names()
        names = [*(pictogram.name for pictogram in shown), *kinds.values()]
        order = rng.permutation(len(names))
        chosen = order[:size]
        images = np.empty((len(chosen), world.SIZE, world.SIZE, 3), np.uint8)
        captions = []
        for row, number in enumerate(chosen):
            if number < len(shown):
                look = world.random_look(rng, float(rng.uniform(0.0, _HARDEST)))
                glyph = int(rng.choice(shown[number].glyphs))
                images[row] = np.asarray(world.draw(glyph, look, rng))
                captions.append(world.caption(names[number], look, rng))
            else:
                kind = list(kinds)[number - len(shown)]
                images[row] = np.asarray(world.far_image(kind, rng))
                captions.append(_plain_caption(names[number], rng))
        return Batch(images, captions, [_plain_caption(names[n], rng) for n in order[size:]])

    def words(self) -> list[str]:
        """Return every word a caption can hold."""
        templates = [template.format("") for template in world.CAPTIONS]
        return [*world.vocabulary(), *world.COLOURS, *templates, _LOOK_WORDS]


class FolderPictures:
    """Photographs from a tree of class folders; a folder's name is the class."""

    def __init__(self, root: Path, side: int = 64) -> None:
        self.side = side
        self.classes = {
            folder.name: sorted(path for path in folder.rglob("*") if path.is_file())
            for folder in sorted(root.iterdir())
            if folder.is_dir()
        }
        self.classes = {name: files for name, files in self.classes.items() if files}
        if len(self.classes) < 2:
            raise ValueError(f"{root}: expected at least two class folders that hold images")

    def batch(self, size: int, seed: int, step: int) -> Batch:
        """Read one batch, randomly cropped and mirrored."""
        rng = np.random.default_rng([seed, 2000, step])
        names = list(self.classes)
        order = rng.permutation(len(names))
        chosen = order[:size]
        images = np.empty((len(chosen), self.side, self.side, 3), np.uint8)
        captions = []
        for row, number in enumerate(chosen):
            files = self.classes[names[number]]
            images[row] = _random_crop(files[int(rng.integers(len(files)))], self.side, rng)
            captions.append(_plain_caption(names[number].replace("_", " "), rng))
        others = [names[n].replace("_", " ") for n in order[size : 2 * size]]
        return Batch(images, captions, [_plain_caption(words, rng) for words in others])

    def words(self) -> list[str]:
        """Return every word a caption can hold."""
        templates = [template.format("") for template in world.CAPTIONS]
        return [*(name.replace("_", " ") for name in self.classes), *templates]


def _plain_caption(name: str, rng: np.random.Generator) -> str:
    return str(rng.choice(world.CAPTIONS)).format(name)


def _random_crop(path: Path, side: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    length = min(image.size) * float(rng.uniform(0.6, 1.0))
    left = float(rng.uniform(0, image.width - length))
    top = float(rng.uniform(0, image.height - length))
    box = (left, top, left + length, top + length)
    cropped = image.resize((side, side), Image.Resampling.BICUBIC, box=box)
    pixels = np.asarray(cropped)
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels
