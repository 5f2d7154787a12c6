"""Paired bootstrap: the fast form against the plain one draw for draw; Holm by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlood.errors import UsageError
from vlood.evaluation.bootstrap import (
    FIGURES,
    FigureResampler,
    bootstrap_interval,
    figure_intervals,
)
from vlood.evaluation.delong import paired_delong
from vlood.evaluation.metrics import aupr, auroc, detection_error, fpr_at_tpr
from vlood.evaluation.oscr import oscr
from vlood.evaluation.paired import (
    holm,
    paired_bootstrap,
    paired_bootstrap_rows,
    paired_figures,
)

PLAIN = {
    "auroc": auroc,
    "aupr_in": aupr,
    "aupr_out": lambda known, other: aupr(known, other, positive="ood"),
    "fpr95_id_pos": fpr_at_tpr,
    "fpr95_ood_pos": lambda known, other: fpr_at_tpr(known, other, positive="ood"),
}


def two_detectors(seed, n=None, m=None):
    rng = np.random.default_rng(seed)
    n, m = n or int(rng.integers(1, 60)), m or int(rng.integers(1, 60))
    image = rng.normal(1, 1, n), rng.normal(0, 1, m)
    scores = [side + rng.normal(0, noise, side.size) for noise in (0.3, 1.0) for side in image]
    return [np.round(side) for side in scores] if seed % 2 else scores


def test_every_figure_has_a_plain_form_here():
    assert set(PLAIN) == set(FIGURES)


@pytest.mark.parametrize("seed", range(50))
def test_weighted_figures_equal_the_metrics_of_repeated_images(seed):
    known, other, *_ = two_detectors(seed)
    measured, rng = FigureResampler(known, other), np.random.default_rng(seed)
    for _ in range(4):
        rows = [rng.integers(side.size, size=side.size) for side in (known, other)]
        weights = [np.bincount(row, minlength=row.size) for row in rows]
        found = dict(zip(FIGURES, measured.figures(FIGURES, *weights), strict=True))
        for figure, metric in PLAIN.items():
            expected = metric(known[rows[0]], other[rows[1]])
            if figure.startswith("aupr"):
                assert found[figure] == pytest.approx(expected, abs=1e-12)
            else:
                assert found[figure] == expected, figure


tied = st.lists(st.integers(-2, 2).map(float), min_size=1, max_size=12)


@settings(max_examples=25)
@given(tied, tied, st.integers(0, 2**32))
def test_figure_intervals_equal_the_plain_bootstrap(known, other, seed):
    found = figure_intervals(known, other, resamples=15, seed=seed)
    for figure, metric in PLAIN.items():
        plain = bootstrap_interval(metric, known, other, resamples=15, seed=seed)
        for end in ("value", "low", "high"):
            assert getattr(found[figure], end) == pytest.approx(getattr(plain, end), abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_paired_figures_equal_the_plain_form(seed):
    scores = two_detectors(seed)
    found = paired_figures(*scores, resamples=30, seed=seed)
    for figure, metric in PLAIN.items():
        plain = paired_bootstrap(metric, *scores, resamples=30, seed=seed)
        for part in ("first", "second", "difference", "low", "high"):
            expected = getattr(plain, part)
            assert getattr(found[figure], part) == pytest.approx(expected, abs=1e-12), figure
        if not figure.startswith("aupr"):  # those may differ in the last digit around 0
            assert found[figure] == plain


def test_one_image_a_side_is_enough():
    found = paired_bootstrap_rows(lambda *_: 0.75, lambda *_: 0.5, 1, 1, resamples=4)
    assert (found.first, found.second, found.difference) == (0.75, 0.5, 0.25)
    assert (found.low, found.high) == (0.25, 0.25)


def test_both_detectors_are_measured_on_the_same_rows():
    seen = [], []
    paired_bootstrap_rows(
        lambda *rows: seen[0].append(rows) or 0.0,
        lambda *rows: seen[1].append(rows) or 0.0,
        7,
        5,
        resamples=10,
    )
    assert len(seen[0]) == 11
    for one, other in zip(*seen, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
        assert (one[0].size, one[1].size) == (7, 5)
        assert one[0].max() < 7
        assert one[1].max() < 5


def test_the_interval_is_delongs_and_narrower_than_an_unpaired_one():
    scores = two_detectors(4, 400, 300)
    found, exact = paired_figures(*scores, ["auroc"])["auroc"], paired_delong(*scores)
    assert found.difference == pytest.approx(exact.difference, abs=1e-12)
    assert found.high - found.low == pytest.approx(exact.high - exact.low, rel=0.12)
    alone = [figure_intervals(*scores[k : k + 2], ["auroc"])["auroc"] for k in (0, 2)]
    assert found.high - found.low < np.hypot(*(one.high - one.low for one in alone))
    assert found.p_value == pytest.approx(exact.p_value, abs=0.04)


def test_a_clear_difference_has_the_least_p_value_there_is():
    rng = np.random.default_rng(0)
    sharp = rng.normal(2, 1, 100), rng.normal(0, 1, 100)
    blunt = rng.normal(0, 1, 100), rng.normal(0, 1, 100)
    assert paired_figures(*sharp, *blunt, ["auroc"])["auroc"].p_value == 2 / 1001


def test_a_detector_does_not_differ_from_itself():
    known, other = [1.0, 1.0, 0.0], [0.0, 1.0]
    for found in paired_figures(known, other, known, other, resamples=20).values():
        assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_constant_scores_against_separation():
    found = paired_figures([2, 3], [0, 1], [0, 0], [0, 0], ["auroc"], resamples=99)["auroc"]
    assert (found.difference, found.low, found.high, found.p_value) == (0.5, 0.5, 0.5, 0.02)


def test_any_metric_and_metrics_that_need_more_than_scores():
    scores = two_detectors(2, 30, 20)
    found = paired_bootstrap(detection_error, *scores, resamples=50, seed=3)
    assert found.first == detection_error(*scores[:2])
    assert found.second == detection_error(*scores[2:])
    assert found.difference == found.first - found.second
    assert found.low <= found.high
    assert (found.resamples, found.seed, found.level) == (50, 3, 0.95)
    assert paired_bootstrap(detection_error, *scores, resamples=50, seed=3) == found
    assert paired_bootstrap(detection_error, *scores, resamples=50, seed=4) != found
    right = np.arange(30) % 3 > 0, np.arange(30) % 2 > 0
    rates = paired_bootstrap_rows(
        lambda known, other: oscr(scores[0][known], right[0][known], scores[1][other]),
        lambda known, other: oscr(scores[2][known], right[1][known], scores[3][other]),
        30,
        20,
        resamples=50,
    )
    assert rates.first == oscr(scores[0], right[0], scores[1])
    assert rates.low <= rates.difference <= rates.high


def test_a_difference_says_how_it_was_drawn_and_what_its_ends_are():
    scores = two_detectors(2, 30, 20)
    found = paired_figures(*scores, ["auroc"], resamples=40, level=0.8, seed=6)["auroc"]
    rng, drawn = np.random.default_rng(6), []
    for _ in range(40):
        known, other = rng.integers(30, size=30), rng.integers(20, size=20)
        sides = [scores[k][rows] for k, rows in enumerate((known, other, known, other))]
        drawn.append(auroc(*sides[:2]) - auroc(*sides[2:]))
    assert (found.first, found.second) == (auroc(*scores[:2]), auroc(*scores[2:]))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.1, 0.9])))
    beyond = min(sum(each <= 0 for each in drawn), sum(each >= 0 for each in drawn))
    assert found.p_value == pytest.approx(min(1, 2 * (beyond + 1) / 41))
    assert (found.level, found.resamples, found.seed) == (0.8, 40, 6)


def test_holm_by_hand():
    # Sorted: 0.005 * 4, 0.01 * 3, 0.03 * 2, 0.04 * 1 raised to the one before.
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.7]), [1.0, 1.0])
    np.testing.assert_allclose(holm([0.03]), [0.03])
    assert holm([]).shape == (0,)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_rejects_what_stepping_down_rejects(p_values, alpha):
    order, rejected = np.argsort(p_values, kind="stable"), set()
    for step, k in enumerate(order):
        if (len(p_values) - step) * p_values[k] > alpha:
            break
        rejected.add(int(k))
    adjusted = holm(p_values)
    assert set(np.flatnonzero(adjusted <= alpha)) == rejected
    assert (adjusted >= p_values).all()


def test_refuses_what_is_not_paired():
    with pytest.raises(UsageError, match="same images"):
        paired_figures([1, 2], [0], [1], [0])
    with pytest.raises(UsageError, match="2 OOD scores and the second 1"):
        paired_bootstrap(auroc, [1], [0, 1], [1], [0])
    with pytest.raises(UsageError, match="at least one of each"):
        paired_bootstrap_rows(lambda *_: 0.0, lambda *_: 0.0, 0, 3)
    for form in (paired_figures, lambda *a, **k: paired_bootstrap(auroc, *a, **k)):
        for options in ({"resamples": 0}, {"level": 1.0}):
            with pytest.raises(UsageError):
                form([1], [0], [1], [0], **options)
    for form in (paired_figures, lambda a, b, c, d, names: figure_intervals(a, b, names)):
        with pytest.raises(UsageError, match="'f1' has no resampled form"):
            form([1], [0], [1], [0], ["f1"])
    for wrong in ([0.5, 1.5], [-0.1], [np.nan], [[0.5]]):
        with pytest.raises(UsageError):
            holm(wrong)
