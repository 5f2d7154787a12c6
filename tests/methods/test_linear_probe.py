"""The linear probe on raw features, and the mean of several classifiers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.errors import UsageError
from vlood.methods import linear_probe, registry
from vlood.methods.contract import Detector, make_settings
from vlood.methods.linear_probe import ensemble
from vlood.methods.logits import entropy, probability_entropy, softmax, top_labels
from vlood.prompts.templates import ClassFeatures

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


def test_three_sure_and_different_classifiers_are_a_third_sure() -> None:
    one_hots = [np.eye(3)[[column]] for column in range(3)]
    mean = ensemble(one_hots)
    np.testing.assert_allclose(mean, 1 / 3)
    np.testing.assert_allclose(probability_entropy(mean), np.log(3))
    same = ensemble([one_hots[1]] * 3)
    assert same.max() == 1
    assert probability_entropy(same)[0] == 0


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
    classes = ClassFeatures.of(["a", "b"], normal(2, D, seed=0))
    with pytest.raises(UsageError, match=r"--method linear-probe: .*`vlood import`"):
        linear_probe.METHOD.fit(classes, linear_probe.METHOD.settings(), 100.0)
    one = detector()
    linear_probe.check(one)
    one.tensors["bias"][2] = np.inf
    with pytest.raises(UsageError, match="bias must have finite numbers only"):
        linear_probe.check(one)


def test_methods_that_train_are_not_compared_unasked() -> None:
    trained = {method.name for method in registry.all_methods() if method.record.trains}
    assert {"clipn", "local-prompt", "linear-probe"} <= trained
    assert not trained & set(registry.comparable())
