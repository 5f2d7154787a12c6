"""Leave-one-out class means, against a plain loop that leaves rows out."""

from __future__ import annotations

import numpy as np
import pytest

from vlood.evaluation.cleaning.class_means import ClassMeans


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def plain(features: np.ndarray, labels: np.ndarray, classes: int, groups: np.ndarray) -> np.ndarray:
    cosines = np.full((len(features), classes), np.nan)
    for row in range(len(features)):
        for label in range(classes):
            others = (labels == label) & (groups != groups[row])
            if others.any():
                mean = features[others].astype(np.float64).mean(axis=0)
                cosines[row, label] = mean @ features[row] / np.linalg.norm(mean)
    return cosines


@pytest.mark.parametrize("copies", [False, True])
def test_cosines_leave_out_the_row_and_its_copies(copies: bool) -> None:
    rng = np.random.default_rng(0)
    features = unit(rng.normal(size=(40, 6)))
    labels = rng.integers(-1, 4, 40)
    labels[:2] = 3, 3
    groups = np.arange(40)
    if copies:
        groups[[5, 9, 30]] = 5
        groups[[7, 8]] = 7
    means = ClassMeans.of(features, labels, 4, groups if copies else None)
    found = means.cosines(np.arange(40))
    np.testing.assert_allclose(found, plain(features, labels, 4, groups), atol=1e-6)
    some = np.array([30, 2, 5])
    np.testing.assert_allclose(means.cosines(some), found[some], atol=1e-12)


def test_what_has_no_other_image_is_unknown() -> None:
    features = unit(np.random.default_rng(1).normal(size=(5, 3)))
    labels = np.array([0, 1, 1, 2, 2])
    groups = np.array([0, 1, 2, 3, 3])
    found = ClassMeans.of(features, labels, 4, groups).cosines(np.arange(5))
    assert np.isnan(found[0, 0])  # the only image of its class
    assert np.isnan(found[3:, 2]).all()  # nothing but its copy
    assert np.isnan(found[:, 3]).all()  # a class without images
    assert np.isfinite(found[1:3, :3]).all()
