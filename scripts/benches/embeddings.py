"""Quality on real embeddings of OpenAI's ViT-B/32, images and words, of the shared data."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benches.evaluating import evaluated, link_shared, spread, vlood, wrapped
from benches.measuring import Measured, percent

WORDS = ("lvis1203", "oid500", "o365")
CIFAR = "embeddings/cifar10_500_vitb32"
FOOD = "embeddings/food10_vitb32"
SETS = {
    "Food-10 test (500)": ("food_test", f"{FOOD}/test_features.npy"),
    "Food-10 train (2,000)": ("food_train", f"{FOOD}/train_features.npy"),
    "micrographs (867)": ("micrographs", "embeddings/micrographs_867_vitb32/features.npy"),
    "fashion products (1,000)": ("fashion", "embeddings/fashion_1000_vitb32/features.npy"),
    "Flickr8k photographs (1,000)": ("flickr8k", "embeddings/flickr8k_1000_vitb32/features.npy"),
}
METHODS = {
    "mcm": "MCM",
    "max-logit": "max-logit",
    "energy": "energy",
    "neglabel": "NegLabel",
    "adaneg": "AdaNeg",
}
SHOTS = (1, 2, 4, 8, 16)


def embeddings(options: argparse.Namespace) -> Iterator[Measured]:
    """Zero-shot methods and NegLabel, CIFAR-10 against five sets."""
    texts = [f"embeddings/text_{name}_vitb32/features.npy" for name in WORDS]
    words = [part for one in texts for part in ("--class-embeddings", one)]
    corpora = [part for one in texts for part in ("--corpus", one)]
    mining = ("mine", "--classes", "cifar10.txt", *words, *corpora, "-o", "bank")
    arguments = [
        *("--classes", "cifar10.txt", "--method", ",".join(METHODS)),
        *("--id", f"{CIFAR}/features.npy", "--id-labels", f"{CIFAR}/labels.npy"),
        *words,
        *("--negatives", "bank"),
    ]
    for name, path in SETS.values():
        arguments += ["--ood", f"{name}={path}"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        link_shared(folder)
        (folder / "cifar10.txt").write_text(class_list(folder))
        vlood(folder, *mining)
        rows = evaluated(folder, *arguments)
    found = {(row["ood"], row["method"]): row for row in rows}
    accuracy = {percent(row["id_accuracy"], 1) for row in rows if row["method"] == "mcm"}
    figures = ("auroc", "fpr95_id_pos")
    yield Measured(
        *("embeddings", "sets"),
        (
            "OOD set",
            *((f"{one} {what}", 2) for one in METHODS.values() for what in ("AUROC", "FPR95")),
        ),
        tuple(
            (
                shown,
                *(percent(found[name, method][figure]) for method in METHODS for figure in figures),
            )
            for shown, (name, _) in SETS.items()
        ),
        commands=(*wrapped(*mining), *wrapped("eval", *arguments, "-o", "report")),
        caption=(f"ID accuracy {accuracy.pop()} %. `cifar10.txt` has a class a line.",),
    )


def class_list(folder: Path) -> str:
    """Return CIFAR-10's classes, "automobile" by the word that the label lists have for it."""
    names = (folder / CIFAR / "class_names.txt").read_text().split()
    return "".join(
        f"{one}\tcar_(automobile)\n" if one == "automobile" else f"{one}\n" for one in names
    )


def embeddings_probe(options: argparse.Namespace) -> Iterator[Measured]:
    """The linear probe by shots, each of two sets against the other."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        link_shared(folder)
        split_cifar(folder)
        columns = [
            _by_shots(
                *(folder, f"{FOOD}/train", f"{FOOD}/test", f"{CIFAR}/features.npy", "_"),
            ),
            _by_shots(folder, "cifar/train", "cifar/test", f"{FOOD}/test_features.npy", "_"),
        ]
    headings = ("Food-10 accuracy", "Food-10 AUROC", "CIFAR-10 accuracy", "CIFAR-10 AUROC")
    yield Measured(
        *("embeddings-probe", "shots"),
        ("shots", *((one, 1) for one in headings)),
        tuple(
            (shots or "all", *first[1:], *second[1:])
            for (shots, *_), first, second in zip(columns[0], *columns, strict=True)
        ),
        commands=wrapped(
            *("eval", "--method", "linear-probe", "--classes", f"{FOOD}/class_names.txt"),
            *(
                "--train",
                f"{FOOD}/train_features.npy",
                "--train-labels",
                f"{FOOD}/train_labels.npy",
            ),
            *("--shots", ",".join(map(str, SHOTS)), "--seeds", "1,2,3"),
            *("--id", f"{FOOD}/test_features.npy", "--id-labels", f"{FOOD}/test_labels.npy"),
            *("--ood", f"{CIFAR}/features.npy", "-o", "report"),
        ),
    )


def split_cifar(folder: Path) -> None:
    """Make the first 20 images of each class training data, and the others test data."""
    rows, labels = (np.load(folder / CIFAR / f"{one}.npy") for one in ("features", "labels"))
    place = np.array([(labels[:row] == label).sum() for row, label in enumerate(labels)])
    (folder / "cifar").mkdir()
    for name, some in (("train", place < 20), ("test", place >= 20)):
        np.save(folder / f"cifar/{name}_features.npy", rows[some])
        np.save(folder / f"cifar/{name}_labels.npy", labels[some])


def _by_shots(folder: Path, train: str, test: str, other: str, joint: str) -> list[Any]:
    classes = f"{FOOD if 'food' in train else CIFAR}/class_names.txt"
    asked = (
        *("--method", "linear-probe", "--classes", classes, "--ood", other),
        *("--train", f"{train}{joint}features.npy", "--train-labels", f"{train}{joint}labels.npy"),
        *("--id", f"{test}{joint}features.npy", "--id-labels", f"{test}{joint}labels.npy"),
    )
    rows = evaluated(
        folder, *asked, "--shots", ",".join(map(str, SHOTS)), "--seeds", "1,2,3"
    ) + evaluated(folder, *asked)
    found: dict[Any, list[Any]] = {}
    for row in rows:
        found.setdefault(row["shots"], []).append(row)
    return [
        (
            shots,
            spread([100 * one["id_accuracy"] for one in some]),
            spread([100 * one["auroc"] for one in some]),
        )
        for shots, some in found.items()
    ]
