"""``vlood help``: short texts on what the options are about."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlood.cli import topics
from vlood.cli.guard import guarded
from vlood.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDEST = 100


@guarded
def help_(
    context: typer.Context,
    topic: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TOPIC", help="A topic, or a command; none: list them.", show_default=False
        ),
    ] = None,
) -> None:
    """Explain a topic: scores, inputs, thresholds, what to do when everything is OOD, ...

    On a terminal it is laid out; in a pipe it is plain Markdown.

    Examples:

      vlood help

      vlood help thresholds

      vlood help faq | less

      vlood help score
    """
    words = list(topic or ())
    if not words:
        _list()
    elif len(words) == 1 and words[0].lower() in topics.names():
        _show(topics.read(words[0].lower()))
    else:
        sys.stdout.write(_command_help(context, words) + "\n")


def _list() -> None:
    """List the topics, one a line."""
    names = topics.names()
    if not sys.stdout.isatty():
        for name in names:
            sys.stdout.write(f"{name}\t{topics.summary(name)}\n")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name in names:
        table.add_row(name, topics.summary(name))
    console = Console(highlight=False)
    console.print(table)
    console.print("\nvlood help TOPIC shows one; vlood COMMAND --help has a command's options.")


def _show(text: str) -> None:
    """Write a text: laid out on a terminal, as it is elsewhere."""
    if not sys.stdout.isatty():
        sys.stdout.write(text)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    # Rich has no definition lists.
    text = re.sub(r"^(\*\*.+?\*\*)\n:   ", r"- \1: ", text, flags=re.MULTILINE)
    text = text.replace("\n    ", "\n  ")
    console = Console(highlight=False)
    width = min(console.width, _WIDEST)
    console.print(Markdown(text, code_theme="ansi_dark", hyperlinks=False), width=width)


def _command_help(context: Any, words: Sequence[str]) -> str:
    """Return what `vlood WORDS --help` shows.

    Raises:
        UsageError: there is neither such a topic nor such a command.
    """
    command, inner = context.find_root().command, context.find_root()
    for word in words:
        child = getattr(command, "commands", {}).get(word)
        if child is None:
            raise UsageError(_unknown(" ".join(words)))
        command = child
        inner = type(inner)(command, info_name=word, parent=inner)
    return str(command.get_help(inner)).rstrip()


def _unknown(asked: str) -> str:
    import difflib

    known = topics.names()
    close = difflib.get_close_matches(asked, known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    from vlood.methods import registry

    if asked in registry.names():
        hint = f"`vlood methods {asked}` shows that method; "
    return f"help {asked}: is neither a topic nor a command; {hint}topics: {', '.join(known)}"
