"""``vlood diagnose`` by the installed command: models and detectors side by side."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from .conftest import Many
from .test_tune_synood import draw


def test_models_and_detectors_side_by_side(many: Many, tiny: str, tmp_path: Path) -> None:
    draw(tmp_path)
    (tmp_path / "train/blue/bad.png").write_bytes(b"no picture")
    (tmp_path / "empty").mkdir()
    shutil.copy(tmp_path / "train/red/0.png", tmp_path / "alone.png")
    two = ("--classes", "red,blue")
    model = (*two, "--model", tiny)
    train = ("--train", "train", "--negatives", "words.txt", "--synthetic", "made")
    _, probe, alone, both, unlabelled, *told = many(
        ("tune", "synood", *model, *train, "-o", "tuned", "-q"),
        ("tune", "linear-probe", *model, "--train", "train", "-o", "probe", "-q"),
        ("diagnose", "train", *model, "--template", "the nice {}", "-q"),
        (
            *("diagnose", "train", *model, "--detector", "tuned", "-q", "-o", "rows.jsonl"),
            *("--template", "the nice {}", "--picture", "gap.png"),
        ),
        ("diagnose", "alone.png", *model),
        ("diagnose", "train", "--classes", "red,green", "--detector", "tuned"),
        ("diagnose", "train", *two, "--detector", "probe"),
        ("diagnose", "empty", *model),
        ("diagnose", "train", "--model", tiny),
        ("diagnose", "-", *model, "--detector", "tuned"),
        cwd=tmp_path,
    )
    assert probe.code == alone.code == both.code == 3, probe.err + alone.err + both.err
    assert both.out == ""
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == [tiny, "tuned"]
    assert rows[0] == alone.records[0]
    before, after = rows
    assert (before["images"], before["labelled"], before["classes"]) == (10, 10, 2)
    assert before["unreadable"] == 1
    assert before["modality_gap_change"] is None
    # The texts are the same; the head has moved the images.
    moved = after["modality_gap"] - before["modality_gap"]
    assert after["modality_gap_change"] == pytest.approx(moved)
    assert moved != 0
    with Image.open(tmp_path / "gap.png") as picture:
        assert picture.width > 600
    assert unlabelled.code == 0, unlabelled.err
    assert "1 of 1 images have no label that is a class" in unlabelled.err
    assert unlabelled.records[0]["alignment"] is None
    assert unlabelled.records[0]["modality_gap"] > 0
    expected = (
        "they differ in 'blue': give the list it was tuned with",
        "linear-probe has no text features of classes",
        "empty",
        "--classes is missing",
        "stdin is read once",
    )
    for run, words in zip(told, expected, strict=True):
        assert words in run.sentence(2)
