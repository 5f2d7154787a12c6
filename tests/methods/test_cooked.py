"""COOkeD: the mean of its members, which may be missing, weighted or calibrated."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from vlood.backbone.image_features import ClassifierLogits, unit
from vlood.errors import UsageError
from vlood.methods import registry
from vlood.methods.cooked import best_temperature, mean_probability
from vlood.methods.logits import probability_entropy

from .feature_world import CLASSES, KNOWN, NAMES, TRAINING, Array, K, fit, with_logits

THEIRS = tuple(name.replace(" ", "_").title() for name in NAMES)


def classifier(labels: Array, seed: int) -> Array:
    noise = np.random.default_rng(seed).normal(size=(len(labels), K))
    return (3 * np.eye(K)[labels] + noise).astype(np.float32)


LOGITS = classifier(np.arange(len(KNOWN)) % K, 1)
WITH = with_logits(KNOWN, LOGITS, THEIRS)
TRAINED = replace(TRAINING, logits=ClassifierLogits(classifier(TRAINING.labels, 2), THEIRS))


def members(one: Any) -> dict[str, Array]:
    text = 20.0 * unit(KNOWN.raw) @ CLASSES.features.T
    probe = KNOWN.raw @ one.tensors["weight"].T + one.tensors["bias"]
    return {"classifier": softmax(LOGITS, 1), "clip": softmax(text, 1), "probe": softmax(probe, 1)}


def test_three_sure_and_different_classifiers_are_a_third_sure() -> None:
    one_hots = [np.eye(3)[[column]] for column in range(3)]
    mean = mean_probability(one_hots, [1, 1, 1])
    np.testing.assert_allclose(mean.max(axis=1), 1 / 3)
    np.testing.assert_allclose(probability_entropy(mean), np.log(3))
    same = mean_probability([one_hots[1]] * 3, [1, 1, 1])
    assert same.max() == 1
    assert probability_entropy(same)[0] == 0


def test_the_score_is_that_of_the_mean() -> None:
    one = fit("cooked", TRAINED)
    assert one.settings.members == "classifier+clip+probe"
    mean = np.mean(list(members(one).values()), axis=0)
    scores = registry.score(one, WITH)
    np.testing.assert_allclose(scores.score, mean.max(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(scores.label, mean.argmax(axis=1))
    np.testing.assert_array_equal(scores.confidence, scores.score)
    by_entropy = registry.score(fit("cooked", TRAINED, score="entropy"), WITH)
    np.testing.assert_allclose(by_entropy.score, (mean * np.log(mean)).sum(axis=1), rtol=1e-5)


def test_members_are_left_out_and_weighted() -> None:
    two = fit("cooked", TRAINED, members="probe+classifier", classifier_weight=3.0)
    own = members(two)
    expected = (3 * own["classifier"] + own["probe"]) / 4
    np.testing.assert_allclose(registry.score(two, WITH).score, expected.max(axis=1), rtol=1e-5)
    alone = registry.score(fit("cooked", members="clip"), KNOWN)
    np.testing.assert_allclose(alone.score, own["clip"].max(axis=1), rtol=1e-5)


def test_a_missing_classifier_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        one = fit("cooked")
    assert "mean of two members, CLIP and the probe" in caplog.text
    assert one.settings.members == "clip+probe"
    assert len(registry.score(one, KNOWN)) == len(KNOWN)


def test_temperatures_make_labels_most_likely() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(4000, 5)) * 2
    p = softmax(logits, axis=1)
    labels = (p.cumsum(axis=1) > rng.random((4000, 1))).argmax(axis=1)
    assert best_temperature(logits * 7, labels) == pytest.approx(7, rel=0.1)
    one = fit("cooked", TRAINED, calibrated=True).settings
    found = [one.temperature(member) for member in one.chosen()]
    assert len(set(found)) == 3
    assert 1.0 not in found


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (THEIRS[:3], "the classifier has 3 outputs and the class list 4 classes"),
        ((*THEIRS[::-1],), "the classes in another order"),
        ((*THEIRS[:3], "car"), "other classes than the list, such as car"),
    ],
)
def test_a_classifier_of_other_classes_is_refused(names: tuple[str, ...], said: str) -> None:
    wrong = with_logits(KNOWN, LOGITS[:, : len(names)], names)
    with pytest.raises(UsageError, match=said):
        registry.score(fit("cooked", TRAINED), wrong)
    trained = replace(TRAINING, logits=ClassifierLogits(np.zeros((48, len(names)), "f4"), names))
    with pytest.raises(UsageError, match=said):
        fit("cooked", trained)


def test_bad_input_is_refused() -> None:
    with pytest.raises(UsageError, match="these images come without its logits"):
        registry.score(fit("cooked", TRAINED), KNOWN)
    for wrong in ("clip+clip", "clap", "", "clip,probe"):
        with pytest.raises(UsageError, match=r"members is .*expected auto, or some of"):
            fit("cooked", members=wrong)
    with pytest.raises(UsageError, match="clip_weight is 0"):
        fit("cooked", clip_weight=0.0)
