"""A contact sheet: the images a detector finds least and most in-distribution, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

_CELL = 112
_CAPTION = 34
_GAP = 8
_HEADING = 30
_INK = (25, 25, 25)
_OOD_INK = (180, 60, 0)


@dataclass(frozen=True)
class Shown:
    """One picture of the sheet: the file's image, its score, and what it was taken for."""

    image: Image.Image
    score: float
    label: str
    ood: bool | None


def contact_sheet(rows: Sequence[tuple[str, Sequence[Shown]]], columns: int = 8) -> Image.Image:
    """Draw titled groups of pictures on white, ``columns`` to a line, captions beneath."""
    lines = [-(-len(pictures) // columns) for _, pictures in rows]
    line_height = _CELL + _CAPTION + _GAP
    height = _GAP + sum(_HEADING + count * line_height for count in lines)
    width = _GAP + columns * (_CELL + _GAP)
    sheet = Image.new("RGB", (width, height), "white")
    canvas = ImageDraw.Draw(sheet)
    heading, small = label_font(15), label_font(11)
    top = _GAP
    for (title, pictures), count in zip(rows, lines, strict=True):
        canvas.text((_GAP, top + 4), title, fill=_INK, font=heading)
        top += _HEADING
        for number, picture in enumerate(pictures):
            x = _GAP + (number % columns) * (_CELL + _GAP)
            y = top + (number // columns) * line_height
            sheet.paste(_thumbnail(picture.image), (x, y))
            ink = _OOD_INK if picture.ood else _INK
            decision = {True: "OOD ", False: "ID ", None: ""}[picture.ood]
            canvas.text((x, y + _CELL + 2), _fitted(picture.label, small), fill=ink, font=small)
            canvas.text((x, y + _CELL + 16), f"{decision}{picture.score:.4f}", fill=ink, font=small)
        top += count * line_height
    return sheet


def write_contact_sheet(path: Path, rows: Sequence[tuple[str, Sequence[Shown]]]) -> None:
    """Draw the sheet and put it at ``path`` in one step."""
    partial = path.with_name(path.name + ".partial")
    contact_sheet(rows).save(partial, format="PNG")
    partial.replace(path)


def _thumbnail(image: Image.Image) -> Image.Image:
    """Fit a picture into a square cell; small pictures grow by whole pixels, so they stay crisp."""
    if max(image.size) * 2 <= _CELL:
        factor = _CELL // max(image.size)
        image = image.resize(
            (image.width * factor, image.height * factor), Image.Resampling.NEAREST
        )
    return ImageOps.pad(image, (_CELL, _CELL), color=(235, 235, 235))


def label_font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font that pictures are labelled in; it comes with matplotlib."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / "DejaVuSans.ttf"), size)


def _fitted(text: str, font: ImageFont.FreeTypeFont) -> str:
    """Shorten a caption to the cell."""
    if font.getlength(text) <= _CELL:
        return text
    while text and font.getlength(text + "…") > _CELL:
        text = text[:-1]
    return text + "…"
