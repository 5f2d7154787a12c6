"""A heat map: an image as the model sees it, and beside it where a detector finds its classes."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from vlood.evaluation.contact_sheet import label_font

MADE_BY = "vlood heatmap"
"""What a picture of ours says in its PNG text under ``Software``."""

# Violet over green to yellow, ever lighter: told apart by every common colour vision and in grey.
_COLOURS = "viridis"
_OPACITY = 0.62
_LEAST_SIDE = 240
_GAP = 12
_BAR = 16
_BAR_TEXT = 74
_INK = (25, 25, 25)
_FAINT = (105, 105, 105)
_OOD_INK = (180, 60, 0)


@dataclass(frozen=True)
class ColourScale:
    """How ID-ness becomes colour: the same for every picture of a detector.

    Attributes:
        low: ID-ness at and below which a region is violet.
        high: ID-ness at and above which it is yellow.
        meaning: what the number is.
    """

    low: float
    high: float
    meaning: str

    def colours(self, idness: NDArray[np.floating]) -> NDArray[np.uint8]:
        """Return the colours of values of any shape, uint8 [..., 3]."""
        place = np.clip((idness - self.low) / (self.high - self.low), 0.0, 1.0)
        return np.asarray(_palette()[np.rint(place * 255).astype(np.intp)])


@dataclass(frozen=True)
class Caption:
    """What is written under the picture."""

    name: str
    label: str
    score: float
    method: str
    ood: bool | None


def overlay(
    pixels: NDArray[np.uint8],
    idness: NDArray[np.floating],
    region: tuple[int, int],
    scale: ColourScale,
) -> NDArray[np.uint8]:
    """Lay the colours of regions over a grey picture, uint8 [H, W, 3].

    Each region keeps its own border, for nothing is known of what lies between two of them.

    Args:
        pixels: the picture as the model sees it, uint8 [H, W, 3].
        idness: of the regions [rows, columns]; row 0 is the top, column 0 the left.
        region: height and width of a region in pixels; they tile the picture from its upper left
            corner, and what is left over at the right and the bottom gets no colour.
        scale: of the colours.
    """
    grey = np.asarray(Image.fromarray(pixels).convert("L"), np.float32)[..., None]
    # Lifted off black, so that the colour of a dark region can still be read.
    grey = np.repeat(40 + grey * (215 / 255), 3, axis=2)
    colours = scale.colours(idness).repeat(region[0], axis=0).repeat(region[1], axis=1)
    height, width = (min(a, b) for a, b in zip(colours.shape[:2], pixels.shape[:2], strict=True))
    covered = grey[:height, :width]
    covered += _OPACITY * (colours[:height, :width] - covered)
    return np.rint(grey).astype(np.uint8)


def heatmap(
    pixels: NDArray[np.uint8],
    idness: NDArray[np.floating],
    region: tuple[int, int],
    scale: ColourScale,
    caption: Caption,
) -> Image.Image:
    """Draw the picture [H, W, 3], the same with its regions coloured, a colour bar and a caption.

    Arguments are those of :func:`overlay`; a small picture grows by whole pixels.
    """
    height, width = pixels.shape[:2]
    factor = max(1, round(_LEAST_SIDE / min(height, width)))
    size = (width * factor, height * factor)
    panels = [
        Image.fromarray(one).resize(size, Image.Resampling.NEAREST)
        for one in (pixels, overlay(pixels, idness, region, scale))
    ]
    large, small = label_font(14), label_font(11)
    below = 60
    sheet = Image.new(
        "RGB", (2 * size[0] + 4 * _GAP + _BAR + _BAR_TEXT, size[1] + 2 * _GAP + below), "white"
    )
    for number, panel in enumerate(panels):
        sheet.paste(panel, (_GAP + number * (size[0] + _GAP), _GAP))
    canvas = ImageDraw.Draw(sheet)
    _draw_bar(sheet, canvas, 3 * _GAP + 2 * size[0], size[1], scale, small)
    room = sheet.width - 2 * _GAP
    decision = {True: "OOD: ", False: "ID: ", None: ""}[caption.ood]
    end = f"  {caption.method} {caption.score:.4g}"
    label = _fitted(decision + caption.label, large, room - large.getlength(end))
    ink = _OOD_INK if caption.ood else _INK
    top = _GAP + size[1] + 6
    canvas.text((_GAP, top), label + end, fill=ink, font=large)
    canvas.text((_GAP, top + 22), _fitted(caption.name, small, room), fill=_INK, font=small)
    meaning = _fitted(f"colour, the same in every picture: {scale.meaning}", small, room)
    canvas.text((_GAP, top + 38), meaning, fill=_FAINT, font=small)
    return sheet


def png_of(picture: Image.Image) -> bytes:
    """Return the bytes of a picture's PNG, marked as ours; the same picture gives the same."""
    marks = PngInfo()
    marks.add_text("Software", MADE_BY)
    file = io.BytesIO()
    picture.save(file, format="PNG", pnginfo=marks)
    return file.getvalue()


def is_ours(path: Path) -> bool:
    """Say whether a file is a picture that :func:`png_of` made."""
    try:
        with Image.open(path) as picture:
            return bool(picture.info.get("Software") == MADE_BY)
    except Exception:
        # Anything can lie there, and what cannot be read is nobody's heat map.
        return False


def _draw_bar(
    sheet: Image.Image,
    canvas: ImageDraw.ImageDraw,
    left: int,
    height: int,
    scale: ColourScale,
    font: ImageFont.FreeTypeFont,
) -> None:
    """Draw the scale as it looks over middle grey, its ends and its middle in figures."""
    top = _GAP + 18
    height -= 36
    values = np.linspace(scale.high, scale.low, height)[:, None].repeat(_BAR, axis=1)
    middle_grey = np.full((height, _BAR, 3), 128, np.uint8)
    sheet.paste(Image.fromarray(overlay(middle_grey, values, (1, 1), scale)), (left, top))
    canvas.text((left, top - 17), "ID", fill=_INK, font=font)
    canvas.text((left, top + height + 3), "OOD", fill=_INK, font=font)
    for value, place in ((scale.high, 0.0), ((scale.high + scale.low) / 2, 0.5), (scale.low, 1.0)):
        y = top + place * (height - 1)
        canvas.line((left + _BAR, y, left + _BAR + 4, y), fill=_INK)
        # The ends hold all that lies beyond them.
        beyond = {0.0: "≥ " if value < 1 else "", 1.0: "≤ " if value > 0 else ""}.get(place, "")
        text = beyond + f"{value:.3g}"
        canvas.text((left + _BAR + 7, y - 7), text, fill=_INK, font=font)


@lru_cache(maxsize=1)
def _palette() -> NDArray[np.uint8]:
    import matplotlib

    return np.asarray(matplotlib.colormaps[_COLOURS](np.arange(256), bytes=True)[:, :3])


@lru_cache(maxsize=4)
def _fitted(text: str, font: ImageFont.FreeTypeFont, room: float) -> str:
    """Shorten a line to the room there is, at its front, where paths differ least."""
    if font.getlength(text) <= room:
        return text
    while text and font.getlength("…" + text) > room:
        text = text[1:]
    return "…" + text
