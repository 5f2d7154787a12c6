"""LoCoOp's settings, its loss over embeddings, and the detectors it compiles to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vlood.backbone.image_features import ImageFeatures, unit
from vlood.errors import UsageError
from vlood.methods import locoop, registry
from vlood.methods.contract import make_settings
from vlood.methods.locoop import LoCoOpSettings
from vlood.methods.locoop_loss import locoop_loss
from vlood.prompts.templates import ClassFeatures
from vlood.training.labelled import LabelledFeatures

SCALE = 20.0


def arrays(count: int = 6, regions: int = 5, width: int = 8) -> LabelledFeatures:
    rng = np.random.default_rng(1)
    return LabelledFeatures(
        rng.normal(size=(count, width)).astype(np.float32),
        np.arange(count) % 4,
        local=rng.normal(size=(count, regions, width)).astype(np.float32),
    )


def text(classes: int = 4, width: int = 8) -> torch.Tensor:
    rng = np.random.default_rng(2)
    return torch.from_numpy(unit(rng.normal(size=(classes, width)).astype(np.float32)))


def test_the_defaults_are_the_papers() -> None:
    settings = LoCoOpSettings()
    assert (settings.epochs, settings.batch_size, settings.learning_rate) == (50, 32, 0.002)
    assert (settings.context_length, settings.lambda_value, settings.score) == (16, 0.25, "gl-mcm")
    assert locoop.top_k_of(settings, 1000) == 200
    assert locoop.top_k_of(settings, 12) == 2
    assert locoop.top_k_of(LoCoOpSettings(top_k=7), 12) == 7


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epochs": "0"}, "locoop: epochs is 0; expected a whole number, 1 or more"),
        ({"top_k": "-1"}, "locoop: top_k is -1"),
        ({"lambda_value": "-0.1"}, "locoop: lambda_value is -0.1"),
        ({"score": "msp"}, "locoop: score is 'msp'; expected gl-mcm or mcm"),
        ({"views": "2"}, "locoop has no setting 'views'; its settings are:"),
    ],
)
def test_wrong_settings_are_one_sentence(values: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make_settings(registry.get("locoop"), values)


def test_what_cannot_be_trained_is_refused_by_the_number_of_classes() -> None:
    check = registry.get("locoop").check_training
    assert check is not None
    check(LoCoOpSettings(top_k=11), 12)
    check(LoCoOpSettings(), 2)
    with pytest.raises(UsageError, match=r"top_k is 12 and there are 12 classes; .* such as 2"):
        check(LoCoOpSettings(top_k=12), 12)
    with pytest.raises(UsageError, match="locoop tells classes apart and needs at least 2"):
        check(LoCoOpSettings(), 1)


def test_its_loss_is_that_of_scaled_cosines_of_images_and_regions() -> None:
    images = arrays()
    assert images.local is not None
    prompts, rows = text(), np.array([4, 1, 3])
    loss = locoop.image_loss(LoCoOpSettings(lambda_value=0.4), images, SCALE, top_k=2)
    found = loss(prompts, rows, None)
    whole = SCALE * torch.from_numpy(unit(images.raw[rows])) @ prompts.T
    local = SCALE * torch.from_numpy(unit(images.local[rows])) @ prompts.T
    labels = torch.from_numpy(images.labels[rows])
    wanted, parts = locoop_loss(whole, local, labels, top_k=2, weight=0.4)
    assert found.total.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert set(found.parts) == {"accuracy", *parts}
    assert 0 < found.parts["irrelevant"].item() < 1
    # Without its weight it is CoOp's, and chance has no part in it.
    plain = locoop.image_loss(LoCoOpSettings(lambda_value=0), images, SCALE, top_k=2)
    again = plain(prompts, rows, np.random.default_rng(0)).total.item()
    assert again == pytest.approx(F.cross_entropy(whole, labels).item(), rel=1e-6)


def test_regions_are_needed() -> None:
    images = arrays()
    bare = LabelledFeatures(images.raw, images.labels)
    with pytest.raises(UsageError, match=r"without local \(patch\) embeddings; store them with"):
        locoop.image_loss(LoCoOpSettings(), bare, SCALE, top_k=2)


def test_what_it_compiles_to_scores_by_its_own_formula() -> None:
    images = arrays()
    classes = ClassFeatures.of(["a", "b", "c", "d"], text().numpy())
    seen = ImageFeatures(images.raw, images.local)
    found = {}
    for name in locoop.SCORES:
        detector = locoop.compiled_from(classes, LoCoOpSettings(score=name), SCALE)
        assert detector.method == name
        found[name] = locoop.METHOD.score(detector, seen).score
        np.testing.assert_array_equal(found[name], registry.score(detector, seen).score)
    cosines = unit(images.local) @ text().numpy().T  # type: ignore[arg-type]
    powers = np.exp(cosines.astype(np.float64))
    best = (powers / powers.sum(axis=-1, keepdims=True)).max(axis=(1, 2))
    np.testing.assert_allclose(found["gl-mcm"] - found["mcm"], best, rtol=1e-6)  # lambda is 1
