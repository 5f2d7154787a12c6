"""Every method goes through the same life: a new one is here by being registered."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from vlood.methods import registry

from .life import COMPILED, check_life

NAMES = tuple(entry.name for entry in registry.BUILT_INS)


@pytest.mark.parametrize("method", [name for name in NAMES if name not in COMPILED])
def test_life_of_a_method(method: str, tmp_path: Path) -> None:
    check_life(method, tmp_path)


def test_what_training_compiles_to_other_methods_is_known() -> None:
    assert set(COMPILED) < set(NAMES)
    for method, others in COMPILED.items():
        assert "text-tower" in registry.get(method).record.needs
        assert set(others) <= set(NAMES) - set(COMPILED)


def test_the_method_of_another_package_has_the_same_life(
    contributing: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "acme_margin.py").write_text(contributing("python"))
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = EntryPoint("margin", "acme_margin:METHOD", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    check_life("margin", tmp_path)
