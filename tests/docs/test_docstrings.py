"""Every public module, class and function says what it is for."""

from __future__ import annotations

import ast
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
