from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlood.errors import UsageError
from vlood.negatives.leaks import Leak, find_leaks, fold
from vlood.prompts.classes import ClassName

CLASSES = [
    ClassName("n02106662", "German shepherd"),
    ClassName("goose", "goose"),
    ClassName("jack-o'-lantern", "jack-o'-lantern"),
    ClassName("犬", "犬"),
    ClassName("हिंदी", "हिंदी"),
    ClassName("Café_table", "Café table"),
]


class Thesaurus:
    def hypernyms(self, term: str) -> frozenset[str]:
        return frozenset({"bird", "animal"} if term == "goose" else ())

    def hyponyms(self, term: str) -> frozenset[str]:
        return frozenset({"greylag", "snow goose"} if term == "goose" else ())

    def lemmas(self, term: str) -> frozenset[str]:
        return frozenset({"goose", "anser anser"} if term == "goose" else {term.lower()})


def only(term: str, synonyms: tuple[str, ...] = (), **settings: object) -> tuple[str, str] | None:
    found = find_leaks([term], [synonyms], CLASSES, **settings)  # type: ignore[arg-type]
    return (found[0].reason, found[0].class_name) if found else None


@pytest.mark.parametrize(
    ("term", "class_name"),
    [
        ("german SHEPHERD", "n02106662"),
        ("German_shepherd ", "n02106662"),
        ("German-shepherd", "n02106662"),
        ("N02106662", "n02106662"),
        ("jack o lantern", "jack-o'-lantern"),
        ("Jack‐o’‐Lantern", "jack-o'-lantern"),
        ("ＧＯＯＳＥ", "goose"),
        ("犬", "犬"),
        ("हिंदी", "हिंदी"),
        ("cafe\u0301 table", "Café_table"),
        ("CAFÉ TABLE", "Café_table"),
    ],
)
def test_the_same_name_written_otherwise(term: str, class_name: str) -> None:
    assert only(term) == ("exact", class_name)


@pytest.mark.parametrize(
    ("term", "class_name"),
    [
        ("geese", "goose"),
        ("German shepherds", "n02106662"),
        ("Jack-o'-lanterns", "jack-o'-lantern"),
    ],
)
def test_the_same_base_form(term: str, class_name: str) -> None:
    assert only(term) == ("lemma", class_name)


@pytest.mark.parametrize("term", ["mongoose", "shepherd", "goose step", "हिंद", "猫", "cafe", "!!"])
def test_other_names_are_no_leaks(term: str) -> None:
    assert only(term) is None


def test_a_synonym_of_the_term_counts() -> None:
    assert only("alsatian", ("German police dog", "german shepherds")) == ("lemma", "n02106662")
    assert only("alsatian", ("German police dog",)) is None
    assert only("alsatian", ("German shepherd",), reasons=("exact", "wordnet")) is None


def test_a_thesaurus_tells_what_is_above_and_below() -> None:
    known = Thesaurus()
    assert only("Snow Goose", relations=known) == ("hyponym", "goose")
    assert only("greylags", relations=known) == ("hyponym", "goose")
    assert only("bird", relations=known) == ("hypernym", "goose")
    assert only("Anser anser", relations=known) == ("lemma", "goose")
    assert only("bird", relations=known, reasons=("exact", "lemma")) is None
    assert only("bird") is None


def test_a_cosine_with_a_class() -> None:
    near = {"largest": np.array([0.95], np.float32), "nearest": np.array([1], np.int32)}
    found = find_leaks(["gander"], None, CLASSES, **near)
    assert found == [Leak(0, "gander", "similarity", "goose", "cosine 0.950")]
    assert only("gander", similarity=0.96, **near) is None
    assert only("gander", reasons=("exact",), **near) is None
    assert only("gander", similarity=0.9, largest=np.array([np.nan]), nearest=[0]) is None


def test_the_first_reason_that_applies_is_given_and_rows_stay_in_order() -> None:
    terms = ["bird", "Goose", "tree", "geese", "moss"]
    found = find_leaks(
        terms,
        None,
        CLASSES,
        largest=np.array([0.99, 0.99, 0.1, 0.99, 0.99]),
        nearest=np.array([0, 0, 0, 0, 0]),
        relations=Thesaurus(),
    )
    assert [(leak.row, leak.reason) for leak in found] == [
        (0, "hypernym"),
        (1, "exact"),
        (3, "lemma"),
        (4, "similarity"),
    ]
    assert [leak.term for leak in found] == ["bird", "Goose", "geese", "moss"]
    assert all(leak.detail for leak in found)
    assert find_leaks(terms, None, CLASSES, reasons=()) == []


def test_bad_input_is_refused() -> None:
    with pytest.raises(UsageError, match="reason luck: is unknown"):
        find_leaks([], None, CLASSES, reasons=("luck",))
    for name in ("largest", "nearest"):
        with pytest.raises(UsageError, match=f"{name}: has 3 entries for 1 terms"):
            find_leaks(["a"], None, CLASSES, **{name: np.zeros(3, int)})
    with pytest.raises(UsageError, match="synonyms: has 0 entries"):
        find_leaks(["a"], [], CLASSES)


@given(st.text(max_size=30))
def test_folding_twice_is_folding_once(text: str) -> None:
    assert fold(fold(text)) == fold(text)


@given(st.text(st.characters(categories=["L", "M", "N", "P", "Zs"]), min_size=1, max_size=20))
def test_every_class_leaks_into_itself(name: str) -> None:
    classes = [ClassName(name, name)]
    assert [leak.reason for leak in find_leaks([name], None, classes)] == ["exact"]


def test_symbols_alone_are_names() -> None:
    classes = [ClassName("🐶", "🐶")]
    assert [leak.term for leak in find_leaks(["🐱", "🐶"], None, classes)] == ["🐶"]


def test_many_terms_and_many_classes() -> None:
    terms = [f"word{number} thing" for number in range(20_000)]
    classes = [ClassName.of(f"word{number}_things") for number in range(0, 20_000, 4)]
    assert [leak.row for leak in find_leaks(terms, None, classes)] == list(range(0, 20_000, 4))
