"""Covariate shifts: the same content, worse pictures, at severities 1 to 5.

The kinds and the idea of five severities follow Hendrycks & Dietterich, "Benchmarking Neural
Network Robustness to Common Corruptions and Perturbations" (ICLR 2019). The parameters are vlood's
own: lengths are fractions of the picture's shorter side, so that a shift means the same at any
resolution, and every severity goes further from the picture than the one before. Figures are
therefore not those of ImageNet-C.

A shift is applied to the decoded picture, before a model's preprocessing. All chance comes from the
seed, best taken from the image's content (`content_seed`), never from its place in a run.

`imagecorruptions` and `albumentations` do the like, but bring OpenCV (and scikit-image, numba) and
draw from global or per-process seeds; NumPy, SciPy and Pillow are here anyway.
"""

from __future__ import annotations

import difflib
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from vlood.errors import UsageError

SEVERITIES = (1, 2, 3, 4, 5)

SHIFTS_VERSION = 1
"""Raised when a shift's pixels change, so that remembered embeddings are made anew."""

Pixels = NDArray[np.float32]
"""A picture [H, W, 3] in 0 .. 255."""

_Shift = Callable[[Image.Image, int, np.random.Generator], "Image.Image | Pixels"]


@dataclass(frozen=True)
class Shift:
    """A kind of shift and how strong it is, written ``NAME:SEVERITY``."""

    name: str
    severity: int

    def __post_init__(self) -> None:
        _check(self.name, self.severity)

    def __str__(self) -> str:
        return f"{self.name}:{self.severity}"


def parse_shift(text: str) -> Shift:
    """Read ``NAME:SEVERITY``, such as ``fog:3``.

    Raises:
        UsageError: it has another form, or there is no such shift or severity.
    """
    name, colon, severity = text.rpartition(":")
    if not colon:
        name, severity = text, ""
    _check_name(name)
    if severity not in map(str, SEVERITIES):
        raise UsageError(
            f"the shift {text!r} has no severity from 1 (weak) to 5 (strong); write {name}:3"
        )
    return Shift(name, int(severity))


def parse_shifts(text: str) -> list[Shift]:
    """Read ``NAME``, ``NAME:3`` or ``NAME:1-5``; a name alone means all five severities.

    Raises:
        UsageError: it has another form, or there is no such shift or severity.
    """
    name, colon, severities = text.partition(":")
    if not colon:
        severities = "1-5"
    low, dash, high = severities.partition("-")
    first = parse_shift(f"{name}:{low}")
    last = parse_shift(f"{name}:{high}") if dash else first
    if last.severity < first.severity:
        raise UsageError(
            f"the shift {text!r} runs from {low} down to {high}; write the weaker severity first"
        )
    return [Shift(name, severity) for severity in range(first.severity, last.severity + 1)]


