"""A bank on disk: what was written is read, and nothing else is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlood.errors import UsageError, VloodError
from vlood.negatives import bank_folder
from vlood.negatives.bank import Dropped, NegativeBank
from vlood.negatives.bank_folder import (
    ARRAYS_FILE,
    BANK_FILE,
    CARD_FILE,
    DROPPED_FILE,
    INDEX_FILE,
    TERMS_FILE,
    check_new,
    describe_bank,
    is_bank,
    load_bank,
    open_index,
    save_bank,
)
from vlood.negatives.index import build_index
from vlood.prompts.classes import ClassName

TERMS = ("солнце", "月", "d'oh", "🐈 cat", 'a, "quoted" \\ word', "[rhizoidal")
FILES = (BANK_FILE, TERMS_FILE, ARRAYS_FILE, INDEX_FILE, DROPPED_FILE, CARD_FILE)


def make_bank(**changes: Any) -> NegativeBank:
    count, rng = len(TERMS), np.random.default_rng(0)
    features = rng.normal(size=(count, 8)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    closeness = rng.random(count).astype(np.float32)
    closeness[2] = np.nan
    bank = NegativeBank(
        terms=TERMS,
        parts=("noun", "adj", "", "noun", "noun", "adj"),
        lex_files=("noun.act", "adj.all", "", "", "", ""),
        closeness=closeness,
        templates=(("a {}.", "the {}", "{}"), *((f"{row} {{}}",) for row in range(1, count))),
        sources=("a list.txt", *("imagenet21k",) * (count - 1)),
        features=features,
        permutation=rng.permutation(count),
        classes=(ClassName("hot_dog", "hot dog"), ClassName("Ёж", "Ёж"), ClassName("x\udce9", "x")),
        class_templates=("the nice {}", "a {}"),
        class_features=features[:3].copy(),
        model={"architecture": "ViT", "weights": "w"},
        model_name="folder/ÄÖ",
        made={"corpus": "imagenet21k", "settings": {"keep": None, "seed": 3}, "odd": "\udcff"},
        dropped=(Dropped("щенок", "hyponym", "Ёж", "a kind"), Dropped("pup", "exact", "hot_dog")),
    )
    return replace(bank, **changes)


def assert_equal(one: NegativeBank, other: NegativeBank) -> None:
    for each in fields(NegativeBank):
        left, right = getattr(one, each.name), getattr(other, each.name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype, each.name
            assert left.shape == right.shape, each.name
            assert left.tobytes() == right.tobytes(), each.name
        else:
            assert left == right, each.name


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank with an index; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("banks") / "bank"
    bank = make_bank()
    assert bank.features is not None
    save_bank(folder, bank, build_index(bank.features))
    return folder


@pytest.fixture
def folder(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "bank"))


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    described = json.loads((folder / BANK_FILE).read_text("utf-8"))
    change(described)
    (folder / BANK_FILE).write_text(json.dumps(described), "utf-8")


def test_what_was_written_is_read_bit_for_bit(kept: Path) -> None:
    assert sorted(path.name for path in kept.iterdir()) == sorted(FILES)
    assert_equal(load_bank(kept), make_bank())
    assert is_bank(kept)
    assert describe_bank(kept)["negatives"] == len(TERMS)


def test_words_alone_without_classes_and_model_come_back(tmp_path: Path) -> None:
    bank = make_bank(
        features=None,
        class_features=None,
        model=None,
        model_name=None,
        classes=(),
        class_templates=(),
        dropped=(),
        made={},
        closeness=np.full(len(TERMS), np.nan, np.float32),
    )
    save_bank(tmp_path / "b", bank)
    assert_equal(load_bank(tmp_path / "b"), bank)
    assert open_index(tmp_path / "b") is None


def test_features_of_any_layout_are_written_as_they_are(tmp_path: Path) -> None:
    features = make_bank().features
    assert features is not None
    save_bank(tmp_path / "b", make_bank(features=np.asfortranarray(features)))
    np.testing.assert_array_equal(load_bank(tmp_path / "b").features, features)


def test_the_name_of_a_class_folder_that_is_not_utf_8_is_written_escaped(tmp_path: Path) -> None:
    save_bank(tmp_path / "b", make_bank(dropped=(Dropped("caf", "similarity", "caf\udce9"),)))
    assert load_bank(tmp_path / "b").dropped[0].other == "caf\\udce9"


def test_the_index_beside_a_bank_opens_and_finds(kept: Path) -> None:
    index, features = open_index(kept), make_bank().features
    assert index is not None
    assert features is not None
    cosines, rows = index.search(features, 2)
    np.testing.assert_array_equal(rows[:, 0], np.arange(len(TERMS)))
    np.testing.assert_allclose(cosines[:, 0], 1, atol=1e-6)


def test_the_card_says_what_the_bank_is(kept: Path) -> None:
    text = (kept / CARD_FILE).read_text("utf-8")
    for line in (
        "6 words (1 of unknown kind, 2 adj, 3 noun)",
        "classes: 3: hot_dog, Ёж",
        "model: folder/ÄÖ",
        "left out: 1 hyponym, 1 exact",
        "index: flat",
        "- corpus: imagenet21k",
        "First: солнце, 月",
    ):
        assert line in text


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    match how:
        case "flipped":
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        case "cut":
            data = data[: len(data) // 2]
        case "empty":
            data = b""
    path.unlink() if how == "missing" else path.write_bytes(data)


@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "missing"])
@pytest.mark.parametrize("name", [TERMS_FILE, ARRAYS_FILE, DROPPED_FILE])
def test_a_damaged_file_is_named(folder: Path, name: str, how: str) -> None:
    damage(folder / name, how)
    with pytest.raises(
        UsageError, match=rf"bank: the bank is damaged \({name} is missing or does not match"
    ):
        load_bank(folder)


@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "missing"])
def test_a_damaged_index_is_named_and_the_bank_still_loads(folder: Path, how: str) -> None:
    damage(folder / INDEX_FILE, how)
    with pytest.raises(UsageError, match=r"negatives\.faiss: the index .*mine again or rebuild"):
        open_index(folder)
    assert_equal(load_bank(folder), make_bank())


@pytest.mark.parametrize("how", ["cut", "empty"])
def test_a_damaged_description_is_named(folder: Path, how: str) -> None:
    damage(folder / BANK_FILE, how)
    for read in (load_bank, describe_bank, open_index):
        with pytest.raises(UsageError, match=r"damaged \(bank\.json cannot be read\); mine or"):
            read(folder)


def test_a_folder_without_a_description_is_no_bank(folder: Path, tmp_path: Path) -> None:
    (folder / BANK_FILE).unlink()
    (tmp_path / "file").write_text("x")
    for place in (folder, tmp_path / "absent", tmp_path / "file"):
        assert not is_bank(place)
        with pytest.raises(UsageError, match="is not a bank of negatives; make one with `vlood mi"):
            load_bank(place)


def test_any_flipped_byte_of_the_description_is_read_or_refused_in_a_sentence(
    folder: Path,
) -> None:
    data = (folder / BANK_FILE).read_bytes()
    for place in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[place] ^= 1 << (place % 7)
        (folder / BANK_FILE).write_bytes(bytes(flipped))
        for read in (load_bank, open_index):
            try:
                read(folder)
            except UsageError as error:
                assert str(folder) in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "key",
    [
        *("schema", "negatives", "model_name", "model", "classes", "class_templates", "made"),
        *("index", "digests"),
    ],
)
def test_a_description_that_lacks_a_part_is_damaged(folder: Path, key: str) -> None:
    rewrite(folder, lambda described: described.pop(key))
    read = open_index if key == "index" else load_bank
    with pytest.raises(UsageError, match="the bank is damaged"):
        read(folder)


@pytest.mark.parametrize("text", ["[]", "3", "null", '{"schema": 1e999}', '{"schema": "one"}'])
def test_json_that_describes_no_bank_is_damaged(folder: Path, text: str) -> None:
    (folder / BANK_FILE).write_text(text)
    with pytest.raises(UsageError, match=r"bank\.json cannot be read"):
        load_bank(folder)


def test_a_wrong_count_of_negatives_is_damage(folder: Path) -> None:
    rewrite(folder, lambda described: described.update(negatives=7))
    with pytest.raises(UsageError, match="disagree on how many negatives"):
        load_bank(folder)


def test_a_newer_schema_asks_for_an_update(folder: Path) -> None:
    rewrite(folder, lambda described: described.update(schema=2))
    with pytest.raises(
        UsageError, match=r"written by a newer vlood \(schema 2, this one reads 1\); update vlood"
    ):
        load_bank(folder)


def test_a_place_that_cannot_hold_a_bank_is_refused_beforehand(
    folder: Path, tmp_path: Path
) -> None:
    file, foreign, empty = tmp_path / "file", tmp_path / "foreign", tmp_path / "empty"
    file.write_text("x")
    foreign.mkdir()
    empty.mkdir()
    (foreign / "holiday.jpg").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="file: is a file; name a folder for the bank"):
            check_new(file, overwrite=overwrite)
        with pytest.raises(UsageError, match="foreign: is not empty and no bank; name a new"):
            check_new(foreign, overwrite=overwrite)
    with pytest.raises(UsageError, match="bank: holds a bank already; use --overwrite, or another"):
        check_new(folder)
    check_new(folder, overwrite=True)
    check_new(empty)
    check_new(tmp_path / "absent")


def test_a_bank_is_replaced_whole(folder: Path) -> None:
    (folder / "note.txt").write_text("of the old bank")
    bank = make_bank(dropped=(), made={"corpus": "other"})
    save_bank(folder, bank)
    assert_equal(load_bank(folder), bank)
    assert sorted(path.name for path in folder.iterdir()) == sorted(set(FILES) - {INDEX_FILE})
    assert [path.name for path in folder.parent.iterdir()] == ["bank"]


@pytest.mark.parametrize("writer", ["_write_terms", "_write_arrays", "_write_dropped", "card"])
def test_a_failing_write_leaves_the_old_bank(
    folder: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bank_folder, writer, full)
    with pytest.raises(
        VloodError, match=r"bank: cannot be written \(No space left on device\); choose another"
    ):
        save_bank(folder, make_bank(made={"corpus": "other"}))
    assert_equal(load_bank(folder), make_bank())
    assert open_index(folder) is not None
    assert [path.name for path in folder.parent.iterdir()] == ["bank"]


def test_a_failing_write_of_a_new_bank_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlood.negatives import index

    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    features = make_bank().features
    assert features is not None
    built = build_index(features)
    monkeypatch.setattr(index, "write_index", full)
    with pytest.raises(VloodError, match="No space left"):
        save_bank(tmp_path / "b", make_bank(), built)
    assert list(tmp_path.iterdir()) == []


def test_a_bank_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_bank(tmp_path / name, make_bank())
    for name in set(FILES) - {INDEX_FILE}:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
