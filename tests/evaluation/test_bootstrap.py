"""Bootstrap intervals: the fast form against the plain one, coverage of shape, options."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlood.errors import UsageError
from vlood.evaluation.bootstrap import auroc_interval, bootstrap_interval, figure_intervals
from vlood.evaluation.metrics import auroc, fpr_at_tpr

tied = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=25)


@settings(max_examples=25)
@given(tied, tied, st.integers(0, 2**32))
def test_the_fast_form_equals_the_plain_one_draw_for_draw(inlier, outlier, seed):
    # Sorted, both forms number the images alike, so equal draws pick equal images.
    inlier, outlier = sorted(inlier), sorted(outlier)
    fast = auroc_interval(inlier, outlier, resamples=30, seed=seed)
    plain = bootstrap_interval(auroc, inlier, outlier, resamples=30, seed=seed)
    assert fast.value == plain.value
    assert fast.low == pytest.approx(plain.low, abs=1e-12)
    assert fast.high == pytest.approx(plain.high, abs=1e-12)


def test_width_is_that_of_the_known_standard_error():
    rng = np.random.default_rng(0)
    inlier, outlier = rng.normal(1, 1, 800), rng.normal(0, 1, 600)
    found = auroc_interval(inlier, outlier)
    below = np.searchsorted(np.sort(outlier), inlier) / outlier.size
    above = 1 - np.searchsorted(np.sort(inlier), outlier) / inlier.size
    error = np.sqrt(below.var() / inlier.size + above.var() / outlier.size)  # DeLong, 1988
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.12)
    assert found.low < found.value < found.high


def test_same_seed_same_interval_and_the_order_of_images_does_not_matter():
    rng = np.random.default_rng(5)
    inlier, outlier = rng.normal(1, 1, 90), rng.normal(0, 1, 70)
    first = auroc_interval(inlier, outlier, resamples=100, seed=1)
    assert auroc_interval(inlier[::-1], rng.permutation(outlier), resamples=100, seed=1) == first
    assert auroc_interval(inlier, outlier, resamples=100, seed=2) != first


def test_a_wider_level_holds_a_narrower_one_and_separation_has_no_spread():
    rng = np.random.default_rng(6)
    inlier, outlier = rng.normal(1, 1, 90), rng.normal(0, 1, 70)
    narrow = bootstrap_interval(fpr_at_tpr, inlier, outlier, resamples=200, level=0.5)
    wide = bootstrap_interval(fpr_at_tpr, inlier, outlier, resamples=200, level=0.99)
    assert wide.low <= narrow.low <= narrow.high <= wide.high
    apart = auroc_interval([2.0, 3.0], [0.0, 1.0], resamples=20)
    assert (apart.low, apart.value, apart.high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    "form", [auroc_interval, lambda *a, **k: bootstrap_interval(auroc, *a, **k)]
)
def test_refuses_options_out_of_range(form):
    for options in ({"resamples": 0}, {"level": 1.0}, {"level": 95}):
        with pytest.raises(UsageError):
            form([1.0], [0.0], **options)
    with pytest.raises(UsageError, match="no OOD scores"):
        form([1.0], [])


def test_an_interval_says_how_it_was_drawn_and_ends_at_the_quantiles_of_the_draws():
    inlier, outlier = np.random.default_rng(7).normal([[1], [0]], 1, (2, 25))
    inlier, outlier = np.sort(inlier), np.sort(outlier)
    rng, drawn = np.random.default_rng(3), []
    for _ in range(40):
        known, other = rng.integers(25, size=25), rng.integers(25, size=25)
        drawn.append(auroc(inlier[known], outlier[other]))
    low, high = np.quantile(drawn, [0.1, 0.9])
    options = {"resamples": 40, "level": 0.8, "seed": 3}
    for found in (
        auroc_interval(inlier, outlier, **options),
        bootstrap_interval(auroc, inlier, outlier, **options),
        figure_intervals(inlier, outlier, ["auroc"], **options)["auroc"],
    ):
        assert found.value == auroc(inlier, outlier)
        assert (found.low, found.high) == pytest.approx((low, high))
        assert (found.resamples, found.level, found.seed) == (40, 0.8, 3)
