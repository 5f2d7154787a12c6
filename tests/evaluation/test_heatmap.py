"""The heat map: regions lie where they should, colours mean what the bar says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlood.evaluation.heatmap import Caption, ColourScale, heatmap, is_ours, overlay, png_of

SCALE = ColourScale(0.2, 0.6, "a share")
CAPTION = Caption("a/b.png", "cat", 0.123, "mcm", True)
# 20 x 31 pixels in regions of 8 x 10: two rows and three columns, and a rest at both edges.
GREY = np.full((20, 31, 3), 90, np.uint8)


def test_each_region_colours_its_own_pixels_and_the_rest_none() -> None:
    idness = np.full((2, 3), 0.2)
    idness[1, 2] = 0.6
    drawn = overlay(GREY, idness, (8, 10), SCALE).astype(int)
    lit = np.abs(drawn - drawn[0, 0]).sum(axis=2) > 40
    expected = np.zeros((20, 31), bool)
    expected[8:16, 20:30] = True
    bare = np.zeros((20, 31), bool)
    bare[16:], bare[:, 30:] = True, True
    np.testing.assert_array_equal(lit & ~bare, expected)
    assert np.ptp(drawn[bare], axis=1).max() == 0


def test_a_region_larger_than_what_is_left_is_cut() -> None:
    assert overlay(GREY, np.zeros((3, 4)), (8, 10), SCALE).shape == GREY.shape


def test_the_picture_can_be_seen_through_its_colours() -> None:
    picture = GREY.copy()
    picture[:, ::2] = 200
    drawn = overlay(picture, np.full((2, 3), 0.5), (8, 10), SCALE).astype(int)
    assert (drawn[:16, 0:30:2] - drawn[:16, 1:30:2]).min() > 20


def test_colours_are_fixed_get_lighter_and_end_at_the_ends() -> None:
    lightness = SCALE.colours(np.linspace(0.2, 0.6, 30)).astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 0).all()
    ends = SCALE.colours(np.array([0.0, 0.2, 0.6, 1.0]))
    np.testing.assert_array_equal(ends[0], ends[1])
    np.testing.assert_array_equal(ends[2], ends[3])
    one, other = SCALE.colours(np.array([0.3, 0.3])), SCALE.colours(np.array([0.3, 0.9]))
    np.testing.assert_array_equal(one[0], other[0])


@pytest.mark.parametrize(("side", "shown"), [(32, 256), (100, 200), (224, 224), (9, 243)])
def test_small_pictures_grow_by_whole_pixels(side: int, shown: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    sheet = np.asarray(heatmap(pixels, np.zeros((1, 1)), (side, side), SCALE, CAPTION))
    factor = shown // side
    first = sheet[12 : 12 + shown : factor, 12 : 12 + shown : factor]
    np.testing.assert_array_equal(first, pixels)


def test_long_names_stay_in_the_picture() -> None:
    caption = Caption("x" * 500, "long label " * 60, 1.0, "local-prompt", None)
    sheet = np.asarray(heatmap(GREY, np.zeros((2, 3)), (8, 10), SCALE, caption))
    assert (sheet[:, -6:] == 255).all()
    assert (sheet[-56:] < 128).any()


def test_the_bytes_are_ours_and_the_same_each_time(tmp_path: Path) -> None:
    pictures = [heatmap(GREY, np.zeros((2, 3)), (8, 10), SCALE, CAPTION) for _ in range(2)]
    assert png_of(pictures[0]) == png_of(pictures[1])
    mine, foreign, text = (tmp_path / name for name in ("mine.png", "foreign.png", "text.png"))
    mine.write_bytes(png_of(pictures[0]))
    Image.fromarray(GREY).save(foreign)
    text.write_text("text")
    assert [is_ours(path) for path in (mine, foreign, text, tmp_path)] == [
        True,
        False,
        False,
        False,
    ]
