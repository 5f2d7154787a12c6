"""Augmented pictures are a function of seed, number and pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from vlood.images.augment import Augmentation

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
WAYS = Augmentation(16, seed=3, colour=0.4)


def test_the_same_place_gives_the_same_picture() -> None:
    first = WAYS.of(PICTURE, 7, 2)
    assert first.shape == (16, 16, 3)
    np.testing.assert_array_equal(first, WAYS.of(PICTURE, 7, 2))
    others = (
        WAYS.of(PICTURE, 8, 2),
        WAYS.of(PICTURE, 7, 3),
        replace(WAYS, seed=4).of(PICTURE, 7, 2),
        replace(WAYS, colour=0.0).of(PICTURE, 7, 2),
    )
    for other in others:
        assert np.abs(first.astype(int) - other).max() > 0


def test_half_of_the_views_are_mirrored() -> None:
    ramp = Image.fromarray(np.tile(np.arange(0, 200, 5, dtype=np.uint8)[None, :, None], (40, 1, 3)))
    ways = Augmentation(16, seed=1)
    mirrored = [
        ways.of(ramp, row, 0)[:, 0].mean() > ways.of(ramp, row, 0)[:, -1].mean()
        for row in range(60)
    ]
    assert 15 < sum(mirrored) < 45
    never = replace(ways, flip=False)
    assert all(
        never.of(ramp, row, 0)[:, 0].mean() < never.of(ramp, row, 0)[:, -1].mean()
        for row in range(20)
    )
