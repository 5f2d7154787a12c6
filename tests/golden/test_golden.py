"""Compare vlood with the reference implementations' own numbers, array by array.

Driven by the MANIFEST.json of the folder VLOOD_GOLDEN (by default ../shared/golden): every output
array of every case is a test. A file in adapters/ offers, by family, a function that maps the input
arrays and parameters of a case to its output arrays, computed by vlood's own functions (FAMILIES),
and lists with a reason the outputs that vlood does not offer (NOT_OFFERED).
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
Adapter = Callable[[Arrays, Mapping[str, Any]], Arrays]

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("VLOOD_SHARED", Path(__file__).parents[3] / "shared"))
GOLDEN = Path(os.environ.get("VLOOD_GOLDEN", SHARED / "golden"))

pytestmark = pytest.mark.shared


def load_adapters() -> tuple[dict[str, Adapter], dict[tuple[str, str], str]]:
    families: dict[str, Adapter] = {}
    not_offered: dict[tuple[str, str], str] = {}
    for path in sorted((HERE / "adapters").glob("[!_]*.py")):
        module = load_module(path)
        twice = set(families) & set(module.FAMILIES)
        assert not twice, f"{path.name} adapts {sorted(twice)} again"
        families.update(module.FAMILIES)
        not_offered.update(getattr(module, "NOT_OFFERED", {}))
    return families, not_offered


def load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"golden_adapter_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_manifest() -> list[dict[str, Any]]:
    path = GOLDEN / "MANIFEST.json"
    return json.loads(path.read_text())["cases"] if path.is_file() else []


CASES = {case["file"]: case for case in read_manifest()}
FAMILIES, NOT_OFFERED = load_adapters()
OUTPUTS = [
    pytest.param(file, name, id=f"{file.removesuffix('.npz')}-{name}")
    for file, case in CASES.items()
    for name, array in case["arrays"].items()
    if array["role"] == "output"
]


@functools.cache
def read_case(file: str) -> dict[str, NDArray[Any]]:
    with np.load(GOLDEN / file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


@functools.cache
def outputs_of(file: str) -> Arrays:
    case = CASES[file]
    arrays = read_case(file)
    given = {
        name: arrays[name].copy()
        for name, described in case["arrays"].items()
        if described["role"] in ("input", "weight")
    }
    return FAMILIES[case["family"]](given, case["params"])


def assert_agrees(
    value: NDArray[Any], expected: NDArray[Any], precision: Mapping[str, Any], name: str
) -> None:
    """Apply the comparison rule of the golden vectors' README."""
    assert value.shape == expected.shape
    if name in precision.get("exact", ()) or expected.dtype.kind in "iub":
        np.testing.assert_array_equal(value, expected)
        return
    limits = {**precision, **precision.get("per_array", {}).get(name, {})}
    difference = np.abs(value.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0)
    scale = np.abs(expected).max(initial=0.0)
    allowed = limits["atol"] + limits["rtol"] * float(scale)
    # Written so that a NaN fails.
    assert difference <= allowed, f"differs by {difference:.3g}, {allowed:.3g} allowed"


if not CASES:

    def test_golden_vectors_are_here() -> None:
        pytest.skip(f"{GOLDEN} holds no MANIFEST.json; set VLOOD_GOLDEN to the golden vectors")


@pytest.mark.parametrize("file", CASES)
def test_case_file_is_the_one_described(file: str) -> None:
    case = CASES[file]
    assert hashlib.sha256((GOLDEN / file).read_bytes()).hexdigest() == case["sha256"]
    arrays = read_case(file)
    assert set(arrays) == set(case["arrays"])
    for name, described in case["arrays"].items():
        assert list(arrays[name].shape) == described["shape"]
        assert str(arrays[name].dtype) == described["dtype"]


@pytest.mark.parametrize(("file", "name"), OUTPUTS)
def test_output_agrees_with_the_reference(file: str, name: str) -> None:
    case = CASES[file]
    family = case["family"]
    if family not in FAMILIES:
        pytest.skip(f"no adapter: {case['method']} is not part of this version")
    reason = NOT_OFFERED.get((family, name))
    if reason is not None:
        assert name not in outputs_of(file), f"{name} is computed and listed as not offered"
        pytest.skip(f"not offered: {reason}")
    outputs = outputs_of(file)
    assert name in outputs, f"the adapter of {family} neither returns {name} nor says why not"
    assert_agrees(np.asarray(outputs[name]), read_case(file)[name], case["precision"], name)


def test_comparison_rule_sees_what_it_should() -> None:
    precision = {"rtol": 1e-3, "atol": 0.0, "exact": ["k"], "per_array": {"loose": {"rtol": 1.0}}}
    expected = np.array([1.0, -2.0])
    assert_agrees(expected + 0.0019, expected, precision, "a")
    assert_agrees(expected + 1.9, expected, precision, "loose")
    for wrong in (expected + 0.0021, np.array([np.nan, -2.0]), expected[:1]):
        with pytest.raises(AssertionError):
            assert_agrees(wrong, expected, precision, "a")
    with pytest.raises(AssertionError):
        assert_agrees(expected + 1e-12, expected, precision, "k")


def test_every_family_has_an_adapter_or_a_reason_once() -> None:
    assert {family for family, _ in NOT_OFFERED} <= set(FAMILIES)
    assert all(reason for reason in NOT_OFFERED.values())
