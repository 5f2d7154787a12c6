"""DeLong's variance and paired test against the definition over all pairs, and where they end."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlood.errors import UsageError
from vlood.evaluation.bootstrap import auroc_interval
from vlood.evaluation.delong import auroc_interval_delong, auroc_variance, paired_delong
from vlood.evaluation.metrics import auroc


def components(inlier, outlier):
    wins = (inlier[:, None] > outlier) + 0.5 * (inlier[:, None] == outlier)
    return wins.mean(axis=1), wins.mean(axis=0)


def covariance(first, second):
    """The 2 x 2 matrix of two detectors' AUROCs, as DeLong et al. write it."""
    (v10, v01), (w10, w01) = components(*first), components(*second)
    return np.cov([v10, w10]) / v10.size + np.cov([v01, w01]) / v01.size


def random_sets(seed):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(2, 60, size=2)
    image_id, image_ood = rng.normal(1, 1, n), rng.normal(0, 1, m)
    first = image_id + rng.normal(0, 1, n), image_ood + rng.normal(0, 1, m)
    second = image_id + rng.normal(0, 1, n), image_ood + rng.normal(0, 1, m)
    if seed % 2:  # every other one with ties
        first, second = [[np.round(side) for side in pair] for pair in (first, second)]
    return first, second


@pytest.mark.parametrize("seed", range(50))
def test_variance_and_paired_test_equal_the_definition(seed):
    first, second = random_sets(seed)
    matrix = covariance(first, second)
    assert auroc_variance(*first) == pytest.approx(matrix[0, 0], rel=1e-9, abs=1e-15)
    found = paired_delong(*first, *second)
    variance = matrix[0, 0] + matrix[1, 1] - 2 * matrix[0, 1]
    assert (found.first, found.second) == (auroc(*first), auroc(*second))
    assert found.difference == pytest.approx(found.first - found.second, abs=1e-12)
    assert found.variance == pytest.approx(variance, rel=1e-9, abs=1e-15)
    assert not found.degenerate
    z = found.difference / math.sqrt(variance)
    assert found.p_value == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), rel=1e-6)
    # The interval leaves out no difference exactly when the test is significant.
    assert (found.low <= 0 <= found.high) == (found.p_value >= 0.05)


tied = st.lists(st.integers(-3, 3).map(float), min_size=2, max_size=12)


@settings(max_examples=60)
@given(tied, tied)
def test_auroc_is_exact_and_the_mirrored_sides_vary_alike(inlier, outlier):
    found = auroc_interval_delong(inlier, outlier)
    assert found.value == auroc(inlier, outlier)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.variance == auroc_variance(inlier, outlier)
    expected = covariance(*[(np.array(inlier), np.array(outlier))] * 2)[0, 0]
    assert found.variance == pytest.approx(expected, abs=1e-12)
    assert auroc_variance(outlier, inlier) == pytest.approx(found.variance, abs=1e-12)


@settings(max_examples=60)
@given(st.data(), st.integers(2, 8), st.integers(2, 8))
def test_paired_is_antisymmetric_and_a_detector_equals_itself(data, n, m):
    sides = [st.lists(st.integers(-2, 2), min_size=size, max_size=size) for size in (n, m)]
    first, second = [[data.draw(side) for side in sides] for _ in range(2)]
    there, back = paired_delong(*first, *second), paired_delong(*second, *first)
    assert there.difference == -back.difference
    assert (there.low, there.p_value) == (-back.high, back.p_value)
    assert 0 < there.p_value <= 1
    risen = [np.exp(side) for side in first]
    same = paired_delong(*first, *risen)
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    assert same.degenerate


def test_no_spread_is_a_point_and_told():
    for inlier, outlier, value in (([2, 3], [0, 1], 1.0), ([5] * 4, [5] * 3, 0.5)):
        found = auroc_interval_delong(inlier, outlier)
        assert (found.low, found.value, found.high, found.variance) == (value, value, value, 0.0)
        assert found.degenerate
    apart = paired_delong([2, 3], [0, 1], [0, 0], [0, 0])
    assert (apart.difference, apart.low, apart.high) == (0.5, 0.5, 0.5)
    assert apart.degenerate
    assert apart.p_value == 1 / 8  # two times two images
    assert paired_delong(range(9, 18), range(9), [0] * 9, [0] * 9).p_value == 2**-17


def test_agrees_with_the_bootstrap_and_a_wider_level_is_wider():
    rng = np.random.default_rng(0)
    inlier, outlier = rng.normal(1, 1, 500), rng.normal(0, 1, 400)
    found, drawn = auroc_interval_delong(inlier, outlier), auroc_interval(inlier, outlier)
    assert found.high - found.low == pytest.approx(drawn.high - drawn.low, rel=0.12)
    wide = auroc_interval_delong(inlier, outlier, level=0.99)
    assert wide.low < found.low < found.high < wide.high
    assert found.high - found.value == pytest.approx(1.959964 * math.sqrt(found.variance))


def test_p_values_are_uniform_without_a_difference():
    rng = np.random.default_rng(1)
    p_values = []
    for _ in range(400):
        shared = rng.normal(1, 1, 60), rng.normal(0, 1, 60)
        noisy = [[side + rng.normal(0, 1, 60) for side in shared] for _ in range(2)]
        p_values.append(paired_delong(*noisy[0], *noisy[1]).p_value)
    for share in (0.05, 0.2, 0.5, 0.8):
        assert np.mean(np.array(p_values) <= share) == pytest.approx(share, abs=0.075)


def test_refuses_what_has_no_variance():
    with pytest.raises(UsageError, match="1 OOD score"):
        auroc_variance([1.0, 2.0], [0.0])
    with pytest.raises(UsageError, match="no ID scores"):
        auroc_interval_delong([], [0.0, 1.0])
    with pytest.raises(UsageError, match="not finite"):
        auroc_variance([1.0, np.nan], [0.0, 1.0])
    with pytest.raises(UsageError, match="level"):
        auroc_interval_delong([1.0, 2.0], [0.0, 1.0], level=95)
    with pytest.raises(UsageError, match="3 ID scores and the second 2"):
        paired_delong([1, 2, 3], [0, 1], [1, 2], [0, 1])
    with pytest.raises(UsageError, match="2 OOD scores and the second 3"):
        paired_delong([1, 2], [0, 1], [1, 2], [0, 1, 2])
