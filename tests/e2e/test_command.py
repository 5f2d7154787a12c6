"""Commands on the bundled model: stores, local embeddings, the demo, the doctor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.e2e.conftest import Result

Vlood = Callable[..., Result]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(70):
        pixels = rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return folder


BUNDLED = ("--model", "bundled", "--classes", "world")


def test_a_store_scores_as_its_images_do(vlood: Vlood, pictures: Path, tmp_path: Path) -> None:
    assert vlood("embed", pictures, "--model", "bundled", "-o", tmp_path / "store").code == 0
    images = vlood("score", pictures, *BUNDLED, "--method", "energy").records
    stored = vlood("score", tmp_path / "store", *BUNDLED, "--method", "energy").records
    assert [one["path"] for one in stored] == [one["path"] for one in images]
    assert [one["score"] for one in stored] == pytest.approx([one["score"] for one in images])
    shown = vlood("show", tmp_path / "store").records[0]
    assert (shown["rows"], shown["width"]) == (70, 128)


def test_gl_mcm_needs_the_images_regions(vlood: Vlood, pictures: Path, tmp_path: Path) -> None:
    few = [pictures / f"{number:03d}.png" for number in range(3)]
    assert vlood("score", *few, *BUNDLED, "--method", "gl-mcm").code == 0
    assert vlood("embed", *few, "--model", "bundled", "--local", "-o", tmp_path / "s").code == 0
    assert vlood("score", tmp_path / "s", *BUNDLED, "--method", "gl-mcm").code == 0


def test_the_demo_runs_from_end_to_end(vlood: Vlood, tmp_path: Path) -> None:
    done = vlood("demo", "-o", tmp_path / "demo")
    assert done.code == 0, done.err
    assert "called OOD" in done.out
    for name in ("contact-sheet.png", "records.jsonl", "report/results.json", "report/roc-mcm.png"):
        assert (tmp_path / "demo" / name).stat().st_size > 0
    report = vlood("show", tmp_path / "demo" / "report")
    assert {row["group"] for row in report.records} == {"near", "far"}


def test_doctor_finds_the_bundled_model(vlood: Vlood) -> None:
    facts = vlood("doctor").records[0]
    assert facts["bundled model"].startswith("works offline")
