"""The named pictograms of the bundled world: glyphs of matplotlib's DejaVu Sans font.

A pictogram is one natural name and the glyphs that show it: BLACK TELEPHONE and WHITE TELEPHONE are
both "telephone". Names are made from the characters' Unicode names, so nothing is typed by hand but
the ranges, the words that only describe a print style, and a few names nobody would say.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

# Inclusive code point ranges of the font that hold drawings rather than letters.
_RANGES = (
    (0x2190, 0x2195),  # arrows
    (0x21AF, 0x21AF),
    (0x21BA, 0x21BB),
    (0x2302, 0x2302),  # house
    (0x2318, 0x2318),
    (0x2328, 0x2328),  # keyboard
    (0x232C, 0x232C),  # benzene ring
    (0x23CF, 0x23CF),
    (0x25A0, 0x25A0),  # plain shapes
    (0x25B2, 0x25B2),
    (0x25C6, 0x25C6),
    (0x25CE, 0x25CF),
    (0x2600, 0x262F),  # weather, objects, religion
    (0x2638, 0x2671),  # faces, planets, zodiac, chess, cards, music
    (0x2672, 0x2672),
    (0x267B, 0x267B),
    (0x267F, 0x2685),
    (0x2690, 0x269C),
    (0x26A0, 0x26A1),
    (0x26AD, 0x26B8),
    (0x26C0, 0x26C3),
    (0x2701, 0x275E),  # dingbats
    (0x2761, 0x2767),
    (0x2780, 0x2789),
    (0x27A1, 0x27A1),
    (0x27B2, 0x27B3),
    (0x2B12, 0x2B12),
    (0x2B1A, 0x2B1A),
    (0x2B1F, 0x2B22),
    (0x1F030, 0x1F030),  # dominoes
    (0x1F0A0, 0x1F0A1),  # playing cards
    (0x1F0B1, 0x1F0B1),
    (0x1F0C1, 0x1F0C1),
    (0x1F0CF, 0x1F0CF),
    (0x1F0D1, 0x1F0D1),
    (0x1F42D, 0x1F435),  # animal faces
    (0x1F600, 0x1F600),  # emoticons that differ at 64 pixels
    (0x1F602, 0x1F602),
    (0x1F607, 0x1F609),
    (0x1F60D, 0x1F60E),
    (0x1F610, 0x1F610),
    (0x1F617, 0x1F617),
    (0x1F61B, 0x1F61B),
    (0x1F620, 0x1F620),
    (0x1F62D, 0x1F62E),
    (0x1F631, 0x1F631),
    (0x1F634, 0x1F637),
    (0x1F63A, 0x1F63C),
)

# Words of a Unicode name that say how a glyph is printed, not what it shows.
_STYLE_WORDS = frozenset(
    (
        "black",
        "white",
        "heavy",
        "medium",
        "light",
        "outlined",
        "shadowed",
        "stress",
        "dingbat",
        "ornament",
        "symbol",
        "sign",
        "lower",
        "upper",
        "right-shadowed",
        "drop-shadowed",
        "reversed",
        "rotated",
        "tight",
        "large",
        "universal",
        "sans-serif",
        "circled",
        "negative",
        "squat",
        "turned",
        "single",
        "floral",
    )
)

# Where the rule gives a name nobody would say, or two drawings one name.
_RENAMED = {
    0x2302: "house",
    0x2318: "looped square",
    0x2600: "sun",
    0x2609: "sun dot",
    0x263C: "sun",
    0x2610: "empty box",
    0x2611: "box with check",
    0x2612: "box with cross",
    0x2613: "saltire",
    0x2615: "hot beverage",
    0x2619: "floral heart",
    0x2620: "skull and crossbones",
    0x262B: "farsi emblem",
    0x2640: "venus",
    0x2642: "mars",
    0x26B2: "neuter",
    0x2660: "spade",
    0x2664: "spade",
    0x2661: "heart",
    0x2665: "heart",
    0x2662: "diamond",
    0x2666: "diamond",
    0x25C6: "diamond",
    0x2663: "club",
    0x2667: "club",
    0x2701: "scissors",
    0x2703: "scissors",
    0x270E: "pencil",
    0x2710: "pencil",
    0x273E: "six petalled florette",
    0x2719: "greek cross",
    0x271A: "greek cross",
    0x271B: "hollow cross",
    0x271C: "hollow cross",
    0x2715: "x mark",
    0x2716: "x mark",
    0x2717: "ballot x",
    0x2731: "asterisk",
    0x2732: "asterisk",
    0x2758: "vertical bar",
    0x2759: "vertical bar",
    0x275A: "vertical bar",
    0x2756: "four diamonds",
    0x2761: "paragraph mark",
    0x2762: "exclamation mark",
    0x2763: "heart exclamation mark",
    0x2765: "sideways heart",
    0x2766: "floral heart",
    0x2767: "floral heart",
    0x25A0: "square",
    0x25B2: "triangle",
    0x25CF: "circle",
    0x274D: "shadowed circle",
    0x267B: "recycling arrows",
    0x2672: "recycling arrows",
    0x267F: "wheelchair",
    0x1F030: "domino",
    0x1F0A0: "card back",
    0x1F0CF: "joker card",
    0x2B12: "half square",
    0x2B1A: "dotted square",
    0x2B21: "hexagon",
    0x2B22: "hexagon",
    0x26C0: "draughts man",
    0x26C2: "draughts man",
    0x26C1: "draughts king",
    0x26C3: "draughts king",
    0x27B3: "feathered arrow",
    0x27A1: "rightwards arrow",
    0x27B2: "arrow in a circle",
    0x2B1F: "pentagon",
    0x2B20: "pentagon",
    0x275B: "quotation mark",
    0x275C: "quotation mark",
    0x275D: "quotation mark",
    0x275E: "quotation mark",
    0x274F: "shadowed square",
    0x2750: "shadowed square",
    0x2751: "shadowed square",
    0x2752: "shadowed square",
}


@dataclass(frozen=True)
class Pictogram:
    """One class of the world: a natural name and the code points that draw it."""

    name: str
    glyphs: tuple[int, ...]


def natural_name(codepoint: int) -> str:
    """Turn a character's Unicode name into the words a person would use for the drawing."""
    if codepoint in _RENAMED:
        return _RENAMED[codepoint]
    words = unicodedata.name(chr(codepoint)).lower().replace("open centre ", "").split()
    kept = [word for word in words if word not in _STYLE_WORDS]
    name = " ".join(kept or words)
    name = re.sub(r"^(die) face-(\d)$", r"die showing \2", name)
    name = re.sub(r"^playing card ", "", name)
    name = re.sub(r"^(digit|number) ", "circled ", name)
    name = name.replace("-", " ")
    return name


