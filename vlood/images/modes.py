"""Bring any decoded pixel mode to 8-bit RGB without clipping and without losing transparency."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from vlood.errors import ImageError


def to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Return the image as 8-bit RGB.

    Transparent images are composited on `background`. 16-bit images are divided by 257 (65,535
    becomes 255). 32-bit integer and float images whose range is that of a usual encoding (0..255,
    0..65,535, float 0..1) are scaled from that encoding, others from their own least and greatest
    value. CMYK, YCbCr, HSV, palette and grey images are converted by Pillow, L*a*b* by its
    colour management.

    Raises:
        ImageError: a float image holds NaN or infinity.

    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        return _grey(_sixteen_bit(np.asarray(image)))
    if image.mode == "I":
        return _grey(_integers(np.asarray(image)))
    if image.mode == "F":
        return _grey(_floats(np.asarray(image)))
    if image.mode == "LAB":
        return _lab_to_rgb(image)
    if image.has_transparency_data:
        return _composite(image, background)
    return image.convert("RGB")


def _composite(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    # Pillow removes premultiplied alpha only between modes of the same kind.
    image = image.convert("LA") if image.mode == "La" else image
    coloured = image.convert("RGBA")
    canvas = Image.new("RGB", image.size, background)
    canvas.paste(coloured, mask=coloured.getchannel("A"))
    return canvas


def _grey(values: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(np.rint(values).astype(np.uint8)).convert("RGB")


def _sixteen_bit(values: NDArray[np.generic]) -> NDArray[np.float64]:
    return values.astype(np.float64) / 257.0


def _integers(values: NDArray[np.generic]) -> NDArray[np.float64]:
    low, high = int(values.min()), int(values.max())
    if low >= 0 and high <= 255:
        return values.astype(np.float64)
    if low >= 0 and high <= 65_535:
        return _sixteen_bit(values)
    return _stretched(values.astype(np.float64), float(low), float(high))


def _floats(values: NDArray[np.generic]) -> NDArray[np.float64]:
    wide = values.astype(np.float64)
    if not np.isfinite(wide).all():
        raise ImageError("the float image holds NaN or infinite pixels; repair or convert it")
    low, high = float(wide.min()), float(wide.max())
    if low >= 0.0 and high <= 1.0:
        return wide * 255.0
    if low >= 0.0 and high <= 255.0:
        return wide
    if low >= 0.0 and high <= 65_535.0:
        return _sixteen_bit(wide)
    return _stretched(wide, low, high)


def _stretched(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    if high == low:
        return np.full_like(values, 127.5)
    return (values - low) / (high - low) * 255.0


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    converted = ImageCms.profileToProfile(
        image,
        ImageCms.createProfile("LAB"),
        ImageCms.createProfile("sRGB"),
        outputMode="RGB",
    )
    assert converted is not None
    return converted