def content_seed(data: bytes) -> int:
    """Return the seed that belongs to the bytes of an image file: 64 bits of their SHA-256."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def shifted(image: Image.Image, name: str, severity: int, seed: int) -> Image.Image:
    """Return a shifted copy of a picture, of the same size.

    Args:
        image: upright 8-bit RGB.
        name: one of `SHIFTS`.
        severity: 1 (weak) to 5 (strong).
        seed: not negative; the same seed gives the same pixels, and the severities of one shift
            share their chance, so that they grow out of one another.

    Raises:
        UsageError: the name or the severity is unknown, or the picture is not RGB.
    """
    _check(name, severity)
    if image.mode != "RGB":
        raise UsageError(f"shifts are for RGB pictures and this one is {image.mode}; convert it")
    kind = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    result = SHIFTS[name](image, severity, np.random.default_rng([seed, kind]))
    if isinstance(result, Image.Image):
        return result
    return Image.fromarray(np.clip(np.rint(result), 0, 255).astype(np.uint8))


def _check(name: str, severity: int) -> None:
    _check_name(name)
    if severity not in SEVERITIES:
        raise UsageError(f"the shift {name} has severities 1 to 5; {severity} is none of them")


def _check_name(name: str) -> None:
    if name in SHIFTS:
        return
    plain = name.lower().replace("_", "-").replace(" ", "-")
    close = [known for known in SHIFTS if plain and plain in known]
    close = close or difflib.get_close_matches(plain, SHIFTS, n=2)
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    raise UsageError(f"no shift is called {name!r}{hint}; there are {', '.join(SHIFTS)}")


def _pixels(values: Any) -> Pixels:
    """Return a picture, or computed values, as float32."""
    return np.asarray(values, np.float32)


def _gaussian_noise(image: Image.Image, severity: int, rng: np.random.Generator) -> Pixels:
    """Add noise of one deviation everywhere: 15 to 75 of 255."""
    pixels = _pixels(image)
    noise = rng.standard_normal(pixels.shape, np.float32)
    return _pixels(pixels + np.float32(15 * severity) * noise)


def _shot_noise(image: Image.Image, severity: int, rng: np.random.Generator) -> Pixels:
    """Count photons: white is 80, 40, 20, 10 or 5 of them."""
    white = (80, 40, 20, 10, 5)[severity - 1]
    counts = rng.poisson(_pixels(image) * (white / 255))
    return _pixels(counts * (255 / white))


def _gaussian_blur(image: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    """Blur by a Gaussian whose deviation is 0.6 % to 3 % of the shorter side."""
    share = (0.006, 0.010, 0.015, 0.022, 0.030)[severity - 1]
    return image.filter(ImageFilter.GaussianBlur(share * min(image.size)))


def _motion_blur(image: Image.Image, severity: int, rng: np.random.Generator) -> Pixels:
    """Smear along a line in a random direction, 3 % to 15 % of the shorter side long."""
    length = 0.03 * severity * min(image.size)
    return _convolved(_pixels(image), _line(length, float(rng.uniform(0, np.pi))))


def _defocus(image: Image.Image, severity: int, rng: np.random.Generator) -> Pixels:
    """Spread every point over an even disc, its radius 0.8 % to 4 % of the shorter side."""
    return _convolved(_pixels(image), _disc(0.008 * severity * min(image.size)))


def _fog(image: Image.Image, severity: int, rng: np.random.Generator) -> Pixels:
    """Mix in 15 % to 75 % of a light, cloudy haze."""
    share = np.float32(0.15 * severity)
    haze = 170 + 70 * _clouds(image.size, rng)[..., None]
    return _pixels((1 - share) * _pixels(image) + share * haze)


def _snow(image: Image.Image, severity: int, rng: np.random.Generator) -> Pixels:
    """Let white flakes fall, 4 % to 20 % of the picture, and bleach it a little."""
    flakes = _falling(image.size, rng, share=0.04 * severity, length=0.02, width=0.006)
    pale = np.float32(0.04 * severity)
    pixels = _pixels(image)
    pixels = pixels + pale * (255 - pixels)
    return _pixels(pixels + flakes[..., None] * (255 - pixels))


def _rain(image: Image.Image, severity: int, rng: np.random.Generator) -> Pixels:
    """Darken by 4 % to 20 % and draw long grey streaks."""
    streaks = _falling(image.size, rng, share=0.03 * severity, length=0.12, width=0.0)
    pixels = _pixels(image) * np.float32(1 - 0.04 * severity)
    return _pixels(pixels + 0.7 * streaks[..., None] * (200 - pixels))


def _brightness(image: Image.Image, severity: int, rng: np.random.Generator) -> Pixels:
    """Add 25 to 125 of 255 to every channel."""
    return _pixels(_pixels(image) + np.float32(25 * severity))


def _contrast(image: Image.Image, severity: int, rng: np.random.Generator) -> Pixels:
    """Keep 60 % down to 8 % of every pixel's distance from the mean colour's brightness."""
    kept = np.float32((0.6, 0.4, 0.25, 0.15, 0.08)[severity - 1])
    pixels = _pixels(image)
    mean = pixels.mean(dtype=np.float64).astype(np.float32)
    return _pixels(mean + kept * (pixels - mean))


def _saturation(image: Image.Image, severity: int, rng: np.random.Generator) -> Pixels:
    """Take 20 % to all of the colour away."""
    share = np.float32(0.2 * severity)
    pixels = _pixels(image)
    grey = _pixels(image.convert("L").convert("RGB"))
    return _pixels(pixels + share * (grey - pixels))


def _jpeg(image: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    """Compress as JPEG with quality 30, 20, 13, 8 or 4."""
    quality = (30, 20, 13, 8, 4)[severity - 1]
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(buffer) as read:
        picture: Image.Image = read.convert("RGB")
    return picture


def _pixelate(image: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    """Make blocks of a pixel and 1 % to 8 % of the shorter side."""
    block = 1 + (0.01, 0.02, 0.035, 0.055, 0.08)[severity - 1] * min(image.size)
    small = [max(1, round(side / block)) for side in image.size]
    reduced = image.resize((small[0], small[1]), Image.Resampling.BOX)
    return reduced.resize(image.size, Image.Resampling.NEAREST)


SHIFTS: dict[str, _Shift] = {
    "gaussian-noise": _gaussian_noise,
    "shot-noise": _shot_noise,
    "gaussian-blur": _gaussian_blur,
    "motion-blur": _motion_blur,
    "defocus": _defocus,
    "fog": _fog,
    "snow": _snow,
    "rain": _rain,
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "jpeg": _jpeg,
    "pixelate": _pixelate,
}
"""The shifts by name; each takes the picture, the severity and its own generator."""


def _line(length: float, angle: float) -> Pixels:
    """Return a line through the middle of a square kernel as weights that sum to 1."""
    reach = int(np.ceil(length / 2))
    steps = np.linspace(-length / 2, length / 2, 8 * reach + 1)
    return _weights(steps * np.sin(angle), steps * np.cos(angle), reach + 1)


def _disc(radius: float) -> Pixels:
    """Return an even disc with a soft edge as weights that sum to 1."""
    reach = int(np.ceil(radius))
    axis = np.arange(-reach, reach + 1, dtype=np.float32)
    distance = np.hypot(axis[:, None], axis)
    inside = np.clip(radius + 0.5 - distance, 0, 1)
    return np.asarray(inside / inside.sum(), np.float32)


def _weights(y: NDArray[np.float64], x: NDArray[np.float64], reach: int) -> Pixels:
    """Spread points between the cells of a kernel bilinearly."""
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    for down in (0, 1):
        for right in (0, 1):
            share = np.abs(1 - down - (y - top)) * np.abs(1 - right - (x - left))
            np.add.at(kernel, (top + down + reach, left + right + reach), share)
    return np.asarray(kernel / kernel.sum(), np.float32)


def _convolved(pixels: Pixels, kernel: Pixels) -> Pixels:
    """Convolve every channel, the picture mirrored at its borders."""
    from scipy.signal import oaconvolve

    reach = kernel.shape[0] // 2
    if not reach:
        return pixels
    padded = np.pad(pixels, ((reach, reach), (reach, reach), (0, 0)), mode="symmetric")
    return np.asarray(oaconvolve(padded, kernel[..., None], mode="valid", axes=(0, 1)), np.float32)


def _clouds(size: tuple[int, int], rng: np.random.Generator) -> Pixels:
    """Return a smooth random field [H, W] in [0, 1]: noise at four scales."""
    field = np.zeros((size[1], size[0]), np.float32)
    for scale in range(4):
        cells = 2 ** (scale + 1) + 1
        coarse = Image.fromarray(rng.random((cells, cells), np.float32))
        smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.float32)
        field += smooth / 2 ** (scale + 1)
    return _pixels(np.clip(field / np.float32(0.9375), 0, 1))


def _falling(
    size: tuple[int, int], rng: np.random.Generator, *, share: float, length: float, width: float
) -> Pixels:
    """Return how far drops or flakes cover each pixel, [H, W] in [0, 1].

    Args:
        size: width and height.
        rng: where they are, and from which side they come; the same ones and more as ``share``
            grows.
        share: about how much of the picture is covered.
        length: of a streak, as a share of the shorter side.
        width: deviation of a flake, as a share of the shorter side.
    """
    side = min(size)
    slant = np.pi / 2 + float(rng.uniform(-0.4, 0.4))
    streak = max(1.0, length * side)
    thick = max(1.0, 2 * width * side)
    points = rng.random((size[1], size[0]), np.float32) < share / (streak * thick)
    cover = points.astype(np.float32)[..., None]
    if width:
        grown = _convolved(cover, _disc(thick / 2))
        cover = grown / max(1e-6, float(_disc(thick / 2).max()))
    line = _line(streak, slant)
    return _pixels(np.clip(_convolved(cover, line)[..., 0] / line.max(), 0, 1))
