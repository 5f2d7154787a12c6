"""Metrics against scikit-learn, against counting by hand, and against their identities."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from vlood.errors import UsageError
from vlood.evaluation.evaluate import evaluate
from vlood.evaluation.metrics import (
    aupr,
    auroc,
    ccr_at_fpr,
    detection_error,
    fpr_at_tpr,
    id_accuracy,
    roc_curve,
    threshold_at_tpr,
)

# A coarse grid makes ties common; the wide floats make them rare.
tied = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=40)
wide = st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=1, max_size=40)
sides = st.tuples(tied, tied) | st.tuples(wide, wide)
rates = st.sampled_from([0.05, 0.5, 0.8, 0.9, 0.95, 0.99, 1.0]) | st.floats(0.01, 1.0)


def truth_and_scores(inlier, outlier, positive="id"):
    truth = np.repeat([1, 0], [len(inlier), len(outlier)])
    scores = np.concatenate([inlier, outlier])
    return (truth, scores) if positive == "id" else (1 - truth, -scores)


@given(sides)
def test_auroc_is_the_chance_that_id_outscores_ood(sample):
    inlier, outlier = map(np.array, sample)
    won = (inlier[:, None] > outlier).mean() + 0.5 * (inlier[:, None] == outlier).mean()
    assert auroc(inlier, outlier) == pytest.approx(won, abs=1e-12)
    assert auroc(inlier, outlier) == pytest.approx(
        sk.roc_auc_score(*truth_and_scores(inlier, outlier)), abs=1e-12
    )


@given(sides)
def test_auroc_of_swapped_or_negated_sides_is_its_complement(sample):
    inlier, outlier = map(np.array, sample)
    assert auroc(outlier, inlier) == pytest.approx(1 - auroc(inlier, outlier), abs=1e-12)
    assert auroc(-outlier, -inlier) == auroc(inlier, outlier)


@given(sides)
def test_rank_metrics_do_not_change_under_a_rising_map(sample):
    levels = np.unique(np.concatenate(sample))
    ranks = [np.searchsorted(levels, side).astype(float) for side in sample]
    for metric in (auroc, aupr, fpr_at_tpr, detection_error):
        assert metric(*ranks) == metric(*sample)


@pytest.mark.parametrize("positive", ["id", "ood"])
@given(sample=sides)
def test_aupr_equals_scikit_learn_in_both_modes(positive, sample):
    truth, scores = truth_and_scores(*sample, positive)
    precision, recall, _ = sk.precision_recall_curve(truth, scores)
    average = aupr(*sample, positive=positive)
    linear = aupr(*sample, positive=positive, mode="trapezoid")
    assert average == pytest.approx(sk.average_precision_score(truth, scores), abs=1e-12)
    assert linear == pytest.approx(sk.auc(recall, precision), abs=1e-12)


@pytest.mark.parametrize("positive", ["id", "ood"])
@given(sample=sides)
def test_the_curve_equals_scikit_learns_full_one(positive, sample):
    fpr, tpr, thresholds = sk.roc_curve(
        *truth_and_scores(*sample, positive), drop_intermediate=False
    )
    curve = roc_curve(*sample, positive=positive)
    np.testing.assert_array_equal(curve.fpr, fpr[1:])
    np.testing.assert_array_equal(curve.tpr, tpr[1:])
    np.testing.assert_array_equal(curve.thresholds, thresholds[1:])


@given(sides, rates)
def test_canonical_fpr_is_what_the_threshold_at_that_tpr_lets_through(sample, tpr):
    inlier, outlier = map(np.array, sample)
    threshold = threshold_at_tpr(inlier, tpr)
    assert fpr_at_tpr(inlier, outlier, tpr) == (outlier >= threshold).mean()
    assert (inlier >= threshold).mean() >= tpr
    stricter = inlier[inlier > threshold]
    assert stricter.size / inlier.size < tpr


@given(sides, rates)
def test_ood_positive_fpr_is_the_id_positive_one_of_the_mirrored_scores(sample, tpr):
    inlier, outlier = map(np.array, sample)
    for mode in ("canonical", "interp", "nearest"):
        assert fpr_at_tpr(inlier, outlier, tpr, positive="ood", mode=mode) == fpr_at_tpr(
            -outlier, -inlier, tpr, positive="id", mode=mode
        )


@given(sides, rates)
def test_nearest_fpr_follows_its_definition(sample, tpr):
    inlier, outlier = map(np.array, sample)
    thresholds = np.unique(np.concatenate([inlier, outlier]))
    points = [((inlier >= t).mean(), (outlier >= t).mean()) for t in thresholds]
    # Of the points with full TPR only the one with the least FPR takes part.
    full = min(fpr for rate, fpr in points if rate == 1.0)
    taking_part = [(rate, fpr) for rate, fpr in points if rate < 1.0] + [(1.0, full)]
    best = min(abs(rate - tpr) for rate, _ in taking_part)
    rate = max(rate for rate, _ in taking_part if abs(rate - tpr) == best)
    expected = max(fpr for r, fpr in taking_part if r == rate)
    assert fpr_at_tpr(inlier, outlier, tpr, mode="nearest") == expected


def test_the_three_fpr_modes_differ_where_scores_are_tied():
    inlier, outlier = [3.0] * 9 + [1.0], [3.0, 2.0, 1.0, 0.0]
    assert fpr_at_tpr(inlier, outlier) == 0.75
    assert fpr_at_tpr(inlier, outlier, 0.92, mode="nearest") == 0.5
    assert fpr_at_tpr(inlier, outlier, mode="interp") == pytest.approx(0.625)


def test_fpr_counts_a_tpr_that_is_reached_exactly():
    inlier = np.arange(20.0)  # 19 of 20 is 0.95
    assert threshold_at_tpr(inlier) == 1.0
    assert fpr_at_tpr(inlier, [0.5, 1.0]) == 0.5


def test_threshold_is_exact_where_the_product_rounds_up():
    assert math.ceil(0.07 * 100) == 8
    assert threshold_at_tpr(np.arange(100.0), 0.07) == 93.0


def test_separated_and_constant_scores():
    assert auroc([2, 3], [0, 1]) == 1.0
    assert fpr_at_tpr([2, 3], [0, 1]) == 0.0
    assert detection_error([2, 3], [0, 1]) == 0.0
    assert auroc([1, 1], [1, 1, 1]) == 0.5
    assert fpr_at_tpr([1, 1], [1, 1, 1]) == 1.0
    assert fpr_at_tpr([1, 1], [1], mode="interp") == pytest.approx(0.95)
    assert aupr([1, 1, 1, 1], [1, 1, 1]) == pytest.approx(4 / 7)
    assert aupr([1, 1, 1, 1], [1, 1, 1], mode="trapezoid") == pytest.approx((1 + 4 / 7) / 2)
    assert detection_error([0, 1], [2, 3]) == 0.5


@settings(max_examples=50)
@given(sides)
def test_detection_error_by_trying_every_threshold(sample):
    inlier, outlier = map(np.array, sample)
    tried = [*np.unique(np.concatenate([inlier, outlier])), np.inf]
    errors = [((inlier < t).mean() + (outlier >= t).mean()) / 2 for t in tried]
    assert detection_error(inlier, outlier) == pytest.approx(min(errors), abs=1e-12)


def test_accuracy_and_correct_classification_rate():
    assert id_accuracy([0, 1, 2, 2], [0, 1, 1, 2]) == 0.75
    inlier, correct, outlier = [5.0, 4.0, 3.0, 2.0], [True, False, True, True], [4.5, 2.5, 1, 0]
    assert ccr_at_fpr(inlier, correct, outlier, 0.5) == 0.5  # above 2.5
    assert ccr_at_fpr(inlier, correct, outlier, 0.0) == 0.25  # above every OOD score
    assert ccr_at_fpr(inlier, correct, outlier, 1.0) == 0.75


@pytest.mark.parametrize(
    ("inlier", "outlier", "told"),
    [
        ([], [1.0], "no ID scores"),
        ([1.0], [], "no OOD scores"),
        ([1.0, np.nan, np.inf, np.nan], [1.0], "3 of 4 ID scores are not finite (2 NaN, 1 infi"),
        ([1.0], [0.0, -np.inf], "1 of 2 OOD scores are not finite (0 NaN, 1 infinite, first at p"),
        ([[1.0]], [1.0], "shape (1, 1)"),
        (["high"], [1.0], "not numbers"),
    ],
)
def test_refuses_what_no_metric_is_defined_on(inlier, outlier, told):
    for metric in (auroc, aupr, fpr_at_tpr, detection_error, evaluate):
        with pytest.raises(UsageError) as refusal:
            metric(inlier, outlier)
        assert told in str(refusal.value)


def test_refuses_options_it_does_not_know():
    for call in (
        lambda: fpr_at_tpr([1], [0], mode="exact"),
        lambda: fpr_at_tpr([1], [0], 0.0),
        lambda: fpr_at_tpr([1], [0], 95),
        lambda: threshold_at_tpr([1], 1.5),
        lambda: aupr([1], [0], mode="linear"),
        lambda: auroc([1], [float("nan")]),
        lambda: roc_curve([1], [0], positive="neither"),
        lambda: ccr_at_fpr([1], [True, False], [0], 0.5),
        lambda: ccr_at_fpr([1], [True], [0], 2.0),
        lambda: id_accuracy([1, 2], [1]),
        lambda: id_accuracy([], []),
    ):
        with pytest.raises(UsageError):
            call()


def test_evaluate_gathers_the_canonical_figures():
    rng = np.random.default_rng(3)
    inlier, outlier = rng.normal(1, 1, 200), rng.normal(0, 1, 150)
    marks = np.arange(len(inlier)) % 2 == 0
    found = evaluate(inlier, outlier, id_correct=(inlier, marks), resamples=200, seed=4)
    assert (found.n_id, found.n_ood, found.id_accuracy) == (200, 150, 0.5)
    assert found.auroc == auroc(inlier, outlier)
    assert found.aupr_in == aupr(inlier, outlier)
    assert found.aupr_out == aupr(inlier, outlier, positive="ood")
    assert found.fpr95_id_pos == fpr_at_tpr(inlier, outlier)
    assert found.fpr95_ood_pos == fpr_at_tpr(inlier, outlier, positive="ood")
    assert found.auroc_ci_low < found.auroc < found.auroc_ci_high
    assert evaluate(inlier, outlier, resamples=0).auroc_ci_low is None
    nearest = evaluate(inlier, outlier, resamples=0, fpr_mode="nearest", aupr_mode="trapezoid")
    assert nearest.fpr95_id_pos == fpr_at_tpr(inlier, outlier, mode="nearest")
    assert nearest.aupr_in == aupr(inlier, outlier, mode="trapezoid")
