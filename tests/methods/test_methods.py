"""Zero-shot methods against plain NumPy, what streams promise, and how settings are read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.errors import UsageError
from vlood.methods import gl_mcm, logits, registry
from vlood.methods.contract import Detector, Method, MethodRecord, Scores, State, make_settings
from vlood.negatives.negative_features import NegativeFeatures
from vlood.prompts.classes import read_classes
from vlood.prompts.templates import ClassFeatures

Array = NDArray[Any]
SCALE = 100.0
# Trained methods come with their own tests: a common one cannot train them.
METHODS = [method for method in registry.all_methods() if not method.record.trains]
BY_ITSELF = [method for method in METHODS if not method.record.stream]
STREAMS = [method for method in METHODS if method.record.stream]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


def make_classes(count: int = 5, dim: int = 16, seed: int = 0) -> ClassFeatures:
    raw = np.random.default_rng(seed).normal(size=(count, dim))
    return ClassFeatures.of([f"class {index}" for index in range(count)], raw)


def make_images(count: int = 7, dim: int = 16, seed: int = 1) -> ImageFeatures:
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=(count, dim)).astype(np.float32) * 3
    local = rng.normal(size=(count, 9, dim)).astype(np.float32) * 2
    return ImageFeatures(raw, local, (3, 3))


def fit(method: Method, classes: ClassFeatures, scale: float = SCALE) -> Detector:
    """Fit a method with what its record needs."""
    dim, rng = classes.features.shape[1], np.random.default_rng(5)
    given: dict[str, Any] = {}
    if "negatives" in method.record.needs:
        names = [f"negative {row}" for row in range(30)]
        given["negatives"] = NegativeFeatures.of(names, rng.normal(size=(30, dim)))
    if "noise" in method.record.needs:
        given["noise"] = rng.normal(size=(15, dim))
    return method.fit(classes, method.settings(), scale, **given)


def copies(arrays: State) -> dict[str, Array]:
    return {name: array.copy() for name, array in arrays.items()}


def assert_same(arrays: State, others: State) -> None:
    assert set(arrays) == set(others)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name])


def softmax(values: Array) -> Array:
    weights = np.exp(values - values.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def local_cosines(images: ImageFeatures, classes: Array) -> Array:
    assert images.local is not None
    local = images.local / np.linalg.norm(images.local, axis=-1, keepdims=True)
    return local @ classes.T


def plain_entropy(cosines: Array, T: float) -> Array:
    p = softmax(SCALE * cosines / T)
    return (p * np.log(np.maximum(p, 1e-300))).sum(axis=1)


PLAIN: dict[str, Callable[[Array, Array, float], Array]] = {
    "mcm": lambda cos, local, T: softmax(cos / T).max(axis=1),
    "msp": lambda cos, local, T: softmax(SCALE * cos / T).max(axis=1),
    "max-logit": lambda cos, local, T: SCALE * cos.max(axis=1),
    "energy": lambda cos, local, T: T * np.log(np.exp(SCALE * cos / T).sum(axis=1)),
    "entropy": lambda cos, local, T: plain_entropy(cos, T),
    "gl-mcm": lambda cos, local, T: (
        softmax(cos / T).max(axis=1) + softmax(local / T).max(axis=(1, 2))
    ),
}


@pytest.mark.parametrize("temperature", [1.0, 0.4, 3.0])
@pytest.mark.parametrize("name", PLAIN)
def test_score_equals_the_formula(name: str, temperature: float) -> None:
    method, classes, images = registry.get(name), make_classes(), make_images()
    takes = {each.name for each in fields(method.settings)}
    values = {"temperature": temperature} if "temperature" in takes else {}
    detector = method.fit(classes, make_settings(method, values), SCALE)
    scores = registry.score(detector, images)

    cosines = (images.unit @ classes.features.T).astype(np.float64)
    expected = PLAIN[name](cosines, local_cosines(images, classes.features), temperature)
    np.testing.assert_allclose(scores.score, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(scores.label, cosines.argmax(axis=1))
    np.testing.assert_allclose(scores.confidence, softmax(SCALE * cosines).max(axis=1), rtol=1e-5)
    assert scores.score.dtype == scores.confidence.dtype == np.float64
    assert scores.label.dtype == np.int64
    assert len(scores) == 7


@pytest.mark.parametrize("method", BY_ITSELF, ids=lambda method: method.name)
def test_scores_do_not_depend_on_the_length_of_features_or_the_order_of_images(
    method: Method,
) -> None:
    classes, images = make_classes(), make_images()
    detector = fit(method, classes)
    scores = method.score(detector, images)
    assert images.local is not None
    other = ImageFeatures(images.raw[::-1] * 17, images.local[::-1] * 0.01)
    reversed_scores = method.score(detector, other)
    np.testing.assert_allclose(reversed_scores.score[::-1], scores.score, rtol=1e-5)


@pytest.mark.parametrize("method", STREAMS, ids=lambda method: method.name)
def test_a_stream_does_not_depend_on_the_length_of_features(method: Method) -> None:
    images, detector = make_images(), fit(method, make_classes())
    longer = method.score(detector, ImageFeatures(images.raw * 17))
    np.testing.assert_allclose(longer.score, method.score(detector, images).score, rtol=1e-4)


@pytest.mark.parametrize("method", STREAMS, ids=lambda method: method.name)
def test_a_step_of_a_stream_changes_neither_the_state_nor_the_detector(method: Method) -> None:
    assert method.stream is not None
    classes, images = make_classes(), make_images(40)
    detector = fit(method, classes)
    text, state = copies(detector.tensors), method.stream.start(detector)
    _, state = method.stream.step(detector, ImageFeatures(images.raw[:20]), state)
    before = copies(state)
    rest = ImageFeatures(images.raw[20:])
    first, after = method.stream.step(detector, rest, state)
    later = copies(after)
    again, _ = method.stream.step(detector, rest, state)
    np.testing.assert_array_equal(first.score, again.score)
    assert_same(state, before)
    assert_same(after, later)
    assert_same(detector.tensors, text)
    assert int(after["seen"]) == 40
    scored, start = method.score(detector, rest), method.stream.start(detector)
    np.testing.assert_array_equal(scored.score, method.stream.step(detector, rest, start)[0].score)


@pytest.mark.parametrize("method", STREAMS, ids=lambda method: method.name)
def test_a_stream_split_over_two_runs_is_the_unsplit_one(method: Method) -> None:
    assert method.stream is not None
    images = make_images(60)

    def run(detector: Detector, state: State, begin: int, end: int) -> tuple[list[Array], State]:
        assert method.stream is not None
        found = []
        for first in range(begin, end, 10):
            batch = ImageFeatures(images.raw[first : first + 10])
            scores, state = method.stream.step(detector, batch, state)
            found.append(scores.score)
        return found, state

    detector = fit(method, make_classes())
    whole, last = run(detector, method.stream.start(detector), 0, 60)
    first, state = run(detector, method.stream.start(detector), 0, 30)
    # The second run knows nothing but the state's arrays and a detector fitted alike.
    second, after = run(fit(method, make_classes()), copies(state), 30, 60)
    np.testing.assert_array_equal(np.concatenate([*first, *second]), np.concatenate(whole))
    assert_same(after, last)


@every_method
def test_record_and_settings_say_what_they_are(method: Method) -> None:
    record = method.record
    assert record.name == record.name.lower()
    assert record.paper
    assert record.url.startswith("https://")
    assert 2015 < record.year < 2030
    assert record.summary
    assert record.score_note
    assert "classes" in record.needs
    assert not record.trains
    for each in fields(method.settings):
        assert each.metadata["help"]
        assert each.metadata["unit"]
        assert each.metadata["source"]
    with pytest.raises(FrozenInstanceError):
        record.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("name", ["mcm", "msp", "entropy", "gl-mcm"])
def test_one_class_is_refused_where_every_score_would_be_the_same(name: str) -> None:
    method = registry.get(name)
    with pytest.raises(UsageError, match=f"{name} compares classes.*max-logit"):
        method.fit(make_classes(1), method.settings(), SCALE)


@pytest.mark.parametrize("name", ["max-logit", "energy"])
def test_one_class_scores_by_its_cosine(name: str) -> None:
    method, classes, images = registry.get(name), make_classes(1), make_images()
    scores = method.score(method.fit(classes, method.settings(), SCALE), images)
    np.testing.assert_allclose(
        scores.score, SCALE * (images.unit @ classes.features[0]), rtol=1e-5, atol=1e-5
    )
    assert (scores.confidence == 1).all()


def test_ten_thousand_classes() -> None:
    classes, images = make_classes(10_000, 8), make_images(4, 8)
    for method in METHODS:
        scores = method.score(fit(method, classes), images)
        assert np.isfinite(scores.score).all()


def test_energy_and_entropy_at_the_logit_scale_are_the_forms_on_cosines() -> None:
    classes, images = make_classes(), make_images()
    cosines = (images.unit @ classes.features.T).astype(np.float64)
    energy, entropy = registry.get("energy"), registry.get("entropy")
    at_scale = energy.fit(classes, make_settings(energy, {"temperature": SCALE}), SCALE)
    np.testing.assert_allclose(
        energy.score(at_scale, images).score,
        SCALE * logits.log_sum_exp(cosines),
    )
    at_scale = entropy.fit(classes, make_settings(entropy, {"temperature": SCALE}), SCALE)
    np.testing.assert_allclose(
        entropy.score(at_scale, images).score,
        -logits.entropy(cosines),
    )


def test_mcm_ignores_the_logit_scale_and_msp_does_not() -> None:
    classes, images = make_classes(), make_images()
    for name, same in (("mcm", True), ("msp", False)):
        method = registry.get(name)
        low, high = (
            method.score(method.fit(classes, method.settings(), scale), images)
            for scale in (10.0, 100.0)
        )
        assert np.array_equal(low.score, high.score) is same
        assert not np.allclose(low.confidence, high.confidence)


def test_gl_mcm_without_weight_is_mcm() -> None:
    classes, images = make_classes(), make_images()
    local, plain = registry.get("gl-mcm"), registry.get("mcm")
    detector = local.fit(classes, make_settings(local, {"lambda_local": 0}), SCALE)
    np.testing.assert_array_equal(
        local.score(detector, images).score,
        plain.score(plain.fit(classes, plain.settings(), SCALE), images).score,
    )


def test_gl_mcm_in_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    classes, images = make_classes(), make_images()
    assert images.local is not None
    whole = gl_mcm.local_concept_match(images.local, classes.features, 1.0)
    monkeypatch.setattr(gl_mcm, "_COSINES_AT_ONCE", 2 * 9 * 5)
    pieces = gl_mcm.local_concept_match(images.local, classes.features, 1.0)
    np.testing.assert_allclose(pieces, whole, rtol=1e-6)


def test_gl_mcm_survives_a_region_of_zeros() -> None:
    classes, images = make_classes(), make_images()
    assert images.local is not None
    images.local[0, 0] = 0
    method = registry.get("gl-mcm")
    scores = method.score(method.fit(classes, method.settings(), SCALE), images)
    assert np.isfinite(scores.score).all()


def test_gl_mcm_refuses_images_without_local_features() -> None:
    method = registry.get("gl-mcm")
    detector = method.fit(make_classes(), method.settings(), SCALE)
    with pytest.raises(UsageError, match="needs local"):
        method.score(detector, ImageFeatures(make_images().raw))


def test_features_of_another_width_are_refused() -> None:
    method = registry.get("mcm")
    detector = method.fit(make_classes(dim=16), method.settings(), SCALE)
    with pytest.raises(UsageError, match="8 wide and the class embeddings 16"):
        method.score(detector, make_images(dim=8))


def test_top_labels_are_sorted_and_are_probabilities() -> None:
    method, images = registry.get("mcm"), make_images()
    detector = method.fit(make_classes(), method.settings(), SCALE)
    order, probability = logits.top_labels(detector, images, 99)
    scores = method.score(detector, images)
    assert order.shape == probability.shape == (7, 5)
    np.testing.assert_array_equal(order[:, 0], scores.label)
    np.testing.assert_allclose(probability[:, 0], scores.confidence)
    np.testing.assert_allclose(probability.sum(axis=1), 1)
    assert (np.diff(probability, axis=1) <= 0).all()
    assert logits.top_labels(detector, images, 2)[0].shape == (7, 2)


@given(
    st.lists(st.floats(-1e4, 1e4, allow_nan=False), min_size=1, max_size=12),
    st.floats(-1e4, 1e4, allow_nan=False),
)
def test_formulas_hold_for_any_logits(row: list[float], shift: float) -> None:
    given_logits = np.array([row])
    count = len(row)
    p, h = logits.max_probability(given_logits)[0], logits.entropy(given_logits)[0]
    assert 1 / count - 1e-12 <= p <= 1
    assert -1e-9 <= h <= math.log(count) + 1e-9
    energy = logits.free_energy(given_logits, 2.0)[0]
    assert max(row) - 1e-9 <= energy <= max(row) + 2.0 * math.log(count) + 1e-9
    moved = given_logits + shift
    np.testing.assert_allclose(logits.max_probability(moved)[0], p, rtol=1e-6)
    np.testing.assert_allclose(logits.entropy(moved)[0], h, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", 0.0])
@pytest.mark.parametrize("name", ["mcm", "msp", "energy", "entropy", "gl-mcm"])
def test_a_temperature_must_be_positive(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{name}: temperature is .* expected a finite number"):
        make_settings(registry.get(name), {"temperature": value})


def test_settings_are_read_as_typed_or_stored() -> None:
    method = registry.get("gl-mcm")
    settings = make_settings(method, {"temperature": "0.5", "lambda_local": 2})
    assert (settings.temperature, settings.lambda_local) == (0.5, 2.0)
    assert isinstance(settings.lambda_local, float)
    assert make_settings(method, {}) == method.settings()
    with pytest.raises(UsageError, match="did you mean temperature"):
        make_settings(method, {"temprature": 1})
    with pytest.raises(UsageError, match="no setting 'x'; its settings are: none"):
        make_settings(registry.get("max-logit"), {"x": 1})
    for wrong in ("warm", True, None, [1]):
        with pytest.raises(UsageError, match=r"expected a value like 1\.0"):
            make_settings(method, {"temperature": wrong})


def test_a_whole_number_may_be_stored_as_a_decimal_and_a_fraction_is_none() -> None:
    method = registry.get("neglabel")
    for value in (5, 5.0, "5"):
        groups = make_settings(method, {"groups": value}).groups
        assert groups == 5
        assert isinstance(groups, int)
    for wrong in (5.5, "5.5", "five", True, None, float("nan"), float("inf"), [5]):
        with pytest.raises(UsageError, match=r"neglabel: groups is .*expected a value like 0"):
            make_settings(method, {"groups": wrong})


def test_a_switch_takes_true_and_false_alone() -> None:
    method = registry.get("adaneg")
    for value, meant in ((True, True), ("False", False), ("true", True)):
        assert make_settings(method, {"adaptive_gap": value}).adaptive_gap is meant
    for wrong in (1, "yes", 0.0, None):
        with pytest.raises(UsageError, match=r"adaneg: adaptive_gap is .*like False"):
            make_settings(method, {"adaptive_gap": wrong})


def test_a_record_says_one_of_two_kinds_of_stream() -> None:
    with pytest.raises(ValueError, match="stream is 'sometimes'"):
        MethodRecord("x", "X", "p", 2020, "v", "u", "s", "n", stream="sometimes")


def test_a_logit_scale_must_be_positive() -> None:
    method = registry.get("msp")
    with pytest.raises(UsageError, match="logit_scale is 0"):
        method.fit(make_classes(), method.settings(), 0.0)


def test_a_record_needs_known_things() -> None:
    with pytest.raises(ValueError, match="captions"):
        MethodRecord("x", "X", "p", 2020, "v", "u", "s", "n", needs=("captions",))


def test_detector_is_frozen() -> None:
    detector = Detector("mcm", None, ("a",), {}, 1.0)
    with pytest.raises(FrozenInstanceError):
        detector.method = "msp"  # type: ignore[misc]


@pytest.mark.shared
def test_real_embeddings_give_the_known_figures(shared: Path) -> None:
    """CIFAR-10-500 against food and micrographs, as the README of the embeddings reports."""
    folder = shared / "embeddings"

    def words_of(name: str) -> dict[str, Array]:
        names = (folder / name / "names.txt").read_text(encoding="utf-8").split("\n")
        return {
            each.lower(): row for each, row in zip(names, read(f"{name}/features"), strict=False)
        }

    def read(name: str) -> Array:
        return np.asarray(np.load(folder / f"{name}.npy"))

    words = {**words_of("text_o365_vitb32"), **words_of("text_lvis1203_vitb32")}
    names = [each.name for each in read_classes("cifar10")]
    text = [words["car_(automobile)" if name == "automobile" else name] for name in names]
    method = registry.get("mcm")
    detector = method.fit(ClassFeatures.of(names, np.stack(text)), method.settings(), SCALE)
    scores, food, micrographs = (
        method.score(detector, ImageFeatures(read(name).astype(np.float32)))
        for name in (
            "cifar10_500_vitb32/features",
            "food10_vitb32/test_features",
            "micrographs_867_vitb32/features",
        )
    )

    def auroc(ood: Scores) -> float:
        above = scores.score[:, None] > ood.score[None, :]
        return float(above.mean())

    labels = read("cifar10_500_vitb32/labels")
    assert (scores.label == labels).mean() == pytest.approx(0.896)
    assert auroc(food) == pytest.approx(0.918, abs=0.002)
    assert auroc(micrographs) == pytest.approx(0.953, abs=0.002)
