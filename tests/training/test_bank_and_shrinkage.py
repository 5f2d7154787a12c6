"""Banks in lists, covariances that can be inverted, and labels made wrong on purpose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vlood.backbone.image_features import unit
from vlood.errors import UsageError
from vlood.training import neighbours
from vlood.training.gaussians import fold_moments, moments, shrunk_covariance, whitening, whole
from vlood.training.labelled import LabelledFeatures, with_label_noise
from vlood.training.shrinkage import SHRINKAGES, by_likelihood, choose_shrinkage

Array = NDArray[Any]


def clusters(count: int, width: int, classes: int, seed: int) -> tuple[Array, Array]:
    centres = np.random.default_rng(7).normal(size=(classes, width))
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    return (centres[labels] + 0.3 * rng.normal(size=(count, width))).astype(np.float32), labels


def test_lists_find_what_an_exact_search_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = clusters(3000, 16, 60, 1)
    rows = unit(rows)
    queries = unit(clusters(50, 16, 60, 2)[0])
    exact, order = neighbours.build_bank(rows)
    assert len(exact.centroids) == 1
    np.testing.assert_array_equal(order, np.arange(3000))
    assert neighbours.choose_probes(exact, 5) == (1, 1.0)

    monkeypatch.setattr(neighbours, "EXACT_UP_TO", 1000)
    bank, order = neighbours.build_bank(rows, seed=3)
    assert len(bank.centroids) == 64
    np.testing.assert_array_equal(np.sort(order), np.arange(3000))
    np.testing.assert_array_equal(bank.rows, rows[order])
    cosines, ids = bank.nearest(queries, 5, 64)
    true_cosines, true_ids = exact.nearest(queries, 5, 1)
    np.testing.assert_allclose(cosines, true_cosines, atol=1e-6)
    np.testing.assert_array_equal(order[ids], true_ids)
    probes, recall = neighbours.choose_probes(bank, 5)
    assert probes < 64
    assert recall > 0.98
    again, _ = neighbours.build_bank(rows, seed=3)
    np.testing.assert_array_equal(again.rows, bank.rows)


def test_lists_with_too_few_rows_are_filled_up() -> None:
    rows = unit(np.eye(6, dtype=np.float32) + 0.1)
    bank = neighbours.Bank(rows, rows[[0, 5]], np.array([1, 6]))
    cosines, ids = bank.nearest(rows[:1], 3, 1)
    np.testing.assert_array_equal(ids, [[0, -1, -1]])
    assert np.isneginf(cosines[0, 1:]).all()
    assert bank.nearest(rows[:0], 3, 1)[1].shape == (0, 3)


def test_moments_are_those_of_the_rows() -> None:
    rows, labels = clusters(103, 7, 4, 3)
    origin = rows.mean(axis=0).astype(np.float64)
    found = whole(fold_moments(rows, labels, 4, origin))
    again = moments(rows, labels, 4, origin)
    means = np.stack([rows[labels == label].mean(0, np.float64) for label in range(4)])
    np.testing.assert_allclose(found.means() + origin, means, atol=1e-6)
    apart = rows - means[labels]
    np.testing.assert_allclose(found.scatter(), apart.T @ apart, atol=1e-5)
    total = (rows - rows.mean(0)).astype(np.float64)
    np.testing.assert_allclose(again.total_scatter(), total.T @ total, atol=1e-4)
    np.testing.assert_allclose(found.second, again.second, rtol=1e-9, atol=1e-9)


def test_whitening_inverts_and_shrinkage_keeps_the_trace() -> None:
    spread = np.cov(clusters(50, 6, 3, 4)[0].T)
    white = whitening(spread)
    np.testing.assert_allclose(white @ white.T, np.linalg.inv(spread), rtol=1e-8)
    half = shrunk_covariance(spread, 0.5)
    assert np.trace(half) == pytest.approx(np.trace(spread))
    np.testing.assert_allclose(shrunk_covariance(spread, 1.0), np.eye(6) * np.trace(spread) / 6)
    flat = np.diag([1.0, 0.0])
    assert np.isfinite(whitening(flat)).all()


def test_few_images_are_shrunk_more_than_many() -> None:
    rng = np.random.default_rng(5)
    spread = np.linalg.qr(rng.normal(size=(24, 24)))[0] * np.geomspace(1, 0.01, 24)

    def chosen(count: int) -> tuple[float, float]:
        labels = np.arange(count) % 2
        rows = (rng.normal(size=(count, 24)) @ spread.T + labels[:, None]).astype(np.float32)
        origin = rows.mean(axis=0, dtype=np.float64)
        parts = fold_moments(rows, labels, 2, origin)
        assert choose_shrinkage(rows, labels, 2) == by_likelihood(parts)
        return by_likelihood(parts), count

    assert chosen(2000)[0] < chosen(40)[0]
    one_each = np.array([0, 1])
    rows = rng.normal(size=(2, 24)).astype(np.float32)
    assert choose_shrinkage(rows, one_each, 2) == SHRINKAGES[-1]


def test_classes_left_out_choose_the_shrinkage_and_a_seed_repeats_it() -> None:
    rows, labels = clusters(300, 12, 6, 6)
    first = choose_shrinkage(rows, labels, 6, seed=1)
    assert first in SHRINKAGES
    assert choose_shrinkage(rows, labels, 6, seed=1) == first
    many, of_many = clusters(900, 6, 300, 8)
    assert choose_shrinkage(many, of_many, 300) in SHRINKAGES


def test_wrong_labels_are_as_many_as_asked_for() -> None:
    images = LabelledFeatures(np.zeros((200, 3), np.float32), np.arange(200) % 4)
    names = tuple("abcd")
    few, many = (with_label_noise(images, share, names, 3).labels for share in (0.2, 0.4))
    wrong_few, wrong_many = (np.flatnonzero(each != images.labels) for each in (few, many))
    assert (len(wrong_few), len(wrong_many)) == (40, 80)
    assert set(wrong_few) <= set(wrong_many)
    assert set(few) == {0, 1, 2, 3}
    assert with_label_noise(images, 0.0, names, 3) is images
    np.testing.assert_array_equal(with_label_noise(images, 0.2, names, 3).labels, few)
    for share in (1.0, -0.1, float("nan")):
        with pytest.raises(UsageError, match=r"--label-noise .*expected a share from 0"):
            with_label_noise(images, share, names, 0)
    with pytest.raises(UsageError, match="there is one class"):
        with_label_noise(images, 0.2, ("a",), 0)
