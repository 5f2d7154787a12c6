"""Wrong labels are found again, and evidence that says nothing is not listened to."""

from __future__ import annotations

import numpy as np
import pytest

from vlood.evaluation.cleaning.class_means import ClassMeans
from vlood.evaluation.cleaning.mislabelled import (
    doubt_labels,
    fit_scales,
    image_evidence,
    name_evidence,
)

CLASSES = 5


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def world() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return features, true labels, given labels (a tenth wrong) and the class directions."""
    rng = np.random.default_rng(0)
    centres = unit(rng.normal(size=(CLASSES, 16)))
    true = np.repeat(np.arange(CLASSES), 60)
    features = unit(centres[true] + 0.25 * rng.normal(size=(300, 16)))
    given = true.copy()
    wrong = rng.choice(300, 30, replace=False)
    given[wrong] = (true[wrong] + rng.integers(1, CLASSES, 30)) % CLASSES
    return features, true, given, centres


def test_wrong_labels_are_flagged_with_the_right_suggestion(world: tuple) -> None:
    features, true, given, _ = world
    means = ClassMeans.of(features, given, CLASSES)
    doubt = doubt_labels((image_evidence(means),), given, CLASSES)
    wrong = true != given
    assert (doubt.flagged & wrong).sum() >= 20
    assert (doubt.flagged & ~wrong).sum() <= 2
    assert doubt.ratio[wrong].max() < np.median(doubt.ratio[~wrong])
    flagged = doubt.flagged & wrong
    assert (doubt.suggested[flagged] == true[flagged]).mean() > 0.95
    assert (doubt.suggested != given).all()


def test_the_thresholds_are_those_of_confident_learning(world: tuple) -> None:
    features, _, given, centres = world
    names = name_evidence(features, centres)
    doubt = doubt_labels((names,), given, CLASSES, at_most=np.inf)
    logits = doubt.scales[0] * (features @ centres.T).astype(np.float64)
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    typical = np.array([probability[given == k, k].mean() for k in range(CLASSES)])
    counted = probability >= typical
    counted[np.arange(300), given] = False
    np.testing.assert_allclose(doubt.confidence, probability[np.arange(300), given], atol=1e-9)
    np.testing.assert_allclose(doubt.ratio, doubt.confidence / typical[given], atol=1e-9)
    np.testing.assert_array_equal(doubt.flagged, counted.any(axis=1))
    strict = doubt_labels((names,), given, CLASSES, at_most=0.1)
    np.testing.assert_array_equal(strict.flagged, doubt.flagged & (doubt.ratio < 0.1))


def test_names_of_no_meaning_get_no_weight(world: tuple) -> None:
    features, _, given, centres = world
    means = image_evidence(ClassMeans.of(features, given, CLASSES))
    nonsense = unit(np.random.default_rng(3).normal(size=centres.shape))
    useful = fit_scales((means, name_evidence(features, centres)), given)
    useless = fit_scales((means, name_evidence(features, nonsense)), given)
    assert useful[1] > 1.0
    assert useless[1] < 0.1 * useless[0]


def test_the_scale_makes_the_labels_likeliest(world: tuple) -> None:
    features, _, given, centres = world
    cosines = (features @ centres.T).astype(np.float64)

    def likelihood(scale: float) -> float:
        logits = scale * cosines
        own = logits[np.arange(len(given)), given]
        return float((own - np.log(np.exp(logits).sum(axis=1))).mean())

    (scale,) = fit_scales((name_evidence(features, centres),), given)
    assert likelihood(scale) > max(likelihood(scale * 1.05), likelihood(scale / 1.05))


def test_images_without_a_label_or_without_evidence_are_not_judged() -> None:
    rng = np.random.default_rng(4)
    features = unit(rng.normal(size=(21, 8)))
    given = np.array([-1, 2, *([0] * 9), *([1] * 10)])  # class 2 has one image
    doubt = doubt_labels((image_evidence(ClassMeans.of(features, given, 4)),), given, 4)
    assert np.isnan(doubt.ratio[:2]).all()
    assert not doubt.flagged[:2].any()
    assert np.isfinite(doubt.ratio[2:]).all()
    assert 3 not in doubt.suggested  # a class without images
