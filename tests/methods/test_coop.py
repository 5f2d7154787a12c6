"""CoOp's own settings and scores; its training is tested with the engine that gives it a model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vlood.backbone.image_features import ImageFeatures, unit
from vlood.errors import UsageError
from vlood.methods import coop, registry
from vlood.methods.contract import make_settings
from vlood.prompts.templates import ClassFeatures
from vlood.training.labelled import LabelledFeatures


@pytest.mark.parametrize(
    ("shots", "classes", "epochs"),
    [(16, 10, 200), (8, 10, 200), (4, 10, 100), (2, 10, 100), (1, 10, 50), (16, 1000, 50)],
)
def test_epochs_are_the_papers(shots: int, classes: int, epochs: int) -> None:
    assert coop.epochs_of(coop.CoOpSettings(), shots, classes) == epochs
    assert coop.epochs_of(coop.CoOpSettings(epochs=7), shots, classes) == 7


def test_views_are_a_whole_number() -> None:
    with pytest.raises(UsageError, match="coop: views is -1; expected a whole number, 0 or more"):
        make_settings(registry.get("coop"), {"views": "-1"})


def test_what_it_compiles_to_scores_by_its_own_formula() -> None:
    rng = np.random.default_rng(0)
    classes = ClassFeatures.of(["a", "b", "c"], rng.normal(size=(3, 8)))
    images = ImageFeatures(rng.normal(size=(4, 8)).astype(np.float32))
    found = {}
    for name in coop.SCORES:
        detector = coop.compiled_from(classes, coop.CoOpSettings(score=name), 50.0)
        assert detector.method == name
        found[name] = coop.METHOD.score(detector, images).score
        np.testing.assert_array_equal(found[name], registry.score(detector, images).score)
    assert not np.allclose(found["mcm"], found["msp"])


def cross_entropy(seen: np.ndarray, text: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """The mean cross-entropy at a logit scale of 7, and the accuracy, image by image."""
    losses, right = [], 0
    for image, label in zip(seen, labels, strict=True):
        logits = [7.0 * float(image @ prompt / np.linalg.norm(image)) for prompt in text]
        losses.append(np.log(np.sum(np.exp(logits))) - logits[label])
        right += int(np.argmax(logits)) == label
    return float(np.mean(losses)), right / len(labels)


def test_its_loss_is_the_cross_entropy_of_the_images_or_of_one_drawn_view_of_each() -> None:
    rng = np.random.default_rng(3)
    raw, views = rng.normal(size=(6, 8)) * 4, rng.normal(size=(6, 5, 8)) * 4
    labels, rows = np.array([0, 1, 2, 0, 1, 2]), np.array([5, 1, 2, 0])
    images = LabelledFeatures(raw.astype(np.float32), labels, views=views.astype(np.float32))
    text = unit(rng.normal(size=(3, 8)).astype(np.float32))
    prompts = torch.from_numpy(text).requires_grad_()

    def found(settings: coop.CoOpSettings, random: np.random.Generator | None) -> tuple:
        loss = coop.image_loss(settings, images, 7.0)(prompts, rows, random)
        return float(loss.total.detach()), float(loss.parts["accuracy"])

    whole = cross_entropy(raw[rows], text, labels[rows])
    assert 0 < whole[1] < 1
    for settings in (coop.CoOpSettings(), coop.CoOpSettings(views=5)):
        # Without a generator, images that are held out are measured: always whole.
        assert found(settings, None) == pytest.approx(whole, rel=1e-5)
    drawn = views[rows, np.random.default_rng(9).integers(5, size=4)]
    of_views = cross_entropy(drawn, text, labels[rows])
    assert found(coop.CoOpSettings(views=5), np.random.default_rng(9)) == pytest.approx(
        of_views, rel=1e-5
    )
    assert found(coop.CoOpSettings(), np.random.default_rng(9)) == pytest.approx(whole, rel=1e-5)
