"""Paired tests between detectors, against plain forms and limits."""

from __future__ import annotations

import numpy as np
import pytest

from vlood.errors import UsageError
from vlood.evaluation.delong import (
    auroc_interval_delong,
    mean_auroc_interval,
    paired_delong,
    paired_mean_delong,
)
from vlood.evaluation.metrics import auroc
from vlood.evaluation.significance import paired_rows, tied_with_best


def some_scores(rng, n_id=80, sizes=(60, 90, 40)):
    """Return two detectors' scores of one ID set and of several OOD sets, correlated."""
    shared = rng.normal(1.2, 1.0, n_id)
    known = [shared + rng.normal(0, 0.7, n_id) for _ in range(2)]
    sets = []
    for size in sizes:
        base = rng.normal(0.0, 1.0, size)
        others = [base + rng.normal(shift, 0.7, size) for shift in (0.0, 0.3)]
        sets.append((known[0], others[0], known[1], others[1]))
    return sets


def plain_mean_variance(sets):
    """Return DeLong's variance of the difference of mean AUROCs, by its definition."""
    id_parts, of_ood = [], 0.0
    for first_id, first_ood, second_id, second_ood in sets:
        a = (first_id[:, None] > first_ood) + 0.5 * (first_id[:, None] == first_ood)
        b = (second_id[:, None] > second_ood) + 0.5 * (second_id[:, None] == second_ood)
        apart = a - b
        id_parts.append(apart.mean(axis=1))
        of_ood += np.var(apart.mean(axis=0), ddof=1) / apart.shape[1]
    means = np.mean(id_parts, axis=0)
    return np.var(means, ddof=1) / len(means) + of_ood / len(sets) ** 2


@pytest.mark.parametrize("seed", range(5))
def test_the_mean_test_follows_its_definition(seed):
    sets = some_scores(np.random.default_rng(seed))
    found = paired_mean_delong(sets)
    assert found.variance == pytest.approx(plain_mean_variance(sets), rel=1e-9)
    first = np.mean([auroc(one[0], one[1]) for one in sets])
    second = np.mean([auroc(one[2], one[3]) for one in sets])
    assert found.first == pytest.approx(first)
    assert found.difference == pytest.approx(first - second)


def test_one_set_is_the_plain_test_and_interval():
    (one,) = some_scores(np.random.default_rng(9), sizes=(50,))
    assert paired_mean_delong([one]) == paired_delong(*one)
    assert mean_auroc_interval([one[:2]]) == auroc_interval_delong(*one[:2])


def test_the_interval_of_a_mean_covers_its_value():
    """Over 400 draws of everything, about 95 % of the intervals hold the true mean."""
    rng = np.random.default_rng(0)
    truths = [0.7602, 0.6382]  # of N(1, 1) and N(.5, 1) above N(0, 1): Phi(d / sqrt 2)
    held = 0
    for _ in range(400):
        known = rng.normal(1.0, 1.0, 60)
        sets = [(known, rng.normal(0.0, 1.0, 50)), (known, rng.normal(0.5, 1.0, 70))]
        interval = mean_auroc_interval(sets)
        held += interval.low <= np.mean(truths) <= interval.high
    assert 0.91 <= held / 400 <= 0.98


def test_sets_with_other_id_images_are_refused():
    rng = np.random.default_rng(1)
    sets = [(rng.normal(size=20), rng.normal(size=9)), (rng.normal(size=21), rng.normal(size=9))]
    with pytest.raises(UsageError, match="same ID images"):
        mean_auroc_interval(sets)
    with pytest.raises(UsageError, match="no OOD set"):
        mean_auroc_interval([])


