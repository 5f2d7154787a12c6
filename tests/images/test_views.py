"""Augmented views: what they show is settled by content, number and seed."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from vlood.images.decode import DecodeSettings, decode
from vlood.images.views import View


def gradient(width: int = 90, height: int = 60) -> Image.Image:
    """A picture whose red grows to the right and whose green grows downwards."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)[None]
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(pixels)


def data_of(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "png")
    return stream.getvalue()


def shown(view: View, data: bytes) -> np.ndarray:
    return np.asarray(decode(data, DecodeSettings(view=view)))


def test_a_view_is_a_function_of_content_number_and_seed() -> None:
    data = data_of(gradient())
    first = shown(View(0, 1, (32, 24)), data)
    assert first.shape == (32, 24, 3)
    np.testing.assert_array_equal(first, shown(View(0, 1, (32, 24)), data))
    for other in (View(1, 1, (32, 24)), View(0, 2, (32, 24))):
        assert not np.array_equal(first, shown(other, data))
    assert not np.array_equal(first, shown(View(0, 1, (32, 24)), data_of(gradient(91))))


def test_views_are_parts_of_allowed_size_and_shape_half_of_them_mirrored() -> None:
    picture, mirrored, shares = gradient(), 0, []
    for number in range(200):
        pixels = np.asarray(View(number, 0, (32, 32), "bilinear").of(picture, b"x")).astype(float)
        red, green = pixels[16, :, 0], pixels[:, 16, 1]
        mirrored += bool(red[0] > red[-1])
        # The filter smears at the borders, so the part is measured to about a tenth.
        wide = abs(red[-1] - red[0]) / 255 * 90 * 32 / 31
        high = abs(green[-1] - green[0]) / 255 * 60 * 32 / 31
        shares.append(wide * high / 5400)
        assert 0.6 < wide / high < 1.6
    assert 0.04 < min(shares) < 0.2
    assert max(shares) <= 1.05
    assert 70 < mirrored < 130


@pytest.mark.parametrize("size", [(400, 4), (4, 400)])
def test_a_strip_gives_its_centre(size: tuple[int, int]) -> None:
    view = View(0, 0, (16, 16), scale=(0.9, 1.0))
    left, top, width, height = view._part(*size, np.random.default_rng(0))
    assert (width, height) in ((5, 4), (4, 5))
    assert abs(left + width / 2 - size[0] / 2) <= 1
    assert abs(top + height / 2 - size[1] / 2) <= 1


def test_keys_tell_views_apart() -> None:
    views = [None, View(0, 0, (8, 8)), View(1, 0, (8, 8)), View(0, 1, (8, 8))]
    views += [
        View(0, 0, (9, 8)),
        View(0, 0, (8, 8), "bilinear"),
        View(0, 0, (8, 8), scale=(0.5, 1)),
    ]
    assert len({DecodeSettings(view=view).describe() for view in views}) == len(views)
