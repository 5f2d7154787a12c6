"""Small pictures inside the page: each embedded once, all of them within a budget."""

from __future__ import annotations

import base64
import io

from PIL import Image, ImageOps

from vlood.errors import ImageError
from vlood.evaluation.report.inputs import Picture

SIDE = 128
"""Longest side of a thumbnail, pixels."""

BUDGET = 4_000_000
"""Bytes all thumbnails of a page may take, as they stand in it."""

_QUALITY = 75
_CRISP_BELOW = 80


class Thumbnails:
    """The thumbnails of one page.

    Each is a class of a style sheet with the picture as background, so it can be shown in several
    places, with or without JavaScript, and is in the page once.
    """

    def __init__(self, picture: Picture, budget: int = BUDGET) -> None:
        self._picture = picture
        self._left = budget
        self._full = False
        self._names: dict[tuple[str, int], str] = {}
        self._rules: list[str] = []
        self._left_out: set[tuple[str, int]] = set()

    @property
    def left_out(self) -> int:
        """Images asked for after the budget was spent."""
        return len(self._left_out)

    def __len__(self) -> int:
        return len(self._rules)

    def add(self, name: str, row: int) -> str:
        """Embed an image if the budget bears it; return its class, "" where it has no picture."""
        key = (name, row)
        if key not in self._names:
            self._names[key] = self._embedded(key)
        return self._names[key]

    def css(self) -> str:
        """Return the style sheet."""
        return "\n".join(self._rules)

    def _embedded(self, key: tuple[str, int]) -> str:
        if self._full:
            self._left_out.add(key)
            return ""
        try:
            image = self._picture(*key)
            if image is None:
                return ""
            uri, crisp = _data_uri(image)
        except (ImageError, OSError):
            return ""
        name = f"t{len(self._rules)}"
        rule = f".{name}{{background-image:url({uri})}}"
        if crisp:
            rule = f"{rule[:-1]};image-rendering:pixelated}}"
        if len(rule) + 1 > self._left:
            self._full = True
            self._left_out.add(key)
            return ""
        self._left -= len(rule) + 1
        self._rules.append(rule)
        return name


def _data_uri(image: Image.Image) -> tuple[str, bool]:
    """Return a WebP of the image as a data URI, and whether it is so small as to be shown crisp."""
    small = ImageOps.exif_transpose(image).convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    small.save(data, "WEBP", quality=_QUALITY, method=4)
    encoded = base64.b64encode(data.getvalue()).decode("ascii")
    return f"data:image/webp;base64,{encoded}", max(small.size) < _CRISP_BELOW