def test_rows_are_corrected_together_and_equal_detectors_never_differ():
    rng = np.random.default_rng(2)
    sets = some_scores(rng, n_id=300, sizes=(200, 200))
    scores = {
        "good": {f"set{i}": (one[0] + 2, one[1]) for i, one in enumerate(sets)},
        "twin": {f"set{i}": (one[0] + 2, one[1]) for i, one in enumerate(sets)},
        "poor": {f"set{i}": (one[2], one[3]) for i, one in enumerate(sets)},
    }
    rows = paired_rows("known", scores)
    assert [(row.ood, row.first, row.second) for row in rows] == [
        *(("set0", "good", "twin"), ("set1", "good", "twin")),
        *(("set0", "good", "poor"), ("set1", "good", "poor")),
        *(("set0", "twin", "poor"), ("set1", "twin", "poor")),
        *(("mean", "good", "twin"), ("mean", "good", "poor"), ("mean", "twin", "poor")),
    ]
    for row in rows:
        assert row.significant == ("poor" in (row.first, row.second)), row
        assert row.p_holm >= row.p_value
    aurocs = {
        name: rows[2].auroc_first if name != "poor" else rows[2].auroc_second for name in scores
    }
    assert tied_with_best(rows, "set0", aurocs) == ("good", frozenset({"twin"}))


def test_ties_are_those_of_the_set_that_is_asked_for():
    rng = np.random.default_rng(6)
    known, other = rng.normal(2, 1, 200), rng.normal(0, 1, 200)
    noise = [rng.normal(0, 3, 200) for _ in range(2)]
    scores = {
        "best": {"one": (known, other), "two": (known, other)},
        # As good on one set, much worse on the other.
        "half": {"one": (known, other), "two": (known + noise[0], other + noise[1])},
    }
    rows = paired_rows("known", scores)
    aurocs = {"half": 0.8, "best": 0.9}
    assert tied_with_best(rows, "one", aurocs) == ("best", frozenset({"half"}))
    assert tied_with_best(rows, "two", aurocs) == ("best", frozenset())
    # Whichever of the two comes first in a row.
    assert tied_with_best(rows, "two", {"half": 0.9, "best": 0.8}) == ("half", frozenset())


def test_one_detector_alone_has_nothing_to_compare():
    assert paired_rows("known", {"one": {"set": ([1.0, 2.0], [0.0, 0.5])}}) == []


def test_a_row_holds_the_test_it_stands_for_and_holms_correction():
    rng = np.random.default_rng(3)
    sets = some_scores(rng, sizes=(40, 50))
    scores = {
        "a": {name: one[:2] for name, one in zip(("near", "far"), sets, strict=True)},
        "b": {name: one[2:] for name, one in zip(("near", "far"), sets, strict=True)},
        "c": {"far": (sets[1][0] * 2 + sets[1][2], sets[1][1] * 2 + sets[1][3])},
    }
    rows = paired_rows("known", scores, mean_name="all")
    tests = {
        ("near", "a", "b"): paired_mean_delong([sets[0]]),
        ("far", "a", "b"): paired_mean_delong([sets[1]]),
        ("far", "a", "c"): paired_delong(*sets[1][:2], *scores["c"]["far"]),
        ("far", "b", "c"): paired_delong(*sets[1][2:], *scores["c"]["far"]),
        ("all", "a", "b"): paired_mean_delong(sets),
    }
    assert [(row.ood, row.first, row.second) for row in rows] == list(tests)
    for row, test in zip(rows, tests.values(), strict=True):
        assert row.id == "known"
        assert (row.auroc_first, row.auroc_second) == (test.first, test.second)
        assert (row.difference, row.low, row.high) == (test.difference, test.low, test.high)
        assert row.p_value == test.p_value
    # The four tests on single sets are corrected together, that of the mean is alone.
    rising = sorted(rows[:4], key=lambda row: row.p_value)
    least = 0.0
    for left, row in zip((4, 3, 2, 1), rising, strict=True):
        least = max(least, min(1.0, left * row.p_value))
        assert row.p_holm == pytest.approx(least)
    assert rows[4].p_holm == rows[4].p_value
    assert rows[0].record()["p_holm"] == rows[0].p_holm
