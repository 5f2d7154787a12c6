"""Every public module, class and function says what it is for."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(path for path in (ROOT / "vlood").rglob("*.py") if path.name != "__main__.py")


def _undocumented(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for each in body:
        if not isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if each.name.startswith("_"):
            continue
        overload = any("overload" in ast.dump(mark) for mark in each.decorator_list)
        if not overload and not ast.get_docstring(each):
            yield f"{prefix}{each.name}"
        if isinstance(each, ast.ClassDef):
            yield from _undocumented(each.body, f"{prefix}{each.name}.")


def test_every_public_object_has_a_docstring() -> None:
    assert len(MODULES) > 250
    lacking = []
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        name = str(path.relative_to(ROOT))
        if path.name != "__init__.py" and not ast.get_docstring(tree):
            lacking.append(name)
        lacking += [f"{name}: {each}" for each in _undocumented(tree.body, "")]
    assert not lacking, "\n".join(lacking)


@pytest.mark.parametrize("section", ["Raises", "Returns", "Args", "Attributes"])
def test_the_sections_of_docstrings_are_filled(section: str) -> None:
    """A section's title is followed by something that is indented under it."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            lines = (ast.get_docstring(node) or "").split("\n")
            for place, line in enumerate(lines):
                if line == f"{section}:":
                    following = lines[place + 1] if place + 1 < len(lines) else ""
                    assert following.startswith("    "), f"{path.name}: {node.name}"


# Of the types of parameters, those that are one array; not mappings of many, nor functions of them.
_ARRAY = re.compile(r"(?:Sequence\[)?(?:NDArray\[|ArrayLike|(?:torch\.)?Tensor\b|Floats)")
_SHAPE = re.compile(r"\[[^\]\n]+\]|\bscalar|\bshape")
_SOURCE = re.compile(r"\b(19|20)\d\d\b|arXiv|et al|\bEq\b|\bpaper|vlood's own", re.IGNORECASE)
_SCORES = re.compile(r"(^|_)(score|loss|losses|scores)$")


def _functions() -> Iterator[tuple[Path, str, ast.FunctionDef, str]]:
    """Yield the public functions and methods: where, their name, themselves, what is said of them.

    What is said of a method is also what its class says.
    """

    def within(
        body: list[ast.stmt], prefix: str, said: str
    ) -> Iterator[tuple[str, ast.FunctionDef, str]]:
        for each in body:
            if isinstance(each, ast.ClassDef) and not each.name.startswith("_"):
                own = ast.get_docstring(each) or ""
                yield from within(each.body, f"{prefix}{each.name}.", own)
            if not isinstance(each, ast.FunctionDef) or each.name.startswith("_"):
                continue
            if not any("overload" in ast.dump(mark) for mark in each.decorator_list):
                yield prefix + each.name, each, f"{ast.get_docstring(each)}\n{said}"

    for path in MODULES:
        if not path.name.startswith("_") and "cli" not in path.relative_to(ROOT).parts:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for name, function, said in within(tree.body, "", ""):
                yield path.relative_to(ROOT), name, function, said


def _place(path: Path, name: str, function: ast.FunctionDef) -> str:
    return f"{path}:{function.lineno}: {name}"


def test_arrays_have_a_shape_in_the_docstring() -> None:
    lacking, seen = [], 0
    for path, name, function, said in _functions():
        marks = function.args
        types = [each.annotation for each in (*marks.args, *marks.kwonlyargs)] + [function.returns]
        if any(each is not None and _ARRAY.match(ast.unparse(each)) for each in types):
            seen += 1
            if not _SHAPE.search(said):
                lacking.append(f"{_place(path, name, function)}: name the shapes, as in [N, D]")
    assert seen > 250
    assert not lacking, "\n".join(lacking)


def _raised(node: ast.AST) -> Iterator[ast.expr]:
    """Yield what a function itself raises; not what functions within it do, nor bare re-raises."""
    for each in ast.iter_child_nodes(node):
        if isinstance(each, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(each, ast.Raise) and each.exc is not None:
            yield each.exc
        yield from _raised(each)


def test_raised_errors_are_in_the_docstring() -> None:
    lacking, seen = [], 0
    for path, name, function, _ in _functions():
        raised = [*_raised(function)]
        seen += bool(raised)
        if raised and "Raises:" not in (ast.get_docstring(function) or ""):
            lacking.append(f"{_place(path, name, function)}: raises {ast.unparse(raised[0])[:40]}")
    assert seen > 150
    assert not lacking, "\n".join(lacking)


def test_scores_and_losses_name_their_source() -> None:
    """A formula's function, its module or its method's record says where it is from."""
    lacking, seen = [], 0
    for path, name, function, said in _functions():
        if "methods" not in path.parts or not _SCORES.search(name):
            continue
        seen += 1
        text = (ROOT / path).read_text(encoding="utf-8")
        about = f"{said}\n{ast.get_docstring(ast.parse(text))}"
        if not _SOURCE.search(about) and "RECORD = MethodRecord(" not in text:
            lacking.append(f"{_place(path, name, function)}: name the paper or the code")
    assert seen > 40
    assert not lacking, "\n".join(lacking)
