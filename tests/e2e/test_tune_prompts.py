"""Prompts tuned on labelled images, by the installed command."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .conftest import Many
from .test_tune_images import draw

COLOURS = "red,green thing,blue"
MODEL = ("--model", "bundled", "--classes", COLOURS)
TUNE = ("tune", "coop", *MODEL, "--seed", "3")
QUICK = ("--set", "epochs=6", "--set", "context_length=4")


def folder(path: Path) -> dict[str, Any]:
    """Read a detector's files, without what says the folder's own name."""
    files: dict[str, Any] = {file.name: file.read_bytes() for file in path.iterdir()}
    described = json.loads(files["detector.json"])
    described["provenance"]["command"] = described["digests"]["README.md"] = ""
    card = files["README.md"].decode().replace(f"-o {path.name}", "-o X")
    return {**files, "detector.json": described, "README.md": card}


def test_from_images_to_prompts(many: Many, tmp_path: Path) -> None:
    draw(tmp_path)
    test, strange = tmp_path / "test", tmp_path / "strange"
    few = ("--train", "train", "--shots", "2", "--set", "views=2", "--cache", "cache", *QUICK)
    mine = tmp_path / "mine"
    published = tmp_path / "published" / "prompt_learner" / "model.pth.tar-6"
    compare = ("eval", "--method", "coop,mcm", *MODEL, "--train", tmp_path / "train")
    compare = (*compare, "--shots", "1,2", "--seeds", "1,2")
    dry, made, *done = many(
        (*TUNE, *few, "--dry-run", "-o", "mine"),
        (*TUNE, *few, "-o", "mine", "--log", "log.csv"),
        ("calibrate", mine, "--id", test),
        ("score", strange, "--detector", mine),
        ("apply", mine, "--classes", "circle,square", "-o", tmp_path / "other"),
        ("export", mine, "--format", "coop", "-o", tmp_path / "published"),
        ("import", "coop", published, *MODEL, "-o", tmp_path / "back"),
        (*TUNE, *few, "-o", "one"),
        (*TUNE, *few, "-o", "two"),
        (*compare, "--id", test, "--ood", strange, "--set", "coop.epochs=3", "--resamples", "0"),
        cwd=tmp_path,
    )
    assert dry.code == 0, dry.err
    cost = dry.records[0]
    assert (cost["images"], cost["to_encode"], cost["steps"]) == (6, 18, 6)
    assert cost["trainable"] == 4 * 64
    assert made.code == 0, made.err
    assert made.records[0]["learned"] == "contexts"
    rows = (mine / "training.csv").read_text().splitlines()
    assert rows[0] == "step,epoch,lr,loss,accuracy"
    assert len(rows) == 7
    assert (tmp_path / "log.csv").read_text().splitlines()[0] == f"{rows[0]},seconds"
    assert not (tmp_path / "mine.run").exists()
    for one in done:
        assert one.code == 0, one.err
    assert json.loads((mine / "detector.json").read_text())["calibration"] is not None
    assert (mine / "training.csv").read_text().splitlines() == rows  # calibration keeps it
    # What goes out in CoOp's layout and comes back scores the same.
    held = [(tmp_path / name / "tensors.safetensors").read_bytes() for name in ("mine", "back")]
    from safetensors.numpy import load

    first, second = (load(one)["class_features"] for one in held)
    assert abs(first - second).max() < 1e-5
    figures = done[-1].records
    assert [row["detector"] for row in figures].count("coop") == 4
    assert {(row["shots"], row["seed"]) for row in figures if row["detector"] == "coop"} == {
        (shots, seed) for shots in (1, 2) for seed in (1, 2)
    }

    # The same command twice: the same bytes, but for the name of the folder.
    assert folder(tmp_path / "one") == folder(tmp_path / "two")


def test_prompts_kept_undecided_about_background(many: Many, tmp_path: Path) -> None:
    draw(tmp_path)
    test, strange, mine = (tmp_path / name for name in ("test", "strange", "mine"))
    tune = ("tune", "locoop", *MODEL, "--train", "train", *QUICK)
    published = tmp_path / "published" / "prompt_learner" / "model.pth.tar-6"
    compare = ("eval", "--method", "locoop,gl-mcm", *MODEL, "--train", tmp_path / "train")
    compare = (*compare, "--shots", "1,2", "--seeds", "1,2", "--resamples", "0")
    spoiled = tmp_path / "spoiled"
    draw(spoiled)
    for path in (spoiled / "train" / "blue").iterdir():
        path.write_bytes(b"no picture")
    dry, made, *done = many(
        (*tune, "--shots", "2", "--dry-run", "-o", "mine"),
        (*tune, "--shots", "2", "-o", "mine"),
        ("score", strange, "--detector", mine),
        ("apply", mine, "--classes", "circle,square", "-o", tmp_path / "other"),
        ("export", mine, "--format", "coop", "-o", tmp_path / "published"),
        ("import", "locoop", published, *MODEL, "-o", tmp_path / "back"),
        ("score", strange, "--detector", tmp_path / "back"),
        (*compare, "--id", test, "--ood", strange, "--set", "locoop.epochs=3"),
        cwd=tmp_path,
    )
    assert dry.code == 0, dry.err
    assert (dry.records[0]["to_encode"], dry.records[0]["steps"]) == (6, 6)
    for one in (made, *done):
        assert one.code == 0, one.err
    assert made.records[0]["method"] == "gl-mcm"
    assert "trained by LoCoOp and scored with GL-MCM" in (mine / "README.md").read_text()
    rows = (mine / "training.csv").read_text().splitlines()
    assert "local_entropy" in rows[0]
    # What goes out in CoOp's layout and comes back scores the same.
    first, second = done[0].records, done[4].records
    assert len(first) == 9
    for one, other in zip(first, second, strict=True):
        assert (one["path"], one["label"]) == (other["path"], other["label"])
        assert abs(one["score"] - other["score"]) < 1e-5
    figures = [row for row in done[-1].records if row["detector"] == "locoop"]
    assert {(row["shots"], row["seed"]) for row in figures} == {
        (shots, seed) for shots in (1, 2) for seed in (1, 2)
    }

    refused = many(
        (*tune, "--set", "top_k=3", "-o", "x"),
        ("tune", "locoop", *MODEL, "--train", spoiled / "train", "-o", "x"),
        cwd=tmp_path,
    )
    sentences = [one.sentence(2) for one in refused]
    assert "top_k is 3 and there are 3 classes" in sentences[0]
    assert "1 of 3 classes have no training image (blue)" in sentences[1]
    assert "4 training images could not be read, such as" in sentences[1]
    assert not (tmp_path / "x").exists()


def test_ctrl_c_keeps_the_run_and_resume_ends_it(
    many: Many, begin: Callable[..., Any], tmp_path: Path
) -> None:
    import signal

    draw(tmp_path)
    long = (*TUNE, "--train", "train", "--set", "epochs=500", "--set", "context_length=4")
    command = (*long, "-o", "slow")
    process = begin(command, cwd=tmp_path)
    limit = time.monotonic() + 60
    while not (tmp_path / "slow.run" / "state.safetensors").exists():
        assert time.monotonic() < limit
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert b"slow.run; the same command with --resume goes on" in err
    plain, other, resumed = many(
        command, (*command, "--resume", "--set", "clip=1"), (*command, "--resume"), cwd=tmp_path
    )
    assert "holds a run that was stopped; --resume goes on with it" in plain.sentence(2)
    assert "loop.clip" in other.sentence(2)
    assert resumed.code == 0, resumed.err
    rows = (tmp_path / "slow" / "training.csv").read_text().splitlines()
    assert [int(row.split(",")[0]) for row in rows[1:]] == list(range(1, 501))
    assert not (tmp_path / "slow.run").exists()


def test_from_class_names_and_a_pool_to_a_detector(many: Many, tmp_path: Path) -> None:
    draw(tmp_path)
    terms = tmp_path / "terms.txt"
    terms.write_text("star\nuniform noise\nanchor\n")
    negatives = ("--negatives", "bank")
    lapt = ("tune", "lapt", *MODEL, *negatives, "--train", "found/collected.txt", "--seed", "3")
    lapt = (*lapt, "--set", "preset=lapt-released", "--set", "epochs=2")
    compare = ("eval", "--method", "lapt,mcm", *MODEL, *negatives, "--set", "lapt.epochs=1")
    compare = (*compare, "--train", tmp_path / "found" / "collected.txt", "--shots", "1")
    published = tmp_path / "out" / "prompt_learner" / "model.pth.tar-2"
    mined, collected, dry, made, again, wrong, *done = many(
        ("mine", *MODEL, "--corpus", terms, "--keep", "1", "-o", "bank"),
        ("collect", *MODEL, *negatives, "--pool", "train", "--per-label", "2", "-o", "found"),
        (*lapt, "--dry-run", "-o", "one"),
        (*lapt, "-o", "one"),
        (*lapt, "-o", "two"),
        (*lapt, "--set", "preset=lapt", "-o", "three"),
        ("score", "strange", "--detector", "one", "--explain"),
        ("apply", "one", "--classes", "circle,square", "--negatives", terms, "-o", "other"),
        ("export", "one", "--format", "coop", "-o", "out"),
        ("import", "lapt", published, *MODEL, *negatives, "-o", "back"),
        (*compare, "--id", "test", "--ood", "strange", "--resamples", "0"),
        cwd=tmp_path,
    )
    assert mined.code == collected.code == 0, mined.err + collected.err
    assert dry.records[0]["trainable"] == 2 * 4 * 64
    assert made.code == again.code == 0, made.err
    told = made.records[0]
    assert (told["method"], told["learned"], told["negatives"]) == ("neglabel", "contexts", 3)
    assert folder(tmp_path / "one") == folder(tmp_path / "two")
    assert "lapt: preset is 'lapt'; expected lapt-paper or lapt-released" in wrong.sentence(2)
    for one in done:
        assert one.code == 0, one.err
    described = json.loads((tmp_path / "one" / "detector.json").read_text())
    settings = described["learned"]["about"]["settings"]
    assert (settings["weight_plain"], settings["epochs"]) == (0.0, 2)
    rows = {(row["detector"], row["shots"]) for row in done[-1].records}
    assert rows == {("lapt", 1), ("mcm", None)}
