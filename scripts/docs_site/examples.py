"""Every example of the documentation, as lines that a shell runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from . import commands
from .text import body_and_examples

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)
# In prose: a whole command, without what stands for something else.
_INLINE = re.compile(r"`(vlood [a-z][^`]* --?[a-z][^`]* [^`-][^`]*)`")
_PLACEHOLDER = re.compile(r"\b[A-Z]{2,}\b|\.\.\.|a,b,c")


@dataclass(frozen=True)
class Example:
    """What a reader can copy: one line, or a few that belong together."""

    where: str
    text: str


def all_commands() -> dict[str, Any]:
    """Return every command that does something by its name."""
    from typer.main import get_command

    from vlood.cli.app import app

    return {" ".join(words[1:]): command for words, command in commands.walk(get_command(app))}


@cache
def documented() -> tuple[Example, ...]:
    """Return the examples of the helps, the README, the pages and the topics, each text once."""
    found: dict[str, Example] = {}
    for where, line in _shown():
        text = _bare(line)
        found.setdefault(text, Example(where, text))
    return tuple(found.values())


def _shown() -> Iterator[tuple[str, str]]:
    for name, command in all_commands().items():
        for text in body_and_examples(command.help)[1]:
            yield f"vlood {name} --help", text
    for name, page in _pages().items():
        for block in _BLOCK.findall(page):
            for text in _pieces(block):
                yield name, text
        for text in _INLINE.findall(_BLOCK.sub("", page)):
            if not _PLACEHOLDER.search(text):
                yield name, " ".join(text.split())


def scripts() -> tuple[Example, ...]:
    """Return the lines of the pipelines in scripts/examples."""
    return tuple(
        Example(path.name, line)
        for path in sorted((ROOT / "scripts" / "examples").iterdir())
        for line in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    )


def _pages() -> dict[str, str]:
    from vlood.cli import topics

    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in pages}
    return found | {f"vlood help {name}": topics.read(name) for name in topics.names()}


def _pieces(block: str) -> list[str]:
    """Divide a block into lines; a `case` stays whole, with the line whose exit code it reads."""
    found: list[str] = []
    case = False
    for line in block.replace("\\\n", " ").splitlines():
        if line.startswith("case "):
            case = True
        if case:
            found[-1] += f"\n{line}"
            case = line != "esac"
        elif line.strip() and not line.startswith("#"):
            found.append(line)
    return found


def _bare(text: str) -> str:
    """Return a text without the remarks at the ends of its lines and without needless blanks."""
    text = re.sub(r"\s+(# .*|\([^()]*\))$", "", text, flags=re.MULTILINE)
    return "\n".join(" ".join(line.split()) for line in text.splitlines())
