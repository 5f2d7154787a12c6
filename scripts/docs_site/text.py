"""Plain help texts as Markdown."""

from __future__ import annotations

import html
import re

_EXAMPLES = re.compile(r"^Examples?:\s*$", re.MULTILINE)
_SPECIAL = re.compile(r"([\\*_\[\]|#])")


def escaped(text: str) -> str:
    """Return plain text as Markdown that looks the same; what stands in `backticks` stays code.

    Options are code too, so that two dashes stay two.
    """
    text = " ".join(text.split())
    parts = re.split(r"(`[^`]+`)", text)
    for place in range(0, len(parts), 2):
        found = re.split(r"((?<![\w-])--?[a-z][\w-]*(?:=\S*[\w})])?)", parts[place])
        found[0::2] = [_plain(each) for each in found[0::2]]
        found[1::2] = [f"`{each}`" for each in found[1::2]]
        parts[place] = "".join(found)
    return "".join(parts)


def _plain(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", html.escape(text, quote=False))


def body_and_examples(help_text: str) -> tuple[str, list[str]]:
    """Divide a command's help at `Examples:` into its paragraphs, as Markdown, and the examples."""
    # Rich's markup escapes and Typer's line marks are for terminals.
    text = help_text.replace("\b", "").replace("\f", "").replace("\\[", "[")
    divided = _EXAMPLES.split(text, maxsplit=1)
    paragraphs = [escaped(each) for each in re.split(r"\n\s*\n", divided[0]) if each.strip()]
    examples = divided[1] if len(divided) > 1 else ""
    found = [" ".join(each.split()) for each in re.split(r"\n\s*\n", examples) if each.strip()]
    return "\n\n".join(paragraphs), found
