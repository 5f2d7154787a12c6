from __future__ import annotations

import pytest

from vlood.errors import UsageError
from vlood.prompts.classes import ClassName
from vlood.prompts.name_shift import without_names

CLASSES = tuple(ClassName.of(name) for name in "abcdefghij")


def test_a_share_of_the_names_is_gone_and_data_keeps_all() -> None:
    half = without_names(CLASSES, 0.5, seed=3)
    assert [one.name for one in half] == [one.name for one in CLASSES]
    gone = {row for row, one in enumerate(half) if one.prompt != CLASSES[row].prompt}
    assert len(gone) == 5
    assert {half[row].prompt for row in gone} == {f"category {row + 1}" for row in gone}
    more = without_names(CLASSES, 0.7, seed=3)
    assert gone < {row for row, one in enumerate(more) if one.prompt.startswith("category")}
    assert half == without_names(CLASSES, 0.5, seed=3)
    assert half != without_names(CLASSES, 0.5, seed=4)


def test_ends() -> None:
    assert without_names(CLASSES, 0, seed=0) == CLASSES
    assert all(one.prompt.startswith("category") for one in without_names(CLASSES, 1, seed=0))
    assert (
        sum(a != b for a, b in zip(CLASSES, without_names(CLASSES, 0.01, seed=0), strict=True)) == 1
    )
    with pytest.raises(UsageError, match="from 0 to 1"):
        without_names(CLASSES, 1.5, seed=0)
