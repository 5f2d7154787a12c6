"""The choice between detectors: ties, margins, folds, and what decides among equals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlood.errors import UsageError
from vlood.evaluation.choosing import LEFT_OUT, NOTHING, OOD_SETS, Trial, choose, folds_of
from vlood.evaluation.metrics import auroc


def drawn(shift: float, seed: int, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(shift, 1, n), rng.normal(0, 1, n)


GOOD, SAME = drawn(2.0, 0), drawn(2.0, 0)
BAD = drawn(0.5, 0)


def test_the_simplest_of_those_not_told_apart_is_chosen() -> None:
    noisy = (GOOD[0] + np.random.default_rng(1).normal(0, 0.05, 200), GOOD[1])
    trials = [
        Trial("trained", 3, 10, (GOOD,)),
        Trial("plain", 0, 99, (noisy,)),
        Trial("bad", 0, 1, (BAD,)),
    ]
    found = choose(trials, OOD_SETS)
    assert found.best == "trained" or auroc(*noisy) >= auroc(*GOOD)
    assert found.chosen == "plain"
    assert set(found.tied) == {"plain", "trained"}
    assert found.behind["bad"].low > 0
    assert found.aurocs["bad"].value == pytest.approx(auroc(*BAD))


def test_a_clearly_better_method_is_chosen_whatever_it_asks_for() -> None:
    found = choose([Trial("plain", 0, 1, (BAD,)), Trial("trained", 3, 10**9, (GOOD,))], OOD_SETS)
    assert (found.chosen, found.tied) == ("trained", ("trained",))


def test_among_equals_arrays_decide_and_then_names_never_the_order() -> None:
    trials = [Trial("b", 1, 5, (SAME,)), Trial("c", 1, 4, (GOOD,)), Trial("a", 1, 5, (SAME,))]
    for order in (trials, trials[::-1]):
        found = choose(order, OOD_SETS)
        assert (found.chosen, found.best, found.tied) == ("c", "c", ("c", "a", "b"))


def test_a_sure_difference_that_is_not_worth_it_counts_for_nothing() -> None:
    known, other = np.arange(1000.0) + 500, np.arange(1000.0)
    better = (np.where(known > 1400, known + 500, known + 9), other)
    trials = [Trial("plain", 0, 1, ((known, other),)), Trial("trained", 2, 1, (better,))]
    strict = choose(trials, OOD_SETS, margin=0.0)
    assert 0 < strict.behind["plain"].low < strict.behind["plain"].value < 0.02
    assert strict.chosen == "trained"
    assert choose(trials, OOD_SETS, margin=0.02).chosen == "plain"


def test_a_difference_of_just_the_margin_is_not_worth_it() -> None:
    # Separated without and all tied: AUROCs of 1 and 1/2, with no spread at all.
    apart, tied = ([2.0, 3.0], [0.0, 1.0]), ([5.0, 5.0], [5.0, 5.0])
    trials = [
        Trial(name, level, 1, (tuple(np.array(side) for side in one),))
        for name, level, one in (("plain", 0, tied), ("trained", 1, apart))
    ]
    assert choose(trials, OOD_SETS, margin=0.5).chosen == "plain"
    assert choose(trials, OOD_SETS, margin=0.499).chosen == "trained"


def test_folds_are_compared_by_their_own_aurocs() -> None:
    folds = tuple(drawn(2.0, seed, 50) for seed in range(5))
    worse = tuple(drawn(1.0, seed, 50) for seed in range(5))
    found = choose([Trial("worse", 0, 1, worse), Trial("better", 2, 1, folds)], LEFT_OUT)
    values = np.array([auroc(*one) for one in folds])
    assert found.chosen == "better"
    assert found.aurocs["better"].value == pytest.approx(values.mean())
    # Student's quantile for four degrees of freedom, from a table.
    reach = 2.776445 * values.std(ddof=1) / np.sqrt(5)
    assert found.aurocs["better"].low == pytest.approx(values.mean() - reach, abs=1e-6)
    assert found.aurocs["better"].high == pytest.approx(min(1, values.mean() + reach), abs=1e-6)
    apart = values - np.array([auroc(*one) for one in worse])
    reach = 2.776445 * apart.std(ddof=1) / np.sqrt(5)
    behind = found.behind["worse"]
    assert behind.value == pytest.approx(apart.mean())
    assert (behind.low, behind.high) == pytest.approx(
        (apart.mean() - reach, apart.mean() + reach), abs=1e-6
    )
    best = found.behind["better"]
    assert (best.value, best.low, best.high) == (0, 0, 0)


def test_two_folds_are_enough_for_an_interval() -> None:
    one, other = drawn(1.0, 3, 50), drawn(1.0, 4, 50)
    found = choose([Trial("only", 0, 1, (one, other))], LEFT_OUT).aurocs["only"]
    first, second = auroc(*one), auroc(*other)
    assert found.value == pytest.approx((first + second) / 2)
    # Student's quantile for one degree of freedom; the spread of two is half their distance.
    reach = 12.7062 * abs(first - second) / 2
    assert found.low == pytest.approx(max(0.0, found.value - reach), abs=1e-5)
    assert found.high == pytest.approx(min(1.0, found.value + reach), abs=1e-5)


def test_five_folds_are_made_where_there_are_classes_enough() -> None:
    for classes, folds in ((4, 4), (5, 5), (6, 5), (40, 5)):
        assert len(folds_of(classes, 0)) == folds
    assert len(folds_of(40, 0, most=7)) == 7


def test_one_fold_tells_nothing_apart() -> None:
    found = choose([Trial("plain", 0, 1, (BAD,)), Trial("good", 1, 1, (GOOD,))], LEFT_OUT)
    assert (found.best, found.chosen) == ("good", "plain")


def test_with_nothing_measured_the_simplest_is_chosen_and_no_figure_is_given() -> None:
    found = choose([Trial("b", 2, 1), Trial("a", 0, 9)], NOTHING)
    assert (found.chosen, found.best, found.aurocs, found.behind) == ("a", None, {}, {})


def test_nothing_to_choose_from_is_refused() -> None:
    with pytest.raises(UsageError, match="no method could be tried"):
        choose([], OOD_SETS)


@settings(max_examples=50, deadline=None)
@given(st.integers(3, 40), st.integers(0, 100))
def test_every_class_is_left_out_once_and_two_stay(classes: int, seed: int) -> None:
    folds = folds_of(classes, seed)
    assert sorted(np.concatenate(folds).tolist()) == list(range(classes))
    assert all(1 <= len(one) <= classes - 2 for one in folds)


@pytest.mark.parametrize("classes", [1, 2])
def test_too_few_classes_have_no_folds(classes: int) -> None:
    assert folds_of(classes, 0) == []
