"""What a wheel and a source archive hold: the package with its data, and no tests in the wheel."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def files(kind: str) -> dict[str, Path]:
    """Return what would be built, by its place in the archive."""
    pytest.importorskip("hatchling", reason="hatchling is not installed: pip install -e '.[dev]'")
    from hatchling.builders.sdist import SdistBuilder
    from hatchling.builders.wheel import WheelBuilder

    builder = {"wheel": WheelBuilder, "sdist": SdistBuilder}[kind](str(ROOT))
    found = {one.distribution_path: Path(one.path) for one in builder.recurse_included_files()}
    if kind == "wheel":
        for source, target in builder.config.force_include.items():
            top = Path(source)
            for each in top.rglob("*"):
                if each.is_file():
                    found[f"{target}/{each.relative_to(top)}"] = each
    return found


def test_a_wheel_has_the_package_and_all_its_data_and_no_tests() -> None:
    found = files("wheel")
    assert {
        "vlood/py.typed",
        "vlood/backbone/bundled/open_clip_model.safetensors",
        "vlood/evaluation/report/page.html.j2",
        "vlood/evaluation/suites/published/world.json",
        "vlood/prompts/library/classes/world.txt",
        "vlood/prompts/library/templates/plain.txt",
    } <= set(found)
    ours = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "vlood").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert ours <= set(found)
    assert all(name.startswith("vlood/") for name in found)
    assert sum(path.stat().st_size for path in found.values()) < 25e6


def test_a_source_archive_has_what_its_tests_and_scripts_need() -> None:
    found = files("sdist")
    for name in ("tests/e2e/conftest.py", "scripts/demo", "prompts/classes/world.txt"):
        assert name in found
    for name in ("CONTRIBUTING.md", "BENCHMARKS.md", "docs/detector-folder.md"):
        assert name in found
