"""Robust z-scores within classes."""

from __future__ import annotations

import numpy as np
import pytest

from vlood.evaluation.cleaning.class_means import ClassMeans
from vlood.evaluation.cleaning.outliers import class_outliers, score_outliers


def test_scores_are_compared_within_their_class() -> None:
    scores = np.array([1.0, 2, 3, 4, 5, 101, 102, 103, 104, 105, 0])
    labels = np.array([0] * 5 + [1] * 5 + [-1])
    found = score_outliers(scores, labels, 2)
    expected = (np.arange(5) - 2) / (1.4826 * 1.0)
    np.testing.assert_allclose(found[:5], expected)
    np.testing.assert_allclose(found[5:10], expected)
    assert np.isnan(found[10])


def test_a_class_of_near_copies_makes_no_outliers_of_its_images() -> None:
    scores = np.concatenate([np.linspace(0, 1, 40), np.full(39, 0.5), [0.45]])
    labels = np.repeat([0, 1], 40)
    assert score_outliers(scores, labels, 2)[-1] == pytest.approx(-0.05 / 0.0953, rel=0.1)


def test_strange_images_are_far_from_all_classes_and_mislabelled_ones_only_from_their_own() -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(4, 12)
    true = np.repeat([0, 1, 2], 50)
    features = centres[true] + 0.1 * rng.normal(size=(150, 12))
    features[149] = centres[3] + 0.1 * rng.normal(size=12)
    given = true.copy()
    given[0] = 1
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    found = class_outliers(ClassMeans.of(features, given, 3).cosines, given, 3)
    assert found.best[149] < -10
    assert found.own[0] < -10
    assert found.best[0] > -3.5
    usual = np.arange(1, 149)
    assert (found.own[usual] > -5).all()
    assert (found.best >= found.own - 1e-9).all()
