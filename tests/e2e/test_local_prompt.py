"""Local-Prompt from images to decisions, by the installed command, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.numpy import load_file

from .conftest import Many, Result
from .test_tune_images import draw

CLASSES = ("--classes", "red,green thing,blue")
MODEL = ("--model", "bundled", *CLASSES)
QUICK = ("--set", "views=3", "--set", "positive_views=2", "--set", "epochs=2")
QUICK = (*QUICK, "--set", "context_length=4")


def test_from_images_to_regional_prompts(many: Many, tmp_path: Path) -> None:
    draw(tmp_path)
    (tmp_path / "bank.txt").write_text("bell\ntree\nhouse\nmoon\n")
    tune = ("tune", "local-prompt", *MODEL, "--train", "train", "--shots", "2", "--seed", "3")
    coop = ("tune", "coop", *MODEL, "--train", "train", "--set", "epochs=2")
    with_bank = ("--set", "neglabel=0.5", "--negatives", "bank.txt", "--global-prompts", "prompts")
    compare = ("eval", "--id", "test", "--ood", "strange", "--resamples", "0", "--detector", "both")
    dry, made, again, prompts, *done = many(
        (*tune, *QUICK, "--dry-run", "-o", "mine"),
        (*tune, *QUICK, "-o", "mine"),
        (*tune, *QUICK, "--set", "recompute=true", "-o", "again"),
        (*coop, "--set", "context_length=4", "-o", "prompts"),
        ("calibrate", "mine", "--id", "test"),
        ("score", "strange", "--detector", "mine", "--explain", "--heatmap", "maps"),
        ("apply", "mine", "--global-prompts", "prompts", "-o", "both"),
        ("apply", "mine", "--negatives", "bank.txt", "-o", "banked"),
        ("score", "test", "--detector", "mine", "--global-prompts", "prompts"),
        ("score", "test", "--detector", "both"),
        compare,
        (*tune, *QUICK, *with_bank, "-o", "whole"),
        cwd=tmp_path,
    )
    assert dry.code == 0, dry.err
    cost = dry.records[0]
    assert (cost["images"], cost["views"], cost["region_views"]) == (6, 3, 3)
    assert cost["to_encode"] == 6 + 6 * 3 + 6 * 3
    assert cost["store_bytes"] == 6 * 3 * 64 * 128 * 2
    assert (cost["trainable"], cost["steps"]) == ((3 + 4) * 4 * 64, 4)
    assert made.code == 0, made.err
    assert "regional maps of 6 images x 3 views take" in made.err
    assert "mine.run" in made.err
    assert made.records[0]["learned"] == "contexts"
    assert not (tmp_path / "mine.run").exists()
    log = (tmp_path / "mine" / "training.csv").read_text().splitlines()
    assert log[0] == "step,epoch,lr,loss,positive,negative,diversity"
    assert again.code == prompts.code == 0, again.err + prompts.err
    for one in done:
        assert one.code == 0, one.err
    _, scored, _, _, swapped, both, measured, _ = done
    record = scored.records[0]
    assert set(record["deciding_region"]) == {
        *("row", "column", "rows", "columns", "label", "probability")
    }
    assert "the region that decided: row" in record["explanation"]
    assert Path(tmp_path / record["heatmap"]).is_file()
    assert "the calibration was for other prompts and is left out" in swapped.err
    assert [one["score"] for one in swapped.records] == [one["score"] for one in both.records]
    assert 0 <= measured.records[0]["auroc"] <= 1
    described = json.loads((tmp_path / "both" / "detector.json").read_text())
    assert described["provenance"]["global_prompts"] == {"from": "prompts", "method": "mcm"}
    held = [load_file(tmp_path / name / "tensors.safetensors") for name in ("banked", "whole")]
    for tensors in held:
        assert tensors["negative_features"].shape[0] == 4
        assert tensors["bank_class_features"].shape[0] == 3

    refused = refusals(many, tmp_path)
    for one, expected in zip(refused, WORDS, strict=True):
        assert expected in one.sentence(2)


WORDS = (
    "its prompts are of other classes (they lack green thing)",
    "its prompts are of other classes (they lack green thing)",
    "its local prompts are class-specific (3 blocks, one a class)",
    "the contexts of local-prompt are of regions",
    "--global-prompts: is for local-prompt, and coop has no regions",
    "--global-prompts: goes with --detector",
    "--global-prompts: is for detectors of local-prompt",
    "--shots 9: not every class has as many training images",
    "positive_views is 3 and views is 3; one view must be left",
    "views=16 needs the images themselves",
)


def refusals(many: Many, folder: Path) -> list[Result]:
    """What the command says of what cannot be, beside a detector that is there."""
    two = folder / "two"
    tune = ("tune", "local-prompt", *MODEL, "--train", "train", *QUICK)
    measure = ("eval", "--id", "test", "--ood", "strange", "--detector", "two")
    made, stored, *refused = many(
        ("tune", "mcm", "--model", "bundled", "--classes", "red,blue", "-o", two),
        ("embed", "train", "--model", "bundled", "--local", "-o", "train.store"),
        (*tune, "--global-prompts", "two", "-o", "x"),
        ("apply", "mine", "--global-prompts", "two", "-o", "x"),
        ("apply", "mine", "--classes", "a,b", "-o", "x"),
        ("export", "mine", "--format", "coop", "-o", "x"),
        ("tune", "coop", *MODEL, "--train", "train", "--global-prompts", "two", "-o", "x"),
        ("score", "test", *MODEL, "--global-prompts", "two"),
        (*measure, "--global-prompts", "mine"),
        (*tune, "--shots", "9", "-o", "x"),
        (*tune, "--set", "positive_views=3", "-o", "x"),
        ("tune", "local-prompt", *MODEL, "--train", "train.store", "-o", "x"),
        cwd=folder,
    )
    assert made.code == stored.code == 0, made.err + stored.err
    return refused
