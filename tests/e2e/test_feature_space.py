"""Detectors of feature space and COOkeD on stored embeddings, by the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .conftest import Many, write_pictures

NAMES = ("red", "green thing", "blue")
D = 16


def write(folder: Path) -> None:
    """Write embeddings of three classes and of others, with a classifier's logits beside them."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(5, D)) * 3
    for name, count, classes in (("train", 8, 3), ("test", 5, 3), ("strange", 5, 5)):
        labels = np.arange(count * classes) % classes
        if name == "strange":
            labels = labels[labels >= 3]
        rows = (centres[labels] + rng.normal(size=(len(labels), D))).astype(np.float32)
        np.save(folder / f"{name}.npy", rows)
        logits = 2 * np.eye(5)[labels][:, :3] + rng.normal(size=(len(labels), 3))
        np.save(folder / f"{name}.logits.npy", logits.astype(np.float32))
        (folder / f"{name}.logits.txt").write_text("red\ngreen_thing\nblue\n")
        (folder / f"{name}-labels.txt").write_text(
            "".join(f"{NAMES[label] if label < 3 else 'other'}\n" for label in labels)
        )
    np.save(folder / "text.npy", centres[:3].astype(np.float32))
    (folder / "text.txt").write_text("\n".join(NAMES) + "\n")
    np.save(folder / "other.npy", np.load(folder / "test.npy"))
    np.save(folder / "other.logits.npy", np.load(folder / "test.logits.npy"))
    (folder / "other.logits.txt").write_text("blue\ngreen_thing\nred\n")


def test_from_embeddings_to_decisions(many: Many, tmp_path: Path) -> None:
    write(tmp_path)
    train = ("--train", tmp_path / "train.npy", "--train-labels", tmp_path / "train-labels.txt")
    classes = ("--classes", ",".join(NAMES))
    text = ("--class-embeddings", tmp_path / "text.npy")
    knn, cooked = tmp_path / "knn", tmp_path / "cooked"
    sets = (
        *("--id", tmp_path / "test.npy", "--id-labels", tmp_path / "test-labels.txt"),
        *("--ood", f"near:others={tmp_path / 'strange.npy'}", "--resamples", "0"),
    )
    methods = "knn,mahalanobis,vim,gmm,cooked,mcm"
    tuned, scored, noisy, ensemble, decided, known, exported, *told = many(
        ("tune", "knn", *classes, *train, "-o", knn),
        ("score", tmp_path / "strange.npy", "--detector", knn, "--explain"),
        ("eval", "--method", methods, *text, *train, *sets, "--label-noise", "0.2"),
        ("tune", "cooked", *text, *train, "--set", "calibrated=true", "-o", cooked),
        ("score", tmp_path / "test.npy", "--detector", cooked),
        ("show", cooked),
        ("export", knn, "-o", tmp_path / "knn.safetensors"),
        ("score", tmp_path / "text.npy", "--detector", cooked),
        ("score", tmp_path / "other.npy", "--detector", cooked),
        ("tune", "mahalanobis", *classes, *train, "--shots", "1", "-o", tmp_path / "x"),
        ("tune", "mixoe", *classes, *train, "-o", tmp_path / "x"),
        ("tune", "knn", *classes, *train, "--label-noise", "2", "-o", tmp_path / "x"),
        ("tune", "mcm", *classes, "--label-noise", "0.2", "-o", tmp_path / "x"),
    )
    for one in (tuned, scored, noisy, ensemble, decided, known, exported):
        assert one.code == 0, one.err
    assert tuned.records[0]["training_images"] == 24
    assert len(scored.records) == 10
    assert scored.records[0]["method"] == "knn"
    figures = {row["method"]: row for row in noisy.records}
    assert list(figures) == methods.split(",")
    assert figures["mahalanobis"]["auroc"] > 0.8
    assert figures["cooked"]["id_accuracy"] > 0.8
    assert "20 % label noise" in figures["knn"]["detector"]
    assert figures["mcm"]["detector"] == "mcm"
    assert '"members": "classifier+clip+probe"' in known.out
    assert decided.records[0]["confidence"] == decided.records[0]["score"]
    sentences = (
        "these images come without its logits",
        "the classifier's outputs are the classes in another order",
        "mahalanobis: has one image a class",
        "mixoe: needs images of other things",
        "--label-noise 2.0: expected a share from 0 to below 1",
        "--label-noise: goes with --train",
    )
    for one, words in zip(told, sentences, strict=True):
        assert words in one.sentence(2)
    assert not (tmp_path / "x").exists()


def test_distances_in_every_layer_of_the_tower(many: Many, tiny: str, tmp_path: Path) -> None:
    known = write_pictures(tmp_path / "known", 16)
    strange = write_pictures(tmp_path / "strange", 6, seed=9)
    names = ("red", "blue")
    lines = [
        json.dumps({"path": str(path), "label": names[row % 2]}) + "\n"
        for row, path in enumerate(sorted(known.rglob("*.png")))
    ]
    (tmp_path / "train.jsonl").write_text("".join(lines))
    learn = ("--classes", "red,blue", "--train", tmp_path / "train.jsonl", "-q")
    layers = ("--model", f"layers:{tiny}")
    store, one, moved = (str(tmp_path / name) for name in ("other.store", "one", "moved"))
    embedded, tuned, stepped, plain, pixels, arrays, shallow = many(
        ("embed", strange, *layers, "-o", store, "-q"),
        ("tune", "mahalanobis-layers", *layers, *learn, "--set", f"outliers={store}", "-o", one),
        ("tune", "mahalanobis-layers", *layers, *learn, "--set", "step=0.01", "-o", moved),
        ("score", strange, "--detector", one, "-q"),
        ("score", strange, "--detector", moved, "-q"),
        ("score", store, "--detector", moved, "-q"),
        ("tune", "mahalanobis-layers", "--model", tiny, *learn, "-o", tmp_path / "none"),
    )
    for done in (embedded, tuned, stepped, plain, pixels):
        assert done.code == 0, done.err
    assert tuned.records[0]["model"] == f"layers:{tiny}"
    assert len(plain.records) == len(pixels.records) == 6
    assert plain.records[0]["score"] != pixels.records[0]["score"]
    assert "moves pixels, and these are embeddings" in arrays.sentence(2)
    assert "--model layers:MODEL" in shallow.sentence(2)
