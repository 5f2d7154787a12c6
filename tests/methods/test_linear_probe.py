"""The linear probe: trained, on raw or unit features, and the mean of several classifiers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.errors import UsageError
from vlood.methods import linear_probe, registry
from vlood.methods.contract import Detector, make_settings
from vlood.methods.logits import entropy, probability_entropy, softmax, top_labels
from vlood.prompts.templates import ClassFeatures
from vlood.training.labelled import LabelledFeatures

Array = NDArray[Any]
N, K, D = 8, 4, 16


def normal(*shape: int, seed: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


IMAGES = ImageFeatures(normal(N, D, seed=0) * 3)


def detector(**values: Any) -> Detector:
    tensors = {"weight": normal(K, D, seed=1) * 0.3, "bias": normal(K, seed=2)}
    settings = make_settings(linear_probe.METHOD, values)
    return Detector("linear-probe", settings, tuple("abcd"), tensors, 100.0)


def plain(raw: Array) -> Array:
    one = detector()
    own = raw.astype(np.float64) @ one.tensors["weight"].T.astype(np.float64) + one.tensors["bias"]
    weights = np.exp(own)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def test_scores_are_those_of_a_linear_classifier() -> None:
    p = plain(IMAGES.raw)
    by_msp = registry.score(detector(), IMAGES)
    by_entropy = registry.score(detector(score="entropy"), IMAGES)
    np.testing.assert_allclose(by_msp.score, p.max(axis=1), rtol=1e-5)
    np.testing.assert_allclose(by_entropy.score, (p * np.log(p)).sum(axis=1), rtol=1e-4, atol=1e-6)
    for scores in (by_msp, by_entropy):
        np.testing.assert_array_equal(scores.label, p.argmax(axis=1))
        np.testing.assert_allclose(scores.confidence, p.max(axis=1), rtol=1e-5)
        assert scores.score.dtype == np.float64


def test_the_length_of_features_counts() -> None:
    longer = linear_probe.score(detector(), ImageFeatures(IMAGES.raw * 3))
    np.testing.assert_allclose(longer.score, plain(IMAGES.raw * 3).max(axis=1), rtol=1e-5)
    assert not np.allclose(longer.score, linear_probe.score(detector(), IMAGES).score)


def test_top_labels_need_no_class_features() -> None:
    order, probability = top_labels(detector(), IMAGES, 99)
    p = plain(IMAGES.raw)
    np.testing.assert_array_equal(order, np.argsort(-p, axis=1, kind="stable"))
    np.testing.assert_allclose(probability, -np.sort(-p, axis=1), rtol=1e-4)
    assert registry.width(detector()) == D


def test_formulas_on_probabilities_agree_with_those_on_logits() -> None:
    given = normal(N, K, seed=3) * 5
    np.testing.assert_allclose(softmax(given).sum(axis=1), 1)
    np.testing.assert_allclose(probability_entropy(softmax(given)), entropy(given), atol=1e-6)


def test_no_images() -> None:
    assert len(linear_probe.score(detector(), ImageFeatures(np.empty((0, D), np.float32)))) == 0


def test_bad_input_is_refused() -> None:
    with pytest.raises(UsageError, match="linear-probe: score is 'energy'; expected msp or"):
        make_settings(linear_probe.METHOD, {"score": "energy"})
    with pytest.raises(UsageError, match="8 wide"):
        linear_probe.score(detector(), ImageFeatures(np.ones((2, 8), np.float32)))
    one = detector()
    linear_probe.check(one)
    one.tensors["bias"][2] = np.inf
    with pytest.raises(UsageError, match="bias must have finite numbers only"):
        linear_probe.check(one)


NAMES = ("a", "b", "c")


def fitted(images: LabelledFeatures, names: tuple[str, ...] = NAMES, **values: Any) -> Detector:
    classes = ClassFeatures(names, np.zeros((len(names), 0), np.float32))
    settings = make_settings(linear_probe.METHOD, values)
    return linear_probe.METHOD.fit(classes, settings, 100.0, images=images, seed=0)


def clusters(each: int = 6, seed: int = 0) -> LabelledFeatures:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(3, D)) * 3
    labels = np.repeat(np.arange(3), each)
    rows = centres[labels] + rng.normal(size=(3 * each, D)) * 0.3
    # Lengths vary, as those of a tower do.
    return LabelledFeatures((rows * rng.uniform(0.8, 1.2, (3 * each, 1))).astype("f4"), labels)


@pytest.mark.parametrize("solver", ["logistic", "sgd"])
@pytest.mark.parametrize("embeddings", ["raw", "unit"])
def test_a_trained_probe_knows_other_images(solver: str, embeddings: str) -> None:
    made = fitted(clusters(), solver=solver, embeddings=embeddings)
    again = fitted(clusters(), solver=solver, embeddings=embeddings)
    np.testing.assert_array_equal(made.tensors["weight"], again.tensors["weight"])
    linear_probe.check(made)
    test = clusters(seed=1)
    scores = registry.score(made, ImageFeatures(test.raw))
    np.testing.assert_array_equal(scores.label, test.labels)
    strange = registry.score(made, ImageFeatures(normal(40, D, seed=5) * 4))
    assert np.median(strange.score) < np.median(scores.score)
    assert (made.settings.solver, made.settings.embeddings) == (solver, embeddings)


def test_the_settings_say_how_it_was_trained() -> None:
    few = fitted(clusters(each=3))
    assert few.settings.c == 10
    many = fitted(clusters(each=10))
    assert many.settings.c in (0.1, 0.3)
    assert fitted(clusters(each=10), c=7.0).settings.c == 7
    assert few.settings.length == pytest.approx(
        np.linalg.norm(clusters(each=3).raw, axis=1).mean(), rel=1e-6
    )
    # Trained again by its own settings it is the same probe.
    again = fitted(clusters(each=10), **vars(many.settings))
    np.testing.assert_allclose(again.tensors["weight"], many.tensors["weight"], atol=1e-4)


def test_a_probe_on_unit_features_scores_unit_features() -> None:
    made = fitted(clusters(), embeddings="unit")
    images = ImageFeatures(clusters(seed=2).raw)
    longer = ImageFeatures(images.raw * 30)
    scores = registry.score(made, images).score
    np.testing.assert_allclose(registry.score(made, longer).score, scores, atol=1e-6)
    np.testing.assert_allclose(
        registry.score(made, ImageFeatures(images.unit)).score, scores, atol=1e-6
    )
    probability = top_labels(made, images, 1)[1][:, 0]
    np.testing.assert_allclose(probability, scores, rtol=1e-5)


def test_normalised_features_are_refused_by_a_probe_on_raw_ones() -> None:
    images = ImageFeatures(clusters(seed=2).raw)
    unit = ImageFeatures(images.unit)
    for made in (fitted(clusters()), detector()):  # trained here; imported, so of unknown length
        own = images if made.settings.length else IMAGES
        assert len(registry.score(made, own)) == len(own)
        with pytest.raises(UsageError, match="trained on embeddings as the tower gives them"):
            registry.score(made, unit)
    # One odd image is no sign of it, nor is anything where raw embeddings have length 1 by chance.
    mixed = np.concatenate([images.raw, unit.raw[:1]])
    assert len(registry.score(fitted(clusters()), ImageFeatures(mixed))) == len(mixed)
    short = clusters()
    near = LabelledFeatures(short.raw / np.float32(12), short.labels)
    assert 0.5 < fitted(near).settings.length < 2
    assert len(registry.score(fitted(near), unit)) == len(unit)


def test_training_on_normalised_features_makes_a_probe_on_unit_ones() -> None:
    images = clusters()
    stored = LabelledFeatures(ImageFeatures(images.raw).unit, images.labels)
    made = fitted(stored)
    assert (made.settings.embeddings, made.settings.length) == ("unit", pytest.approx(1))
    asked = fitted(images, embeddings="unit")
    np.testing.assert_allclose(made.tensors["weight"], asked.tensors["weight"], atol=1e-4)


def test_what_cannot_be_trained_is_said() -> None:
    one = clusters()
    with pytest.raises(UsageError, match="at least 2 of them"):
        fitted(one.rows(np.arange(3)), ("a",))
    with pytest.raises(UsageError, match=r"1 of 4 classes have no training image \(d\)"):
        fitted(one, ("a", "b", "c", "d"))
    with pytest.raises(UsageError, match="solver imported says"):
        fitted(one, solver="imported")
    far = LabelledFeatures(one.raw * np.float32(1e18), one.labels)
    with pytest.raises(UsageError, match="not finite; use a lower --set learning_rate"):
        fitted(far, solver="sgd", learning_rate=1e18)
    for values, said in (
        ({"solver": "lbfgs"}, "solver is 'lbfgs'; expected one of logistic, sgd, imported"),
        ({"embeddings": "half"}, "embeddings is 'half'; expected raw or unit"),
        ({"c": -1}, "c is -1.0; expected a finite number, zero or more"),
        ({"epochs": 0}, "epochs is 0; expected a whole number, 1 or more"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rate": 0}, "learning_rate is 0.0"),
        ({"momentum": 1.5}, "momentum is 1.5"),
    ):
        with pytest.raises(UsageError, match=said):
            make_settings(linear_probe.METHOD, values)


def test_which_methods_learn_from_images() -> None:
    for name in ("linear-probe", "local-prompt", "clipn"):
        assert registry.get(name).learns
    for name in ("mcm",):
        assert not registry.get(name).learns


def test_methods_that_train_are_not_compared_unasked() -> None:
    trained = {method.name for method in registry.all_methods() if method.record.trains}
    assert {"clipn", "local-prompt", "linear-probe"} <= trained
    assert not trained & set(registry.comparable())
