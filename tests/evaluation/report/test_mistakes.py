"""Mistakes and class tables against counts by hand."""

from __future__ import annotations

import numpy as np
import pytest

from vlood.evaluation.report.classes import attracted_counts, class_lines
from vlood.evaluation.report.inputs import NearestWords, ReportDetector, ReportSet
from vlood.evaluation.report.mistakes import (
    accepted_ood,
    nearest_words,
    rejected_id,
    wrong_class,
)


@pytest.fixture
def sets():
    return [
        ReportSet("id", "id", list("abcde"), ["cat", "cat", "dog", "dog", "unicorn"]),
        ReportSet("near", "near", list("xy"), [None, None]),
        ReportSet("far", "far", list("z"), ["rock"]),
        ReportSet("fog-3", "shift", list("s"), ["cat"], "fog", 3),
    ]


@pytest.fixture
def detector():
    return ReportDetector(
        "d", "d", ("cat", "dog", "bird"), 0.5, "",
        {"id": np.array([0.9, 0.8, 0.2, 0.7, 0.1]), "near": np.array([0.6, 0.4]),
         "far": np.array([0.95]), "fog-3": np.array([1.0])},
        {"id": np.array([0, 1, 1, 0, 2]), "near": np.array([2, 0]), "far": np.array([2]),
         "fog-3": np.array([0])},
    )  # fmt: skip


def test_each_kind_is_ranked_by_confidence(detector, sets):
    assert accepted_ood(detector, sets, 9).images == (("far", 0), ("near", 0))
    assert rejected_id(detector, sets, 9).images == (("id", 4), ("id", 2))
    assert wrong_class(detector, sets, 9).images == (("id", 1), ("id", 3))


def test_the_total_goes_beyond_those_listed(detector, sets):
    found = accepted_ood(detector, sets, 1)
    assert found.images == (("far", 0),)
    assert found.total == 2


def test_classes_are_counted(detector, sets):
    lines = {line.name: line for line in class_lines(detector, sets)}
    cat, dog, bird = lines["cat"], lines["dog"], lines["bird"]
    assert (cat.n, cat.accuracy, cat.accepted, cat.confused) == (2, 0.5, 1.0, "dog")
    assert (dog.n, dog.accuracy, dog.accepted, dog.confused) == (2, 0.5, 0.5, "cat")
    assert (bird.n, bird.accuracy, bird.attracted) == (0, None, 2)
    assert attracted_counts(detector, sets).tolist() == [0, 0, 2]
    assert list(lines) == ["dog", "cat", "bird"]


def test_absent_neighbours_are_left_out():
    nearest = NearestWords(
        ("a", "b"), {"id": np.array([[1, -1]])}, {"id": np.array([[0.25, 0.0]], np.float32)}
    )
    assert nearest_words(nearest, ("id", 0)) == [("b", 0.25)]
    assert nearest_words(nearest, ("other", 0)) == []
    assert nearest_words(None, ("id", 0)) == []
