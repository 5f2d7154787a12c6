"""The command reference: one page a command, made from the Typer app."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from .text import body_and_examples, escaped

FOLDER = "commands"
_KINDS = {int: "N", float: "NUMBER", Path: "PATH", str: "TEXT"}


def command_pages() -> dict[str, str]:
    """Return the pages by their file: an index, and one of each command."""
    from typer.main import get_command

    from vlood.cli.app import app

    root = get_command(app)
    pages = {}
    panels: dict[str, list[tuple[str, Any]]] = {}
    for words, command in walk(root):
        name = " ".join(words)
        pages[f"{FOLDER}/{'-'.join(words[1:])}.md"] = command_page(name, command)
        top = typing.cast(Any, root).commands[words[1]]
        panels.setdefault(top.rich_help_panel or "Other", []).append((name, command))
    pages[f"{FOLDER}/index.md"] = _index(panels)
    return pages


def walk(
    command: Any, words: tuple[str, ...] = ("vlood",)
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command that does something, with the words that name it, in the app's order."""
    children = getattr(command, "commands", None)
    if children is None:
        yield words, command
        return
    for name, child in children.items():
        if not getattr(child, "hidden", False):
            yield from walk(child, (*words, name))


def nav() -> list[Any]:
    """Return the pages in the order of the help's groups."""
    from typer.main import get_command

    from vlood.cli.app import app

    root: Any = get_command(app)
    groups: dict[str, list[Any]] = {}
    for words, _ in walk(root):
        group = root.commands[words[1]].rich_help_panel or "Other"
        groups.setdefault(group, []).append(
            {" ".join(words[1:]): f"{FOLDER}/{'-'.join(words[1:])}.md"}
        )
    return [f"{FOLDER}/index.md", *({name: pages} for name, pages in groups.items())]


def command_page(name: str, command: Any) -> str:
    """Return a command's page."""
    body, examples = body_and_examples(command.help or "")
    hints = _hints(command)
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    usage = [name, "[OPTIONS]", *(_placeholder(each, hints) for each in arguments)]
    parts = [f"# {name}", body, f"```sh\n{' '.join(usage)}\n```"]
    if examples:
        parts += ["## Examples", "```sh\n" + "\n".join(examples) + "\n```"]
    if arguments:
        parts += ["## Arguments", *(_entry(each, hints) for each in arguments)]
    panels: dict[str, list[Any]] = {}
    for each in options:
        if not each.hidden and each.name != "help":
            panels.setdefault(each.rich_help_panel or "Options", []).append(each)
    for panel, held in panels.items():
        parts += [f"## {panel}", *(_entry(each, hints) for each in held)]
    return "\n\n".join(parts) + "\n"


def _index(panels: dict[str, list[tuple[str, Any]]]) -> str:
    parts = [
        "# Commands",
        "Every command, option and default, as the installed `vlood` has them. "
        "`vlood COMMAND --help` says the same in a terminal.",
    ]
    for panel, commands in panels.items():
        parts.append(f"## {panel}")
        rows = ["| command | does |", "|---|---|"]
        for name, command in commands:
            first = escaped((command.help or "").strip().split("\n\n")[0])
            rows.append(f"| [`{name}`]({'-'.join(name.split()[1:])}.md) | {first} |")
        parts.append("\n".join(rows))
    parts += [
        "## Exit codes",
        "0 done; 1 failed; 2 wrong usage; 3 done, but some inputs could not be read; "
        "4 `--fail-on-ood` found something; 130 stopped with Ctrl-C.",
    ]
    return "\n\n".join(parts) + "\n"


def _hints(command: Any) -> dict[str, Any]:
    """Return the types that the command's function declares.

    Typer's own ways to tell a parameter's type changed between its versions; these do not.
    """
    function = inspect.unwrap(command.callback)
    return {name: _plain(kind) for name, kind in typing.get_type_hints(function).items()}


def _plain(kind: Any) -> Any:
    """Take `| None` and `list[...]` off a type."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(each for each in typing.get_args(kind) if each is not type(None))
    if typing.get_origin(kind) is list:
        kind = typing.get_args(kind)[0]
    return kind


def _placeholder(param: Any, hints: dict[str, Any]) -> str:
    """Return what stands for the value: IN..., PATH, auto|cpu|cuda."""
    kind = hints.get(param.name)
    if param.metavar:
        shown = str(param.metavar)
    elif isinstance(kind, type) and issubclass(kind, Enum):
        shown = "|".join(str(each.value) for each in kind)
    elif param.param_type_name == "argument":
        shown = str(param.name).upper()
    else:
        shown = _KINDS.get(kind, "VALUE")
    if param.param_type_name == "argument":
        if param.nargs == -1 and not shown.endswith("..."):
            shown += "..."
        return shown if param.required else f"[{shown}]"
    return shown


def _entry(param: Any, hints: dict[str, Any]) -> str:
    """Return a parameter with its help and its default, as an item of a definition list."""
    argument = param.param_type_name == "argument"
    kind = hints.get(param.name)
    if argument:
        head = f"`{_placeholder(param, hints)}`"
    else:
        names = ", ".join(f"`{each}`" for each in [*param.opts, *param.secondary_opts])
        head = names if kind is bool else f"{names} `{_placeholder(param, hints)}`"
    notes = []
    default = param.default
    default = default.value if isinstance(default, Enum) else default
    if param.show_default and isinstance(default, str | int | float | Path) and kind is not bool:
        notes.append(f"Default: `{default}`.")
    elif kind is bool and default is True:
        notes.append("On by default.")
    if param.required and not argument:
        notes.append("Required.")
    return f"{head}\n:   {' '.join([escaped(param.help or ''), *notes])}"
