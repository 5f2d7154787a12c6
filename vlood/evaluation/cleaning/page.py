"""One self-contained page of suspects: pictures inside it, no network, light and dark."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

_SIDE = 176
_MOST_BYTES = 16_000
_QUALITIES = (82, 65, 45, 25)


@dataclass(frozen=True)
class Card:
    """One suspect as the page shows it.

    Attributes:
        path: of the image.
        label: its given label.
        headline: what is wrong, in a few words.
        figures: how sure that is.
        picture: a data URI, or None where there is no picture.
        beside: the path and picture of the copy that is kept, or None.
        conflict: whether the copy that is kept has another label.
    """

    path: str
    label: str
    headline: str
    figures: str
    picture: str | None
    beside: tuple[str, str | None] | None = None
    conflict: bool = False


@dataclass(frozen=True)
class Section:
    """The suspects of one problem.

    Attributes:
        key: its name in records.
        title: its name on the page.
        note: what it means and what to do.
        cards: the most certain first.
        more: how many are not shown.
    """

    key: str
    title: str
    note: str
    cards: Sequence[Card]
    more: int

    @property
    def count(self) -> int:
        """Return how many suspects it has, shown or not."""
        return len(self.cards) + self.more


def clean_page(
    title: str,
    facts: Sequence[tuple[str, str]],
    sections: Sequence[Section],
    unreadable: Sequence[tuple[str, str]],
    unreadable_more: int = 0,
) -> str:
    """Render the page; every text is escaped.

    Args:
        title: of the page.
        facts: names and values for the top.
        sections: by problem.
        unreadable: paths and reasons.
        unreadable_more: how many more there are.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        title=title,
        facts=facts,
        sections=sections,
        unreadable=unreadable,
        unreadable_more=unreadable_more,
    )


def data_uri(image: Image.Image) -> str:
    """Return a picture as a small JPEG inside a ``data:`` URI of at most about 16 kB."""
    small = image.convert("RGB")
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    data = b""
    for quality in _QUALITIES:
        stream = io.BytesIO()
        small.save(stream, "JPEG", quality=quality, optimize=True)
        data = stream.getvalue()
        if len(data) * 4 / 3 <= _MOST_BYTES:
            break
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()
