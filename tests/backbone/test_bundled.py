"""The model inside the package: small enough, good enough, and not too good to be of use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import vlood
from vlood.evaluation.metrics import auroc
from vlood.images import world

FOLDER = Path(vlood.__file__).parent / "backbone" / "bundled"


@pytest.fixture(scope="module")
def figures() -> dict[str, float]:
    from vlood.backbone.load import load_backbone
    from vlood.engines.detectors import fit_zero_shot
    from vlood.engines.text_side import classes_from_texts
    from vlood.methods import registry
    from vlood.prompts.classes import read_classes
    from vlood.prompts.templates import DEFAULT_TEMPLATE

    backbone = load_backbone("bundled", device="cpu")
    classes = classes_from_texts(read_classes("world"), [DEFAULT_TEMPLATE], backbone, None)
    detector = fit_zero_shot(["mcm"], classes, backbone.logit_scale)[0]

    def scored(pictures: list[world.WorldImage]) -> tuple[np.ndarray, np.ndarray]:
        pixels = np.stack([np.asarray(picture.image) for picture in pictures])
        scores = registry.score(detector, backbone.encode_pixels(pixels))
        return scores.score, scores.label

    known = list(world.id_images("test", 25))
    truth = np.array([detector.class_names.index(picture.label) for picture in known])
    known_scores, predicted = scored(known)
    near, _ = scored(list(world.near_images(1)))
    far, _ = scored(list(world.far_images(10)))
    return {
        "accuracy": float((predicted == truth).mean()),
        "near": auroc(known_scores, near),
        "far": auroc(known_scores, far),
    }


def test_the_weights_are_at_most_20_megabytes() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 20_000_000


def test_the_card_says_what_it_is_for() -> None:
    card = (FOLDER / "README.md").read_text()
    assert "not for photographs" in card


def test_it_knows_its_twelve_classes(figures: dict[str, float]) -> None:
    assert figures["accuracy"] >= 0.85


def test_near_ood_is_neither_hopeless_nor_solved(figures: dict[str, float]) -> None:
    assert 0.70 <= figures["near"] <= 0.92


def test_far_ood_is_not_solved_either(figures: dict[str, float]) -> None:
    assert 0.60 <= figures["far"] <= 0.99
