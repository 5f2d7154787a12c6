"""OSCR against all pairs, against its curve, and its identities with AUROC and accuracy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlood.errors import UsageError
from vlood.evaluation.metrics import auroc, ccr_at_fpr
from vlood.evaluation.oscr import oscr, oscr_curve


def by_pairs(known, correct, other):
    wins = (known[:, None] > other) + 0.5 * (known[:, None] == other)
    return (wins * correct[:, None]).mean()


def random_set(seed):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 50, size=2)
    known, other = rng.normal(1, 1, n), rng.normal(0, 1, m)
    if seed % 2:
        known, other = np.round(known), np.round(other)
    return known, rng.random(n) < 0.7, other


@pytest.mark.parametrize("seed", range(50))
def test_equals_all_pairs_and_the_area_under_its_curve(seed):
    known, correct, other = random_set(seed)
    found = oscr(known, correct, other)
    assert found == pytest.approx(by_pairs(known, correct, other), abs=1e-12)
    curve = oscr_curve(known, correct, other)
    heights = np.append(0, curve.ccr)
    area = np.sum(np.diff(curve.fpr, prepend=0) * (heights[1:] + heights[:-1]) / 2)
    assert found == pytest.approx(area, abs=1e-12)
    for threshold, ccr, fpr in zip(curve.thresholds, curve.ccr, curve.fpr, strict=True):
        assert ccr == ((known >= threshold) & correct).mean()
        assert fpr == (other >= threshold).mean()
    assert (curve.ccr[-1], curve.fpr[-1]) == (correct.mean(), 1.0)


@pytest.mark.parametrize("seed", range(0, 10, 2))
def test_without_ties_it_is_the_mean_of_the_rates_at_every_fpr(seed):
    known, correct, other = random_set(seed)
    rates = [ccr_at_fpr(known, correct, other, (k + 0.5) / other.size) for k in range(other.size)]
    assert oscr(known, correct, other) == pytest.approx(np.mean(rates), abs=1e-12)


rows = st.lists(st.tuples(st.integers(-2, 2), st.booleans()), min_size=1, max_size=12)
tied = st.lists(st.integers(-2, 2), min_size=1, max_size=12)


@settings(max_examples=60)
@given(rows, tied)
def test_is_accuracy_times_the_auroc_of_the_correct(marked, other):
    known, correct = np.array([row[0] for row in marked]), np.array([row[1] for row in marked])
    assert oscr(known, np.ones(known.size), other) == auroc(known, other)
    assert oscr(known, np.zeros(known.size), other) == 0.0
    if correct.any():
        expected = correct.mean() * auroc(known[correct], other)
        assert oscr(known, correct, other) == pytest.approx(expected, abs=1e-12)


def test_constant_scores_are_worth_half_the_accuracy():
    assert oscr([1, 1, 1, 1], [True, True, True, False], [1, 1]) == 0.375
    assert oscr([1], [True], [0]) == 1.0


def test_refuses_marks_that_are_none():
    with pytest.raises(UsageError, match="2 ID scores meet 1 marks"):
        oscr([1, 2], [True], [0])
    for marks in ([3, 1], [0.5, 1.0], [np.nan, 1.0], ["cat", "dog"]):
        with pytest.raises(UsageError, match="not all true or false"):
            oscr([1, 2], marks, [0])
    with pytest.raises(UsageError, match="no OOD scores"):
        oscr_curve([1, 2], [True, False], [])