def font_file() -> Path:
    """Return the DejaVu Sans file that matplotlib installs."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@lru_cache(maxsize=1)
def pictograms() -> tuple[Pictogram, ...]:
    """Return every pictogram of the world, in the order of its first code point."""
    covered = frozenset(covered_codepoints())
    glyphs: dict[str, list[int]] = {}
    for first, last in _RANGES:
        for codepoint in range(first, last + 1):
            if codepoint in covered and _is_named(codepoint):
                glyphs.setdefault(natural_name(codepoint), []).append(codepoint)
    return tuple(Pictogram(name, tuple(points)) for name, points in glyphs.items())


def _is_named(codepoint: int) -> bool:
    return unicodedata.category(chr(codepoint)) != "Cn"


@lru_cache(maxsize=1)
def covered_codepoints() -> tuple[int, ...]:
    """Return the code points the font has a glyph for, in order."""
    from matplotlib.ft2font import FT2Font

    return tuple(sorted(FT2Font(str(font_file())).get_charmap()))


@lru_cache(maxsize=4096)
def glyph_mask(codepoint: int, size: int) -> Image.Image:
    """Draw one glyph as large as fits a ``size`` x ``size`` 8-bit mask, centred."""
    font = _font(size)
    left, top, right, bottom = font.getbbox(chr(codepoint))
    extent = max(right - left, bottom - top, 1)
    font = _font(max(1, int(size * size / extent)))
    left, top, right, bottom = font.getbbox(chr(codepoint))
    mask = Image.new("L", (size, size), 0)
    origin = ((size - right - left) / 2, (size - bottom - top) / 2)
    ImageDraw.Draw(mask).text(origin, chr(codepoint), fill=255, font=font)
    return mask


@lru_cache(maxsize=512)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(font_file()), size)
