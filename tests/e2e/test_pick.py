"""Picking a method for one's images, and making the detector with the commands that it gives."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .conftest import Many, Vlood

COLOURS = {"red thing": (220, 30, 30), "green thing": (30, 200, 40), "blue thing": (30, 50, 220)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)

    def draw(path: Path, colour: tuple[int, ...]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.array(colour) + rng.normal(0, 25, (32, 32, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)

    for name, colour in COLOURS.items():
        for number in range(8):
            draw(folder / "id" / name / f"{number}.png", colour)
    for number in range(10):
        draw(folder / "ood" / f"{number}.png", (230, 230, 60))
    (folder / "id" / "red thing" / "broken.png").write_bytes(b"no picture")
    return folder


def test_the_commands_of_a_pick_give_its_figures(
    folders: Path, tiny: str, vlood: Vlood, many: Many, tmp_path: Path
) -> None:
    out = tmp_path / "picked"
    done = vlood(
        *("pick", "--id", folders / "id", "--ood", f"far:yellow={folders / 'ood'}", "--model"),
        *(tiny, "--method", "knn,mahalanobis,mixoe", "--budget", "100s", "-o", out),
    )
    assert done.code == 0, done.err
    assert "1 image of id could not be read" in done.err
    first, *rest = done.records
    assert first["status"] == "recommended"
    assert {one["method"]: one["status"] for one in rest}["mixoe"] == "skipped"
    report = json.loads((out / "pick.json").read_text())
    assert report["recommended"] == first["method"]
    assert report["images"] == {"learned from": 12, "held": 12, "yellow": 10}

    tune, evaluate, calibrate, _ = [shlex.split(line)[1:] for line in report["commands"]]
    tuned, measured, calibrated = many(tune, evaluate, calibrate)
    assert (tuned.code, measured.code, calibrated.code) == (0, 0, 0), tuned.err + measured.err
    (row,) = measured.records
    assert row["auroc"] == pytest.approx(first["auroc"])
    assert row["id_accuracy"] == pytest.approx(first["id_accuracy"])


def test_bad_values_are_refused_before_anything_is_read(
    folders: Path, many: Many, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    known = ("pick", "--id", folders / "id")
    budget, held, name = many(
        (*known, "--budget", "soon"),
        (*known, "-o", tmp_path / "full"),
        (*known, "--method", "mmc"),
    )
    assert "--budget soon: expected a time such as 90s, 10m or 1h" in budget.sentence(2)
    assert "holds something else" in held.sentence(2)
    assert "did you mean mcm" in name.sentence(2)
