from __future__ import annotations

import logging
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from vlood.errors import UsageError, VloodError
from vlood.methods import registry

NAMES = ("mcm", "msp", "max-logit", "energy", "entropy", "gl-mcm", "neglabel", "adaneg", "tanl")
BUILT_INS = tuple(each.name for each in registry.BUILT_INS)


@pytest.fixture
def plug_ins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[EntryPoint]:
    """Entry points that other packages offer; a test appends to the list."""
    (tmp_path / "plugged_method.py").write_text(
        "import dataclasses\n"
        "from vlood.methods.mcm import METHOD as mcm\n"
        "METHOD = dataclasses.replace(\n"
        "    mcm, record=dataclasses.replace(mcm.record, name='plugged')\n"
        ")\n"
        "NOT_A_METHOD = 3\n"
    )
    (tmp_path / "plugged_broken.py").write_text("raise RuntimeError('no such GPU')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    offered: list[EntryPoint] = []
    monkeypatch.setattr(registry, "entry_points", lambda group: list(offered))
    return offered


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, registry.GROUP)


def test_every_built_in_is_there() -> None:
    assert registry.names()[: len(NAMES)] == NAMES
    assert tuple(method.name for method in registry.all_methods())[: len(NAMES)] == NAMES


def test_built_ins_are_found_with_stale_metadata(plug_ins: list[EntryPoint]) -> None:
    assert registry.names() == BUILT_INS


def test_pyproject_registers_the_built_ins_the_same_way() -> None:
    tomllib = pytest.importorskip("tomllib")
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    offered = pyproject["project"]["entry-points"][registry.GROUP]
    assert offered == {each.name: each.value for each in registry.BUILT_INS}


def test_a_plug_in_is_a_method_like_any_other(plug_ins: list[EntryPoint]) -> None:
    plug_ins.append(entry("plugged", "plugged_method:METHOD"))
    assert registry.names() == (*BUILT_INS, "plugged")
    assert registry.get("plugged").name == "plugged"
    assert registry.all_methods()[-1].name == "plugged"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("plugged_broken:METHOD", "RuntimeError: no such GPU"),
        ("plugged_absent:METHOD", "ModuleNotFoundError"),
        ("plugged_method:ABSENT", "AttributeError"),
        ("plugged_method:NOT_A_METHOD", "is not a Method"),
        ("plugged_method:METHOD", "is named plugged"),
    ],
)
def test_a_broken_plug_in_is_a_warning_and_an_error_when_asked_for(
    plug_ins: list[EntryPoint], caplog: pytest.LogCaptureFixture, value: str, reason: str
) -> None:
    plug_ins.append(entry("other", value))
    with caplog.at_level(logging.WARNING):
        assert tuple(method.name for method in registry.all_methods()) == BUILT_INS
    assert reason in caplog.text
    assert registry.get("mcm").name == "mcm"
    with pytest.raises(VloodError, match=reason):
        registry.get("other")


def test_a_plug_in_cannot_replace_a_built_in(
    plug_ins: list[EntryPoint], caplog: pytest.LogCaptureFixture
) -> None:
    plug_ins.append(entry("mcm", "plugged_method:METHOD"))
    with caplog.at_level(logging.WARNING):
        assert registry.get("mcm").fit.__module__ == "vlood.methods.mcm"  # type: ignore[attr-defined]
        registry.names()
    assert "left out" in caplog.text


@pytest.mark.parametrize("typed", ["GL-MCM", "gl_mcm", " gl-mcm "])
def test_a_name_may_be_written_differently(typed: str) -> None:
    assert registry.get(typed).name == "gl-mcm"


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="did you mean energy"):
        registry.get("enrgy")
    with pytest.raises(UsageError, match="there are: mcm, msp"):
        registry.get("zzz")


def test_a_comparison_takes_methods_without_streams_and_local_features(
    plug_ins: list[EntryPoint],
) -> None:
    assert registry.comparable() == ("mcm", "msp", "max-logit", "energy", "entropy", "neglabel")
    plug_ins.append(entry("plugged", "plugged_method:METHOD"))
    assert registry.comparable()[-1] == "plugged"


def test_test_time_methods_say_so_in_their_record() -> None:
    streams = {each.name: each.record.stream for each in registry.all_methods() if each.stream}
    assert streams == {"adaneg": "order-dependent", "tanl": "transductive"}
    assert all(bool(each.record.stream) == bool(each.stream) for each in registry.all_methods())


def test_listing_records_imports_no_deep_learning() -> None:
    code = (
        "import sys; from vlood.methods import registry; registry.all_methods();"
        "heavy = {'torch', 'open_clip', 'scipy', 'sklearn', 'PIL'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
