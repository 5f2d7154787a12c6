"""Scores on one scale: ranks, logistic and isotonic curves against plain references."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import rankdata

from vlood.errors import UsageError
from vlood.methods.score_levels import (
    isotonic_curve,
    levels_at,
    platt_curve,
    rank_curve,
    tail_width,
)

RNG = np.random.default_rng(5)
KNOWN = RNG.normal(3, 2, 200)
STRANGE = RNG.normal(0, 2, 150)


def test_a_known_image_has_its_mean_rank() -> None:
    scores = np.round(KNOWN)  # many ties
    curve = rank_curve(scores)
    found = levels_at("ranks", curve.points, curve.levels, scores)
    np.testing.assert_allclose(found, rankdata(scores) / (len(scores) + 1), atol=1e-6)


def test_ranks_go_on_rising_beyond_the_known_scores() -> None:
    curve = rank_curve(KNOWN)
    spread = np.linspace(KNOWN.min() - 50, KNOWN.max() + 50, 500)
    found = levels_at("ranks", curve.points, curve.levels, spread)
    assert (np.diff(found) > 0).all()
    assert found[0] > 0
    assert found[-1] < 1


def test_many_scores_are_thinned() -> None:
    many = RNG.normal(size=50_000)
    curve = rank_curve(many)
    assert len(curve.points) == 2000
    found = levels_at("ranks", curve.points, curve.levels, many)
    np.testing.assert_allclose(found, rankdata(many) / 50_001, atol=1 / 2000)


def test_platt_is_a_balanced_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    values = np.r_[KNOWN, STRANGE]
    rows = ((values - values.mean()) / values.std())[:, None]
    plain = LogisticRegression(class_weight="balanced").fit(rows, np.arange(350) < 200)
    curve = platt_curve(KNOWN, STRANGE)
    found = levels_at("platt", curve.points, curve.levels, values)
    np.testing.assert_allclose(found, plain.predict_proba(rows)[:, 1], atol=1e-5)


def test_isotonic_never_falls_and_fits_the_share_of_known_images() -> None:
    curve = isotonic_curve([1, 1, 1, 0], [0, 0, 0, 1])
    found = levels_at("isotonic", curve.points, curve.levels, np.array([-5.0, 0, 1, 9]))
    np.testing.assert_allclose(found, [0.25, 0.25, 0.75, 0.75])
    wide = isotonic_curve(KNOWN, STRANGE)
    assert (np.diff(wide.levels) >= 0).all()
    assert 0 < wide.levels[0] < wide.levels[-1] < 1


def test_scores_that_say_nothing_are_refused() -> None:
    for make in (platt_curve, isotonic_curve):
        with pytest.raises(UsageError, match="as high as the known"):
            make(STRANGE, KNOWN)
        with pytest.raises(UsageError, match="same score"):
            make(np.ones(3), np.ones(3))
    with pytest.raises(UsageError, match="same score"):
        rank_curve(np.ones(5))


def test_a_tail_halves_within_the_quartiles_or_between_the_ends() -> None:
    levels = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    assert tail_width(np.array([0.0, 2.0, 3.0, 7.0, 20.0]), levels) == 5.0
    assert tail_width(np.array([0.0, 2.0, 2.0, 2.0, 20.0]), levels) == 20.0
    # Between two points the quartiles lie on the line.
    assert tail_width(np.array([0.0, 8.0]), np.array([0.0, 1.0])) == 4.0
