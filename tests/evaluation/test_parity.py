"""The parity forms keep the quirk they exist for, and agree with the canonical form without it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import auc, precision_recall_curve, roc_auc_score
from sklearn.metrics import roc_curve as sklearn_curve

from vlood.evaluation.metrics import aupr, auroc, fpr_at_tpr
from vlood.evaluation.parity import (
    cma_detection_error,
    cma_metrics,
    openood_fpr,
    pytorch_ood_metrics,
)


def test_openood_loses_the_collinear_points_of_a_diagonal_curve():
    interleaved = np.arange(80.0)
    inlier, outlier = interleaved[::2], interleaved[1::2]
    assert fpr_at_tpr(inlier, inlier, positive="ood") == 0.95
    assert openood_fpr(inlier, inlier, positive="ood").fpr == 1.0
    assert openood_fpr(inlier, outlier, positive="id").threshold <= outlier.max()


def test_openood_agrees_with_the_canonical_form_on_a_curve_full_of_corners():
    rng = np.random.default_rng(0)
    inlier, outlier = rng.normal(1, 1, 1000), rng.normal(0, 1, 900)
    for positive in ("id", "ood"):
        found = openood_fpr(inlier, outlier, positive=positive)
        expected = fpr_at_tpr(inlier, outlier, positive=positive)
        assert found.fpr == pytest.approx(expected, abs=0.005)


def test_pytorch_ood_ties_large_scores_and_leaves_probabilities_alone():
    rng = np.random.default_rng(1)
    inlier, outlier = rng.uniform(0.3, 1, 300), rng.uniform(0, 0.8, 200)
    found = pytorch_ood_metrics(inlier, outlier)
    assert found.auroc == pytest.approx(auroc(inlier, outlier), abs=1e-6)
    assert found.fpr95 == fpr_at_tpr(inlier, outlier, positive="ood")
    assert found.aupr_in == pytest.approx(aupr(inlier, outlier, mode="trapezoid"), abs=1e-6)
    large = pytorch_ood_metrics(inlier * 50 + 30, outlier * 50 + 30)
    assert large.aupr_in != pytest.approx(found.aupr_in, abs=1e-3)


def test_cma_weights_each_error_by_the_other_side():
    inlier, outlier = [2.0] * 19 + [0.0], [1.0, 3.0]
    # Thresholds with TPR >= 0.95: at 2 (FPR 1/2, FNR 1/20), at 1 and at 0 (worse).
    assert cma_detection_error(inlier, outlier) == pytest.approx(
        2 / 22 * (1 / 20) + 20 / 22 * (1 / 2)
    )


@pytest.mark.parametrize(
    ("positive", "tpr", "fpr", "threshold"),
    [
        # From the highest score: known 5, other 4.5, known 4, 3 and 2, other 1. The curve rises
        # straight from 4.5 to 2, so the points at 4 and 3 are lost.
        ("id", 0.25, 0.0, 5.0),
        ("id", 0.3, 0.5, 2.0),
        ("id", 0.75, 0.5, 2.0),
        # The other way round it runs level from 1 to 4 and jumps at 4.5.
        ("ood", 0.5, 0.0, -1.0),
        ("ood", 0.95, 0.75, -4.5),
    ],
)
def test_openood_by_hand(positive, tpr, fpr, threshold):
    found = openood_fpr([5, 3, 4, 2], [1, 4.5], tpr, positive=positive)
    assert found == (fpr, threshold)
    if positive == "ood":
        assert openood_fpr([5, 3, 4, 2], [1, 4.5], tpr) == found
    if tpr == 0.95:
        assert openood_fpr([5, 3, 4, 2], [1, 4.5]) == found


def area_of_precisions(truth, scores):
    precision, recall, _ = precision_recall_curve(truth, scores)
    return auc(recall, precision)


def test_cma_is_five_figures_of_scikit_learn():
    rng = np.random.default_rng(4)
    inlier, outlier = rng.normal(1, 1, 120).round(1), rng.normal(0, 1, 80).round(1)
    scores, truth = np.concatenate([inlier, outlier]), np.repeat([1, 0], [120, 80])
    fpr, tpr, _ = sklearn_curve(truth, scores)
    found = cma_metrics(inlier, outlier)
    every_point = sklearn_curve(truth, scores, drop_intermediate=False)
    assert found[0] == pytest.approx(np.interp(0.95, every_point[1], every_point[0]))
    # 0.4 and 0.6 are the shares of the two sides.
    errors = [0.4 * (1 - t) + 0.6 * f for f, t in zip(fpr, tpr, strict=True) if t >= 0.95]
    assert found[1] == pytest.approx(min(errors))
    assert found[2] == pytest.approx(roc_auc_score(truth, scores))
    assert found[3] == pytest.approx(area_of_precisions(truth, scores))
    assert found[4] == pytest.approx(area_of_precisions(1 - truth, -scores))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-4.0, 6.0), (0.2, 1.5), (-0.5, 0.9)])
def test_pytorch_ood_squashes_either_side_unless_it_lies_in_the_unit_interval(low, high):
    rng = np.random.default_rng(5)
    raw = np.concatenate([rng.beta(3, 2, 90), rng.beta(2, 3, 70), [0.0, 1.0]]) * (high - low) + low
    truth = np.repeat([1, 0], [90, 72])
    found = pytorch_ood_metrics(raw[:90], raw[90:])
    outlierness = -raw.astype(np.float32)
    # Negated, the scores are at most 0 somewhere, so that this side is squashed every time.
    of_outliers = 1 / (1 + np.exp(-outlierness.astype(np.float64)))
    unit = low >= 0 and high <= 1
    of_inliers = -outlierness if unit else 1 / (1 + np.exp(outlierness.astype(np.float64)))
    assert found.auroc == pytest.approx(roc_auc_score(1 - truth, of_outliers), abs=1e-6)
    assert found.aupr_out == pytest.approx(area_of_precisions(1 - truth, of_outliers), abs=1e-6)
    assert found.aupr_in == pytest.approx(area_of_precisions(truth, of_inliers), abs=1e-6)
    assert found.fpr95 == pytest.approx(fpr_at_tpr(raw[:90], raw[90:], positive="ood"), abs=1e-6)
