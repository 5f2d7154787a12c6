"""Published lists in, banks of words alone; and out again, line by line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vlood.engines.published_banks import exported_lines, import_bank
from vlood.errors import UsageError
from vlood.prompts.classes import ClassName

LINES = ["the nice sun", "This is a red photo", "the nice Мир", "plain words", "the nice sun"]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    path = tmp_path / "selected_neg_labels.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return path


def test_a_list_becomes_a_bank_of_words_and_templates(published: Path) -> None:
    classes = (ClassName.of("dog"),)
    bank, report = import_bank("neglabel-txt", published, classes)
    assert bank.terms == ("sun", "red", "Мир", "plain words", "sun")
    assert bank.parts == ("noun", "adj", "noun", "", "noun")
    assert bank.templates[1] == ("This is a {} photo",)
    assert bank.features is None
    assert bank.model is None
    assert np.isnan(bank.closeness).all()
    assert bank.classes == classes
    assert bank.class_templates == ("the nice {}",)
    assert sorted(bank.permutation.tolist()) == list(range(5))
    assert bank.made["file"] == published.name
    assert report == {
        "prompts": 5,
        "kept": 5,
        "nouns": 3,
        "adjectives": 1,
        "without a known template": 1,
        "distinct": 4,
    }


def test_duplicates_are_left_out_where_asked_for_and_the_first_stays(published: Path) -> None:
    bank, report = import_bank("neglabel-txt", published, (), dedup=True)
    assert bank.terms == ("sun", "red", "Мир", "plain words")
    assert (report["prompts"], report["kept"], report["distinct"]) == (5, 4, 4)


def test_cmas_array_is_the_same_list(published: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "list.npy", np.array(LINES))
    text, _ = import_bank("neglabel-txt", published, ())
    array, _ = import_bank("cma-npy", tmp_path / "list.npy", ())
    assert (array.terms, array.parts, array.templates) == (text.terms, text.parts, text.templates)
    assert set(array.sources) == {"cma-npy"}


def test_what_was_imported_is_exported_line_by_line(published: Path) -> None:
    bank, _ = import_bank("neglabel-txt", published, ())
    assert exported_lines(bank) == LINES
    assert exported_lines(bank, plain=True) == list(bank.terms)


def test_an_average_over_templates_has_no_line(published: Path) -> None:
    bank, _ = import_bank("neglabel-txt", published, ())
    several = replace(bank, templates=(("a {}", "the {}"), *bank.templates[1:]))
    with pytest.raises(UsageError, match=r"1 negatives are averages over several .*with --plain"):
        exported_lines(several)
    assert exported_lines(several, plain=True) == list(bank.terms)


def test_without_a_noun_the_classes_have_no_template(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("This is a red photo\nblue\n")
    bank, _ = import_bank("neglabel-txt", path, ())
    assert bank.class_templates == ()


def test_classes_take_the_commonest_wording_of_nouns_and_the_first_of_equals(
    tmp_path: Path,
) -> None:
    path = tmp_path / "words.txt"
    path.write_text("The Nice sun\nthe nice moon\n")
    assert import_bank("neglabel-txt", path, ())[0].class_templates == ("The Nice {}",)
    path.write_text("The Nice sun\nthe nice moon\nthe nice star\n")
    assert import_bank("neglabel-txt", path, ())[0].class_templates == ("the nice {}",)
