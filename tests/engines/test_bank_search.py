"""What a bank answers: its nearest negatives, and which of them collide with classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlood.engines.bank_search import bank_leaks, encode_image_file, open_nearest
from vlood.engines.mining import Encoder, mine_words
from vlood.errors import UsageError
from vlood.negatives.bank import NegativeBank
from vlood.negatives.bank_folder import INDEX_FILE, save_bank
from vlood.negatives.corpora import read_corpus
from vlood.negatives.index import build_index
from vlood.negatives.mining import MiningSettings
from vlood.negatives.prompting import Prompting
from vlood.prompts.classes import ClassName

CLASSES = (ClassName.of("house"), ClassName.of("upwards arrow"))


@pytest.fixture
def bank(plain: Encoder) -> NegativeBank:
    return mine_words(read_corpus("bundled"), CLASSES, Prompting(), MiningSettings(size=30), plain)


@pytest.mark.parametrize("kind", ["flat", "hnsw", None])
def test_the_nearest_negatives_of_a_text(
    bank: NegativeBank, plain: Encoder, tmp_path: Path, kind: str | None
) -> None:
    assert bank.features is not None
    save_bank(tmp_path / "b", bank, None if kind is None else build_index(bank.features, kind))
    near = open_nearest(tmp_path / "b", bank, plain)
    assert near.names == bank.terms
    cosines, rows = near.search(plain.encode([f"the nice {bank.terms[4]}"]), 3)
    assert rows[0, 0] == 4
    assert cosines[0, 0] == pytest.approx(1, abs=1e-4)
    expected = np.sort(bank.features @ bank.features[4])[::-1][:3]
    np.testing.assert_allclose(cosines[0], expected, atol=1e-4)


def test_a_bank_of_words_alone_is_encoded_to_be_searched(
    bank: NegativeBank, plain: Encoder, tmp_path: Path
) -> None:
    words = replace(bank, features=None, class_features=None, model=None)
    save_bank(tmp_path / "b", words)
    near = open_nearest(tmp_path / "b", words, plain)
    _, rows = near.search(plain.encode([f"the nice {bank.terms[4]}"]), 1)
    assert rows[0, 0] == 4


def test_a_bank_of_another_model_or_width_or_with_a_damaged_index_is_refused(
    bank: NegativeBank, plain: Encoder, tmp_path: Path
) -> None:
    assert bank.features is not None
    assert bank.model is not None
    save_bank(tmp_path / "b", bank, build_index(bank.features))
    foreign = replace(bank, model={**bank.model, "config": "x"})
    with pytest.raises(UsageError, match="was made with another model"):
        open_nearest(tmp_path / "b", foreign, plain)
    narrow = replace(bank, model=None, features=bank.features[:, :64])
    with pytest.raises(UsageError, match="embeddings are 64 wide and those of bundled 128"):
        open_nearest(tmp_path / "b", narrow, plain)
    (tmp_path / "b" / INDEX_FILE).write_bytes(b"")
    with pytest.raises(UsageError, match=r"negatives\.faiss: the index does not match"):
        open_nearest(tmp_path / "b", bank, plain)


def test_an_image_is_encoded_or_refused_in_a_sentence(plain: Encoder, tmp_path: Path) -> None:
    picture, damaged = tmp_path / "a.png", tmp_path / "b.png"
    Image.new("RGB", (70, 64), (200, 10, 30)).save(picture)
    damaged.write_bytes(picture.read_bytes()[:40])
    assert encode_image_file(str(picture), plain).shape == (1, 128)
    for path in (damaged, tmp_path / "absent.png"):
        with pytest.raises(UsageError, match=rf"{path.name}: .*name an image, or a text that is"):
            encode_image_file(str(path), plain)


def test_leaks_by_name_are_found_for_any_classes(bank: NegativeBank) -> None:
    (found,) = bank_leaks(bank, [ClassName.of(bank.terms[3].upper())])
    assert (found.row, found.term, found.reason) == (3, bank.terms[3], "exact")


def test_leaks_by_similarity_are_found_for_the_banks_own_classes_alone(bank: NegativeBank) -> None:
    assert bank_leaks(bank, CLASSES) == []
    assert bank.features is not None
    assert bank.class_features is not None
    largest = (bank.features @ bank.class_features.T).max(axis=1)
    threshold = float(np.sort(largest)[-4])
    found = bank_leaks(bank, CLASSES, similarity=threshold)
    assert {leak.row for leak in found} == set(np.flatnonzero(largest >= threshold).tolist())
    assert {leak.reason for leak in found} == {"similarity"}
    assert bank_leaks(bank, CLASSES[::-1], similarity=-1.0) == []
    assert bank_leaks(replace(bank, features=None), CLASSES, similarity=-1.0) == []
