"""Collecting from pools of plain arrays: what is searched, filtered and left out as copies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vlood.engines.collect_labels import Labels, check_labels, first_negatives
from vlood.engines.collected_folder import begin, check_folder, folder_names
from vlood.engines.collecting import CollectSettings, collect
from vlood.engines.pools import NO_LABEL, Pool, RowFile
from vlood.errors import UsageError
from vlood.prompts.classes import ClassName

K, D = 4, 16


def labels(wanted: list[int] | None = None) -> Labels:
    names = tuple(ClassName.of(f"label {number}") for number in range(K))
    text = np.eye(K, D, dtype=np.float32)
    return Labels(names, 3, text, 20.0, np.array(wanted or range(K)))


def pool_of(folder: Path, rows: np.ndarray, given: list[int] | None = None) -> Pool:
    pool = Pool(RowFile(folder, D))
    # In blocks, as images come; of any length, since only directions count.
    for start in range(0, len(rows), 7):
        pool.file.append(3 * rows[start : start + 7])
    pool.paths = [str(number) for number in range(len(rows))]
    pool.given = given or [NO_LABEL] * len(rows)
    return pool


def around(rng: np.random.Generator, label: int, count: int, noise: float = 0.3) -> np.ndarray:
    return (np.eye(K, D)[label] + noise * rng.normal(size=(count, D))).astype(np.float32)


def test_each_label_gets_its_nearest_that_no_other_label_fits_better(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate([around(rng, label, 30) for label in range(K)])
    found = collect(pool_of(tmp_path, rows), labels(), CollectSettings(5, duplicates=1.01))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit[:, :K]
    for label in range(K):
        own = found.candidates.rows[found.candidates.labels == label]
        fitting = np.flatnonzero(cosines.argmax(axis=1) == label)
        best = fitting[np.argsort(-cosines[fitting, label])][:5]
        assert own.tolist() == best.tolist()
    assert found.rank.tolist() == [1, 2, 3, 4, 5] * K
    softmax = np.exp(20 * cosines) / np.exp(20 * cosines).sum(axis=1, keepdims=True)
    pairs = found.candidates
    np.testing.assert_allclose(pairs.confidence, softmax[pairs.rows, pairs.labels], atol=1e-5)


def test_the_search_goes_deeper_where_few_of_the_nearest_pass(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    # Of label 1 only few are the best; hundreds of others lie nearer to it and fit label 0 better.
    near = np.zeros((400, D), np.float32)
    near[:, 0], near[:, 1] = 1.0, 0.9
    near[:, 4:] = 0.01 * rng.normal(size=(400, D - 4))
    own = np.zeros((6, D), np.float32)
    own[:, 1] = 0.5
    own[:, 5:] = 0.4 * rng.normal(size=(6, D - 5))
    rows = np.concatenate([near, own])
    found = collect(pool_of(tmp_path, rows), labels([1]), CollectSettings(6, duplicates=1.01))
    assert sorted(found.candidates.rows.tolist()) == list(range(400, 406))


def test_copies_are_left_out_within_and_between_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    rows = np.concatenate([around(rng, label, 10) for label in range(K)])
    rows = np.concatenate([rows, rows[:20] + 1e-3])
    plain = collect(pool_of(tmp_path, rows), labels(), CollectSettings(40, duplicates=1.01))
    found = collect(pool_of(tmp_path, rows), labels(), CollectSettings(40))
    originals = [row % 40 if row >= 40 else row for row in found.candidates.rows.tolist()]
    assert len(set(originals)) == len(originals)
    assert len(plain.candidates) == len(found.candidates) + found.copies
    assert found.copies == 20


def test_given_labels_limits_and_filling(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    rows = np.concatenate([around(rng, 0, 8), around(rng, 1, 2), around(rng, 2, 2)])
    given = [NO_LABEL] * 8 + [1, 1, 0, 3]
    pool = pool_of(tmp_path, rows, given)
    found = collect(pool, labels([0, 1]), CollectSettings(4))
    pairs = found.candidates
    assert pairs.rows[pairs.labels == 0][0] == 10
    assert sorted(pairs.rows[pairs.labels == 1].tolist()) == [8, 9]
    assert 11 not in pairs.rows
    strict = CollectSettings(4, trusted_rule="label-wins")
    assert 10 not in collect(pool, labels([0, 1]), strict).candidates.rows
    filled = CollectSettings(9, trusted_rule="label-wins", fill=True)
    last = collect(pool, labels([0]), filled).candidates
    assert last.rows[-1] == 10
    for limit in ({"min_similarity": 0.8}, {"min_confidence": 0.999}):
        kept = collect(pool, labels(), CollectSettings(9, **limit)).candidates
        assert len(kept)
        assert np.all(kept.similarity >= limit.get("min_similarity", -1))
        assert np.all(kept.confidence >= limit.get("min_confidence", 0))


def test_nothing_to_collect_from_and_labels_that_clash(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no image for these labels"):
        collect(pool_of(tmp_path, np.zeros((0, D))), labels(), CollectSettings())
    dog, cat = ClassName("n01", "dog"), ClassName.of("cat")
    with pytest.raises(UsageError, match="'Dog' is also the class 'n01'"):
        check_labels((dog, cat), ("bird", "Dog"))
    check_labels((dog,), ("bird",))
    with pytest.raises(UsageError, match="only label"):
        check_labels((dog,), ())
    assert first_negatives(["noun"] * 6 + ["adj"] * 3, 3) == [0, 1, 6]


def test_folder_names_are_safe_and_different() -> None:
    names = folder_names(["a/b", "a b", "A_B", "..", "été", ""])
    assert names == ["a_b", "a_b_2", "A_B_3", "label", "été", "label_2"]


def test_only_our_own_folder_is_replaced(tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    begin(ours, {}, overwrite=False)
    (ours / "made").mkdir()
    (ours / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="was stopped"):
        check_folder(ours, resume=False, overwrite=False)
    check_folder(ours, resume=True, overwrite=False)
    begin(ours, {}, overwrite=False)
    assert (ours / "made").is_dir()
    begin(ours, {}, overwrite=True)
    assert not (ours / "made").exists()
    assert (ours / "notes.txt").read_text() == "mine"
    with pytest.raises(UsageError, match="did not write"):
        check_folder(tmp_path, resume=False, overwrite=True)
