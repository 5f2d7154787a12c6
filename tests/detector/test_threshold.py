from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlood.detector.threshold import Threshold, threshold_from_id
from vlood.errors import UsageError


def test_twenty_scores() -> None:
    threshold = threshold_from_id(np.arange(20.0), 0.95)
    assert threshold == Threshold(1.0, 0.95, 0.95, 20)
    assert threshold.is_ood([0.5, 1.0, 1.5]).tolist() == [True, False, False]


def test_ties_pass_together() -> None:
    threshold = threshold_from_id([0.0, 1.0, 1.0, 1.0, 2.0], 0.5)
    assert threshold.value == 1.0
    assert threshold.tpr == pytest.approx(0.8)


def test_an_exact_share_does_not_ask_for_one_more() -> None:
    assert 0.07 * 100 > 7  # what the rounding is for
    assert threshold_from_id(np.arange(100.0), 0.07).value == 93.0


def test_everything_passes_at_one() -> None:
    assert threshold_from_id([3.0, 1.0, 2.0], 1.0).value == 1.0


def test_a_nan_score_is_never_in_distribution() -> None:
    assert Threshold(0.5).is_ood([math.nan, 1.0]).tolist() == [True, False]


@given(
    st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=1, max_size=60),
    st.floats(0.01, 1.0),
)
def test_it_is_the_largest_that_enough_scores_reach(scores: list[float], target: float) -> None:
    threshold = threshold_from_id(scores, target)
    values = np.array(scores)
    assert threshold.value in scores
    assert threshold.tpr == (values >= threshold.value).mean()
    assert threshold.tpr >= target - 1e-9
    larger = values[values > threshold.value]
    if larger.size:
        assert (values >= larger.min()).mean() < target
    assert threshold.is_ood(values).sum() == round((1 - threshold.tpr) * len(scores))


@pytest.mark.parametrize("target", [0.0, -0.1, 1.01, math.nan])
def test_a_target_outside_its_range_is_refused(target: float) -> None:
    with pytest.raises(UsageError, match="--tpr"):
        threshold_from_id([1.0], target)


def test_scores_that_set_no_threshold_are_refused() -> None:
    with pytest.raises(UsageError, match="there are none"):
        threshold_from_id([])
    with pytest.raises(UsageError, match="2 of 3 ID scores are NaN or infinite"):
        threshold_from_id([math.nan, 1.0, math.inf])
    with pytest.raises(UsageError, match="expected a finite number"):
        Threshold(math.nan)
