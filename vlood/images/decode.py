"""Decode the bytes of one image into an upright 8-bit RGB picture, or say why not.

The format is found from the content, never from the name, and must be on an allow-list. What ends
early, does not decode or is far too large is refused, so that no half-grey picture is scored.
"""

from __future__ import annotations

import io
import os
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from PIL import Image, ImageFile

from vlood.errors import ImageError, VloodError
from vlood.images.integrity import find_damage
from vlood.images.modes import to_rgb
from vlood.images.shifts import SHIFTS_VERSION, Shift, content_seed, shifted
from vlood.images.views import View

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
"""Pillow's names of the formats read; multi-picture JPEG (MPO) comes under JPEG."""

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What preprocessing may blow a narrow image up to: 134 MB, a proportion of 668 : 1 at 224 pixels.
_MAX_RESIZED = 1 << 25
_DEFAULT_SIDE = 336

# Decoded, converted and rotated copies of one picture at 4 bytes a pixel, for four threads at
# once; what is left of the memory belongs to the model.
_BYTES_PER_PIXEL = 48


@dataclass(frozen=True)
class DecodeSettings:
    """How images are decoded.

    Attributes:
        fast: let JPEGs be reduced while they are decoded (DCT scaling). Much faster on large
            photographs; the pixels differ slightly from a full decode.
        background: 8-bit RGB colour behind transparent pixels.
        max_pixels: refuse images with more pixels; None: sized to this machine's memory.
        shift: make every picture worse in this way, or None. A picture larger than the model sees
            is reduced first, so that a severity means the same for large and small ones.
        view: show this augmented view of every picture, as training does, or None.

    """

    fast: bool = False
    background: tuple[int, int, int] = (255, 255, 255)
    max_pixels: int | None = None
    shift: Shift | None = None
    view: View | None = None

    @property
    def pixel_cap(self) -> int:
        """The largest number of pixels an image may have under these settings."""
        return default_max_pixels() if self.max_pixels is None else self.max_pixels

    def describe(self) -> str:
        """Return a stable text of all that changes pixels, for cache keys and records."""
        red, green, blue = self.background
        scaling = "dct-scaled-jpeg" if self.fast else "full"
        shift = "" if self.shift is None else f" shift={self.shift} v{SHIFTS_VERSION}"
        view = "" if self.view is None else f" {self.view.describe()}"
        return f"decode={scaling} background=#{red:02x}{green:02x}{blue:02x}{shift}{view}"


