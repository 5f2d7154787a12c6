"""What a row of an evaluation holds: every figure and interval, taken from where it is made."""

from __future__ import annotations

import numpy as np
import pytest

from vlood.evaluation.bootstrap import figure_intervals
from vlood.evaluation.deployed import at_threshold
from vlood.evaluation.evaluate import evaluate
from vlood.evaluation.metrics import aupr, fpr_at_tpr
from vlood.evaluation.oscr import oscr

RNG = np.random.default_rng(8)
KNOWN, OTHER = RNG.normal(1, 1, 60), RNG.normal(0, 1, 45)
OF_FPR, OF_AUPR = ("fpr95_id_pos", "fpr95_ood_pos"), ("aupr_in", "aupr_out")


@pytest.mark.parametrize(
    ("modes", "without"),
    [
        ({}, ()),
        ({"fpr_mode": "interp"}, OF_FPR),
        ({"aupr_mode": "trapezoid"}, OF_AUPR),
        ({"fpr_mode": "nearest", "aupr_mode": "trapezoid"}, OF_FPR + OF_AUPR),
    ],
)
def test_a_figure_has_its_interval_unless_its_mode_is_another(modes, without) -> None:
    found = evaluate(KNOWN, OTHER, resamples=30, seed=2, **modes)
    drawn = figure_intervals(KNOWN, OTHER, resamples=30, seed=2)
    for figure, interval in drawn.items():
        ends = getattr(found, f"{figure}_ci_low"), getattr(found, f"{figure}_ci_high")
        assert ends == ((None, None) if figure in without else (interval.low, interval.high))
    for positive, name in (("id", "in"), ("ood", "out")):
        area = aupr(
            KNOWN, OTHER, positive=positive, mode=modes.get("aupr_mode", "average_precision")
        )
        rate = fpr_at_tpr(KNOWN, OTHER, positive=positive, mode=modes.get("fpr_mode", "canonical"))
        assert getattr(found, f"aupr_{name}") == area
        assert getattr(found, f"fpr95_{positive}_pos") == rate


def test_draws_differ_by_seed_and_number_and_none_give_no_interval() -> None:
    first = evaluate(KNOWN, OTHER, resamples=30, seed=2)
    assert evaluate(KNOWN, OTHER, resamples=30, seed=3) != first
    assert evaluate(KNOWN, OTHER, resamples=31, seed=2) != first
    by_default = figure_intervals(KNOWN, OTHER, ["auroc"], resamples=1000, seed=0)["auroc"]
    assert evaluate(KNOWN, OTHER).auroc_ci_low == by_default.low
    none = evaluate(KNOWN, OTHER, resamples=0)
    assert all(value is None for name, value in vars(none).items() if "_ci_" in name)


def test_rates_at_a_threshold_and_what_labels_give() -> None:
    plain = evaluate(KNOWN, OTHER, resamples=0)
    assert plain.tpr is plain.fpr is plain.threshold is plain.oscr is plain.id_accuracy is None
    deployed, marks = at_threshold(KNOWN, OTHER, 0.4), np.arange(20) % 4 > 0
    found = evaluate(
        KNOWN,
        OTHER,
        id_correct=(KNOWN[:20], marks),
        deployed=deployed,
        threshold=0.4,
        resamples=0,
    )
    assert found.threshold == 0.4
    assert found.tpr == np.mean(KNOWN >= 0.4)
    assert found.fpr == np.mean(OTHER >= 0.4)
    assert (found.tpr_ci_low, found.tpr_ci_high) == (deployed.tpr.low, deployed.tpr.high)
    assert (found.fpr_ci_low, found.fpr_ci_high) == (deployed.fpr.low, deployed.fpr.high)
    assert found.id_accuracy == 0.75
    assert found.oscr == oscr(KNOWN[:20], marks, OTHER)
    assert (found.n_id, found.n_ood) == (60, 45)
