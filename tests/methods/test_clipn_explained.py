"""What the "no" features of a detector are said to say."""

from __future__ import annotations

import numpy as np
import pytest

from vlood.backbone.image_features import unit
from vlood.errors import UsageError
from vlood.methods import clipn
from vlood.methods.clipn_explained import explain_no, warnings_of
from vlood.methods.contract import Detector

YES = unit(np.eye(4, 6, dtype=np.float32))


def detector(no: np.ndarray, scale: float = 100.0) -> Detector:
    tensors = {"class_features": YES, "no_features": unit(no.astype(np.float32))}
    return Detector("clipn", clipn.CLIPNSettings(), tuple("abcd"), tensors, scale)


def test_a_good_pair_is_far_apart_and_confuses_nothing() -> None:
    # The "no" of a class: near every other class, and a little beside them.
    no = (1 - np.eye(4, 6)) * [[1, 1, 1, 1, 0.2, 0.1]]
    rows = explain_no(detector(no))
    assert [row.name for row in rows] == list("abcd")
    for row in rows:
        assert row.distance == pytest.approx(np.sqrt(2), abs=1e-6)
        assert row.cosine == pytest.approx(0, abs=1e-6)
        assert row.yes > 0.99
        assert row.confused == ()
        assert not row.collapsed
    assert warnings_of(detector(no)) == []


def test_classes_whose_no_does_not_object_are_named() -> None:
    no = (1 - np.eye(4, 6)) * [[1, 1, 1, 1, 0, 0]]
    no[1, 0] = -1  # an "a" is not objected to by the "no" of b
    rows = explain_no(detector(no))
    assert [name for name, _ in rows[0].confused] == ["b"]
    assert rows[0].record()["confused"]["b"] > 0.99
    assert all(row.confused == () for row in rows[1:])


def test_a_collapsed_pair_is_warned_of() -> None:
    no = YES.astype(np.float64) + 0.01
    said = warnings_of(detector(no))
    assert "4 of 4 classes" in said[0]
    assert "the score says nothing" in said[0]
    assert all(row.collapsed for row in explain_no(detector(no)))


def test_a_no_that_is_one_for_all_is_warned_of() -> None:
    no = np.tile([[0.0, 0, 0, 0, 1, 1]], (4, 1))
    assert "the same" in warnings_of(detector(no))[-1]
    objecting = np.roll(YES, 1, axis=0) * 0.1 + YES * 9 + [0, 0, 0, 0, 4, 0]
    assert not any("the same" in one for one in warnings_of(detector(objecting)))


def test_other_detectors_have_none() -> None:
    from vlood.methods import mcm

    one = Detector("mcm", mcm.MCMSettings(), tuple("abcd"), {"class_features": YES}, 100.0)
    with pytest.raises(UsageError, match="--no: a mcm detector has no"):
        explain_no(one)
