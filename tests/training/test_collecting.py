"""Which images are chosen for which labels: properties, and the rules one at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlood.errors import UsageError
from vlood.training.collecting import (
    FILLED,
    PASSED,
    TRUSTED,
    Candidates,
    choose,
    join,
    judge,
    passing,
    shares,
)


def pairs(*given: tuple[int, int, float, int]) -> Candidates:
    rows, labels, similarity, tier = zip(*given, strict=True)
    return Candidates(
        np.array(rows, np.int64),
        np.array(labels, np.int64),
        np.array(similarity, np.float32),
        np.array(similarity, np.float64),
        np.array(tier, np.int8),
    )


def taken(candidates: Candidates, chosen: np.ndarray) -> list[tuple[int, int]]:
    return list(
        zip(candidates.rows[chosen].tolist(), candidates.labels[chosen].tolist(), strict=True)
    )


# Few distinct similarities, so that ties are the rule.
a_pair = st.tuples(
    st.integers(0, 11),
    st.integers(0, 3),
    st.sampled_from([0.1, 0.2, 0.3]),
    st.sampled_from([TRUSTED, PASSED, FILLED]),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(a_pair, min_size=1, max_size=40, unique_by=lambda each: each[:2]),
    st.integers(1, 4),
    st.lists(st.integers(0, 11), min_size=12, max_size=12),
    st.sampled_from([None, 0, 7]),
    st.randoms(use_true_random=False),
)
def test_what_is_chosen(given_pairs, per_label, copies, shuffle, random) -> None:
    candidates = pairs(*given_pairs)
    group = np.minimum(np.array(copies), np.arange(12))
    chosen = choose(candidates, per_label, group, shuffle=shuffle)
    found = taken(candidates, chosen)
    rows = [row for row, _ in found]
    assert len(set(group[rows].tolist())) == len(rows)
    labels = candidates.labels[chosen]
    assert np.all(np.diff(labels) >= 0)
    assert np.bincount(labels).max() <= per_label
    for label in set(labels.tolist()):
        own = chosen[labels == label]
        tiers = candidates.tier[own]
        assert np.all(np.diff(tiers) >= 0)
        if shuffle is None:
            order = [(t, -s) for t, s in zip(tiers, candidates.similarity[own], strict=True)]
            assert order == sorted(order)
    # Nothing that could still be taken is left: its label is full, or a copy of it is taken.
    used = set(group[rows].tolist())
    counts = np.bincount(labels, minlength=4)
    for row, label, *_ in given_pairs:
        assert counts[label] == per_label or int(group[row]) in used
    # The order in which the pairs come decides nothing, not even between equal ones.
    shaken = list(given_pairs)
    random.shuffle(shaken)
    again = pairs(*shaken)
    assert taken(again, choose(again, per_label, group, shuffle=shuffle)) == found


def test_an_image_goes_to_its_best_label_and_to_the_next_where_that_is_full() -> None:
    candidates = pairs(
        (0, 0, 0.9, PASSED), (1, 0, 0.8, PASSED), (1, 1, 0.7, PASSED), (2, 1, 0.1, PASSED)
    )
    assert taken(candidates, choose(candidates, 2)) == [(0, 0), (1, 0), (2, 1)]
    assert taken(candidates, choose(candidates, 1)) == [(0, 0), (1, 1)]


def test_a_given_label_comes_before_a_found_one_and_filling_last() -> None:
    candidates = pairs((0, 0, 0.9, FILLED), (1, 0, 0.5, PASSED), (2, 0, 0.1, TRUSTED))
    assert taken(candidates, choose(candidates, 3)) == [(2, 0), (1, 0), (0, 0)]


def test_of_copies_the_better_one_stays_also_between_labels() -> None:
    candidates = pairs((0, 0, 0.5, PASSED), (1, 1, 0.6, PASSED), (2, 0, 0.4, PASSED))
    group = np.array([0, 0, 2])
    assert taken(candidates, choose(candidates, 9, group)) == [(2, 0), (1, 1)]


def test_a_draw_depends_on_the_seed_and_on_no_other_label() -> None:
    one = pairs(*((row, 0, 0.1 + row / 1000, PASSED) for row in range(50)))
    both = join([one, pairs(*((50 + row, 1, 0.5, PASSED) for row in range(50)))])
    first = taken(one, choose(one, 8, shuffle=3))
    assert first == taken(both, choose(both, 8, shuffle=3))[:8]
    assert first != taken(one, choose(one, 8, shuffle=4))
    assert first != taken(one, choose(one, 8))
    short = join([one, pairs((99, 0, 0.9, FILLED))])
    assert (99, 0) not in taken(short, choose(short, 50, shuffle=3))


def test_verdicts_are_the_softmax_over_all_labels() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(7, 5)).astype(np.float32)
    text = rng.normal(size=(3, 5)).astype(np.float32)
    verdicts = judge(images, text, 10.0)
    logits = 10.0 * images.astype(np.float64) @ text.T.astype(np.float64)
    np.testing.assert_array_equal(verdicts.best, logits.argmax(axis=1))
    probability = np.exp(logits - verdicts.log_total[:, None])
    np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-4)
    assert judge(images[:0], text, 10.0).best.shape == (0,)


def test_the_filters_of_lapt() -> None:
    labels, best = np.array([0, 1, 1]), np.array([0, 0, 1])
    confidence = np.array([0.2, 0.3, 0.9])
    assert passing("label-wins", labels, confidence, best, 4).tolist() == [True, False, True]
    assert passing("above-chance", labels, confidence, best, 4).tolist() == [False, True, True]
    assert passing("none", labels, confidence, best, 4).all()
    with pytest.raises(UsageError, match="--filter best"):
        passing("best", labels, confidence, best, 4)


@pytest.mark.parametrize(
    ("sizes", "count", "given_out"),
    [([900, 100], 10, [9, 1]), ([3, 3, 3], 4, [2, 1, 1]), ([2, 1], 9, [2, 1]), ([5], 3, [3])],
)
def test_places_are_shared_in_proportion(sizes, count, given_out) -> None:
    assert shares(sizes, count) == given_out
