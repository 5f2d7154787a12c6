"""What the Tab key offers for values: methods, class lists, models and other known names.

Completers are found by the parameter's name, so that a new command completes as others do. They
read names only: torch is never imported for them.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import typer

ASKED = "_VLOOD_COMPLETE"
_BEFORE_COLON = "_VLOOD_COMPLETE_BEFORE_COLON"
_MODELS = ("bundled", "local-dir:", "hf-hub:")


def methods(incomplete: str) -> list[str]:
    """Complete a method, or the last one of a comma list."""
    from vlood.methods import registry

    before, comma, last = incomplete.rpartition(",")
    known = registry.names() if comma else (*registry.names(), "all")
    return _beginning([before + comma + name for name in known], before + comma + last)


def tuned_methods(incomplete: str) -> list[str]:
    """Complete the method that `vlood tune` takes."""
    from vlood.methods import registry

    return _beginning(registry.names(), incomplete)


def classes(incomplete: str) -> list[str]:
    """Complete a class list of the library."""
    return _library("classes", incomplete)


def templates(incomplete: str) -> list[str]:
    """Complete a list of templates of the library."""
    return _library("templates", incomplete)


def models(incomplete: str) -> list[str]:
    """Complete a model: the bundled one, the prefixes, and all that open_clip knows by name."""
    before = os.environ.get(_BEFORE_COLON, "")
    known = _beginning([*_MODELS, *open_clip_models()], before)
    return _beginning([name.removeprefix(before) for name in known], incomplete)


def corpora(incomplete: str) -> list[str]:
    """Complete a corpus of negatives."""
    from vlood.negatives.corpora import corpus_names

    return _beginning(corpus_names(), incomplete)


def presets(incomplete: str) -> list[str]:
    """Complete a way to mine."""
    from vlood.negatives.presets import PRESETS

    return _beginning(PRESETS, incomplete)


def suites(incomplete: str) -> list[str]:
    """Complete a published protocol."""
    from vlood.evaluation.suites.suite import suite_names

    return _beginning(suite_names(), incomplete)


def topics(incomplete: str) -> list[str]:
    """Complete a topic of `vlood help`."""
    from vlood.cli import topics as texts

    return _beginning(texts.names(), incomplete)


def settings(incomplete: str) -> list[str]:
    """Complete the name of a setting of the methods that the command line names."""
    from vlood.methods import registry

    words = {name for word in _words() for name in word.split(",")}
    found: list[str] = []
    for name in registry.names():
        if name in words:
            found += [f"{each}=" for each in registry.get(name).setting_names()]
    return _beginning(dict.fromkeys(found), incomplete)


# By the name of the parameter; `COMMAND.PARAMETER` goes first.
COMPLETERS: dict[str, Callable[..., list[str]]] = {
    "classes": classes,
    "corpus": corpora,
    "corpora.name": corpora,
    "help.topic": topics,
    "method": methods,
    "methods.name": tuned_methods,
    "model": models,
    "models.pattern": models,
    "negatives": corpora,
    "preset": presets,
    "setting": settings,
    "suite": suites,
    "template": templates,
    "tune.method": tuned_methods,
}


def attach(app: typer.Typer) -> None:
    """Give the parameters of an app's commands their completers, if a shell asks for some.

    Without the question the app is left as it is: looking at every command takes time.
    """
    if not os.environ.get(ASKED, "").startswith("complete"):
        return
    _divide_at_colon()
    for info in app.registered_commands:
        _attach(info.name, info.callback)
    for group in app.registered_groups:
        for info in group.typer_instance.registered_commands if group.typer_instance else ():
            _attach(f"{group.name}-{info.name}", info.callback)


def _attach(command: str | None, function: Callable[..., Any] | None) -> None:
    if function is None:
        return
    name = command or function.__name__.rstrip("_")
    signature = inspect.signature(function, eval_str=True)
    # Kept, for what is declared inline is made anew each time an annotation is read.
    function.__signature__ = signature  # type: ignore[attr-defined]
    for parameter in signature.parameters.values():
        chosen = COMPLETERS.get(f"{name}.{parameter.name}") or COMPLETERS.get(parameter.name)
        for each in getattr(parameter.annotation, "__metadata__", ()):
            if chosen is not None and hasattr(each, "autocompletion"):
                each.autocompletion = chosen


def open_clip_models() -> Iterator[str]:
    """Yield ARCH:TAG of all that open_clip knows, read from its source: importing it takes seconds.

    Where its table is written in another way than these lines know, nothing is yielded.
    """
    try:
        found = importlib.util.find_spec("open_clip")
        origin = "" if found is None else str(found.origin)
        source = (Path(origin).parent / "pretrained.py").read_text(encoding="utf-8")
        body = ast.parse(source).body
    except (ImportError, OSError, SyntaxError, ValueError):
        return
    tags: dict[str, dict[str, bool]] = {}
    table: ast.Dict | None = None
    for line in body:
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
            name = line.targets[0].id
            if name == "_PRETRAINED" and isinstance(line.value, ast.Dict):
                table = line.value
            else:
                tags[name] = _tags_of(line.value)
    quick = []
    for key, value in () if table is None else zip(table.keys, table.values, strict=True):
        if not isinstance(key, ast.Constant):
            continue
        known = tags.get(value.id, {}) if isinstance(value, ast.Name) else _tags_of(value)
        yield from (f"{key.value!s}:{tag}" for tag in known)
        quick += [f"{key.value!s}-quickgelu:{tag}" for tag, is_quick in known.items() if is_quick]
    # As open_clip adds them: after all others, those that have them.
    yield from quick


def _tags_of(value: ast.expr) -> dict[str, bool]:
    """Return the tags of a `dict(...)` or `{...}`, and which were trained with QuickGELU."""
    if isinstance(value, ast.Call):
        return {each.arg: _is_quick(each.value) for each in value.keywords if each.arg}
    if isinstance(value, ast.Dict):
        pairs = zip(value.keys, value.values, strict=True)
        return {str(k.value): _is_quick(v) for k, v in pairs if isinstance(k, ast.Constant)}
    return {}


def _is_quick(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and any(
        each.arg == "quick_gelu" and isinstance(each.value, ast.Constant) and bool(each.value.value)
        for each in value.keywords
    )


def _words() -> list[str]:
    """Return the words of the command line that is completed, as the shell's script gives them."""
    asked = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or ""
    return asked.split()


def _divide_at_colon() -> None:
    """Complete the TAG of ARCH:TAG, where the shell counts that as three words, as bash does.

    Bash puts the answer in the place of the last part alone, so what stands before is kept aside.
    """
    if "COMP_WORDS" not in os.environ:
        return
    words, place = os.environ["COMP_WORDS"].split("\n"), int(os.environ.get("COMP_CWORD", "0"))
    tail = words[place] if place < len(words) else ""
    if tail == ":":
        place, tail = place + 1, ""
    if place < 2 or words[place - 1] != ":":
        return
    before = f"{words[place - 2]}:"
    os.environ["COMP_WORDS"] = "\n".join([*words[: place - 2], tail])
    os.environ["COMP_CWORD"] = str(place - 2)
    os.environ[_BEFORE_COLON] = before


def _library(kind: str, incomplete: str) -> list[str]:
    from vlood.prompts.library_files import library_names

    return _beginning(library_names(kind), incomplete)


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
