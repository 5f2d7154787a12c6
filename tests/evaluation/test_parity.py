"""The parity forms keep the quirk they exist for, and agree with the canonical form without it."""

from __future__ import annotations

import numpy as np
import pytest

from vlood.evaluation.metrics import aupr, auroc, fpr_at_tpr
from vlood.evaluation.parity import cma_detection_error, openood_fpr, pytorch_ood_metrics


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
