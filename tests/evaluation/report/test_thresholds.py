"""The threshold grid counts exactly what plain comparisons count."""

from __future__ import annotations

import numpy as np
import pytest

from vlood.evaluation.report.thresholds import nearest_to, threshold_grid


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("threshold", [0.2, 0.7310000001, -5.0, 9.0])
def test_counts_are_those_of_plain_comparisons(ties, threshold):
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(1, 1, 400), {"a": rng.normal(size=3000), "b": rng.normal(size=7)}
    if ties:
        inside, outside = inside.round(1), {n: s.round(1) for n, s in outside.items()}
    grid = threshold_grid(inside, outside, threshold, id_name="id")
    assert grid.thresholds[grid.start] == threshold
    assert np.all(np.diff(grid.thresholds) > 0)
    for name, scores in {"id": inside, **outside}.items():
        plain = [(scores >= t).sum() for t in grid.thresholds]
        assert grid.accepted[name].tolist() == plain
        assert grid.totals[name] == scores.size


def test_the_grid_spans_from_all_to_nothing_and_is_bounded():
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(size=100_000), {"a": rng.normal(size=10)}
    grid = threshold_grid(inside, outside, 0.0, id_name="id")
    assert 150 <= len(grid.thresholds) <= 302
    assert grid.accepted["a"][0] == 10
    assert grid.accepted["id"][0] == inside.size
    assert grid.accepted["a"][-1] == 0
    assert grid.accepted["id"][-1] == 0


def test_both_sides_are_fine_however_unequal():
    rng = np.random.default_rng(0)
    grid = threshold_grid(rng.normal(10, 1, 50), {"a": rng.normal(size=50_000)}, 5.0, id_name="id")
    assert len(set(grid.accepted["id"].tolist())) > 45


def test_the_nearest_images_come_first_from_both_sides():
    scores = {"id": np.array([0.9, 0.52, 0.1]), "ood": np.array([0.49, 0.5, 0.45])}
    assert nearest_to(scores, 0.5, 2) == [("ood", 1), ("ood", 0), ("id", 1), ("ood", 2)]
    assert nearest_to({}, 0.5, 2) == []
