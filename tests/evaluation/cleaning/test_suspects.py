"""One suspect an image, in order, and which copy is kept."""

from __future__ import annotations

import numpy as np
import pytest

from vlood.evaluation.cleaning.duplicates import Pairs
from vlood.evaluation.cleaning.mislabelled import LabelDoubt
from vlood.evaluation.cleaning.outliers import Outliers
from vlood.evaluation.cleaning.suspects import Copies, find_suspects

NO_PAIRS = Pairs(np.zeros((0, 2), np.int64), np.zeros(0))


def doubt_of(ratio: list[float], flagged: list[int], suggested: int = 1) -> LabelDoubt:
    count = len(ratio)
    marks = np.isin(np.arange(count), flagged)
    values = np.array(ratio)
    return LabelDoubt(values, values, np.full(count, suggested), values, marks, (1.0,))


def copies_of(count: int, pairs: dict[tuple[int, int], float]) -> Copies:
    rows = np.array(list(pairs), np.int64).reshape(-1, 2)
    near = Pairs(rows, np.array(list(pairs.values())))
    return Copies.of(np.arange(count), near)


def test_problems_come_in_order_and_the_most_certain_first() -> None:
    outliers = Outliers(np.array([0, -9, -4, -5, 0, 0.0]), np.array([0, -9, 0, 0, -3.5, 0.0]))
    found = find_suspects(
        np.zeros(6, np.int64),
        doubt_of([0.1, 0.0, 1, 1, 1, 0.05], [0, 1, 5]),
        outliers,
        copies_of(6, {}),
        np.zeros(6, np.int64),
        z_limit=3.5,
    )
    assert [(one.row, one.problem) for one in found] == [
        *[(5, "mislabelled"), (0, "mislabelled")],
        *[(1, "ood"), (4, "ood")],  # what fits no class has no other label
        *[(3, "unlike-class"), (2, "unlike-class")],
    ]
    assert [one.severity for one in found] == pytest.approx([0.95, 0.9, 9, 3.5, 5, 4])
    assert found[2].suggested == -1


def test_a_detectors_score_makes_outliers_too() -> None:
    usual = Outliers(np.zeros(3), np.zeros(3))
    found = find_suspects(
        *(np.zeros(3, np.int64), doubt_of([1, 1, 1], []), usual, copies_of(3, {})),
        np.zeros(3, np.int64),
        z_limit=3.5,
        score_z=np.array([0, -4.0, np.nan]),
    )
    assert [(one.row, one.problem, one.severity) for one in found] == [(1, "ood", 4.0)]


def kept_row(**given: object) -> int:
    """Return which of three copies is not listed."""
    labels = given.get("labels", [0, 0, 0])
    found = find_suspects(
        np.array(labels),
        doubt_of(given.get("ratio", [1, 1, 1]), given.get("flagged", [])),
        Outliers(np.zeros(3), np.zeros(3)),
        copies_of(3, {(0, 1): 0.95, (1, 2): 0.92, (0, 2): 0.91}),
        np.array(given.get("sizes", [5, 5, 5])),
        z_limit=3.5,
    )
    (kept,) = {0, 1, 2} - {one.row for one in found}
    for one in found:
        assert one.duplicate_of == kept
        assert one.conflict == (labels[one.row] != labels[kept])
    return kept


def test_one_copy_is_kept_and_it_is_the_best() -> None:
    assert kept_row() == 0
    assert kept_row(sizes=[5, 9, 7]) == 1
    assert kept_row(sizes=[5, 9, 7], flagged=[1]) == 2
    # The ratio decides only where the labels contradict each other.
    assert kept_row(sizes=[5, 9, 7], ratio=[2, 1, 1]) == 1
    assert kept_row(sizes=[5, 9, 7], ratio=[2, 1, 1], labels=[0, 1, 1]) == 0


def test_in_a_chain_only_copies_of_what_is_kept_are_listed() -> None:
    found = find_suspects(
        np.zeros(4, np.int64),
        doubt_of([1, 1, 1, 1], []),
        Outliers(np.zeros(4), np.zeros(4)),
        copies_of(4, {(0, 1): 0.9, (1, 2): 0.95, (2, 3): 0.99}),
        np.array([9, 1, 5, 1]),
        z_limit=3.5,
    )
    assert [(one.row, one.duplicate_of, one.similarity) for one in found] == [
        (3, 2, 0.99),
        (1, 2, 0.95),
    ]


def test_a_mislabelled_copy_says_both() -> None:
    found = find_suspects(
        np.array([0, 1, 1]),
        doubt_of([1, 0.1, 1], [1]),
        Outliers(np.zeros(3), np.zeros(3)),
        copies_of(3, {(0, 1): 0.95}),
        np.zeros(3, np.int64),
        z_limit=3.5,
    )
    (one,) = found
    assert (one.problem, one.problems) == ("mislabelled", ("mislabelled", "duplicate"))
    assert (one.duplicate_of, one.similarity, one.conflict) == (0, 0.95, True)


def test_conflicts_come_before_harmless_copies() -> None:
    found = find_suspects(
        np.array([0, 0, 0, 1]),
        doubt_of([1, 1, 1, 0.5], []),
        Outliers(np.zeros(4), np.zeros(4)),
        copies_of(4, {(0, 1): 0.99, (2, 3): 0.91}),
        np.zeros(4, np.int64),
        z_limit=3.5,
    )
    assert [(one.row, one.conflict) for one in found] == [(3, True), (1, False)]


def test_equal_files_are_exact_copies_with_similarity_one() -> None:
    content = np.array([0, 0, 2])
    copies = Copies.of(content, Pairs(np.array([[0, 2]]), np.array([0.93])))
    assert copies.group.tolist() == [0, 0, 0]
    assert [copies.similarity(0, 1), copies.similarity(2, 1)] == [1.0, 0.93]
    assert copies_of(3, {(0, 1): 0.9}).similarity(1, 2) is None
    found = find_suspects(
        np.zeros(3, np.int64),
        doubt_of([1, 1, 1], []),
        Outliers(np.zeros(3), np.zeros(3)),
        copies,
        np.zeros(3, np.int64),
        z_limit=3.5,
    )
    assert [(one.row, one.exact, one.similarity) for one in found] == [
        (1, True, 1.0),
        (2, False, 0.93),
    ]
    assert Copies.of(np.arange(3), NO_PAIRS).group.tolist() == [0, 1, 2]
