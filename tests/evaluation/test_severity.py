"""Severity curves on arrays."""

from __future__ import annotations

import pytest

from vlood.errors import UsageError
from vlood.evaluation.severity import severity_row


def test_a_row_says_what_is_accepted_and_the_mean_over_sets():
    row = severity_row("mcm", "fog", 2, [0.9, 0.5, 0.1, 0.7], [[0.0, 0.2], [0.8]], 0.75, 0.75)
    assert row.accepted == 0.75
    assert row.auroc == pytest.approx((7 / 8 + 1 / 4) / 2)
    assert row.record() == {
        "detector": "mcm",
        "shift": "fog",
        "severity": 2,
        "n": 4,
        "accepted": 0.75,
        "auroc": row.auroc,
        "id_accuracy": 0.75,
    }


def test_without_ood_sets_there_is_no_area_and_empty_sides_are_refused():
    assert severity_row("mcm", "fog", 0, [1.0], [], 0.5, None).auroc is None
    with pytest.raises(UsageError, match="no shifted ID scores"):
        severity_row("mcm", "fog", 1, [], [], 0.5, None)
