"""Mining in a world whose answer is known, the presets' rules, and words encoded on demand."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vlood.backbone.image_features import unit
from vlood.errors import UsageError
from vlood.negatives.corpus import Corpus, Entry, build_corpus
from vlood.negatives.mining import Mined, MiningSettings, mine
from vlood.negatives.presets import PRESETS, conjugate, read_preset
from vlood.negatives.prompting import Prompting, TextRows
from vlood.prompts.classes import ClassName

Array = NDArray[Any]
CLASS = (ClassName.of("dog"),)


def corpus_of(terms: Sequence[str], parts: Sequence[str] | None = None) -> Corpus:
    entries = [
        Entry(term, part) for term, part in zip(terms, parts or ["noun"] * len(terms), strict=True)
    ]
    return build_corpus("toy", entries, raw=True)


def row(cosine: float, side: int = 0, dim: int = 40) -> Array:
    """A unit vector whose cosine with the only class is known; sides are orthogonal."""
    vector = np.zeros(dim, np.float32)
    vector[0], vector[1 + side] = cosine, math.sqrt(1 - cosine**2)
    return vector


def rows_of(*cosines: float) -> Array:
    return np.stack([row(cosine, side) for side, cosine in enumerate(cosines)])


def dog(dim: int = 40) -> Array:
    return np.eye(1, dim, dtype=np.float32)


def mined(corpus: Corpus, rows: Array, **values: Any) -> Mined:
    settings = MiningSettings(**{"leaks": (), "near_duplicate": None, **values})
    return mine(corpus, rows, CLASS, dog(rows.shape[1]), settings)


def terms_of(corpus: Corpus, found: Mined) -> list[str]:
    return [corpus.terms[number] for number in found.rows]


TOY = corpus_of(["near", "far", "middle", "farthest", "red", "blue"], ["noun"] * 4 + ["adj"] * 2)
TOY_ROWS = rows_of(0.8, 0.1, 0.5, -0.3, 0.2, -0.1) * 7


def test_the_farthest_of_each_part_come_first_in_order() -> None:
    found = mined(TOY, TOY_ROWS, keep=0.5)
    assert terms_of(TOY, found) == ["farthest", "far", "blue"]
    np.testing.assert_allclose(found.closeness, [-0.3, 0.1, -0.1], atol=1e-6)
    assert found.dropped == ()
    assert found.rows.dtype == np.int64


def test_adjectives_may_come_first() -> None:
    found = mined(TOY, TOY_ROWS, keep=0.5, order="adjectives-first")
    assert terms_of(TOY, found) == ["blue", "farthest", "far"]


def test_a_size_is_shared_in_proportion_and_nouns_get_the_rest() -> None:
    assert terms_of(TOY, mined(TOY, TOY_ROWS, size=5)) == [
        *("farthest", "far", "middle", "near"),
        "blue",
    ]
    assert terms_of(TOY, mined(TOY, TOY_ROWS, size=1)) == ["farthest"]


def test_parts_may_compete_with_each_other() -> None:
    found = mined(TOY, TOY_ROWS, size=4, together=True)
    assert terms_of(TOY, found) == ["farthest", "blue", "far", "red"]
    assert (np.diff(found.closeness) >= 0).all()


def test_without_a_size_half_of_a_small_corpus_is_taken() -> None:
    assert len(mined(TOY, TOY_ROWS).rows) == 3


def test_closeness_is_the_quantile_of_the_cosines_with_the_classes() -> None:
    rng = np.random.default_rng(0)
    classes, rows = rng.normal(size=(30, 8)), rng.normal(size=(50, 8)).astype(np.float32)
    corpus = corpus_of([f"word {number}" for number in range(50)])
    names = [ClassName.of(f"class {number}") for number in range(30)]
    cosines = unit(rows).astype(np.float64) @ unit(classes.astype(np.float32)).T
    ascending = np.sort(cosines, axis=1)
    for rule, expected in (
        ("linear", np.quantile(cosines, 0.9, axis=1)),
        ("index", ascending[:, 27]),
    ):
        settings = MiningSettings(
            0.9, rule=rule, size=20, leaks=(), near_duplicate=None, together=True
        )
        found = mine(corpus, rows, names, unit(classes.astype(np.float32)), settings)
        np.testing.assert_array_equal(found.rows, np.argsort(expected, kind="stable")[:20])
        np.testing.assert_allclose(found.closeness, np.sort(expected)[:20], atol=1e-5)


def test_a_near_duplicate_is_replaced_from_further_down_the_ranking() -> None:
    corpus = corpus_of(["sun", "suns", "moon", "star", "tree"])
    rows = np.stack([row(-0.5, 0), row(-0.49, 0), row(-0.4, 1), row(-0.3, 2), row(0.2, 3)])
    found = mined(corpus, rows, size=3, near_duplicate=0.95)
    assert terms_of(corpus, found) == ["sun", "moon", "star"]
    assert [(each.term, each.reason, each.other) for each in found.dropped] == [
        ("suns", "near-duplicate", "sun")
    ]
    assert terms_of(corpus, mined(corpus, rows, size=3)) == ["sun", "suns", "moon"]


def test_duplicates_are_replaced_however_far_down_the_others_are() -> None:
    copies = 700
    corpus = corpus_of([f"copy {number}" for number in range(copies)] + ["moon", "star"])
    rows = np.stack([*[row(-0.5, 0)] * copies, row(0.1, 1), row(0.2, 2)])
    found = mined(corpus, rows, size=3, near_duplicate=0.95)
    assert terms_of(corpus, found) == ["copy 0", "moon", "star"]
    assert len(found.dropped) == copies - 1
    assert {each.other for each in found.dropped} == {"copy 0"}


def test_duplicates_of_another_part_of_speech_stay() -> None:
    corpus = corpus_of(["gold", "golden"], ["noun", "adj"])
    rows = np.stack([row(0.1, 0), row(0.1, 0)])
    found = mined(corpus, rows, keep=1.0, near_duplicate=0.95)
    assert terms_of(corpus, found) == ["gold", "golden"]


class Thesaurus:
    def hypernyms(self, term: str) -> frozenset[str]:
        return frozenset({"animal"}) if term == "dog" else frozenset()

    def hyponyms(self, term: str) -> frozenset[str]:
        return frozenset({"pug"}) if term == "dog" else frozenset()

    def lemmas(self, term: str) -> frozenset[str]:
        return frozenset({"dog", "canis familiaris"}) if term == "dog" else frozenset()


LEAKY = corpus_of(["Dog", "dogs", "canis familiaris", "pug", "animal", "hound", "sun", "moon"])
LEAKY_ROWS = rows_of(-0.9, -0.8, -0.7, -0.6, -0.5, 0.97, 0.1, 0.2)


def leaking(**values: Any) -> Mined:
    settings = MiningSettings(**{"keep": 1.0, "near_duplicate": None, **values})
    return mine(LEAKY, LEAKY_ROWS, CLASS, dog(), settings, relations=Thesaurus())


def test_every_kind_of_leak_is_left_out_and_reported() -> None:
    found = leaking()
    assert terms_of(LEAKY, found) == ["sun", "moon"]
    assert [(each.term, each.reason) for each in found.dropped] == [
        ("Dog", "exact"),
        ("dogs", "lemma"),
        ("canis familiaris", "lemma"),
        ("pug", "hyponym"),
        ("animal", "hypernym"),
        ("hound", "similarity"),
    ]
    assert {each.other for each in found.dropped} == {"dog"}
    assert found.dropped[-1].detail == "cosine 0.970"


@pytest.mark.parametrize(
    ("reason", "dropped"),
    [
        ("exact", {"Dog"}),
        ("lemma", {"Dog", "dogs", "canis familiaris"}),
        # WordNet names nothing above or below the class's own name.
        ("wordnet", {"pug", "animal"}),
        ("similarity", {"hound"}),
    ],
)
def test_leaks_are_left_out_for_the_reasons_asked_for(reason: str, dropped: set[str]) -> None:
    found = leaking(leaks=(reason,))
    assert {each.term for each in found.dropped} == dropped
    assert set(terms_of(LEAKY, found)) == set(LEAKY.terms) - dropped


def test_leaks_are_replaced_from_further_down_and_reported_as_far_as_the_walk_went() -> None:
    found = leaking(keep=1 / 8)
    assert terms_of(LEAKY, found) == ["sun"]
    # The hound lies beyond the last word that was needed.
    assert [each.term for each in found.dropped] == list(LEAKY.terms[:5])


def test_a_share_is_of_all_words_and_leaks_may_leave_fewer() -> None:
    assert terms_of(LEAKY, leaking(keep=0.5)) == ["sun", "moon"]


def test_a_lower_similarity_leaves_out_more() -> None:
    assert terms_of(LEAKY, leaking(similarity=0.15)) == ["sun"]


def test_a_corpus_of_class_names_is_refused() -> None:
    corpus = corpus_of(["Dog", "dogs"])
    with pytest.raises(
        UsageError,
        match=r"every one of the 2 words collides with a class \('Dog' with 'dog', for one\); "
        r"give more words, or --leaks none",
    ):
        mined(corpus, rows_of(0.1, 0.2), leaks=("exact", "lemma"))


def test_a_share_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--keep 0\.1: of 6 words none is kept"):
        mined(TOY, TOY_ROWS, keep=0.1)


def test_fewer_words_than_the_size_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = mined(TOY, TOY_ROWS, size=100)
        assert "--size 100: there are only 6 words to take" in caplog.text
        caplog.clear()
        mined(TOY, TOY_ROWS)
        assert not caplog.text
    assert len(found.rows) == 6


def test_progress_ends_at_the_number_of_candidates() -> None:
    told: list[tuple[int, int]] = []
    settings = MiningSettings(keep=1.0, leaks=(), near_duplicate=None)
    mine(
        TOY,
        TOY_ROWS,
        CLASS,
        dog(),
        settings,
        on_progress=lambda done, of: told.append((done, of)),
    )
    assert told[-1] == (6, 6)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"rule": "median"}, "--rule median: expected one of linear, index"),
        ({"order": "verbs"}, "--order verbs: expected one of nouns-first"),
        ({"quantile": 1.5}, r"--quantile 1\.5: expected a share from 0 to 1"),
        ({"quantile": float("nan")}, "--quantile nan"),
        ({"keep": 0.5, "size": 5}, "--keep and --size: give one"),
        ({"keep": 0.0}, r"--keep 0\.0: expected a share above 0"),
        ({"keep": 1.1}, r"--keep 1\.1"),
        ({"size": 0}, "--size 0: expected at least 1, or auto"),
        ({"leaks": ("exact", "smell")}, "--leaks smell: expected some of exact, lemma"),
    ],
)
def test_settings_that_mean_nothing_are_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        MiningSettings(**values)


# Presets


def many(nouns: int, adjectives: int) -> tuple[Corpus, Array]:
    names = [f"n{number}" for number in range(nouns)] + [f"a{row}" for row in range(adjectives)]
    rows = np.random.default_rng(0).normal(size=(len(names), 40)).astype(np.float32)
    return corpus_of(names, ["noun"] * nouns + ["adj"] * adjectives), rows


def test_every_preset_has_a_line_and_others_are_refused() -> None:
    for name in PRESETS:
        assert read_preset(name).summary
    with pytest.raises(UsageError, match="--preset x: expected one of vlood, neglabel, openood"):
        read_preset("x")


@pytest.mark.parametrize(("nouns", "adjectives"), [(59, 27), (100, 20), (7, 0)])
def test_neglabel_keeps_the_floor_of_fifteen_percent_of_each_part(
    nouns: int, adjectives: int
) -> None:
    corpus, rows = many(nouns, adjectives)
    found = mine(corpus, rows, CLASS, dog(), read_preset("neglabel").settings)
    kept = [corpus.parts[number] for number in found.rows]
    assert kept == ["noun"] * (15 * nouns // 100) + ["adj"] * (15 * adjectives // 100)


def test_neglabel_filters_no_class_name() -> None:
    assert read_preset("neglabel").settings.leaks == ()
    assert read_preset("neglabel").prompting == Prompting(
        ("the nice {}",), ("the nice {}",), ("This is a {} photo",)
    )


def test_openood_vlm_takes_a_total_by_the_index_rule_adjectives_first() -> None:
    preset = read_preset("openood-vlm")
    assert (preset.settings.size, preset.settings.rule) == (10_000, "index")
    corpus, rows = many(60, 30)
    settings = MiningSettings(**{**vars(preset.settings), "size": 40})
    found = mine(corpus, rows, CLASS, dog(), settings)
    # floor(40 * 30 / 90) adjectives, and the nouns get the rest.
    assert [corpus.parts[number] for number in found.rows] == ["adj"] * 13 + ["noun"] * 27
    values = found.closeness
    assert (np.diff(values[:13]) >= 0).all()
    assert (np.diff(values[13:]) >= 0).all()


def test_csp_puts_adjectives_before_superclasses_by_a_seeded_draw() -> None:
    corpus, _ = many(3, 200)
    superclasses = read_preset("csp").superclasses
    assert len(superclasses) > 1
    one, again, other = (conjugate(corpus, superclasses, seed) for seed in (0, 0, 1))
    assert one.terms == again.terms
    assert one.terms != other.terms
    assert one.terms[:3] == corpus.terms[:3]
    assert one.parts == corpus.parts
    for term, plain in zip(one.terms[3:], corpus.terms[3:], strict=True):
        assert term in {phrase.replace("{}", plain) for phrase in superclasses}
    assert conjugate(corpus, (), 0) is corpus


# Words encoded on demand


def encode(texts: list[str]) -> NDArray[np.float32]:
    """A stand-in for a text tower: a vector by the text, of any length."""
    rows = [np.random.default_rng(list(text.encode())).normal(size=6) for text in texts]
    return np.array(rows, np.float32).reshape(-1, 6) * 3


TEMPLATES = [("a {}",), ("a {}", "the {}", "{}"), ("{}",), ("one {}", "two {}")]


def test_a_word_is_the_unit_mean_of_its_unit_features() -> None:
    rows = TextRows(["sun", "moon", "star", "tree"], TEMPLATES, encode)
    found = rows[slice(None)]
    assert found.dtype == np.float32
    assert len(rows) == 4
    for number, word in enumerate(["sun", "moon", "star", "tree"]):
        raw = encode([template.replace("{}", word) for template in TEMPLATES[number]])
        mean = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).mean(axis=0)
        np.testing.assert_allclose(found[number], mean / np.linalg.norm(mean), atol=1e-6)


@pytest.mark.parametrize("templates", [TEMPLATES, [("a {}",)] * 4])
@given(st.lists(st.integers(0, 3), max_size=8))
def test_rows_by_number_are_those_of_the_slice(
    templates: list[tuple[str, ...]], numbers: list[int]
) -> None:
    rows = TextRows(["sun", "moon", "star", "tree"], templates, encode)
    whole = rows[slice(None)]
    np.testing.assert_allclose(rows[np.array(numbers, np.int64)], whole[numbers], atol=1e-6)
    np.testing.assert_allclose(rows[slice(1, 3)], whole[1:3], atol=1e-6)
    np.testing.assert_allclose(rows[slice(2, 99)], whole[2:], atol=1e-6)
    assert rows[slice(2, 2)].shape == (0, 6)


def test_words_are_encoded_when_they_are_asked_for_and_no_sooner() -> None:
    asked: list[str] = []

    def noted(texts: list[str]) -> NDArray[np.float32]:
        asked.extend(texts)
        return encode(texts)

    rows = TextRows(["sun", "moon"], [("a {}",)] * 2, noted)
    assert not asked
    rows[np.array([1])]
    assert asked == ["a moon"]
