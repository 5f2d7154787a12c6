"""The texts of ``vlood help TOPIC``, which are pages of the documentation too.

A text is Markdown: a title, a line that says what it is about, and the rest.
"""

from __future__ import annotations

from pathlib import Path

# The order a reader meets them in.
_ORDER = (
    "start",
    "scores",
    "inputs",
    "classes",
    "models",
    "thresholds",
    "negatives",
    "detectors",
    "training",
    "pipelines",
    "shell",
    "caches",
    "faq",
    "glossary",
)


def names() -> tuple[str, ...]:
    """Return the topics in the order a reader meets them."""
    there = {path.stem for path in _folder().glob("*.md")}
    return (*(name for name in _ORDER if name in there), *sorted(there - set(_ORDER)))


def read(name: str) -> str:
    """Return a topic's text, Markdown.

    Raises:
        KeyError: there is no such topic.
    """
    if name not in names():
        raise KeyError(name)
    return (_folder() / f"{name}.md").read_text(encoding="utf-8")


def summary(name: str) -> str:
    """Return the line that says what a topic is about.

    Raises:
        KeyError: there is no such topic.
    """
    paragraphs = read(name).split("\n\n")
    return " ".join(paragraphs[1].split())


def _folder() -> Path:
    return Path(__file__).parent
