"""AdaNeg: the sparse memory against a dense one, straight from the definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.errors import UsageError
from vlood.methods import adaneg, adaneg_memory, neglabel
from vlood.methods.adaneg_settings import COMBINE
from vlood.methods.contract import Detector, Scores, State, make_settings
from vlood.negatives.negative_features import NegativeFeatures
from vlood.prompts.templates import ClassFeatures

Array = NDArray[Any]
C, M, D, SCALE = 4, 13, 12, 30.0


def make_detector(scale: float = SCALE, **settings: Any) -> Detector:
    rng = np.random.default_rng(0)
    return adaneg.fit(
        ClassFeatures.of([f"class {row}" for row in range(C)], rng.normal(size=(C, D))),
        make_settings(adaneg.METHOD, {"memory_length": 4, **settings}),
        scale,
        negatives=NegativeFeatures.of(
            [f"negative {row}" for row in range(M)], rng.normal(size=(M, D)), seed=3
        ),
    )


def make_images(detector: Detector, count: int = 90, seed: int = 1) -> Array:
    """Images near classes and negatives, a few of each many times over, and some near none."""
    rng = np.random.default_rng(seed)
    text = text_of(detector)
    near = text[rng.integers(0, len(text), count) % 9]
    return (near + rng.normal(size=(count, D)) * rng.uniform(0.1, 0.5, (count, 1))).astype(
        np.float32
    )


def text_of(detector: Detector) -> Array:
    return np.concatenate(
        [detector.tensors["class_features"], detector.tensors["negative_features"]]
    )


def run(
    detector: Detector, images: Array, batch: int = 10, state: State | None = None
) -> tuple[Scores, State]:
    state = adaneg_memory.start(detector) if state is None else state
    parts = []
    for begin in range(0, len(images), batch):
        scores, state = adaneg.step(detector, ImageFeatures(images[begin : begin + batch]), state)
        parts.append(scores)
    joined = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("score", "label", "confidence")
    )
    return Scores(*joined), state


def softmax(values: Array) -> Array:
    weights = np.exp(values - values.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


class DensePlain:
    """The method with every slot of every class, one image at a time."""

    def __init__(self, detector: Detector) -> None:
        self.detector, self.settings = detector, detector.settings
        self.text = text_of(detector).astype(np.float64)
        slots = 1 + self.settings.memory_length
        self.memory = np.zeros((C + M, slots, D))
        self.memory[:, 0] = self.text
        self.entropy = np.zeros((C + M, slots))
        self.fill = np.ones(C + M, int)
        self.recent = [1, 0] * 100

    def mass(self, logits: Array) -> Array:
        groups = self.settings.groups
        kept = M - M % groups
        order = [row for row in self.detector.tensors["permutation"] if row < kept]
        parts = [
            softmax(np.concatenate([logits[:, :C], logits[:, C + np.array(group)]], axis=1))
            for group in np.split(np.array(order), groups)
        ]
        return np.mean([part[:, :C].sum(axis=1) for part in parts], axis=0)

    def store(self, image: Array, row: int, p: Array) -> None:
        # In single precision, where the entropy of a sure image is 0 and not below.
        p = p.astype(np.float32)
        entropy = -(p * np.log(p + np.float32(1e-8))).sum()
        slot = self.fill[row]
        if slot == self.settings.memory_length:
            if not (entropy < self.entropy[row]).any():
                return
            slot = int(np.argsort(self.entropy[row], kind="stable")[-1])
        else:
            self.fill[row] += 1
        self.memory[row, slot], self.entropy[row, slot] = image, entropy

    def masks(self, plain: Array) -> tuple[Array, Array]:
        t, gap = self.settings.threshold, self.settings.gap
        id_gap = ood_gap = gap
        if self.settings.adaptive_gap:
            self.recent += [1] * int((plain > t + gap * (1 - t)).sum())
            self.recent += [0] * int((plain < t - gap * t).sum())
            self.recent = self.recent[-10_000:]
            ratio = sum(self.recent) / len(self.recent)
            ood_gap = ratio if ratio > 0.5 else gap
            id_gap = 1 - ratio if ratio < 0.5 else gap
        return plain > t + id_gap * (1 - t), plain < t - ood_gap * t

    def step(self, images: Array) -> tuple[Array, Array]:
        z = images / np.linalg.norm(images, axis=1, keepdims=True)
        logits = SCALE * z @ self.text.T
        plain = self.mass(logits)
        is_id, is_ood = self.masks(plain)
        for image, row in zip(z[is_id], logits[is_id, :C], strict=True):
            self.store(image, row.argmax(), softmax(row))
        for image, row in zip(z[is_ood], logits[is_ood, C:], strict=True):
            self.store(image, C + row.argmax(), softmax(row))
        if self.settings.sample_adaptive:
            weights = np.exp(-self.settings.beta * (1 - self.memory @ z.T))
            proxies = np.einsum("csn,csd->ncd", weights, self.memory)
        else:
            proxies = np.repeat(self.memory.mean(axis=1)[None], len(z), axis=0)
        proxies /= np.linalg.norm(proxies, axis=2, keepdims=True)
        adapted_logits = SCALE * np.einsum("nd,ncd->nc", z, proxies)
        adapted = self.mass(adapted_logits)
        if self.settings.adaptive_gap:
            weight = 1.0
            chances = softmax(logits[:, :C]) + softmax(adapted_logits[:, :C])
        else:
            weight = self.settings.lambda_text
            chances = softmax(logits) + weight * softmax(adapted_logits)
        total = {
            "combine": adapted + weight * plain,
            "adaonly": adapted,
            "vanillaonly": plain,
            "multiply": adapted * plain,
        }[self.settings.combine]
        return total, chances[:, :C].argmax(axis=1)


@pytest.mark.parametrize("sample_adaptive", [True, False])
@pytest.mark.parametrize("adaptive_gap", [True, False])
@pytest.mark.parametrize("combine", COMBINE)
def test_sparse_memory_equals_the_dense_one(
    combine: str, adaptive_gap: bool, sample_adaptive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adaneg_memory, "_WEIGHTS_AT_ONCE", 100)
    monkeypatch.setattr(adaneg, "_LOGITS_AT_ONCE", 50)
    detector = make_detector(
        combine=combine, adaptive_gap=adaptive_gap, sample_adaptive=sample_adaptive
    )
    images = make_images(detector)
    dense = DensePlain(detector)
    parts = [dense.step(images[begin : begin + 10]) for begin in range(0, len(images), 10)]
    scores, state = run(detector, images)
    np.testing.assert_allclose(scores.score, np.concatenate([part[0] for part in parts]), 2e-5)
    np.testing.assert_array_equal(scores.label, np.concatenate([part[1] for part in parts]))

    touched = state["touched"]
    np.testing.assert_array_equal(np.sort(touched), np.flatnonzero(dense.fill > 1))
    np.testing.assert_array_equal(state["filled"], dense.fill[touched] - 1)
    np.testing.assert_allclose(state["images"], dense.memory[touched, 1:4], atol=1e-6)
    np.testing.assert_allclose(state["entropies"], dense.entropy[touched, 1:4], atol=1e-6)
    assert (dense.fill == 4).any()
    assert not dense.memory[:, 4].any()
    assert state["seen"] == len(images)


def test_confidence_is_the_probability_of_the_label_among_the_classes() -> None:
    detector = make_detector()
    images = make_images(detector)
    scores, _ = run(detector, images)
    cosines = ImageFeatures(images).unit @ detector.tensors["class_features"].T
    chances = softmax(SCALE * cosines.astype(np.float64))
    expected = np.take_along_axis(chances, scores.label[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(scores.confidence, expected, rtol=1e-4)


@pytest.mark.parametrize("combine", ["adaonly", "vanillaonly"])
def test_an_untouched_memory_gives_neglabel(combine: str) -> None:
    # Nothing is beyond a gap of 1.
    detector = make_detector(gap=1.0, combine=combine)
    images = make_images(detector)
    scores, state = run(detector, images)
    assert len(state["touched"]) == 0
    plain = neglabel.fit(
        ClassFeatures(detector.class_names, detector.tensors["class_features"]),
        make_settings(neglabel.METHOD, {"groups": 5, "remainder": "drop"}),
        SCALE,
        negatives=NegativeFeatures(
            detector.negative_names,
            detector.tensors["negative_features"],
            detector.tensors["permutation"],
        ),
    )
    expected = neglabel.score(plain, ImageFeatures(images))
    np.testing.assert_allclose(scores.score, expected.score, rtol=1e-5)
    np.testing.assert_array_equal(scores.label, expected.label)
    np.testing.assert_allclose(scores.confidence, expected.confidence, rtol=1e-5)


def test_vanilla_scores_do_not_depend_on_the_stream_and_adapted_ones_do() -> None:
    detector = make_detector(combine="vanillaonly")
    images = make_images(detector)
    forward, _ = run(detector, images)
    backward, _ = run(detector, images[::-1])
    np.testing.assert_allclose(forward.score, backward.score[::-1], rtol=1e-5)
    detector = make_detector()
    forward, _ = run(detector, images)
    backward, _ = run(detector, images[::-1])
    assert not np.allclose(forward.score, backward.score[::-1], rtol=1e-3)
    one_batch, _ = run(detector, images, batch=len(images))
    assert not np.allclose(forward.score, one_batch.score, rtol=1e-3)
    alone = adaneg.score(detector, ImageFeatures(images))
    np.testing.assert_array_equal(one_batch.score, alone.score)


def test_a_step_leaves_the_state_before_it_alone() -> None:
    detector = make_detector(adaptive_gap=True)
    images = make_images(detector)
    _, state = run(detector, images[:60])
    before = {name: array.copy() for name, array in state.items()}
    first = adaneg.step(detector, ImageFeatures(images[60:]), state)
    for name, array in before.items():
        np.testing.assert_array_equal(state[name], array)
    again = adaneg.step(detector, ImageFeatures(images[60:]), state)
    np.testing.assert_array_equal(first[0].score, again[0].score)


def test_no_image_changes_nothing() -> None:
    detector = make_detector()
    _, state = run(detector, make_images(detector))
    scores, after = adaneg.step(detector, ImageFeatures(np.empty((0, D), np.float32)), state)
    assert len(scores) == 0
    for name, array in state.items():
        np.testing.assert_array_equal(after[name], array)


def test_many_sure_images_never_displace_a_free_slot() -> None:
    # Their entropy is 0 in single precision, as that of the text's slot and of the free one.
    detector = make_detector(scale=1000.0)
    images = np.repeat(detector.tensors["class_features"], 8, axis=0)
    scores, state = run(detector, images, batch=4)
    assert (state["filled"] == 3).all()
    assert (state["entropies"] >= 0).all()
    np.testing.assert_array_equal(scores.label, np.repeat(np.arange(C), 8))


def test_the_window_forgets_the_oldest_decisions() -> None:
    settings = make_settings(adaneg.METHOD, {"adaptive_gap": True})
    window = np.ones(10_000, np.uint8)
    is_id, is_ood, window = adaneg_memory.confident(
        np.array([0.9, 0.6, 0.1, 0.2]), window, settings
    )
    assert len(window) == 10_000
    np.testing.assert_array_equal(window[-4:], [1, 1, 0, 0])
    np.testing.assert_array_equal(is_id, [True, False, False, False])
    # Almost all were in distribution: an image must be very unlike them to count as outside.
    assert not is_ood.any()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("memory_length", 1, "expected 2 or more"),
        ("threshold", 1.5, "from 0 to 1"),
        ("gap", -0.1, "from 0 to 1"),
        ("gap", "nan", "from 0 to 1"),
        ("beta", -1, "zero or more"),
        ("beta", "5.5", "expected a value like 5"),
        ("lambda_text", -1, "zero or more"),
        ("groups", -1, "0 or more"),
        ("combine", "sum", "combine, adaonly"),
    ],
)
def test_settings_that_make_no_sense_are_refused(name: str, value: Any, words: str) -> None:
    with pytest.raises(UsageError, match=f"adaneg: {name} is .*{words}"):
        make_settings(adaneg.METHOD, {name: value})


def test_more_groups_than_negatives_are_refused() -> None:
    with pytest.raises(UsageError, match="adaneg: 13 negatives cannot fill 14 groups"):
        make_detector(groups=14)


def test_features_of_another_width_are_refused() -> None:
    detector = make_detector()
    with pytest.raises(UsageError, match="5 wide and the class embeddings 12"):
        adaneg.score(detector, ImageFeatures(np.ones((2, 5), np.float32)))
