"""Rates at a deployed threshold: counts by hand, exact intervals against the binomial itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlood.errors import UsageError
from vlood.evaluation.deployed import at_threshold, clopper_pearson
from vlood.evaluation.metrics import fpr_at_tpr, threshold_at_tpr


def at_most(count, total, rate):
    return sum(math.comb(total, k) * rate**k * (1 - rate) ** (total - k) for k in range(count + 1))


def solved(tail, falling):
    """Where a falling chance of the rate equals `tail`, by halving."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > tail else (low, middle)
    return low


@settings(max_examples=50)
@given(st.data(), st.integers(1, 40), st.sampled_from([0.8, 0.95, 0.99]))
def test_the_ends_are_where_the_binomial_leaves_half_the_rest(data, total, level):
    count = data.draw(st.integers(0, total))
    found, tail = clopper_pearson(count, total, level=level), (1 - level) / 2
    assert found.low <= found.value <= found.high
    # The highest rate at which so few are still likely enough, the lowest at which so many are.
    high = 1.0 if count == total else solved(tail, lambda rate: at_most(count, total, rate))
    missed = total - count
    low = 1 - (1.0 if count == 0 else solved(tail, lambda rate: at_most(missed, total, rate)))
    assert found.high == pytest.approx(high, abs=1e-9)
    assert found.low == pytest.approx(low, abs=1e-9)


def test_known_ends():
    assert clopper_pearson(0, 10).high == pytest.approx(1 - 0.025**0.1)
    assert clopper_pearson(0, 10).low == 0.0
    assert clopper_pearson(10, 10).low == pytest.approx(0.025**0.1)
    assert clopper_pearson(10, 10).high == 1.0
    found = clopper_pearson(5, 10)
    assert (found.low, found.high) == (
        pytest.approx(0.18708602844739855),
        pytest.approx(0.8129139715526015),
    )


@pytest.mark.parametrize("rate", [0.03, 0.5, 0.9])
def test_covers_at_least_its_level(rate):
    total = 40
    chance = [
        at_most(k, total, rate) - (at_most(k - 1, total, rate) if k else 0) for k in range(41)
    ]
    intervals = [clopper_pearson(k, total) for k in range(41)]
    covered = sum(c for c, i in zip(chance, intervals, strict=True) if i.low <= rate <= i.high)
    assert covered >= 0.95


def test_counts_by_hand_and_a_score_at_the_threshold_is_accepted():
    found = at_threshold([3.0, 2.0, 1.0, 0.0], [2.0, 1.0, 0.0], 1.0, level=0.9)
    assert (found.id_accepted, found.id_rejected) == (3, 1)
    assert (found.ood_accepted, found.ood_rejected) == (2, 1)
    assert (found.tpr.value, found.fpr.value, found.threshold) == (0.75, 2 / 3, 1.0)
    assert found.tpr == clopper_pearson(3, 4, level=0.9)
    assert at_threshold([1.0], [1.0], 2.0).tpr.value == 0.0
    assert at_threshold([1.0, 1.0], [1.0], 1.0).fpr.value == 1.0
    assert at_threshold([1.0], [1.0], -math.inf).id_rejected == 0


@settings(max_examples=40)
@given(*[st.lists(st.integers(-3, 3), min_size=1, max_size=20)] * 2)
def test_at_the_threshold_of_these_images_it_is_fpr_at_tpr(known, other):
    found = at_threshold(known, other, threshold_at_tpr(known))
    assert found.fpr.value == fpr_at_tpr(known, other)
    assert found.tpr.value >= 0.95


def test_a_threshold_for_each_class_by_margins():
    known, limits = np.array([0.3, 0.7, 0.3]), np.array([0.1 + 0.2, 0.7, 0.3])
    found = at_threshold(known - limits, [-1.0], 0.0)
    assert found.id_accepted == int((known >= limits).sum()) == 2


def test_refuses_what_is_no_share():
    for count, total in ((1, 0), (-1, 5), (6, 5)):
        with pytest.raises(UsageError, match="no share"):
            clopper_pearson(count, total)
    with pytest.raises(UsageError, match="level"):
        clopper_pearson(1, 2, level=1.0)
    with pytest.raises(UsageError, match="threshold is NaN"):
        at_threshold([1], [0], math.nan)
    with pytest.raises(UsageError, match="no ID scores"):
        at_threshold([], [0], 0.0)
