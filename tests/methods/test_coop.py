"""CoOp's own settings and scores; its training is tested with the engine that gives it a model."""

from __future__ import annotations

import numpy as np
import pytest

from vlood.backbone.image_features import ImageFeatures
from vlood.errors import UsageError
from vlood.methods import coop, registry
from vlood.methods.contract import make_settings
from vlood.prompts.templates import ClassFeatures


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
