from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlood.errors import UsageError
from vlood.negatives.selection import auto_size, select

VALUE = np.array([0.5, 0.1, 0.4, 0.2, 0.3, 0.1, 0.6, 0.0], np.float32)
PARTS = ["noun", "adj", "", "noun", "adj", "noun", "adj", "noun"]
VALUES = st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), min_size=1, max_size=40)


def test_a_share_of_each_part_of_speech_by_ascending_closeness() -> None:
    chosen = select(VALUE, PARTS, keep=0.7)
    nouns, adjectives = chosen.parts
    assert (nouns.part, adjectives.part) == ("noun", "adj")
    assert nouns.ranking.tolist() == [7, 5, 3, 2, 0]  # "" counts as a noun
    assert nouns.chosen.tolist() == [7, 5, 3]
    assert nouns.rest.tolist() == [2, 0]
    assert adjectives.chosen.tolist() == [1, 4]
    assert chosen.rows().tolist() == [7, 5, 3, 1, 4]
    assert chosen.rows("adjectives-first").tolist() == [1, 4, 7, 5, 3]


def test_a_size_is_shared_and_adjectives_get_the_floor() -> None:
    nouns, adjectives = select(VALUE, PARTS, size=5).parts
    assert (nouns.count, adjectives.count) == (4, 1)  # 5 * 3 / 8 adjectives
    everything = select(VALUE, PARTS, size=100)
    assert sorted(everything.rows().tolist()) == list(range(8))


def test_together_they_compete() -> None:
    (part,) = select(VALUE, PARTS, size=3, together=True).parts
    assert part.part == ""
    assert part.chosen.tolist() == [7, 1, 5]
    assert select(VALUE, PARTS, keep=0.25, together=True).rows().tolist() == [7, 1]


def test_what_is_not_allowed_is_in_no_ranking_and_counts_for_no_share() -> None:
    allowed = np.array([1, 1, 1, 0, 1, 1, 0, 0], bool)
    nouns, adjectives = select(VALUE, PARTS, keep=0.5, allowed=allowed).parts
    assert nouns.ranking.tolist() == [5, 2, 0]
    assert (nouns.count, adjectives.count) == (1, 1)
    assert adjectives.ranking.tolist() == [1, 4]
    nothing = select(VALUE, PARTS, size=3, allowed=np.zeros(8, bool))
    assert len(nothing.rows()) == 0


def test_ties_stay_as_given() -> None:
    chosen = select(np.full(300, 0.25, np.float32), ["noun"] * 300, size=7)
    assert chosen.rows().tolist() == list(range(7))


def test_a_share_does_not_slip_by_rounding() -> None:
    for percent in range(1, 101):
        for count in (20, 60, 100, 140, 3000):
            chosen = select(np.zeros(count), ["noun"] * count, keep=percent / 100)
            assert chosen.parts[0].count == Fraction(percent, 100) * count // 1


@given(VALUES, st.integers(1, 50), st.data())
def test_a_selection_is_the_smallest_of_each_part(
    values: list[float], size: int, data: st.DataObject
) -> None:
    parts = data.draw(
        st.lists(st.sampled_from(["noun", "adj", ""]), min_size=len(values), max_size=len(values))
    )
    value = np.array(values)
    chosen = select(value, parts, size=size)
    assert len(chosen.rows()) == min(size, len(values))
    assert len(set(chosen.rows().tolist())) == len(chosen.rows())
    nouns, adjectives = chosen.parts
    number = min(size, len(values))
    assert adjectives.count == number * sum(part == "adj" for part in parts) // len(parts)
    for part in (nouns, adjectives):
        order = value[part.ranking]
        assert (np.diff(order) >= 0).all()
        assert {parts[row] == "adj" for row in part.ranking} <= {part.part == "adj"}
    assert sorted([*nouns.ranking, *adjectives.ranking]) == list(range(len(values)))


def test_settings_that_say_nothing_are_refused() -> None:
    for settings in ({}, {"keep": 0.1, "size": 3}):
        with pytest.raises(UsageError, match="either a share or a size"):
            select(VALUE, PARTS, **settings)
    for keep in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match="above 0 and at most 1"):
            select(VALUE, PARTS, keep=keep)
    with pytest.raises(UsageError, match="expected at least 1 negative"):
        select(VALUE, PARTS, size=0)
    with pytest.raises(UsageError, match="order random: is unknown"):
        select(VALUE, PARTS, size=1).rows("random")


@pytest.mark.parametrize(
    ("classes", "candidates", "expected"),
    [
        (1000, 70_000, 10_000),
        (10, 70_000, 1_000),
        (200, 70_000, 2_000),
        (20_000, 70_000, 10_000),
        (1000, 5_000, 2_500),
        (3, 5, 2),
        (3, 1, 1),
    ],
)
def test_auto_size(classes: int, candidates: int, expected: int) -> None:
    assert auto_size(classes, candidates) == expected
