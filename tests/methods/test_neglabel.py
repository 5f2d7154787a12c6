"""NegLabel: one log-sum-exp a group against a softmax a group, and what the groups are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.errors import UsageError
from vlood.methods import neglabel
from vlood.methods.contract import Detector, make_settings
from vlood.negatives.negative_features import NegativeFeatures
from vlood.prompts.templates import ClassFeatures

Array = NDArray[Any]
D, SCALE = 16, 100.0


def make_classes(count: int = 4) -> ClassFeatures:
    raw = np.random.default_rng(0).normal(size=(count, D))
    return ClassFeatures.of([f"class {row}" for row in range(count)], raw)


def make_negatives(count: int, permutation: Array | None = None) -> NegativeFeatures:
    raw = np.random.default_rng(1).normal(size=(count, D))
    return NegativeFeatures.of([f"negative {row}" for row in range(count)], raw, permutation)


def make_images(count: int = 9) -> ImageFeatures:
    return ImageFeatures(np.random.default_rng(2).normal(size=(count, D)).astype(np.float32) * 3)


def fit(count: int, scale: float = SCALE, classes: int = 4, **values: Any) -> Detector:
    return neglabel.fit(
        make_classes(classes),
        make_settings(neglabel.METHOD, values),
        scale,
        negatives=make_negatives(count),
    )


def softmax(values: Array) -> Array:
    weights = np.exp(values - values.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def softmax_a_group(positive: Array, groups: list[Array]) -> Array:
    """The score as the paper has it, in double precision: G softmaxes, their ID mass averaged."""
    count = positive.shape[1]
    parts = [softmax(np.concatenate([positive, group], axis=1))[:, :count] for group in groups]
    return np.mean([part.sum(axis=1) for part in parts], axis=0)


def logits_of(images: ImageFeatures, rows: Array, scale: float = SCALE) -> Array:
    return scale * (images.unit.astype(np.float64) @ rows.astype(np.float64).T)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize(("count", "groups"), [(60, 5), (60, 1), (62, 5), (7, 7), (8, 5), (104, 3)])
def test_the_closed_form_is_a_softmax_a_group(count: int, groups: int, temperature: float) -> None:
    detector, images = fit(count, groups=groups, temperature=temperature), make_images()
    negatives = make_negatives(count)
    # Stated anew: the stored permutation, cut into G runs of which the first are larger by one.
    runs = np.array_split(negatives.permutation, groups)
    scale = SCALE / temperature
    expected = softmax_a_group(
        logits_of(images, make_classes().features, scale),
        [logits_of(images, negatives.features[run], scale) for run in runs],
    )
    scores = neglabel.score(detector, images)
    np.testing.assert_allclose(scores.score, expected, rtol=0, atol=1e-6)
    assert scores.score.dtype == np.float64
    cosines = logits_of(images, make_classes().features, 1.0)
    np.testing.assert_array_equal(scores.label, cosines.argmax(axis=1))
    np.testing.assert_allclose(scores.confidence, softmax(SCALE * cosines).max(axis=1), rtol=1e-4)


def test_one_group_is_the_sigmoid_of_the_difference_of_evidence() -> None:
    images = make_images()
    positive = logits_of(images, make_classes().features)
    negative = logits_of(images, make_negatives(50).features)
    evidence = np.logaddexp.reduce(positive, axis=1) - np.logaddexp.reduce(negative, axis=1)
    plain = neglabel.score(fit(50, groups=1), images).score
    np.testing.assert_allclose(plain, 1 / (1 + np.exp(-evidence)), rtol=0, atol=1e-6)


def test_the_score_of_equal_groups_is_the_mean_of_the_groups_own_scores() -> None:
    detector, images = fit(30, groups=3), make_images()
    rows = detector.tensors["negative_features"]
    alone = []
    for group in np.split(np.arange(30), 3):
        negatives = NegativeFeatures.of([str(row) for row in group], rows[group])
        one = neglabel.fit(
            make_classes(), neglabel.NegLabelSettings(groups=1), SCALE, negatives=negatives
        )
        alone.append(neglabel.score(one, images).score)
    whole = neglabel.score(detector, images).score
    np.testing.assert_allclose(whole, np.mean(alone, axis=0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("count", [30, 32])
def test_the_order_inside_a_group_does_not_matter_and_that_of_groups_neither(count: int) -> None:
    images, draw = make_images(), np.random.default_rng(3)
    negatives = make_negatives(count)
    runs = np.array_split(negatives.permutation, 3)
    first, *others = [draw.permutation(run) for run in runs]
    shuffled = np.concatenate([first, *others[::-1]] if count % 3 == 0 else [first, *others])
    scores = []
    for permutation in (negatives.permutation, shuffled):
        given = make_negatives(count, permutation)
        detector = neglabel.fit(
            make_classes(), neglabel.NegLabelSettings(groups=3), SCALE, negatives=given
        )
        scores.append(neglabel.score(detector, images).score)
    assert not np.array_equal(shuffled, negatives.permutation)
    np.testing.assert_allclose(scores[1], scores[0], rtol=0, atol=1e-6)


def test_dropping_leaves_out_the_last_ones_and_spreading_none() -> None:
    negatives = make_negatives(23)
    dropped, spread = fit(23, groups=5, remainder="drop"), fit(23, groups=5)
    last = {"negative 20", "negative 21", "negative 22"}
    assert set(dropped.negative_names) == set(negatives.names) - last
    assert set(spread.negative_names) == set(negatives.names)
    np.testing.assert_array_equal(dropped.tensors["group_sizes"], [4] * 5)
    np.testing.assert_array_equal(spread.tensors["group_sizes"], [5, 5, 5, 4, 4])
    # Those that stay are in the stored permutation's order, whatever is left out.
    kept = [row for row in negatives.permutation.tolist() if row < 20]
    assert dropped.negative_names == tuple(negatives.names[row] for row in kept)
    for detector in (dropped, spread):
        rows = [negatives.names.index(name) for name in detector.negative_names]
        np.testing.assert_array_equal(
            detector.tensors["negative_features"], negatives.features[rows]
        )


def test_dropping_and_spreading_agree_where_nothing_is_left_over() -> None:
    images = make_images()
    first, second = (
        neglabel.score(fit(20, groups=5, remainder=remainder), images).score
        for remainder in neglabel.REMAINDERS
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("negatives", "groups"),
    [(1, 1), (99, 1), (100, 1), (199, 1), (200, 2), (1000, 10), (10_000, 100), (70_000, 100)],
)
def test_groups_hold_about_a_hundred_and_are_at_most_a_hundred(negatives: int, groups: int) -> None:
    assert neglabel.number_of_groups("neglabel", 0, negatives) == groups


@given(st.integers(1, 3000), st.integers(1, 200))
def test_sizes_differ_by_one_at_most_and_cover_everything(negatives: int, groups: int) -> None:
    sizes = neglabel.group_sizes(negatives, groups)
    assert sizes.sum() == negatives
    assert len(sizes) == groups
    assert sizes.max() - sizes.min() <= 1
    assert (np.diff(sizes) <= 0).all()


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from(neglabel.REMAINDERS))
def test_every_negative_is_in_one_group_at_most(count: int, groups: int, remainder: str) -> None:
    groups = min(groups, count)
    order = neglabel.grouped_order(np.random.default_rng(0).permutation(count), groups, remainder)
    kept = count - count % groups if remainder == "drop" else count
    assert sorted(order.tolist()) == list(range(kept))


@settings(deadline=None)
@given(
    st.lists(st.floats(-3e4, 3e4, width=32), min_size=1, max_size=12),
    st.integers(1, 5),
)
def test_evidence_of_groups_holds_for_any_logits(row: list[float], groups: int) -> None:
    logits = np.array([row], np.float32)
    sizes = neglabel.group_sizes(len(row), min(groups, len(row)))
    found = neglabel.grouped_log_sum_exp(logits, sizes)
    cuts = np.cumsum(sizes)[:-1]
    expected = [np.logaddexp.reduce(part) for part in np.split(logits[0].astype(np.float64), cuts)]
    np.testing.assert_allclose(found[0], expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("depth", [50.0, 86.0, 88.0, 95.0, 101.0, 103.0, 104.0, 500.0, 2e4])
def test_a_group_far_below_the_peak_of_its_row_keeps_its_digits(depth: float) -> None:
    logits = np.full((2, 6), -depth, np.float32)
    logits[:, :3] = 0.0
    logits[1] = logits[1, ::-1]
    found = neglabel.grouped_log_sum_exp(logits, np.array([3, 3]))
    expected = np.log(3) + np.array([[0.0, -depth], [-depth, 0.0]])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    # Evidence as weak as the weak group's: half of the mass there and none in the strong group.
    mass = neglabel.id_mass(np.full((2, 3), -depth, np.float32), logits, np.array([3, 3]))
    half = np.mean([0.5, 1 / (1 + np.exp(min(depth, 700.0)))])
    # Single-precision logits of that size are themselves no closer.
    np.testing.assert_allclose(mass, half, atol=1e-6 + 1e-7 * depth)


def test_extreme_logit_scales_give_scores_between_zero_and_one() -> None:
    images = make_images(50)
    for scale in (1e-3, 1e4):
        score = neglabel.score(fit(60, scale=scale, groups=6), images).score
        assert np.isfinite(score).all()
        assert ((score >= 0) & (score <= 1)).all()
    expected = softmax_a_group(
        logits_of(images, make_classes().features, 1e4),
        [
            logits_of(images, make_negatives(60).features[run], 1e4)
            for run in np.split(make_negatives(60).permutation, 6)
        ],
    )
    np.testing.assert_allclose(score, expected, atol=2e-3)


def test_one_class_against_one_negative_is_the_logistic_of_their_difference() -> None:
    detector, images = fit(1, classes=1), make_images()
    difference = logits_of(images, make_classes(1).features) - logits_of(
        images, make_negatives(1).features
    )
    scores = neglabel.score(detector, images)
    np.testing.assert_allclose(scores.score, 1 / (1 + np.exp(-difference[:, 0])), atol=1e-6)
    assert (scores.confidence == 1).all()


def test_more_negatives_never_raise_a_score() -> None:
    images = make_images(30)
    few, more = (neglabel.score(fit(count, groups=1), images).score for count in (20, 40))
    assert (more <= few + 1e-7).all()


def test_more_groups_than_negatives_are_refused_with_what_would_fit() -> None:
    with pytest.raises(
        UsageError, match=r"5 negatives cannot fill 6 groups; use --set groups=1, or mine more"
    ):
        fit(5, groups=6)
    with pytest.raises(UsageError, match=r"250 negatives cannot fill 300.*--set groups=2,"):
        fit(250, groups=300)


def test_negatives_of_another_width_are_refused() -> None:
    others = NegativeFeatures.of(["a"], np.ones((1, D + 1)))
    with pytest.raises(UsageError, match=r"16 wide and the negative embeddings 17; both must"):
        neglabel.fit(make_classes(), neglabel.NegLabelSettings(), SCALE, negatives=others)
    with pytest.raises(UsageError, match="8 wide and the class embeddings 16"):
        neglabel.score(fit(5), ImageFeatures(np.ones((1, 8), np.float32)))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"groups": -1}, "groups is -1; expected a whole number, 0 or more"),
        ({"remainder": "keep"}, "remainder is 'keep'; expected spread or drop"),
        ({"temperature": 0}, "temperature is 0.0; expected a finite number"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=f"neglabel: {sentence}"):
        make_settings(neglabel.METHOD, values)


def test_scoring_in_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, images = fit(60, groups=7), make_images()
    whole = neglabel.score(detector, images).score
    monkeypatch.setattr(neglabel, "_LOGITS_AT_ONCE", 60 * 2)
    np.testing.assert_allclose(neglabel.score(detector, images).score, whole, rtol=0, atol=1e-6)
    monkeypatch.setattr(neglabel, "_LOGITS_AT_ONCE", 1)
    np.testing.assert_allclose(neglabel.score(detector, images).score, whole, rtol=0, atol=1e-6)


def test_a_stored_permutation_gives_the_same_groups_again() -> None:
    images, first = make_images(), make_negatives(60)
    again = NegativeFeatures.of(first.names, first.features, first.permutation.copy())
    other = NegativeFeatures.of(first.names, first.features, seed=1)
    detectors = [
        neglabel.fit(
            make_classes(), neglabel.NegLabelSettings(groups=6), SCALE, negatives=negatives
        )
        for negatives in (first, again, other)
    ]
    scores = [neglabel.score(detector, images).score for detector in detectors]
    assert detectors[0].negative_names == detectors[1].negative_names
    np.testing.assert_array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])
