"""Views ranked by their class's prompt, and batches that come several times."""

from __future__ import annotations

import numpy as np

from vlood.training.draws import RepeatedRows, ShuffledRows
from vlood.training.view_ranking import ranked_views, view_similarities


def test_views_are_compared_with_the_prompt_of_their_own_class() -> None:
    classes = np.eye(3, 4, dtype=np.float32)
    views = np.random.default_rng(0).normal(size=(5, 6, 4)).astype(np.float32)
    labels = np.array([2, 0, 1, 1, 2])
    found = view_similarities(views, labels, classes)
    for row, label in enumerate(labels.tolist()):
        for view in range(6):
            one = views[row, view]
            assert abs(found[row, view] - one[label] / np.linalg.norm(one)) < 1e-6


def test_the_best_views_come_first_and_the_worst_last() -> None:
    similar = np.array([[0.1, 0.9, 0.4, 0.4, -0.2], [0.5, 0.4, 0.3, 0.2, 0.1]])
    np.testing.assert_array_equal(ranked_views(similar, 3), [[1, 2, 3, 4], [0, 1, 2, 4]])
    np.testing.assert_array_equal(ranked_views(similar, 1), [[1, 4], [0, 4]])


def test_each_batch_comes_several_times_in_a_row() -> None:
    batches = ShuffledRows(10, 4, seed=1)
    rows = RepeatedRows(batches, 3)
    assert rows.per_epoch == 6
    for epoch in range(2):
        for step in range(6):
            np.testing.assert_array_equal(rows.batch(epoch, step), batches.batch(epoch, step // 3))
