"""Few-shot sampling: how many, of which, the same again, and what is refused."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlood.errors import UsageError
from vlood.training.few_shot import sample_shots
from vlood.training.labelled import LabelledFeatures, check_every_class, class_counts


def names(count: int) -> tuple[str, ...]:
    return tuple(f"class {row}" for row in range(count))


@given(
    st.lists(st.integers(4, 9), min_size=1, max_size=5),
    st.integers(1, 4),
    st.integers(-3, 2**40),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_every_class_gives_as_many_without_repeats(
    counts: list[int], shots: int, seed: int, shuffler: random.Random
) -> None:
    listed = [label for label, count in enumerate(counts) for _ in range(count)]
    shuffler.shuffle(listed)
    labels = np.array(listed, np.int64)
    rows = sample_shots(labels, shots, seed, names(len(counts)))
    assert (np.diff(rows) > 0).all()  # ascending, so none twice
    np.testing.assert_array_equal(np.bincount(labels[rows]), shots)
    np.testing.assert_array_equal(rows, sample_shots(labels, shots, seed, names(len(counts))))
    if shots > 1:
        assert set(sample_shots(labels, shots - 1, seed, names(len(counts)))) < set(rows)


def test_a_seed_gives_these_images_on_every_machine() -> None:
    labels = np.repeat(np.arange(3), 6)
    assert sample_shots(labels, 2, 0, names(3)).tolist() == [1, 4, 6, 7, 12, 17]


def test_other_seeds_and_other_classes() -> None:
    labels = np.repeat(np.arange(3), 50)
    first = sample_shots(labels, 5, 0, names(3))
    assert first.tolist() != sample_shots(labels, 5, 1, names(3)).tolist()
    # Another class at the end changes nothing for the first three.
    more = np.concatenate([labels, np.full(50, 3)])
    np.testing.assert_array_equal(sample_shots(more, 5, 0, names(4))[:15], first)
    # Classes do not share a pattern of positions.
    assert len({tuple(first[row * 5 : row * 5 + 5] - 50 * row) for row in range(3)}) == 3


def test_each_image_is_as_likely() -> None:
    labels = np.zeros(5, np.int64)
    drawn = [int(sample_shots(labels, 1, seed, ("a",))[0]) for seed in range(1000)]
    counts = np.bincount(drawn, minlength=5)
    assert counts.min() > 150  # 200 expected, a standard deviation of 13


def test_the_global_generators_are_left_alone() -> None:
    random.seed(5)
    expected = random.random()
    random.seed(5)
    sample_shots(np.repeat(np.arange(2), 4), 2, 0, names(2))
    assert random.random() == expected


def test_what_cannot_be_drawn_is_said() -> None:
    labels = np.array([0, 0, 0, 1, 2, 2], np.int64)
    with pytest.raises(UsageError, match=r"--shots 0: expected a whole number .*1 or more"):
        sample_shots(labels, 0, 0, names(3))
    with pytest.raises(UsageError, match=r"class 1 has 1, class 2 has 2\); use --shots 1 or fewer"):
        sample_shots(labels, 3, 0, names(3))
    with pytest.raises(UsageError, match=r"1 of 4 classes have no training image \(class 3\)"):
        sample_shots(labels, 1, 0, names(4))
    many = np.repeat(np.arange(9), 2)
    with pytest.raises(UsageError, match="class 4 has 2 and 4 more have too few"):
        sample_shots(many, 3, 0, names(9))


def test_labelled_features_hold_together() -> None:
    raw = np.arange(12, dtype=np.float32).reshape(4, 3)
    local = np.ones((4, 2, 3), np.float32) * np.arange(4, dtype=np.float32)[:, None, None]
    labels = np.array([0, 1, 1, 0])
    images = LabelledFeatures(raw, labels, ("a", "b", "c", "d"), local)
    some = images.rows(np.array([3, 1]))
    assert (len(some), some.ids, some.labels.tolist()) == (2, ("d", "b"), [0, 1])
    np.testing.assert_array_equal(some.raw, raw[[3, 1]])
    assert some.local is not None
    assert some.local[:, 0, 0].tolist() == [3, 1]
    assert LabelledFeatures(raw, labels).rows(np.array([0])).ids == ()
    with pytest.raises(UsageError, match=r"expected \[N, D\] and \[N\]"):
        LabelledFeatures(raw, labels[:3])
    with pytest.raises(UsageError, match="1 ids for 4"):
        LabelledFeatures(raw, labels, ("a",))
    with pytest.raises(UsageError, match="2 local embeddings for 4"):
        LabelledFeatures(raw, labels, (), local[:2])
    assert class_counts(labels, 3).tolist() == [2, 2, 0]
    with pytest.raises(UsageError, match="labels from 0 to 1; expected indices of 1 classes"):
        class_counts(labels, 1)
    with pytest.raises(UsageError, match=r"7 of 9 classes.*class 6 and 2 more"):
        check_every_class(labels, names(9))
