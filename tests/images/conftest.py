"""Pictures and their encoded bytes for the tests of this room."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

Encode = Callable[..., bytes]


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """Return a smooth colourful 120 x 90 picture with detail everywhere, grey nowhere."""
    rng = np.random.default_rng(7)
    coarse = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((120, 90), Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def encode() -> Encode:
    """Return a function that encodes an image with Pillow."""

    def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, format, **options)
        return buffer.getvalue()

    return encoded


@pytest.fixture(scope="session")
def png(picture: Image.Image, encode: Encode) -> bytes:
    return encode(picture, "PNG")