def decode(data: bytes, settings: DecodeSettings, *, draft_side: int | None = None) -> Image.Image:
    """Decode one image to upright RGB, its first frame where it has several.

    EXIF orientation is applied, transparency is composited on the background, and 16-bit, 32-bit
    and float images are scaled to 8 bits. Plain 8-bit images equal Pillow's own
    `Image.open(...).convert("RGB")` bit for bit, unless `settings.fast` applies.

    Args:
        data: the bytes of the file.
        settings: how to decode.
        draft_side: the short side in pixels that the model's preprocessing resizes to; fast
            decoding keeps the short side at least this long.

    Raises:
        ImageError: the bytes are no image of a format read, are damaged or truncated, or the
            image is too large or too narrow to be resized.

    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise VloodError(
            "Pillow's ImageFile.LOAD_TRUNCATED_IMAGES is on in this process, so damaged images "
            "would be scored half grey; set it to False"
        )
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    image = _open(data)
    _check_size(image.size, settings.pixel_cap, draft_side or _DEFAULT_SIDE)
    try:
        if settings.fast and draft_side is not None and image.format in ("JPEG", "MPO"):
            image.draft(None, (draft_side, draft_side))
        image.load()
        damage = find_damage(image.format, data)
        if damage is not None:
            raise ImageError(f"the {image.format} image is damaged or truncated: {damage}")
        upright = _UPRIGHT.get(_orientation(image))
        picture = to_rgb(image, settings.background)
        picture = picture if upright is None else picture.transpose(upright)
        if settings.shift is not None:
            side = draft_side or _DEFAULT_SIDE
            picture = _shifted(picture, settings.shift, side, content_seed(data))
        return picture if settings.view is None else settings.view.of(picture, data)
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("there is not enough memory to decode the image") from None
    except Exception as error:
        # Pillow's decoders raise nearly anything on damaged bytes; all of it means the same.
        raise ImageError(f"the {image.format} image is damaged or truncated: {error}") from None


def _shifted(picture: Image.Image, shift: Shift, side: int, seed: int) -> Image.Image:
    """Bring the short side down to what the model sees, then make the picture worse."""
    factor = side / min(picture.size)
    if factor < 1:
        width, height = (max(1, round(length * factor)) for length in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return shifted(picture, shift.name, shift.severity, seed)


def default_max_pixels() -> int:
    """Return this machine's pixel cap: Pillow's own bomb limit, less where memory is short."""
    limit = int(Image.MAX_IMAGE_PIXELS or 89_478_485)
    memory = _memory_bytes()
    return limit if memory is None else min(limit, memory // _BYTES_PER_PIXEL)


def _open(data: bytes) -> ImageFile.ImageFile:
    """Read the header with the plug-in whose signature the content bears.

    `Image.open` is not used because its size warning goes through process-wide filters, and its
    limit is a global; the plug-ins themselves are the same.
    """
    _register_formats()
    prefix = data[:16]
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        if accept is None or accept(prefix) is not True:
            continue
        try:
            opened: Any = factory(io.BytesIO(data), "")
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise ImageError(
                f"the {name} image is damaged or truncated in its header: {reason}"
            ) from None
        return opened  # type: ignore[no-any-return]
    raise ImageError(f"{_content(data)}; the formats read are {', '.join(FORMATS)}")


def _check_size(size: tuple[int, int], cap: int, side: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"the image is {width} x {height}: it has no pixels")
    if width * height > cap:
        raise ImageError(
            f"the image is {width:,} x {height:,}, more than the limit of {cap:,} pixels "
            "(a decompression bomb?); make it smaller or raise the limit"
        )
    # Preprocessing brings the short side to `side` and keeps the proportions.
    resized = max(width, height) * side * side // min(width, height)
    if resized > _MAX_RESIZED:
        raise ImageError(
            f"the image is {width:,} x {height:,}, too narrow: resized to a short side of {side} "
            f"it would have {resized:,} pixels; crop it"
        )


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        # Damaged metadata says nothing about the pixels, which are whole.
        return 1


def _content(data: bytes) -> str:
    """Say what the bytes look like, for the message about an unread format."""
    start = data[:512].lstrip()
    for signature, name in _OTHER_FORMATS.items():
        if start.startswith(signature):
            return f"the content is {name}, not an image that is read"
    if data[4:8] == b"ftyp":
        return "the content is HEIC or video, not an image that is read"
    try:
        data[:512].decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < min(len(data), 512) - 4:
            return "the content is not an image of a known format"
    if b"\0" in start:
        return "the content is not an image of a known format"
    return "the content is text, not an image"


_OTHER_FORMATS = {
    b"%PDF": "a PDF document",
    b"%!PS": "PostScript",
    b"8BPS": "a Photoshop document",
    b"<svg": "an SVG drawing",
    b"<?xml": "XML (an SVG drawing?)",
    b"<!DOCTYPE": "a web page",
    b"<html": "a web page",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "gzip-compressed",
    b"version https://git-lfs": "a Git LFS pointer (fetch it with git lfs pull)",
}

_registering = threading.Lock()


def _register_formats() -> None:
    """Let Pillow load its plug-ins once; it does not do so under several threads safely."""
    if all(name in Image.OPEN for name in FORMATS):
        return
    with _registering:
        Image.init()
    for name in FORMATS:
        if name not in Image.OPEN:
            raise VloodError(f"this build of Pillow has no {name} plug-in; reinstall Pillow")


@lru_cache(maxsize=1)
def _memory_bytes() -> int | None:
    """Return this machine's memory, or the smaller limit of its control group."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
            return min(memory, int(file.read()))
    except (OSError, ValueError):
        return memory
