"""SynOOD by the installed command: from pictures and made pictures to decisions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

from .conftest import Many, write_pictures

COLOURS = {"red": (200, 30, 30), "blue": (30, 40, 200)}
WORDS = "moss\nsand\nsteel\ncoal\nmilk\nbrick"


def draw(folder: Path) -> None:
    """Write pictures of two colours, and halves of them pasted over with noise."""
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        for place in ("train", "made/near"):
            (folder / place / name).mkdir(parents=True)
        for row in range(5):
            pixels = np.clip(colour + rng.normal(0, 25, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "train" / name / f"{row}.png")
            pixels[:, 8:24] = rng.integers(0, 256, (32, 16, 3))
            Image.fromarray(pixels).save(folder / "made/near" / name / f"{row}_ood.png")
    (folder / "words.txt").write_text(WORDS)
    write_pictures(folder / "strange", 4)
    (folder / "none").mkdir()


def test_from_made_pictures_to_decisions(many: Many, tiny: str, tmp_path: Path) -> None:
    draw(tmp_path)
    (tmp_path / "made/near/red/bad.png").write_bytes(b"no picture")
    base = ("--classes", "red,blue", "--model", tiny, "--train", "train")
    words = ("--negatives", "words.txt")
    tune = ("tune", "synood", *base, *words, "--set", "batch_size=4")
    made = ("--synthetic", "made")
    done, again, cost, scored, shown, measured, stored, *told = many(
        (*tune, *made, "-o", "one"),
        (*tune, *made, "--shots", "2", "-o", "two"),
        (*tune, *made, "--dry-run", "-o", "x"),
        ("score", "strange", "--detector", "one", "--explain"),
        ("show", "one"),
        ("eval", "--detector", "one", "--id", "train", "--ood", "strange"),
        ("embed", "made", "--model", tiny, "-o", "made.store"),
        (*tune, "-o", "x"),
        (*tune, "--synthetic", "none", "-o", "x"),
        (*tune, "--synthetic", "made.store", "-o", "x"),
        ("tune", "linear-probe", *base, *made, "-o", "x"),
        ("tune", "synood", "--classes", "red,blue", *words, *made, "--model", tiny, "-o", "x"),
        ("apply", "one", "--classes", "a,b", "-o", "other"),
        cwd=tmp_path,
    )
    assert done.code == 3, done.err
    assert "bad.png" in done.err
    assert "1 made image could not be read" in done.err
    assert "10 made images have" in done.err
    held = json.loads((tmp_path / "one/detector.json").read_text())

    assert held["provenance"]["training_images"] == 20
    tensors = load_file(tmp_path / "one/tensors.safetensors")
    assert tensors["head_weight"].shape == (32, 32)
    # Few shots are drawn of the classes, and all made images stay.
    assert again.code == 3, again.err
    assert json.loads(again.out)["training_images"] == 2 * 2 + 10
    figures = json.loads(cost.out)
    assert cost.code == 0, cost.err
    assert figures["images"] == 10 + 11
    assert figures["cached"] == 20  # nothing is encoded twice
    assert figures["steps"] > 0
    assert [one["method"] for one in scored.records] == ["synood"] * 4
    assert all(0 < one["score"] < 1 for one in scored.records)
    assert shown.code == measured.code == 0, shown.err + measured.err
    assert stored.code == 3
    for run, words_of in zip(
        told,
        (
            "no made images to learn from; give them with --synthetic",
            "none",
            "images where --train has images",
            "linear-probe learns nothing from made images",
            "learns from labelled images; give them with --train",
            "negative-labels",
        ),
        strict=True,
    ):
        assert words_of in run.sentence(2)
