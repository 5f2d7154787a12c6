"""A bank in memory: which models and classes it is for, a part of it, several joined."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vlood.errors import UsageError
from vlood.negatives.bank import Dropped, NegativeBank, check_classes, check_model, merge
from vlood.prompts.classes import ClassName

MODEL = {"architecture": "ViT", "config": "c", "weights": "w", "precision": "fp32"}
CLASSES = (ClassName("dog", "dog"), ClassName("hot_dog", "hot dog"))


def make_bank(*terms: str, dim: int = 4, seed: int = 0, **changes: Any) -> NegativeBank:
    count, rng = len(terms), np.random.default_rng(seed)
    features = rng.normal(size=(count, dim)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    bank = NegativeBank(
        terms=terms,
        parts=("noun",) * count,
        lex_files=("noun.act",) * count,
        closeness=rng.random(count).astype(np.float32),
        templates=tuple((f"{seed} {{}}",) for _ in terms),
        sources=(f"list {seed}",) * count,
        features=features,
        permutation=rng.permutation(count),
        classes=CLASSES,
        class_templates=("the nice {}",),
        class_features=np.eye(2, dim, dtype=np.float32),
        model=MODEL,
        model_name="ViT-B-32",
        made={"corpus": f"list {seed}"},
        dropped=(Dropped("puppy", "hyponym", "dog", str(seed)),),
    )
    return replace(bank, **changes)


def words_alone(*terms: str, **changes: Any) -> NegativeBank:
    return make_bank(*terms, **{"features": None, "class_features": None, "model": None, **changes})


def test_a_bank_hands_its_rows_and_its_order_to_a_detector() -> None:
    bank = make_bank("sun", "moon", "star")
    side = bank.negative_features()
    assert side.names == bank.terms
    np.testing.assert_allclose(side.features, bank.features, atol=1e-7)
    np.testing.assert_array_equal(side.permutation, bank.permutation)


def test_words_alone_need_rows_from_a_model() -> None:
    bank = words_alone("sun", "moon")
    with pytest.raises(UsageError, match="words that no model has encoded; give a model"):
        bank.negative_features()
    side = bank.negative_features(np.array([[3.0, 4.0], [0.0, 2.0]]))
    np.testing.assert_allclose(side.features, [[0.6, 0.8], [0, 1]], atol=1e-7)
    np.testing.assert_array_equal(side.permutation, bank.permutation)


def test_a_part_of_a_bank_keeps_what_belongs_to_its_rows() -> None:
    bank = make_bank("a", "b", "c", "d", parts=("noun", "adj", "", "noun"))
    part = bank.only([3, 1])
    assert part.terms == ("d", "b")
    assert part.parts == ("noun", "adj")
    assert part.features is not None
    assert bank.features is not None
    np.testing.assert_array_equal(part.features, bank.features[[3, 1]])
    np.testing.assert_array_equal(part.closeness, bank.closeness[[3, 1]])
    assert sorted(part.permutation.tolist()) == [0, 1]
    assert (part.classes, part.model, part.dropped) == (bank.classes, bank.model, bank.dropped)
    assert len(bank) == 4
    assert bank.only(np.array([0]), seed=3).terms == ("a",)
    assert len(bank.only([])) == 0
    assert words_alone("a", "b").only([1]).features is None


def test_the_groups_of_a_part_follow_the_seed() -> None:
    bank = make_bank(*map(str, range(40)))
    one, again, other = (bank.only(range(30), seed=seed).permutation for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_the_same_model_may_differ_in_precision() -> None:
    check_model(make_bank("a"), {**MODEL, "precision": "fp16", "open_clip": "4"}, "x")


@pytest.mark.parametrize("changed", ["architecture", "config", "weights"])
def test_another_model_is_refused_by_what_differs(changed: str) -> None:
    sentence = rf"bank/x: was made with another model \(ViT-B-32; {changed} differ\); mine"
    with pytest.raises(UsageError, match=sentence):
        check_model(make_bank("a"), {**MODEL, changed: "other"}, "bank/x")


def test_a_bank_without_a_model_fits_any() -> None:
    check_model(words_alone("a"), MODEL, "x")
    check_classes(make_bank("a", classes=()), [ClassName.of("anything")], "x")


def test_the_order_and_case_of_classes_do_not_matter_and_labels_neither() -> None:
    check_classes(make_bank("a"), [ClassName("1", "Hot Dog"), ClassName("0", "DOG")], "x")


def test_other_classes_are_refused_and_named() -> None:
    with pytest.raises(
        UsageError,
        match=r"x: was mined for other classes \(it does not know cat; "
        r"it was also made for hot dog\); mine again",
    ):
        check_classes(make_bank("a"), [ClassName.of("dog"), ClassName.of("cat")], "x")
    with pytest.raises(UsageError, match=r"\(it was also made for hot dog\)"):
        check_classes(make_bank("a"), [ClassName.of("dog")], "x")
    many = [*CLASSES, *map(ClassName.of, "abcde")]
    with pytest.raises(UsageError, match=r"\(it does not know a, b, c and others\)"):
        check_classes(make_bank("a"), many, "x")


def test_the_first_of_a_term_stays_when_banks_are_joined() -> None:
    first, second = make_bank("a", "b", seed=1), make_bank("c", "b", "d", seed=2)
    joined = merge([first, second], ["1", "2"])
    assert joined.terms == ("a", "b", "c", "d")
    assert joined.sources == ("list 1", "list 1", "list 2", "list 2")
    assert joined.templates == (("1 {}",), ("1 {}",), ("2 {}",), ("2 {}",))
    assert first.features is not None
    assert second.features is not None
    np.testing.assert_array_equal(
        joined.features, np.concatenate([first.features, second.features[[0, 2]]])
    )
    np.testing.assert_array_equal(
        joined.closeness, np.concatenate([first.closeness, second.closeness[[0, 2]]])
    )
    assert sorted(joined.permutation.tolist()) == [0, 1, 2, 3]
    assert joined.made == {
        "merged": [{"corpus": "list 1"}, {"corpus": "list 2"}],
        "duplicates": 1,
    }
    assert [each.detail for each in joined.dropped] == ["1", "2"]
    assert (joined.classes, joined.model, joined.model_name) == (CLASSES, MODEL, "ViT-B-32")


def test_joining_one_bank_drops_its_own_duplicates() -> None:
    assert merge([make_bank("a", "b", "a")], ["1"]).terms == ("a", "b")


def test_lists_of_words_are_joined_with_each_other_alone() -> None:
    joined = merge([words_alone("a"), words_alone("b")], ["1", "2"])
    assert joined.features is None
    assert joined.terms == ("a", "b")
    with pytest.raises(UsageError, match="2: holds words alone and 1 is encoded; merge banks of"):
        merge([make_bank("a"), words_alone("b")], ["1", "2"])
    with pytest.raises(UsageError, match="2: is encoded and 1 is not"):
        merge([words_alone("a"), make_bank("b")], ["1", "2"])


def test_banks_of_other_widths_models_and_classes_are_not_joined() -> None:
    first = make_bank("a")
    with pytest.raises(UsageError, match="2: its embeddings are 8 wide and those of 1 4"):
        merge([first, make_bank("b", dim=8)], ["1", "2"])
    with pytest.raises(UsageError, match="2: was made with another model"):
        merge([first, make_bank("b", model={**MODEL, "weights": "v"})], ["1", "2"])
    with pytest.raises(UsageError, match="2: was mined for other classes"):
        merge([first, make_bank("b", classes=CLASSES[:1])], ["1", "2"])


def test_a_bank_for_any_class_and_model_does_not_hide_that_two_others_differ() -> None:
    free = make_bank("a", classes=(), model=None, model_name=None)
    with pytest.raises(UsageError, match="3: was mined for other classes"):
        merge([free, make_bank("b"), make_bank("c", classes=CLASSES[:1])], ["1", "2", "3"])
    with pytest.raises(UsageError, match="3: was made with another model"):
        merge([free, make_bank("b"), make_bank("c", model={"weights": "v"})], ["1", "2", "3"])
    joined = merge([free, make_bank("b")], ["1", "2"])
    assert (joined.classes, joined.model, joined.model_name) == (CLASSES, MODEL, "ViT-B-32")


def test_a_model_is_kept_beside_classes_of_a_bank_that_has_none() -> None:
    modelled = make_bank("a", classes=())
    classed = make_bank("b", model=None, model_name=None)
    joined = merge([modelled, classed], ["1", "2"])
    assert (joined.classes, joined.model, joined.model_name) == (CLASSES, MODEL, "ViT-B-32")
