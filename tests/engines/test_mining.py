"""Banks from words and from embeddings somebody made, and their indexes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlood.engines import mining
from vlood.engines.mining import (
    CheckedRows,
    Encoder,
    choose_model_corpus,
    index_bank,
    mine_embeddings,
    mine_words,
    prepare_corpus,
    read_embedded_words,
)
from vlood.errors import UsageError
from vlood.negatives.corpora import read_corpus
from vlood.negatives.mining import MiningSettings
from vlood.negatives.presets import read_preset
from vlood.negatives.prompting import Prompting
from vlood.prompts.classes import ClassName
from vlood.prompts.templates import ClassFeatures, class_features

CLASSES = (ClassName.of("house"), ClassName.of("dog"))


def write_rows(path: Path, names: list[str], rows: Any) -> Path:
    np.save(path, rows)
    path.with_suffix(".txt").write_text("\n".join(names), encoding="utf-8")
    return path


def ids(dim: int = 6) -> ClassFeatures:
    return ClassFeatures.of(["house", "dog"], np.eye(2, dim))


def random_rows(count: int, dim: int = 6) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32)


def test_words_become_a_bank_that_says_how_it_was_made(plain: Encoder) -> None:
    corpus, settings = read_corpus("bundled"), MiningSettings(size=20)
    bank = mine_words(corpus, CLASSES, Prompting(), settings, plain, provenance={"preset": "vlood"})
    assert len(bank) == 20
    assert "house" not in bank.terms
    assert bank.classes == CLASSES
    assert (bank.class_templates, set(bank.templates)) == (("the nice {}",), {("the nice {}",)})
    assert (bank.model, bank.model_name) == (plain.backbone.identity(), "bundled")
    assert set(bank.sources) == {"bundled"}
    assert bank.made["corpus_sha256"] == corpus.sha256()
    assert bank.made["corpus_terms"] == len(corpus)
    assert bank.made["settings"]["size"] == 20
    assert bank.made["preset"] == "vlood"
    # The rows are those of the texts themselves, and ranked by closeness.
    texts = [f"the nice {term}" for term in bank.terms]
    raw = plain.encode(texts)
    expected = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    np.testing.assert_allclose(bank.features, expected, atol=1e-5)
    assert (np.diff(bank.closeness) >= 0).all()
    known = class_features(plain.encode, CLASSES, ("the nice {}",)).features
    np.testing.assert_allclose(
        bank.closeness, np.quantile(expected @ known.T, 0.95, axis=1), atol=1e-5
    )


def test_classes_that_are_known_are_not_encoded_again(plain: Encoder) -> None:
    known = class_features(plain.encode, CLASSES, ("a {}",))
    bank = mine_words(
        read_corpus("bundled"), CLASSES, Prompting(), MiningSettings(size=5), plain, ids=known
    )
    assert bank.class_features is known.features


def test_words_are_remembered_for_the_next_list_of_classes(
    cached: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, settings = read_corpus("bundled"), MiningSettings(size=5)
    first = mine_words(corpus, CLASSES, Prompting(), settings, cached)
    known = class_features(cached.encode, CLASSES[:1], Prompting().classes)
    monkeypatch.setattr(
        type(cached.backbone), "encode_texts", lambda *_, **__: pytest.fail("encoded again")
    )
    again = mine_words(corpus, CLASSES, Prompting(), settings, cached)
    assert again.terms == first.terms
    np.testing.assert_array_equal(again.features, first.features)
    mine_words(corpus, CLASSES[:1], Prompting(), settings, cached, ids=known)


def test_embeddings_are_mined_without_a_model(tmp_path: Path) -> None:
    names = [*(f"Word_{row}" for row in range(18)), "Dog", "HOUSE"]
    rows = random_rows(20)
    path = write_rows(tmp_path / "words.npy", names, rows)
    settings = MiningSettings(keep=1.0, near_duplicate=None, leaks=("exact",))
    bank = mine_embeddings([path], CLASSES, ids(), settings)
    assert {each.term for each in bank.dropped} == {"dog", "house"}
    assert len(bank) == 18
    assert bank.model is None
    assert bank.model_name is None
    assert bank.class_templates == ()
    assert set(bank.templates) == {("{}",)}
    assert set(bank.sources) == {str(path)}
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    order = [names.index(term.replace("word ", "Word_")) for term in bank.terms]
    np.testing.assert_allclose(bank.features, unit[order], atol=1e-6)


def test_a_word_of_several_files_is_taken_once(tmp_path: Path) -> None:
    first = write_rows(tmp_path / "a.npy", ["sun", "moon"], random_rows(2))
    second = write_rows(tmp_path / "b.npy", ["moon", "star"], random_rows(2) + 1)
    corpus, rows = read_embedded_words([first, second])
    assert corpus.terms == ("sun", "moon", "star")
    assert corpus.sources == (str(first), str(first), str(second))
    expected = [*random_rows(2), random_rows(2)[1] + 1]
    np.testing.assert_allclose(rows[slice(None)], np.array(expected))


def test_a_file_of_distinct_words_stays_on_disk(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.npy", ["sun", "moon", "star"], random_rows(3))
    corpus, rows = read_embedded_words([path])
    assert isinstance(rows, CheckedRows)
    assert len(corpus) == len(rows) == 3
    np.testing.assert_array_equal(rows[np.array([2, 0])], random_rows(3)[[2, 0]])
    assert rows[slice(1, 3)].dtype == np.float32
    _, joined = read_embedded_words(
        [write_rows(tmp_path / "b.npy", ["sun", "sun"], random_rows(2))]
    )
    assert isinstance(joined, np.ndarray)
    assert len(joined) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_an_unusable_row_is_named_by_its_number_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    rows = random_rows(9000)
    rows[8500] = value
    path = write_rows(tmp_path / "a.npy", [f"w{row}" for row in range(9000)], rows)
    with pytest.raises(UsageError, match=r"a\.npy: row 8500 holds NaN, infinite values or noth"):
        mine_embeddings([path], CLASSES, ids(), MiningSettings(size=5))
    checked = CheckedRows(path, rows)
    with pytest.raises(UsageError, match="row 8500 holds"):
        checked[np.array([3, 8500, 4])]
    checked[slice(0, 8500)]


def test_an_unusable_row_of_several_files_is_named_with_its_file(tmp_path: Path) -> None:
    rows = random_rows(3)
    rows[1, 2] = np.nan
    first = write_rows(tmp_path / "a.npy", ["x", "y", "z"], random_rows(3))
    second = write_rows(tmp_path / "b.npy", ["p", "q", "r"], rows)
    with pytest.raises(UsageError, match=r"b\.npy: row 1 holds NaN"):
        read_embedded_words([first, second])


def test_arrays_of_text_are_no_embeddings_alone_or_beside_others(tmp_path: Path) -> None:
    good = write_rows(tmp_path / "a.npy", ["x", "y"], random_rows(2))
    text = write_rows(tmp_path / "b.npy", ["p", "q"], np.array([["a"] * 6] * 2))
    _, rows = read_embedded_words([text])
    sentence = r"b\.npy: embeddings are numbers, not <U1"
    with pytest.raises(UsageError, match=sentence):
        rows[slice(None)]
    with pytest.raises(UsageError, match=sentence):
        read_embedded_words([good, text])


def test_embeddings_of_other_widths_are_refused(tmp_path: Path) -> None:
    first = write_rows(tmp_path / "a.npy", ["x", "y"], random_rows(2, 6))
    second = write_rows(tmp_path / "b.npy", ["p", "q"], random_rows(2, 5))
    with pytest.raises(UsageError, match=r"files of different widths \[5, 6\] cannot be joined"):
        read_embedded_words([first, second])
    with pytest.raises(UsageError, match=r"b\.npy: rows have 5 numbers, but the class .* have 6"):
        mine_embeddings([second], CLASSES, ids(), MiningSettings(size=1))


def test_embeddings_need_a_name_each(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.npy", ["x"], random_rows(2))
    with pytest.raises(UsageError, match=r"a\.txt"):
        read_embedded_words([path])
    path.with_suffix(".txt").unlink()
    with pytest.raises(UsageError, match=r"a\.npy: has no names; put one name a line in a\.txt"):
        read_embedded_words([path])


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"not an array"])
def test_a_damaged_file_of_embeddings_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.npy"):
        read_embedded_words([path])


def test_an_array_of_another_shape_is_refused(tmp_path: Path) -> None:
    for shape in ((3,), (0, 4), (2, 3, 4)):
        path = write_rows(tmp_path / "a.npy", ["x"], np.ones(shape, np.float32))
        with pytest.raises(UsageError, match=r"a\.npy: (embeddings have one row|holds no)"):
            read_embedded_words([path])


def test_corpora_are_joined_and_conjugated(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("quasar\nhouse\n")
    corpus = prepare_corpus(["bundled", str(tmp_path / "words.txt")])
    assert len(corpus) == len(read_corpus("bundled")) + 1
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "adj.all.txt").write_text("round\n")
    (folder / "noun.act.txt").write_text("dance\n")
    conjugated = prepare_corpus([str(folder)], superclasses=read_preset("csp").superclasses)
    assert "dance" in conjugated.terms
    assert "round" not in conjugated.terms
    assert any(term.startswith("round ") for term in conjugated.terms)


def test_an_index_is_built_by_kind_and_announced(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.npy", [f"w{row}" for row in range(30)], random_rows(30))
    bank = mine_embeddings([path], CLASSES, ids(), MiningSettings(size=12))
    told: list[str] = []
    index = index_bank(bank, "auto", seed=0, announce=told.append)
    assert index is not None
    assert index.rows == len(bank)
    assert told == [
        f"index flat: {len(bank)} rows are few enough to search exactly; recall@10 1.000"
    ]
    assert index_bank(bank, "none", seed=0, announce=told.append) is None
    assert len(told) == 1
    with pytest.raises(UsageError, match="--index tree: expected auto, none, flat, hnsw, ivfpq"):
        index_bank(bank, "tree", seed=0, announce=told.append)


def test_the_corpus_nobody_names_suits_the_model() -> None:
    assert choose_model_corpus("bundled") == "bundled"
    assert choose_model_corpus("ViT-B-32") == "imagenet21k"
    assert mining.choose_model_corpus("folder/model") == "imagenet21k"
