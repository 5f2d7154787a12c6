"""Every command and option is documented, with an example that parses."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from vlood.cli import topics
from vlood.cli.app import app

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from docs_site import commands as reference  # noqa: E402
from docs_site.text import body_and_examples  # noqa: E402

COMMANDS = {" ".join(words[1:]): command for words, command in reference.walk(get_command(app))}
# Shown with their whole text and nothing else to say, or needing what CI does not have.
WITHOUT_EXAMPLE = {"--help", "--version", "--install-completion", "--show-completion"}


def _flags(command: Any) -> set[str]:
    return {flag for each in command.params for flag in (*each.opts, *each.secondary_opts)}


@cache
def _lines() -> tuple[tuple[str, str], ...]:
    """Return where every example line is from, and the line: helps, pages, topics, scripts."""
    found = []
    for name, command in COMMANDS.items():
        found += [(f"vlood {name} --help", line) for line in body_and_examples(command.help)[1]]
    pages = {path.name: path.read_text() for path in (ROOT / "docs").rglob("*.md")}
    pages |= {f"vlood help {name}": topics.read(name) for name in topics.names()}
    pages["README.md"] = (ROOT / "README.md").read_text()
    for name, text in pages.items():
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
            found += [(name, line) for line in block.replace("\\\n", " ").splitlines()]
    for path in (ROOT / "scripts" / "examples").iterdir():
        found += [(path.name, line) for line in path.read_text().replace("\\\n", " ").splitlines()]
    return tuple(found)


def _uses() -> Iterator[tuple[str, str, list[str]]]:
    """Yield each use of the command in an example: where, which command, and its words."""
    for where, line in _lines():
        for use in re.findall(r"(?<![\w/.-])vlood ([a-z][^|;&#]*)", line):
            try:
                words = shlex.split(use.split(" > ")[0].split(" (")[0])
            except ValueError:  # a quotation that goes on
                continue
            name = next((n for n in (" ".join(words[:2]), words[0]) if n in COMMANDS), None)
            if name is not None:
                yield where, name, words[len(name.split()) :]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_help_and_examples(name: str) -> None:
    command = COMMANDS[name]
    body, examples = body_and_examples(command.help or "")
    assert body
    assert body.endswith((".", ")", "`")), body
    assert examples, f"vlood {name} --help has no Examples: block"
    # `negatives import` is `import` under another name.
    assert any(f"vlood {word}" in each for word in (name, name.split()[-1]) for each in examples)
    for each in command.params:
        assert each.help, f"vlood {name}: {each.name} has no help"


def test_every_option_in_an_example_exists() -> None:
    uses = list(_uses())
    assert len(uses) > 150
    for where, name, words in uses:
        known = _flags(COMMANDS[name])
        for word in words:
            flag = re.match(r"(--?[a-zA-Z0][\w-]*)(=|$)", word)
            assert not flag or flag[1] in known, f"{where}: vlood {name} {word}"


def test_every_option_has_an_example() -> None:
    """Options that several commands share need one among them all."""
    shown = {word.split("=")[0] for _, _, words in _uses() for word in words}
    lacking = {}
    for name, command in COMMANDS.items():
        for each in command.params:
            flags = {*each.opts, *each.secondary_opts}
            if each.param_type_name == "option" and not flags & (shown | WITHOUT_EXAMPLE):
                lacking.setdefault(max(flags, key=len), name)
    assert not lacking, sorted(lacking.items())


def test_every_command_runs_in_an_example_or_a_test() -> None:
    """An example in scripts/examples runs in CI; what is not there is run by the other tests."""
    text = "\n".join(path.read_text() for path in (ROOT / "scripts" / "examples").iterdir())
    text += "\n".join(path.read_text() for path in (ROOT / "tests" / "e2e").glob("test_*.py"))
    for name in COMMANDS:
        quoted = re.escape(name.replace(" ", '", "'))
        assert re.search(rf'vlood {name}\b|"{quoted}"', text), name
