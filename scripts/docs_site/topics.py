"""The guide: the texts that `vlood help` shows, as pages."""

from __future__ import annotations

import re
from typing import Any

FOLDER = "guide"


def topic_pages() -> dict[str, str]:
    """Return the pages by their file."""
    from vlood.cli.topics import names, read

    known = names()
    return {f"{FOLDER}/{name}.md": _linked(read(name), known) for name in known}


def nav(*only: str, leave_out: tuple[str, ...] = ()) -> list[Any]:
    """Return the pages in their order: some of them, or all but some."""
    from vlood.cli.topics import names

    chosen = only or tuple(each for each in names() if each not in leave_out)
    return [f"{FOLDER}/{name}.md" for name in chosen]


def _linked(text: str, known: tuple[str, ...]) -> str:
    """Make each `vlood help TOPIC` a link to that page."""

    def link(found: re.Match[str]) -> str:
        return f"[{found[1]}]({found[1]}.md)" if found[1] in known else found[0]

    return re.sub(r"`vlood help ([a-z-]+)`", link, text)
