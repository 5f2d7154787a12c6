"""Local-Prompt's R-MCM and its labels against plain NumPy, region by region."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures, unit
from vlood.errors import UsageError
from vlood.methods import local_prompt, registry
from vlood.methods.contract import Detector, make_settings
from vlood.methods.logits import top_labels
from vlood.prompts.templates import ClassFeatures

Array = NDArray[Any]
N, R, C, M, D = 7, 9, 5, 6, 16
SCALE = 100.0


def normal(*shape: int, seed: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


IMAGES = ImageFeatures(normal(N, D, seed=0) * 3, normal(N, R, D, seed=1) * 2, (3, 3))


def detector(negatives: int = M, **values: Any) -> Detector:
    tensors = {
        "class_features": unit(normal(C, D, seed=2)),
        "local_features": unit(normal(C, D, seed=3)),
        "local_negative_features": unit(normal(negatives, D, seed=4)),
    }
    settings = make_settings(local_prompt.METHOD, values)
    return Detector("local-prompt", settings, tuple("abcde"), tensors, SCALE)


def plain(one: Detector, k: int, T: float) -> tuple[Array, Array]:
    """The score [N] and the class evidence [N, C] as they are written, in double precision."""
    assert IMAGES.local is not None
    tensors = {name: array.astype(np.float64) for name, array in one.tensors.items()}
    scores, evidence = [], []
    for row in range(N):
        image = IMAGES.raw[row].astype(np.float64)
        regions = IMAGES.local[row].astype(np.float64)
        g = tensors["class_features"] @ (image / np.linalg.norm(image))
        regions /= np.linalg.norm(regions, axis=1, keepdims=True)
        u = np.exp(regions @ tensors["local_features"].T / T)
        v = np.exp(regions @ tensors["local_negative_features"].T / T)
        p = u / (u.sum(axis=1) + v.sum(axis=1))[:, None]
        mcm = np.exp(g / T).max() / np.exp(g / T).sum()
        scores.append(mcm + np.sort(p.ravel())[::-1][:k].mean())
        evidence.append(np.exp(g) * np.sort(u, axis=0)[::-1][:k].mean(axis=0))
    return np.array(scores), np.array(evidence)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("top_k", [1, 4, R, R * C, 1000])
@pytest.mark.parametrize("negatives", [0, 1, M])
def test_score_and_label_equal_the_formula(top_k: int, temperature: float, negatives: int) -> None:
    one = detector(negatives, top_k=top_k, temperature=temperature)
    expected, evidence = plain(one, top_k, temperature)
    scores = registry.score(one, IMAGES)
    np.testing.assert_allclose(scores.score, expected, rtol=1e-5)
    np.testing.assert_array_equal(scores.label, evidence.argmax(axis=1))
    weights = evidence**SCALE
    confidence = weights.max(axis=1) / weights.sum(axis=1)
    np.testing.assert_allclose(scores.confidence, confidence, rtol=1e-3)
    assert scores.score.dtype == np.float64


def test_all_entries_give_the_mean() -> None:
    local, negative = normal(N, R, C, seed=5), normal(N, R, M, seed=6)
    p = np.exp(local) / (np.exp(local).sum(-1) + np.exp(negative).sum(-1))[..., None]
    found = local_prompt.regional_concept_match(local, negative, R * C)
    np.testing.assert_allclose(found, p.mean(axis=(1, 2)), rtol=1e-5)


def test_one_class_without_negatives_is_sure_of_every_region() -> None:
    local = normal(N, R, 1, seed=5)
    found = local_prompt.regional_concept_match(local, np.empty((N, R, 0), np.float32), 3)
    np.testing.assert_array_equal(found, 1)
    np.testing.assert_allclose(
        local_prompt.local_evidence(local, 1), local.max(axis=1), rtol=1e-6, atol=1e-6
    )


def test_far_logits_do_not_overflow() -> None:
    local = np.array([[[900.0, -900.0]]], np.float32)
    with np.errstate(over="raise", invalid="raise"):
        assert local_prompt.regional_concept_match(local, -local, 1)[0] == pytest.approx(0.5)
        np.testing.assert_allclose(local_prompt.local_evidence(local, 1), [[900, -900]])


def test_pieces_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = local_prompt.score(detector(), IMAGES)
    monkeypatch.setattr(local_prompt, "_COSINES_AT_ONCE", 2 * R * (C + M))
    pieces = local_prompt.score(detector(), IMAGES)
    np.testing.assert_allclose(pieces.score, whole.score, rtol=1e-6)
    np.testing.assert_array_equal(pieces.label, whole.label)


def test_top_labels_are_those_of_the_score() -> None:
    scores = local_prompt.score(detector(), IMAGES)
    order, probability = top_labels(detector(), IMAGES, 99)
    np.testing.assert_array_equal(order[:, 0], scores.label)
    np.testing.assert_allclose(probability[:, 0], scores.confidence)
    np.testing.assert_allclose(probability.sum(axis=1), 1)
    # Not those of the whole image alone, here.
    alone = (IMAGES.unit @ detector().tensors["class_features"].T).argmax(axis=1)
    assert (alone != scores.label).any()


def test_no_images() -> None:
    none = ImageFeatures(np.empty((0, D), np.float32), np.empty((0, R, D), np.float32), (3, 3))
    assert len(local_prompt.score(detector(), none)) == 0


def test_bad_input_is_refused() -> None:
    with pytest.raises(UsageError, match=r"needs local .*vlood embed --local"):
        local_prompt.score(detector(), ImageFeatures(IMAGES.raw))
    for wrong in (0, -3):
        with pytest.raises(UsageError, match=f"local-prompt: top_k is {wrong}; expected a whole"):
            make_settings(local_prompt.METHOD, {"top_k": wrong})
    with pytest.raises(UsageError, match="local-prompt: temperature is 0"):
        make_settings(local_prompt.METHOD, {"temperature": 0})
    classes = ClassFeatures.of(["a", "b"], normal(2, D, seed=0))
    with pytest.raises(UsageError, match=r"--method local-prompt: its local prompts .*`vlood imp"):
        local_prompt.METHOD.fit(classes, local_prompt.METHOD.settings(), SCALE)
    good = detector()
    local_prompt.check(good)
    good.tensors["local_features"][1] *= 2
    with pytest.raises(UsageError, match="local_features must have rows of length 1"):
        local_prompt.check(good)


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_a_neglabel_term_is_added_with_its_weight(weight: float) -> None:
    one, words = detector(neglabel=weight, top_k=4), unit(normal(6, D, seed=8))
    bank = unit(normal(C, D, seed=9))
    extra = {
        "bank_class_features": bank,
        "negative_features": words,
        "group_sizes": np.array([4, 2]),
    }
    with_words = Detector(
        one.method, one.settings, one.class_names, {**one.tensors, **extra}, SCALE
    )
    image = unit(IMAGES.raw).astype(np.float64)
    known = np.exp(SCALE * image @ bank.T).sum(axis=1)
    others = np.exp(SCALE * image @ words.T)
    groups = [others[:, :4].sum(axis=1), others[:, 4:].sum(axis=1)]
    mass = np.mean([known / (known + group) for group in groups], axis=0)
    expected = plain(one, 4, 1.0)[0] + weight * mass
    found = local_prompt.score(with_words, IMAGES)
    np.testing.assert_allclose(found.score, expected, rtol=1e-4)
    # Without words, or without a weight, it is the plain score.
    np.testing.assert_allclose(
        local_prompt.score(one, IMAGES).score, plain(one, 4, 1.0)[0], rtol=1e-5
    )
    zero = Detector(
        "local-prompt", detector(top_k=4).settings, one.class_names, with_words.tensors, SCALE
    )
    np.testing.assert_allclose(
        local_prompt.score(zero, IMAGES).score, plain(one, 4, 1.0)[0], rtol=1e-5
    )
    np.testing.assert_array_equal(found.label, local_prompt.score(one, IMAGES).label)
