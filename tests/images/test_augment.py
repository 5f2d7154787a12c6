"""Augmented pictures are a function of seed, number and pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from vlood.images.augment import Augmentation

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
WAYS = Augmentation((0.08, 1.0), mirror=True, colour=0.4, interpolation="bilinear")


def shown(ways: Augmentation, picture: Image.Image, number: int, epoch: int, seed: int = 3) -> Any:
    return ways.of(picture, number, epoch, seed=seed, side=16)


def test_the_same_place_gives_the_same_picture() -> None:
    first = shown(WAYS, PICTURE, 7, 2)
    assert first.shape == (16, 16, 3)
    np.testing.assert_array_equal(first, shown(WAYS, PICTURE, 7, 2))
    others = (
        shown(WAYS, PICTURE, 8, 2),
        shown(WAYS, PICTURE, 7, 3),
        shown(WAYS, PICTURE, 7, 2, seed=4),
        shown(replace(WAYS, colour=0.0), PICTURE, 7, 2),
    )
    for other in others:
        assert np.abs(first.astype(int) - other).max() > 0


def test_half_of_the_views_are_mirrored() -> None:
    ramp = Image.fromarray(np.tile(np.arange(0, 200, 5, dtype=np.uint8)[None, :, None], (40, 1, 3)))
    ways = replace(WAYS, colour=0.0)
    mirrored = [
        shown(ways, ramp, row, 0)[:, 0].mean() > shown(ways, ramp, row, 0)[:, -1].mean()
        for row in range(60)
    ]
    assert 15 < sum(mirrored) < 45
    never = replace(ways, mirror=False)
    assert all(
        shown(never, ramp, row, 0)[:, 0].mean() < shown(never, ramp, row, 0)[:, -1].mean()
        for row in range(20)
    )
