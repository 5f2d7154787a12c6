"""CLIPN's rules against two-way softmaxes, and what holds of any pair of encoders."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures, unit
from vlood.errors import UsageError
from vlood.methods import clipn, registry
from vlood.methods.contract import Detector, make_settings
from vlood.methods.logits import top_labels

Array = NDArray[Any]
K, D = 5, 16


def rows(count: int, seed: int) -> Array:
    return np.random.default_rng(seed).normal(size=(count, D)).astype(np.float32)


def detector(no: Array | None = None, **values: Any) -> Detector:
    yes = unit(rows(K, 0))
    tensors = {"class_features": yes, "no_features": unit(rows(K, 1)) if no is None else no}
    settings = make_settings(clipn.METHOD, values)
    return Detector("clipn", settings, tuple("abcde"), tensors, 100.0)


IMAGES = ImageFeatures(rows(9, 2) * 3)


def plain(one: Detector, scale: float) -> tuple[Array, Array, Array]:
    """p [N, K], q [N, K] by a softmax over two columns, and the "yes" logits, in float64."""
    yes, no = (
        scale * (IMAGES.unit.astype(np.float64) @ one.tensors[name].T)
        for name in ("class_features", "no_features")
    )
    p = np.exp(yes - yes.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    pair = np.stack([yes, no], axis=-1)
    pair = np.exp(pair - pair.max(axis=-1, keepdims=True))
    return p, pair[..., 0] / pair.sum(axis=-1), yes


@pytest.mark.parametrize("scale", [100.0, 10.0])
def test_rules_equal_the_two_way_softmaxes(scale: float) -> None:
    p, q, yes = plain(detector(), scale)
    by_atd = clipn.score(detector(logit_scale=scale), IMAGES)
    by_ctw = registry.score(detector(rule="ctw", logit_scale=scale), IMAGES)
    np.testing.assert_allclose(by_atd.score, (q * p).sum(axis=1), rtol=2e-5, atol=1e-12)
    np.testing.assert_allclose(by_ctw.score, q[np.arange(9), yes.argmax(axis=1)], rtol=2e-5)
    for scores in (by_atd, by_ctw):
        np.testing.assert_array_equal(scores.label, yes.argmax(axis=1))
        assert scores.score.dtype == np.float64
    order, probability = top_labels(detector(), IMAGES, 3)
    np.testing.assert_array_equal(order[:, 0], by_atd.label)
    np.testing.assert_allclose(probability[:, 0], by_atd.confidence)


def test_a_copied_no_encoder_says_neither_yes_nor_no() -> None:
    for rule in ("atd", "ctw"):
        one = detector(unit(rows(K, 0)), rule=rule)
        np.testing.assert_allclose(clipn.score(one, IMAGES).score, 0.5, rtol=1e-12)


pairs = st.lists(
    st.tuples(st.floats(-300, 300, width=32), st.floats(-300, 300, width=32)),
    min_size=1,
    max_size=8,
)


@given(pairs)
def test_probabilities_sum_to_one_and_decisions_follow_from_them(given_pairs: Any) -> None:
    yes, no = (np.array([column]) for column in zip(*given_pairs, strict=True))
    q = clipn.yes_probability(yes, no)
    p = np.exp(yes - yes.max())
    p /= p.sum()
    unknown = 1 - (q * p).sum()
    score = clipn.atd(yes, no)
    assert 0 <= score[0] <= 1 + 1e-12
    np.testing.assert_allclose(score, 1 - unknown, atol=1e-12)
    assert ((q * p).sum() + unknown) == pytest.approx(1)
    winner = int(yes.argmax())
    assert bool(clipn.ctw_decision(yes, no)[0]) == bool(clipn.ctw(yes, no)[0] < 0.5)
    if abs(yes[0, winner] - no[0, winner]) > 1e-3:
        assert bool(clipn.ctw_decision(yes, no)[0]) == bool(no[0, winner] > yes[0, winner])
    for compare, rivals in (("shrunk", q * p), ("raw", p)):
        if abs(unknown - rivals.max()) > 1e-9:
            decision = clipn.atd_decision(yes, no, compare=compare)
            assert bool(decision[0]) == bool(unknown > rivals.max())


def test_decide_follows_the_settings() -> None:
    # p = 1; "no" a little less likely than "yes" leaves q p > 1 - q p, a little more the reverse;
    # against p itself "none" can never win.
    yes, no = np.array([[5.0], [5.0]]), np.array([[4.9], [5.1]])
    assert clipn.atd_decision(yes, no).tolist() == [False, True]
    assert clipn.atd_decision(yes, no, compare="raw").tolist() == [False, False]
    assert clipn.ctw_decision(yes, no).tolist() == [False, True]
    p, q, _ = plain(detector(), 100.0)
    none = 1 - (q * p).sum(axis=1)
    expected = {
        "shrunk": none > (q * p).max(axis=1),
        "raw": none > p.max(axis=1),
    }
    for compare, decision in expected.items():
        found = clipn.decide(detector(atd_compare=compare), IMAGES)
        np.testing.assert_array_equal(found, decision)
    ctw = clipn.score(detector(rule="ctw"), IMAGES).score
    np.testing.assert_array_equal(clipn.decide(detector(rule="ctw"), IMAGES), ctw < 0.5)


def test_far_logits_do_not_overflow() -> None:
    yes, far = np.array([[1e4, -1e4]]), np.full((1, 2), 3e4)
    with np.errstate(over="raise", invalid="raise"):
        for rule in (clipn.atd, clipn.ctw):
            assert rule(yes, -far)[0] == 1
            assert rule(yes, far)[0] == 0


def test_no_images_and_the_length_of_features() -> None:
    assert len(clipn.score(detector(), ImageFeatures(np.empty((0, D), np.float32)))) == 0
    longer = clipn.score(detector(), ImageFeatures(IMAGES.raw * 17))
    np.testing.assert_allclose(longer.score, clipn.score(detector(), IMAGES).score, rtol=1e-3)


def test_bad_input_is_refused() -> None:
    for name in ("rule", "atd_compare"):
        with pytest.raises(UsageError, match=f"clipn: {name} is 'x'; expected"):
            make_settings(clipn.METHOD, {name: "x"})
    with pytest.raises(UsageError, match="clipn: logit_scale is -1"):
        make_settings(clipn.METHOD, {"logit_scale": -1})
    with pytest.raises(UsageError, match="no_train is prompts, and the hand-crafted variant has"):
        make_settings(clipn.METHOD, {"no_train": "prompts", "variant": "hand-crafted"})
    clipn.check(detector())
    for wrong in (rows(K, 1), np.full((K, D), np.nan, np.float32)):
        with pytest.raises(UsageError, match="no_features must have rows of length 1"):
            clipn.check(detector(wrong))
    assert registry.width(detector()) == D


def test_one_class_gets_a_clear_answer() -> None:
    tensors = {"class_features": unit(rows(1, 0)), "no_features": unit(rows(1, 1))}
    for rule in ("atd", "ctw"):
        settings = make_settings(clipn.METHOD, {"rule": rule})
        one = Detector("clipn", settings, ("a",), tensors, 100.0)
        if rule == "ctw":
            clipn.check(one)
            assert len(clipn.score(one, IMAGES)) == 9
            continue
        with pytest.raises(UsageError, match=r"one class alone has probability 1.*--set rule=ctw"):
            clipn.check(one)


def test_the_scale_is_the_models_unless_it_is_set() -> None:
    assert clipn.scale_of(detector()) == 100.0
    assert clipn.scale_of(detector(logit_scale=7.0)) == 7.0
