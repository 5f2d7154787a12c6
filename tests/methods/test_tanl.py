"""TANL against its definition, written out with one softmax a prefix and one pass a threshold."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.errors import UsageError
from vlood.methods import tanl
from vlood.methods.contract import Detector, Scores, State, make_settings
from vlood.negatives.negative_features import NegativeFeatures
from vlood.prompts.templates import ClassFeatures

Array = NDArray[Any]
C, M, D, SCALE = 5, 40, 12, 30.0


def make_detector(noise: Array | None = None, **settings: Any) -> Detector:
    rng = np.random.default_rng(0)
    classes = rng.normal(size=(C, D))
    negatives = rng.normal(size=(M, D))
    drawn = rng.normal(size=(15, D))
    return tanl.fit(
        ClassFeatures.of([f"class {row}" for row in range(C)], classes),
        make_settings(tanl.METHOD, {"active": 10, "queue_length": 12, "alpha": 0.4, **settings}),
        SCALE,
        negatives=NegativeFeatures.of([f"negative {row}" for row in range(M)], negatives),
        noise=drawn if noise is None else noise,
    )


def make_images(detector: Detector, count: int = 60, seed: int = 1) -> Array:
    rng = np.random.default_rng(seed)
    text = np.concatenate(
        [detector.tensors["class_features"]] * 4 + [detector.tensors["negative_features"][:9]]
    )
    near = text[rng.integers(0, len(text), count)]
    return (near + rng.normal(size=(count, D)) * rng.uniform(0.1, 0.5, (count, 1))).astype(
        np.float32
    )


def run(
    detector: Detector, images: Array, batch: int = 10, state: State | None = None
) -> tuple[Array, list[State]]:
    state = tanl.start(detector) if state is None else state
    parts, states = [], []
    for begin in range(0, len(images), batch):
        scores, state = tanl.step(detector, ImageFeatures(images[begin : begin + batch]), state)
        parts.append(scores.score)
        states.append(state)
    return np.concatenate(parts), states


def softmax(values: Array) -> Array:
    weights = np.exp(values - values.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def plain_score(positive: Array, negative: Array, gamma: int) -> Array:
    count, ids = negative.shape[1], positive.shape[1]
    ends = range(gamma, count + gamma, gamma) if gamma else [count]
    parts = [softmax(np.concatenate([positive, negative[:, :end]], axis=1)) for end in ends]
    return np.mean([part[:, :ids].sum(axis=1) for part in parts], axis=0)


def plain_threshold(scores: Array) -> float:
    found = []
    for threshold in np.arange(100, dtype=np.float32) * np.float32(0.01):
        above = scores >= threshold
        sides = scores[above].astype(np.float64), scores[~above].astype(np.float64)
        if all(map(len, sides)):
            within = sum(len(side) * side.var() for side in sides) / len(scores)
        else:
            within = np.inf
        found.append(within)
    best = [place for place, within in enumerate(found) if within <= min(found) * (1 + 1e-9)]
    return float(np.float32(0.01) * np.float32(best[len(best) // 2]))


class DensePlain:
    def __init__(self, detector: Detector) -> None:
        self.detector, self.settings = detector, detector.settings
        self.ids, self.corpus, noise = (
            detector.tensors[name].astype(np.float64)
            for name in ("class_features", "negative_features", "noise_features")
        )
        length = self.settings.queue_length
        self.pos = self.activations(self.ids[detector.tensors["class_order"]])[-length:]
        self.neg = self.activations(noise[detector.tensors["noise_order"]])[-length:]
        chosen = self.choose(self.neg.mean(axis=0) - self.pos.mean(axis=0))
        self.history = np.concatenate([self.score(each, chosen) for each in (self.ids, noise)])

    def activations(self, z: Array) -> Array:
        logits = SCALE * z @ np.concatenate([self.ids, self.corpus]).T
        return (logits if self.settings.cosine_activations else softmax(logits))[:, C:]

    def choose(self, activation: Array) -> list[int]:
        ranked = sorted(range(M), key=lambda row: -activation[row])
        return ranked[: self.settings.active]

    def score(self, z: Array, chosen: list[int]) -> Array:
        negative = SCALE * z @ self.corpus[chosen].T
        return plain_score(SCALE * z @ self.ids.T, negative, self.settings.gamma)

    def step(self, images: Array) -> tuple[Array, float]:
        z = images / np.linalg.norm(images, axis=1, keepdims=True)
        alpha, gap, length = self.settings.alpha, self.settings.gap, self.settings.queue_length
        first = self.score(z, self.choose(self.neg.mean(axis=0) - self.pos.mean(axis=0)))
        self.history = np.concatenate([self.history, first])[-20_000:]
        threshold = plain_threshold(self.history.astype(np.float32))
        means = []
        batch = self.activations(z)
        sides = (first > threshold + gap * (1 - threshold), first < threshold - gap * threshold)
        for queue, side in zip((self.pos, self.neg), sides, strict=True):
            mean = queue.mean(axis=0)
            if side.any():
                mean = alpha * mean + (1 - alpha) * batch[side].mean(axis=0)
            means.append(mean)
        final = self.score(z, self.choose(means[1] - means[0]))
        self.pos = np.concatenate([self.pos, batch[sides[0]]])[-length:]
        self.neg = np.concatenate([self.neg, batch[sides[1]]])[-length:]
        return final, threshold


@pytest.mark.parametrize("cosine_activations", [False, True])
@pytest.mark.parametrize("gamma", [0, 1, 3])
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_a_stream_equals_the_definition(alpha: float, gamma: int, cosine_activations: bool) -> None:
    detector = make_detector(alpha=alpha, gamma=gamma, cosine_activations=cosine_activations)
    images = make_images(detector)
    dense = DensePlain(detector)
    expected = [dense.step(images[begin : begin + 10]) for begin in range(0, len(images), 10)]
    scores, states = run(detector, images)
    np.testing.assert_allclose(scores, np.concatenate([each[0] for each in expected]), 2e-5)
    thresholds = [float(state["threshold"]) for state in states]
    np.testing.assert_array_equal(thresholds, [each[1] for each in expected])
    last = states[-1]
    np.testing.assert_allclose(last["pos_queue"], dense.pos, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(last["neg_queue"], dense.neg, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(last["history"], dense.history, rtol=2e-5)
    assert last["seen"] == len(images)
    # The stream reached both queues, and filled the one that began short.
    assert len(last["pos_queue"]) == 12
    assert not np.array_equal(last["neg_queue"], tanl.start(detector)["neg_queue"])


@given(
    arrays(np.float64, (3, 2), elements=st.floats(-60, 60)),
    arrays(np.float64, (3, 7), elements=st.floats(-60, 60)),
    st.integers(0, 9),
)
def test_running_log_sum_exp_equals_a_softmax_a_prefix(
    positive: Array, negative: Array, gamma: int
) -> None:
    found = tanl.activation_aware_score(positive, negative, gamma)
    np.testing.assert_allclose(found, plain_score(positive, negative, gamma), rtol=1e-9)


def test_the_score_of_far_logits_stays_finite() -> None:
    positive, negative = np.array([[0.0], [5000.0]]), np.array([[-9000.0, 4000.0], [0.0, 1.0]])
    found = tanl.activation_aware_score(positive, negative, 1)
    np.testing.assert_allclose(found, [0.5, 1.0])


@given(arrays(np.float32, st.integers(1, 40), elements=st.floats(0, 1, width=16)))
def test_the_threshold_is_the_best_of_the_grid(scores: Array) -> None:
    found = tanl.best_threshold(scores)

    def within(threshold: float) -> float:
        sides = scores[scores >= np.float32(threshold)], scores[scores < np.float32(threshold)]
        if not all(map(len, sides)):
            return np.inf
        return sum(len(side) * side.astype(np.float64).var() for side in sides) / len(scores)

    best = min(within(each) for each in np.arange(100, dtype=np.float32) * np.float32(0.01))
    assert within(found) <= best + 1e-7


@pytest.mark.parametrize("seed", range(20))
def test_the_threshold_is_the_middle_one_of_equal_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.beta(2, 9, 30), rng.beta(9, 2, rng.integers(1, 60))])
    scores = scores.astype(np.float32)
    assert tanl.best_threshold(scores) == plain_threshold(scores)


def test_equal_scores_leave_the_threshold_in_the_middle() -> None:
    assert tanl.best_threshold(np.full(9, 0.3, np.float32)) == 0.5


def test_alpha_one_ignores_the_batch_and_alpha_zero_does_not() -> None:
    for alpha, same in ((1.0, True), (0.0, False)):
        detector = make_detector(alpha=alpha)
        images = make_images(detector)
        whole, _ = run(detector, images, batch=len(images))
        # A new stream for each half: the second half is no company for the first.
        half, _ = run(detector, images[:30], batch=30)
        assert np.allclose(whole[:30], half, rtol=1e-6) == same


def test_every_negative_active_makes_the_selection_vanish() -> None:
    with_all = make_detector(active=1000, gamma=0)
    images = make_images(with_all)
    scores, _ = run(with_all, images)
    z = ImageFeatures(images).unit.astype(np.float64)
    expected = plain_score(
        SCALE * z @ with_all.tensors["class_features"].T,
        SCALE * z @ with_all.tensors["negative_features"].T,
        0,
    )
    np.testing.assert_allclose(scores, expected, rtol=2e-5)


def test_more_active_than_there_are_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "vlood"):
        make_detector(active=1000)
    assert "all 40 negatives are active" in caplog.text


def test_a_step_leaves_the_state_before_it_alone() -> None:
    detector = make_detector()
    images = make_images(detector)
    state = run(detector, images[:40])[1][-1]
    before = {name: array.copy() for name, array in state.items()}
    first, _ = run(detector, images[40:], state=state)
    again, _ = run(detector, images[40:], state=state)
    for name, array in before.items():
        np.testing.assert_array_equal(state[name], array)
    np.testing.assert_array_equal(first, again)


def test_no_image_changes_nothing_and_labels_are_the_nearest_classes() -> None:
    detector = make_detector()
    state = tanl.start(detector)
    scores, after = tanl.step(detector, ImageFeatures(np.empty((0, D), np.float32)), state)
    assert len(scores) == 0
    assert after is state
    own: Scores = tanl.score(detector, ImageFeatures(detector.tensors["class_features"]))
    np.testing.assert_array_equal(own.label, np.arange(C))


def test_the_seed_draws_the_first_entries_of_the_queues() -> None:
    first, again, other = (make_detector(seed=seed) for seed in (0, 0, 1))
    orders = [each.tensors["noise_order"] for each in (first, again, other)]
    np.testing.assert_array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("active", 0, "1 or more"),
        ("queue_length", 0, "1 or more"),
        ("gamma", -1, "0 or more"),
        ("seed", -1, "0 or more"),
        ("alpha", 1.1, "from 0 to 1"),
        ("gap", "nan", "from 0 to 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(name: str, value: Any, words: str) -> None:
    with pytest.raises(UsageError, match=f"tanl: {name} is .*{words}"):
        make_settings(tanl.METHOD, {name: value})


@pytest.mark.parametrize("shape", [(0, D), (15, 3), (D,)])
def test_noise_that_is_missing_or_of_another_model_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"tanl: the noise embeddings have shape .* expected"):
        make_detector(noise=np.ones(shape))
