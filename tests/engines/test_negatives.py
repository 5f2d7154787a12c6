"""Where a detector's negatives come from, and what is refused on the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlood.engines import negatives as module
from vlood.engines.mining import Encoder, mine_words
from vlood.engines.negatives import NegativesChoice, find_negatives, holds_embeddings
from vlood.errors import UsageError, VloodError
from vlood.features.cache import BANKS_FOLDER, FeatureCache
from vlood.negatives.bank import NegativeBank
from vlood.negatives.bank_folder import TERMS_FILE, load_bank, save_bank
from vlood.negatives.corpora import read_corpus
from vlood.negatives.mining import MiningSettings
from vlood.negatives.negative_features import NegativeFeatures
from vlood.negatives.prompting import Prompting
from vlood.prompts.classes import ClassName
from vlood.prompts.templates import ClassFeatures, class_features

CLASSES = (ClassName.of("house"), ClassName.of("dog"))


def find(
    encoder: Encoder | None,
    choice: NegativesChoice | None = None,
    *,
    classes: tuple[ClassName, ...] = CLASSES,
    told: list[str] | None = None,
    whole_corpus: bool = False,
) -> NegativeFeatures:
    if encoder is None:
        known = ClassFeatures.of([each.name for each in classes], np.eye(len(classes), 128))
    else:
        known = class_features(encoder.encode, classes, Prompting().classes)
    return find_negatives(
        choice or NegativesChoice(),
        classes,
        known,
        encoder,
        Prompting(),
        whole_corpus=whole_corpus,
        announce=([] if told is None else told).append,
    )


def forbid_mining(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "mine_words", lambda *_, **__: pytest.fail("mined again"))


def kept_banks(encoder: Encoder) -> list[Path]:
    assert encoder.cache is not None
    folder = encoder.cache.folder / BANKS_FOLDER
    return sorted(folder.iterdir()) if folder.is_dir() else []


def test_negatives_nobody_named_are_mined_once_and_kept(
    cached: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    first = find(cached, told=told)
    assert told[0] == "mining negatives from bundled (256 words) for 2 classes"
    assert told[1] == f"{len(first)} negatives mined, kept for later runs"
    assert "house" not in first.names
    assert len(kept_banks(cached)) == 1
    assert cached.cache is not None
    assert cached.cache.info().banks == 1

    forbid_mining(monkeypatch)
    silent: list[str] = []
    again = find(Encoder(cached.backbone, FeatureCache(cached.cache.folder)), told=silent)
    assert silent == []
    assert again.names == first.names
    np.testing.assert_array_equal(again.features, first.features)
    np.testing.assert_array_equal(again.permutation, first.permutation)
    named = find(cached, NegativesChoice("bundled"), told=silent)
    assert named.names == first.names


def test_other_classes_and_whole_corpora_are_mined_for_themselves(cached: Encoder) -> None:
    mined = find(cached)
    whole = find(cached, whole_corpus=True)
    others = find(cached, classes=(*CLASSES, ClassName.of("upwards arrow")))
    assert len(kept_banks(cached)) == 3
    assert set(mined.names) < set(whole.names)
    assert "upwards arrow" in whole.names
    assert "upwards arrow" not in others.names


def test_a_whole_corpus_is_every_word_but_those_that_leak(plain: Encoder) -> None:
    whole = find(plain, whole_corpus=True)
    corpus = read_corpus("bundled")
    missing = set(corpus.terms) - set(whole.names)
    settings = MiningSettings(keep=1.0, near_duplicate=None)
    bank = mine_words(corpus, CLASSES, Prompting(), settings, plain)
    assert "house" in missing
    assert missing == {each.term for each in bank.dropped}


def test_a_damaged_kept_bank_is_said_and_mined_again(cached: Encoder) -> None:
    first = find(cached)
    (place,) = kept_banks(cached)
    (place / TERMS_FILE).write_bytes(b"")
    told: list[str] = []
    again = find(cached, told=told)
    assert told[0] == f"{place}: the negatives kept from an earlier run are damaged"
    assert told[1].startswith("mining negatives from bundled")
    assert again.names == first.names
    assert load_bank(place).terms == first.names


def test_without_a_cache_nothing_is_kept(plain: Encoder) -> None:
    told: list[str] = []
    found = find(plain, told=told)
    assert told[-1] == f"{len(found)} negatives mined"
    assert found.names == find(plain).names


def test_a_cache_that_cannot_be_written_costs_a_line_and_no_more(
    cached: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(place: Path, bank: NegativeBank) -> None:
        raise VloodError("the disk is full")

    monkeypatch.setattr(module, "save_bank", full)
    told: list[str] = []
    assert len(find(cached, told=told)) > 0
    assert told[-1] == "the mined negatives cannot be kept (the disk is full)"


# Banks


@pytest.fixture(scope="module")
def bank(backbone: Any) -> NegativeBank:
    corpus, encoder = read_corpus("bundled"), Encoder(backbone, None)
    return mine_words(corpus, CLASSES, Prompting(), MiningSettings(size=12), encoder)


def saved(folder: Path, bank: NegativeBank) -> NegativesChoice:
    save_bank(folder / "bank", bank)
    return NegativesChoice(str(folder / "bank"))


def test_a_bank_is_taken_as_it_is_with_and_without_a_model(
    bank: NegativeBank, plain: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = saved(tmp_path, bank)
    forbid_mining(monkeypatch)
    for encoder in (plain, None):
        found = find(encoder, choice)
        assert found.names == bank.terms
        np.testing.assert_array_equal(found.permutation, bank.permutation)
    assert choice.named
    assert choice.class_templates() == ("the nice {}",)
    assert NegativesChoice("bundled").class_templates() == ()
    assert NegativesChoice().class_templates() == ()


def test_a_bank_of_other_classes_or_another_model_is_refused(
    bank: NegativeBank, plain: Encoder, tmp_path: Path
) -> None:
    choice = saved(tmp_path, bank)
    with pytest.raises(
        UsageError, match=r"--negatives .*bank: was mined for other classes \(it does not know cat"
    ):
        find(plain, choice, classes=(*CLASSES, ClassName.of("cat")))
    assert bank.model is not None
    foreign = replace(bank, model={**bank.model, "weights": "0"}, model_name="ViT-B-32")
    save_bank(tmp_path / "bank", foreign)
    with pytest.raises(
        UsageError, match=r"--negatives .*made with another model \(ViT-B-32; weights differ\)"
    ):
        find(plain, choice)
    # Arrays have no model to compare.
    assert find(None, choice).names == bank.terms


def test_a_damaged_bank_is_refused_not_replaced(
    bank: NegativeBank, plain: Encoder, tmp_path: Path
) -> None:
    choice = saved(tmp_path, bank)
    (tmp_path / "bank" / TERMS_FILE).write_bytes(b"")
    with pytest.raises(UsageError, match="the bank is damaged"):
        find(plain, choice)


def test_a_bank_of_words_alone_is_encoded_with_its_own_templates(
    bank: NegativeBank, plain: Encoder, tmp_path: Path
) -> None:
    words = replace(
        bank,
        features=None,
        class_features=None,
        model=None,
        model_name=None,
        templates=(("a {}", "the {}"), *bank.templates[1:]),
    )
    choice = saved(tmp_path, words)
    found = find(plain, choice)
    np.testing.assert_allclose(found.features[1:], bank.features[1:], atol=1e-5)  # type: ignore[index]
    raw = plain.encode([f"a {bank.terms[0]}", f"the {bank.terms[0]}"])
    mean = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).mean(axis=0)
    np.testing.assert_allclose(found.features[0], mean / np.linalg.norm(mean), atol=1e-5)
    with pytest.raises(UsageError, match="no model has encoded; give a model with --model"):
        find(None, choice)


# Words and rows of one's own


def test_a_word_list_is_taken_whole_but_for_class_names(plain: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("quasar\nHouse\nzither\ndogs\n")
    told: list[str] = []
    found = find(plain, NegativesChoice(str(path)), told=told)
    assert found.names == ("quasar", "zither")
    assert told == [
        f"--negatives {path}: 2 of 4 are names of classes (house, for one) and are left out"
    ]
    raw = plain.encode(["the nice quasar", "the nice zither"])
    np.testing.assert_allclose(
        found.features, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-5
    )


def test_a_word_list_of_class_names_alone_is_refused(plain: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("dog\nhouse\n")
    with pytest.raises(UsageError, match=r"words\.txt: every word is the name of a class; give"):
        find(plain, NegativesChoice(str(path)))


def test_words_without_a_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("quasar\n")
    for given in (str(path), "bundled", "imagenet21k"):
        with pytest.raises(UsageError, match="words need a model to encode them; give embeddings"):
            find(None, NegativesChoice(given))
    with pytest.raises(UsageError, match="--negatives is missing: with embeddings alone there"):
        find(None)


@pytest.mark.parametrize("as_embeddings", [True, False])
def test_given_rows_need_no_model_and_lose_class_names(tmp_path: Path, as_embeddings: bool) -> None:
    rows = np.random.default_rng(0).normal(size=(3, 128)).astype(np.float32)
    path = tmp_path / "rows.npy"
    np.save(path, rows)
    path.with_suffix(".txt").write_text("quasar\ndog\nzither\n")
    choice = NegativesChoice(embeddings=(path,)) if as_embeddings else NegativesChoice(str(path))
    told: list[str] = []
    found = find(None, choice, told=told)
    assert found.names == ("quasar", "zither")
    assert "1 of 3 are names of classes (dog, for one)" in told[0]
    expected = rows[[0, 2]] / np.linalg.norm(rows[[0, 2]], axis=1, keepdims=True)
    np.testing.assert_allclose(found.features, expected, atol=1e-6)


def test_one_way_of_naming_negatives_is_enough(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--negatives and --negative-embeddings: give one of"):
        NegativesChoice("bundled", (tmp_path / "x.npy",))


def test_nothing_of_that_name_is_refused(plain: Encoder) -> None:
    with pytest.raises(UsageError, match="bundle"):
        find(plain, NegativesChoice("bundle"))


def test_a_parquet_file_is_embeddings_where_it_has_some(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    words, rows, damaged = (tmp_path / f"{name}.parquet" for name in ("words", "rows", "damaged"))
    pq.write_table(pa.table({"term": ["sun"]}), words)
    pq.write_table(pa.table({"term": ["sun"], "embedding": [[1.0, 2.0]]}), rows)
    damaged.write_bytes(b"PAR1")
    assert not holds_embeddings(words)
    assert holds_embeddings(rows)
    assert not holds_embeddings(damaged)
    assert holds_embeddings(tmp_path / "absent.npy")
    assert not holds_embeddings(tmp_path / "words.txt")
