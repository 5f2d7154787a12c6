"""A detector that learns from labelled images, by the installed command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

from .conftest import Many, write_pictures

CLASSES = "red,green thing,blue"
COLOURS = {"red": (200, 30, 30), "green_thing": (30, 180, 40), "blue": (30, 40, 200)}


def draw(folder: Path) -> None:
    """Write pictures of three colours, for training and testing, and some of none of them."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 3)):
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for row in range(count):
                pixels = np.clip(colour + rng.normal(0, 25, (64, 64, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / name / f"{row}.png")
    write_pictures(folder / "strange", 9)


def test_from_images_to_decisions(many: Many, tmp_path: Path) -> None:
    draw(tmp_path)
    train, test, strange = (tmp_path / name for name in ("train", "test", "strange"))
    (train / "not a class").mkdir()
    (train / "not a class" / "bad.png").write_bytes(b"no picture")
    mine, again, whole, stored = (tmp_path / name for name in ("mine", "again", "whole", "stored"))
    tune = ("tune", "linear-probe", "--classes", CLASSES)
    model = ("--model", "bundled")
    few, same, every, embedded, from_store, scored, measured, done, *told = many(
        (*tune, *model, "--train", train, "--shots", "2", "--seed", "3", "-o", mine),
        (*tune, *model, "--train", train, "--shots", "2", "--seed", "3", "-o", again),
        (*tune, *model, "--train", train, "-o", whole),
        ("embed", train, *model, "-o", tmp_path / "train.store"),
        (*tune, "--train", tmp_path / "train.store", "-o", stored),
        ("score", strange, "--detector", whole, "--explain"),
        ("eval", "--detector", whole, "--id", test, "--ood", strange),
        ("calibrate", whole, "--id", train),
        ("export", whole, "-o", tmp_path / "probe.safetensors"),
        ("show", whole),
        ("apply", whole, "--classes", "a,b", "-o", tmp_path / "other"),
        (*tune, *model, "--train", train, "--shots", "5", "-o", tmp_path / "x"),
        (*tune, *model, "--train", train, "--shots", "0", "-o", tmp_path / "x"),
        (*tune, *model, "--train", strange, "-o", tmp_path / "x"),
        (*tune, *model, "-o", tmp_path / "x"),
        (*tune, "--train", train, "--train-labels", train / "y.npy", "-o", tmp_path / "x"),
        (*tune, "--train", "-", "-o", tmp_path / "x"),
        ("tune", "mcm", "--classes", CLASSES, "--train", train, "-o", tmp_path / "x"),
        ("tune", "mcm", "--classes", CLASSES, "--shots", "2", "-o", tmp_path / "x"),
        ("score", test, "--classes", CLASSES, "--method", "linear-probe"),
    )
    assert every.code == 3, every.err  # a picture that cannot be read
    assert "bad.png" in every.err
    assert "1 training image could not be read" in every.err
    for one in (few, same):
        assert one.code == 0, one.err  # only what was drawn is read
        assert "bad.png" not in one.err
    assert few.records[0]["training_images"] == 6
    assert few.records[0]["shots"] == 2
    assert (mine / "tensors.safetensors").read_bytes() == (
        again / "tensors.safetensors"
    ).read_bytes()
    held = json.loads((mine / "detector.json").read_text())
    assert len(set(held["provenance"]["sampled"])) == 6
    assert held["provenance"]["seed"] == 3
    assert held["model"] == "bundled"

    # Embeddings of a store give the same probe, and the store says which model made them.
    assert embedded.code == 3
    assert from_store.code == 0, from_store.err
    assert from_store.records[0]["model"] == "bundled"
    weights = [load_file(one / "tensors.safetensors")["weight"] for one in (stored, whole)]
    np.testing.assert_array_equal(*weights)

    assert scored.code == 0, scored.err
    assert scored.records[0]["method"] == "linear-probe"
    assert measured.records[0]["id_accuracy"] > 0.9
    assert measured.records[0]["auroc"] > 0.9
    assert "The calibration images are the training images" in done.err
    assert done.code == 0

    exported, shown, *refused = told
    assert exported.code == 0, exported.err
    assert json.loads(shown.out)["provenance"]["training_images"] == 12
    sentences = (
        "trained on images of its own classes and says nothing of others",
        "--shots 5: not every class has as many training images",
        "--shots 0: expected a whole number",
        "none of the labels is a class",
        "learns from labelled images; give them with --train",
        "goes with one file of embeddings",
        "stdin is not read here",
        "--method mcm learns nothing from images; leave --train out",
        "--shots: goes with --train",
        "learns from labelled images; give them with --train",
    )
    for one, words in zip(refused, sentences, strict=True):
        assert words in one.sentence(2)
    assert not (tmp_path / "x").exists()
