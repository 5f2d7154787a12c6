"""Mahalanobis distances in every layer: a plain reference, weights, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlood.backbone.image_features import ImageFeatures, unit
from vlood.detector.folder import load_detector, save_detector
from vlood.detector.saved import SavedDetector
from vlood.engines.stepping import stepping, with_steps
from vlood.errors import UsageError
from vlood.methods import registry
from vlood.methods.contract import Detector, make_settings
from vlood.methods.ensemble import EnsembleSettings, combined
from vlood.methods.mahalanobis_layers import layer_scores, step_key, torch_score
from vlood.prompts.classes import ClassName
from vlood.training.labelled import LabelledFeatures

from .feature_world import CLASSES, KNOWN, NAMES, OTHERS, STRANGE, TRAINING, Array, K, auroc
from .feature_world import fit as fit_plain

METHOD = "mahalanobis-layers"
WIDTHS = (10, 24)


def joined(rows: Array) -> Array:
    """A first layer that tells nothing much, and the clusters."""
    noise = np.random.default_rng(len(rows)).normal(size=(len(rows), 10)) + 2
    return np.concatenate([noise + 0.1 * rows[:, :10], rows], axis=1).astype(np.float32)


LEARNED = LabelledFeatures(joined(TRAINING.raw), TRAINING.labels)
INSIDE, OUTSIDE = ImageFeatures(joined(KNOWN.raw)), ImageFeatures(joined(STRANGE.raw))


def fit(layers: tuple[int, ...] = WIDTHS, **values: Any) -> Detector:
    found = registry.get(METHOD)
    settings = make_settings(found, values)
    return found.fit(CLASSES, settings, 20.0, images=LEARNED, layers=layers)


def plain_layer(rows: Array, bank: Array, shrinkage: float) -> Array:
    """Minus the least squared distance to a class mean, by an inverse written out."""
    labels = TRAINING.labels
    means = np.stack([bank[labels == label].mean(axis=0) for label in range(K)])
    apart = bank - means[labels]
    covariance = apart.T @ apart / (len(bank) - K)
    mean = np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    inverse = np.linalg.inv((1 - shrinkage) * covariance + shrinkage * mean)
    differences = rows[:, None] - means
    return -np.einsum("nkd,de,nke->nk", differences, inverse, differences).min(axis=1)


@pytest.mark.parametrize("embeddings", ["unit", "raw"])
def test_scores_are_those_of_a_plain_reference(embeddings: str) -> None:
    one = fit(shrinkage=0.3, embeddings=embeddings)
    prepare = unit if embeddings == "unit" else np.asarray
    expected = np.stack(
        [
            plain_layer(
                prepare(INSIDE.raw[:, part]).astype(np.float64),
                prepare(LEARNED.raw[:, part]).astype(np.float64),
                0.3,
            )
            for part in (slice(0, 10), slice(10, 34))
        ],
        axis=1,
    )
    np.testing.assert_allclose(layer_scores(one, INSIDE.raw), expected, rtol=1e-5)
    own = one.tensors
    summed = ((expected - own["centre"]) / own["spread"]).mean(axis=1)
    np.testing.assert_allclose(registry.score(one, INSIDE).score, summed, rtol=1e-5, atol=1e-5)


def test_the_last_layer_alone_is_the_method_of_one_layer() -> None:
    one, plain = fit(), fit_plain("mahalanobis")
    expected = registry.score(plain, KNOWN)
    np.testing.assert_allclose(layer_scores(one, INSIDE.raw)[:, 1], expected.score, rtol=1e-5)
    said = registry.score(one, INSIDE)
    np.testing.assert_array_equal(said.label, expected.label)
    np.testing.assert_allclose(said.confidence, expected.confidence, rtol=1e-5)


def test_layers_are_compared_by_images_left_out() -> None:
    one = fit()
    own = layer_scores(one, LEARNED.raw)
    # An image lies nearer to what it helped to estimate.
    assert (own.mean(axis=0) > one.tensors["centre"]).all()
    left_out = layer_scores(one, INSIDE.raw).mean(axis=0)
    gaps = np.abs(left_out - one.tensors["centre"]) / one.tensors["spread"]
    assert (gaps < 1).all()


def test_outliers_give_weights_to_the_layers_that_tell(tmp_path: Path) -> None:
    np.save(tmp_path / "others.npy", joined(OTHERS))
    one, equal = fit(outliers=str(tmp_path / "others.npy")), fit()
    weights = one.tensors["weights"]
    assert weights[1] > 2 * abs(weights[0])
    np.testing.assert_allclose(equal.tensors["weights"], 0.5)
    found = [
        auroc(registry.score(each, INSIDE).score, registry.score(each, OUTSIDE).score)
        for each in (one, equal)
    ]
    assert found[0] > 0.95
    assert found[0] >= found[1]


def test_it_is_kept_and_refused_where_it_does_not_fit(tmp_path: Path) -> None:
    one = fit()
    save_detector(tmp_path / "one", SavedDetector(one, tuple(map(ClassName.of, NAMES))))
    loaded = load_detector(tmp_path / "one")
    assert loaded.width == sum(WIDTHS)
    assert loaded.detector.settings.widths == "10+24"
    found = registry.score(loaded.detector, INSIDE).score
    np.testing.assert_array_equal(found, registry.score(one, INSIDE).score)
    with pytest.raises(UsageError, match="both must come from one layers: model"):
        registry.score(one, KNOWN)
    with pytest.raises(UsageError, match="--model layers:MODEL with images"):
        fit(layers=())
    for widths in ("10+23", "a+b", "34+0"):
        with pytest.raises(UsageError, match="add up to 34"):
            fit(layers=(), widths=widths)
    same = fit(layers=(), widths="10+24")
    np.testing.assert_array_equal(registry.score(same, INSIDE).score, found)
    for name, value in {"widths": np.array([10, 25]), "spread": np.zeros(2, np.float32)}.items():
        broken = replace(one, tensors={**one.tensors, name: value})
        with pytest.raises(UsageError, match="must"):
            registry.get(METHOD).check(broken)  # type: ignore[misc]


def test_the_slope_of_the_score_is_that_of_the_scores() -> None:
    one = fit()
    rows = torch.from_numpy(INSIDE.raw.astype(np.float32))
    summed = torch_score(one, "cpu")
    own = one.tensors
    offset = len(rows) * float((own["weights"] * own["centre"] / own["spread"]).sum())
    expected = registry.score(one, INSIDE).score.sum()
    assert float(summed(rows)) - offset == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_a_detector_with_a_step_wants_images() -> None:
    one = fit(step=0.002)
    with pytest.raises(UsageError, match="these are embeddings; score images"):
        registry.score(one, INSIDE)
    plain = registry.score(replace(one, settings=replace(one.settings, step=0.0)), OUTSIDE)
    some = ImageFeatures(INSIDE.raw[: len(OUTSIDE)], stepped={step_key(one): OUTSIDE.raw})
    np.testing.assert_array_equal(registry.score(one, some).score, plain.score)
    assert stepping([fit(), one]) == [one]
    both = combined(
        {"a": fit(), "b": fit()}, EnsembleSettings(), [registry.score(fit(), INSIDE).score] * 2
    )
    assert stepping([replace(both, members={"a": one, "b": fit()})]) == [one]

    class Other:
        name = "other"

    with pytest.raises(UsageError, match="needs a layers: model"):
        with_steps(Other(), [one])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="step is -1"):
        fit(step=-1)
