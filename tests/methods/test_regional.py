"""The map of regions: each method's own formula, its orientation and the ends of its colours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures, unit
from vlood.errors import UsageError
from vlood.methods import adaneg, linear_probe, registry, tanl
from vlood.methods.contract import Detector
from vlood.methods.gl_mcm import local_concept_match
from vlood.methods.local_prompt import regional_concept_match
from vlood.methods.regional import regional_ends, regional_idness, softmax_ends
from vlood.prompts.templates import ClassFeatures

from . import life
from .life import World, normal

Array = NDArray[Any]
N, ROWS, COLUMNS, K, M, D, SCALE = 5, 2, 3, 4, 30, 16, 20.0
R = ROWS * COLUMNS
WORLD = World(K, D, M, (ROWS, COLUMNS), SCALE)
IMAGES, CLASSES = WORLD.images(N)[0], WORLD.texts


def detector(method: str, classes: ClassFeatures = CLASSES, **values: Any) -> Detector:
    return life.detector(method, WORLD, classes, **values)


def as_images(images: ImageFeatures = IMAGES) -> ImageFeatures:
    """All regions of all images, each as an image of its own."""
    assert images.local is not None
    return ImageFeatures(images.local.reshape(-1, images.local.shape[-1]))


@pytest.mark.parametrize("method", registry.names())
def test_every_method_maps_every_region_between_nought_and_one(method: str) -> None:
    if method not in {entry.name for entry in registry.BUILT_INS}:
        pytest.skip("a plug-in: its detectors are its own")
    if method in life.COMPILED:
        pytest.skip("compiles to detectors of other methods")
    one = detector(method)
    found = regional_idness(one, IMAGES)
    assert found.shape == (N, ROWS, COLUMNS)
    assert found.min() >= 0
    assert found.max() <= 1
    assert len(np.unique(found)) > found.size / 2
    low, high = regional_ends(one)
    assert 0 <= low < high <= 1


@pytest.mark.parametrize("method", ["mcm", "msp", "neglabel", "energy"])
def test_rows_and_columns_are_not_exchanged(method: str) -> None:
    one = detector(method)
    local = np.tile(-CLASSES.features.sum(axis=0), (1, R, 1)).astype(np.float32)
    local[0, 1 * COLUMNS + 2] = CLASSES.features[1]
    images = ImageFeatures(local[:, 0], local, (ROWS, COLUMNS))
    (found,) = regional_idness(one, images)
    assert np.unravel_index(found.argmax(), found.shape) == (1, 2)


def test_mcm_and_gl_mcm_map_what_gl_mcm_takes_the_largest_of() -> None:
    assert IMAGES.local is not None
    for method in ("mcm", "gl-mcm"):
        found = regional_idness(detector(method, temperature=0.4), IMAGES)
        expected = local_concept_match(IMAGES.local, CLASSES.features, 0.4)
        np.testing.assert_allclose(found.max(axis=(1, 2)), expected, rtol=1e-6)


def test_scores_on_logits_map_the_confidence_of_a_region() -> None:
    confidence = registry.score(detector("msp"), as_images()).confidence.reshape(N, ROWS, COLUMNS)
    for method in ("msp", "max-logit", "energy", "entropy"):
        found = regional_idness(detector(method), IMAGES)
        np.testing.assert_allclose(found, confidence, rtol=1e-5)
    warm = regional_idness(detector("energy", temperature=5.0), IMAGES)
    expected = registry.score(detector("msp", temperature=5.0), as_images()).score
    np.testing.assert_allclose(warm.ravel(), expected, rtol=1e-5)


def test_negatives_and_no_texts_are_held_against_a_region_as_against_an_image() -> None:
    for one in (detector("neglabel", groups=3), detector("clipn")):
        expected = registry.score(one, as_images()).score
        np.testing.assert_allclose(regional_idness(one, IMAGES).ravel(), expected, rtol=1e-5)


def test_test_time_methods_map_by_what_they_know_before_any_image() -> None:
    one = detector("adaneg", combine="vanillaonly")
    expected = adaneg.score(one, as_images()).score
    np.testing.assert_allclose(regional_idness(one, IMAGES).ravel(), expected, rtol=1e-5)
    # Batches of one region: nothing is sure at this gap, and all activations are the first ones.
    one = detector("tanl", active=8, gap=1.0, alpha=1.0)
    state = tanl.start(one)
    expected = [
        tanl.step(one, ImageFeatures(region[None]), state)[0].score[0] for region in as_images().raw
    ]
    np.testing.assert_allclose(regional_idness(one, IMAGES).ravel(), expected, rtol=1e-5)


def test_local_prompt_maps_its_own_regional_probabilities() -> None:
    one = detector("local-prompt", temperature=0.5)
    regions = unit(as_images().raw).reshape(N, R, D) / np.float32(0.5)
    local, negative = (
        regions @ one.tensors[name].T for name in ("local_features", "local_negative_features")
    )
    found = regional_idness(one, IMAGES)
    expected = regional_concept_match(local, negative, 1)
    np.testing.assert_allclose(found.max(axis=(1, 2)), expected, rtol=1e-6)


def test_a_probe_sees_regions_as_long_as_their_image() -> None:
    one = detector("linear-probe")
    lengths = np.linalg.norm(IMAGES.raw, axis=1).repeat(R)[:, None]
    raw = (unit(as_images().raw) * lengths).astype(np.float32)
    expected = linear_probe.score(one, ImageFeatures(raw)).score
    np.testing.assert_allclose(regional_idness(one, IMAGES).ravel(), expected, rtol=1e-5)


def test_pieces_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    one = detector("neglabel")
    whole = regional_idness(one, IMAGES)
    monkeypatch.setattr("vlood.methods.regional._COSINES_AT_ONCE", 2 * R * (K + M) + 1)
    np.testing.assert_array_equal(regional_idness(one, IMAGES), whole)


def test_images_without_regions_and_detectors_that_cannot_tell_are_refused() -> None:
    with pytest.raises(UsageError, match="have none"):
        regional_idness(detector("mcm"), ImageFeatures(IMAGES.raw))
    alone = detector("energy", ClassFeatures.of(["a"], normal(1, D, seed=2)))
    with pytest.raises(UsageError, match="every region the same"):
        regional_ends(alone)


def test_the_colours_end_where_the_model_is_sure_of_a_class() -> None:
    # Texts at right angles: a class leads every other text by the same cosine, log(99 (n - 1)) / s.
    texts = np.eye(6, 8, dtype=np.float32)
    low, high = softmax_ends(texts, 6, SCALE, SCALE)
    assert (low, high) == (pytest.approx(1 / 6), pytest.approx(0.99))
    _, high = softmax_ends(texts, 4, 1.0, SCALE)
    lead = np.log(99 * 5) / SCALE
    assert high == pytest.approx(1 / (1 + 5 * np.exp(-lead)))
    # Never more than cosines can differ, however small the scale.
    _, high = softmax_ends(texts, 6, 1.0, 0.1)
    assert high == pytest.approx(1 / (1 + 5 * np.exp(-2)))


def test_like_texts_do_not_break_the_ends() -> None:
    low, high = softmax_ends(np.tile(unit(normal(1, D, seed=0)), (3, 1)), 3, SCALE, SCALE)
    assert low == pytest.approx(1 / 3)
    assert np.isfinite(high)
