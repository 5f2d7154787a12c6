"""LAPT: mixing, its three losses, both sides' prompts, and the NegLabel detector they make."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.backbone.conftest import build
from tests.prompts.test_contexts import NAMES, WIDTH, stand_in
from vlood.backbone.image_features import ImageFeatures, unit
from vlood.errors import UsageError
from vlood.methods import neglabel
from vlood.methods.contract import make_settings
from vlood.methods.lapt import METHOD
from vlood.methods.lapt_loss import (
    Mixing,
    classification_loss,
    draw_mixing,
    evidence_margin,
    lapt_loss,
    merged_cross_entropy,
    mix,
)
from vlood.methods.lapt_prompts import (
    PromptSides,
    compiled_from,
    starting_contexts,
    text_bank,
    training_negatives,
)
from vlood.methods.lapt_settings import PRESETS, LaptSettings
from vlood.negatives.negative_features import NegativeFeatures, NegativeRow
from vlood.prompts.contexts import prompt_tower
from vlood.prompts.templates import read_templates

C, M, B, T, D = 5, 7, 8, 3, 16
PAPER, RELEASED = (LaptSettings(**PRESETS[name]) for name in ("lapt-paper", "lapt-released"))
WORDS = ["drum", "barn owl", "quark", "lemon_tree", "ink"]


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(unit(np.random.default_rng(seed).normal(size=shape).astype(np.float32)))


LABELS = torch.tensor([0, 4, 5, 11, 2, 2, 9, 5])
IMAGES, BANK = rows(B, D), rows(C + M, T, D, seed=1)
DRAWN = Mixing(0.3, np.array([0, 1, 2, 0, 1, 2, 0, 1]), 0.8, np.array([2, 3, 0, 1, 6, 7, 5, 4]))


def text() -> tuple[torch.Tensor, torch.Tensor]:
    return rows(C, D, seed=2).requires_grad_(), rows(M, D, seed=3).requires_grad_()


def loss_of(
    settings: LaptSettings, mixing: Mixing = DRAWN, **given: Any
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    classes, negatives = given.pop("text", None) or text()
    given = {"images": IMAGES, "labels": LABELS, "bank": BANK, **given}
    return lapt_loss(
        class_text=classes,
        negative_text=negatives,
        mixing=mixing,
        settings=settings,
        logit_scale=20.0,
        **given,
    )


def plain_cross_entropy(features: NDArray[Any], targets: NDArray[Any]) -> float:
    classes, negatives = (each.detach().numpy().astype(np.float64) for each in text())
    logits = 20.0 * features @ np.concatenate([classes, negatives]).T
    logits -= logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return float(-(targets * log_p).sum(axis=1).mean())


def test_the_three_losses_are_those_of_plain_numpy() -> None:
    images, bank = IMAGES.numpy().astype(np.float64), BANK.numpy().astype(np.float64)
    labels, one_hot = LABELS.numpy(), np.eye(C + M)[LABELS.numpy()]

    def mixed(other: NDArray[Any], share: float) -> NDArray[Any]:
        found = share * images + (1 - share) * other
        return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))

    expected = {
        "plain": plain_cross_entropy(images, one_hot),
        "cross_modal": plain_cross_entropy(mixed(bank[labels, DRAWN.template], 0.3), one_hot),
        "cross_distribution": plain_cross_entropy(
            mixed(images[DRAWN.partner], 0.8), 0.8 * one_hot + 0.2 * one_hot[DRAWN.partner]
        ),
    }
    total, parts = loss_of(PAPER)
    assert {name: float(part.detach()) for name, part in parts.items()} == pytest.approx(
        expected, rel=1e-5
    )
    assert float(total.detach()) == pytest.approx(sum(expected.values()), rel=1e-5)
    weighted = replace(
        PAPER, weight_plain=2.0, weight_cross_modal=0.0, weight_cross_distribution=0.5
    )
    total, parts = loss_of(weighted)
    assert set(parts) == {"plain", "cross_distribution"}
    wanted = 2 * expected["plain"] + 0.5 * expected["cross_distribution"]
    assert float(total.detach()) == pytest.approx(wanted, rel=1e-5)


def test_the_recipes_differ_in_their_losses_alone() -> None:
    assert set(loss_of(PAPER)[1]) == {"plain", "cross_modal", "cross_distribution"}
    total, parts = loss_of(RELEASED)
    assert set(parts) == {"cross_modal"}
    assert torch.equal(total, parts["cross_modal"])
    assert (PAPER.mix_alpha, PAPER.mix_alpha_cd, PAPER.context_length) == (1.0, 0.3, 4)
    assert replace(RELEASED, weight_plain=1.0, weight_cross_distribution=1.0) == PAPER
    chosen = make_settings(METHOD, {"preset": "lapt-released", "epochs": "3"})
    assert chosen == replace(RELEASED, epochs=3)
    with pytest.raises(UsageError, match="preset is 'lapt'; expected lapt-paper or lapt-released"):
        make_settings(METHOD, {"preset": "lapt"})


@pytest.mark.parametrize("objective", ["merged", "binary"])
def test_the_objective_that_was_set_is_the_one_of_every_loss(objective: str) -> None:
    classes, negatives = (each.detach().numpy().astype(np.float64) for each in text())
    images = IMAGES.numpy().astype(np.float64)
    weights = np.exp(20.0 * images @ np.concatenate([classes, negatives]).T)
    known = weights[:, :C].sum(axis=1) / weights.sum(axis=1)
    losses = []
    for image, label in enumerate(LABELS.tolist()):
        if label >= C:
            share = 1 - known[image]
        else:
            share = known[image]
            if objective == "merged":
                share = weights[image, label] / weights[image].sum()
        losses.append(-np.log(min(max(share, 1e-6), 1 - 1e-6)))
    found = loss_of(replace(PAPER, objective=objective))[1]["plain"]
    assert float(found.detach()) == pytest.approx(np.mean(losses), rel=1e-4)


def test_images_alone_are_the_limit_of_both_mixes() -> None:
    total, parts = loss_of(PAPER, replace(DRAWN, cross_modal=1.0, cross_distribution=1.0))
    torch.testing.assert_close(total, 3 * parts["plain"])


def test_both_sides_learn_and_a_step_lowers_the_loss() -> None:
    both = text()
    total, _ = loss_of(PAPER, text=both)
    total.backward()
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in both)
    with torch.no_grad():
        moved = tuple(each - 1e-3 * each.grad for each in both)
        assert loss_of(PAPER, text=moved)[0] < total


def test_a_batch_of_one_side_has_no_cross_distribution_loss() -> None:
    mixing = draw_mixing(np.array([0, 1, 4]), C, T, PAPER, np.random.default_rng(0))
    assert mixing.partner is None
    _, parts = loss_of(PAPER, mixing, images=IMAGES[:3], labels=torch.tensor([0, 1, 4]))
    assert set(parts) == {"plain", "cross_modal"}


def test_mixed_rows_are_unit_and_between() -> None:
    one, other = rows(4, D), rows(4, D, seed=9)
    mixed = mix(one, other, 0.5)
    torch.testing.assert_close(mixed.norm(dim=1), torch.ones(4))
    torch.testing.assert_close((mixed * one).sum(1), (mixed * other).sum(1))


def test_draws_pair_across_the_border_and_come_from_their_generator() -> None:
    labels = np.array([0, 1, 6, 4, 9, 11, 2, 3])
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    drawn = [
        draw_mixing(labels, C, T, PAPER, np.random.default_rng(seed)) for seed in (1, 1, *range(99))
    ]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    again, first = drawn[:2]
    assert (again.cross_modal, again.cross_distribution) == (
        first.cross_modal,
        first.cross_distribution,
    )
    assert np.array_equal(again.template, first.template)
    partners = np.stack([each.partner for each in drawn])
    assert np.array_equal(again.partner, first.partner)
    assert ((labels[partners] < C) != (labels < C)).all()
    # With replacement, and all of the other side come up.
    assert set(partners[:, 0].tolist()) == {2, 4, 5}
    assert set(partners[:, 2].tolist()) == {0, 1, 3, 6, 7}
    assert set(np.stack([each.template for each in drawn]).ravel().tolist()) == {0, 1, 2}


def test_the_first_negative_label_lies_outside() -> None:
    drawn = draw_mixing(np.array([C - 1, C]), C, T, PAPER, np.random.default_rng(0))
    assert drawn.partner is not None
    assert drawn.partner.tolist() == [1, 0]
    one_side = draw_mixing(np.array([C, C + 1]), C, T, PAPER, np.random.default_rng(0))
    assert one_side.partner is None


def test_shares_have_the_distributions_of_their_alphas() -> None:
    random = np.random.default_rng(0)
    labels = np.array([0, 9])
    drawn = [draw_mixing(labels, C, T, PAPER, random) for _ in range(4000)]
    for shares, alpha in (
        ([each.cross_modal for each in drawn], 1.0),
        ([each.cross_distribution for each in drawn], 0.3),
    ):
        assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
        assert np.var(shares) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


def test_the_same_numbers_are_drawn_whatever_the_batch_holds() -> None:
    """So that what a step draws does not depend on which losses are on."""
    after = []
    for labels in (np.array([0, 1, 2]), np.array([0, 9, 2])):
        random = np.random.default_rng(5)
        draw_mixing(labels, C, T, PAPER, random)
        after.append(random.random())
    assert after[0] == after[1]


def test_merged_negatives_are_one_class() -> None:
    logits = torch.tensor(np.random.default_rng(0).normal(0, 2, (B, C + M)))
    p = logits.softmax(dim=1).numpy()
    mass = np.concatenate([p[:, :C], p[:, C:].sum(axis=1, keepdims=True)], axis=1)
    expected = -np.log(mass[np.arange(B), np.minimum(LABELS.numpy(), C)]).mean()
    found = classification_loss(logits, LABELS, C, "merged")
    assert float(found) == pytest.approx(expected, rel=1e-9)
    # One negative: merging changes nothing.
    few = logits[:, : C + 1]
    labels = LABELS.clamp(max=C)
    torch.testing.assert_close(
        classification_loss(few, labels, C, "merged"), classification_loss(few, labels, C)
    )


def test_binary_is_cross_entropy_of_neglabels_score() -> None:
    logits = torch.tensor(np.random.default_rng(0).normal(0, 2, (B, C + M)))
    score = neglabel.id_mass(logits[:, :C].numpy(), logits[:, C:].numpy(), np.array([M]))
    np.testing.assert_allclose(evidence_margin(logits, C).sigmoid().numpy(), score, rtol=1e-12)
    inside = LABELS.numpy() < C
    expected = -np.where(inside, np.log(score), np.log1p(-score)).mean()
    found = classification_loss(logits, LABELS, C, "binary")
    assert float(found) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("objective", ["classes", "merged", "binary"])
def test_extreme_logits_give_finite_losses_and_gradients(objective: str) -> None:
    logits = torch.full((2, C + M), -1e4)
    logits[:, 0] = 1e4
    logits.requires_grad_()
    found = classification_loss(logits, torch.tensor([0, C + 1]), C, objective)
    found.backward()
    assert found.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_merged_targets_may_be_soft() -> None:
    logits = torch.zeros(1, C + M)
    target = torch.tensor([[0.5, 0.0, 0.0, 0.0, 0.0, 0.5]])
    expected = -(0.5 * np.log(1 / 12) + 0.5 * np.log(7 / 12))
    assert float(merged_cross_entropy(logits, target, C)) == pytest.approx(expected, rel=1e-6)


@pytest.fixture(scope="module")
def backbone() -> Any:
    return small_model()


@cache
def small_model() -> Any:
    return stand_in(build())


def start(settings: LaptSettings, seed: int = 0) -> dict[str, torch.Tensor]:
    generator, model = torch.Generator().manual_seed(seed), small_model()
    return starting_contexts(
        settings, prompt_tower(model), model.tokenizer, len(NAMES), len(WORDS), generator
    )


@pytest.mark.parametrize(
    ("contexts", "shapes"),
    [
        ("distribution-aware", {"ctx": (4, WIDTH), "negative_ctx": (4, WIDTH)}),
        ("unified", {"ctx": (4, WIDTH)}),
        ("class-specific", {"ctx": (4, 4, WIDTH), "negative_ctx": (5, 4, WIDTH)}),
    ],
)
def test_contexts_of_each_kind_train_and_compile(
    backbone: Any, contexts: str, shapes: dict[str, tuple[int, ...]]
) -> None:
    settings = LaptSettings(contexts=contexts)
    tensors = {name: each.requires_grad_() for name, each in start(settings).items()}
    assert {name: tuple(each.shape) for name, each in tensors.items()} == shapes
    sides = PromptSides(prompt_tower(backbone), backbone.tokenizer, NAMES, WORDS, 4, chunk=2)
    classes, negatives = sides(tensors)
    bank, images = rows(9, T, 24), rows(4, 24, seed=4)
    labels = torch.tensor([0, 3, 5, 8])
    mixing = draw_mixing(labels.numpy(), 4, T, settings, np.random.default_rng(0))
    total, _ = lapt_loss(
        images, labels, classes, negatives, bank, mixing, settings, logit_scale=100.0
    )
    total.backward()
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in tensors.values())

    given = NegativeFeatures.of(WORDS, np.eye(5, 24, dtype=np.float32))
    vectors = {name: each.detach().numpy() for name, each in tensors.items()}
    detector = compiled_from(backbone, vectors, NAMES, NAMES, given, settings, 100.0)
    assert detector.method == "neglabel"
    np.testing.assert_allclose(
        detector.tensors["class_features"], classes.detach().numpy(), atol=1e-5
    )
    order = [WORDS.index(name) for name in detector.negative_names]
    np.testing.assert_allclose(
        detector.tensors["negative_features"], negatives.detach().numpy()[order], atol=1e-5
    )


def test_two_sides_start_apart_and_by_seed() -> None:
    one = start(PAPER)
    assert not torch.equal(one["ctx"], one["negative_ctx"])
    assert all(torch.equal(each, start(PAPER)[name]) for name, each in one.items())


def test_shared_contexts_score_with_more_negatives_than_they_were_trained_with(
    backbone: Any,
) -> None:
    vectors = {name: each.numpy() for name, each in start(PAPER).items()}
    many = [f"thing {number}" for number in range(40)]
    given = NegativeFeatures.of(many, np.ones((40, 24), np.float32))
    settings = replace(PAPER, groups=4)
    detector = compiled_from(backbone, vectors, NAMES, NAMES, given, settings, 100.0)
    assert detector.tensors["group_sizes"].tolist() == [10] * 4
    assert detector.negative_names == tuple(many[row] for row in given.permutation)
    images = ImageFeatures(rows(6, 24, seed=8).numpy())
    found = neglabel.score(detector, images).score

    # Spec oracle: the mean over groups of the logistic of the difference of log-sum-exps.
    def lse(logits: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(np.log(np.exp(logits).sum(axis=1)))

    wide = images.unit.astype(np.float64) * 100.0
    positive = wide @ detector.tensors["class_features"].T
    negative = wide @ detector.tensors["negative_features"].T
    groups = np.split(negative, 4, axis=1)
    expected = np.mean([1 / (1 + np.exp(lse(g) - lse(positive))) for g in groups], axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-4)

    specific = {name: np.stack([each] * 4) for name, each in vectors.items()}
    with pytest.raises(UsageError, match="4 blocks of context vectors and 40 names"):
        compiled_from(backbone, specific, NAMES, NAMES, given, settings, 100.0)


def test_training_takes_the_farthest_of_each_part_of_speech() -> None:
    closeness = [0.5, 0.1, 0.3, 0.2, 0.9, 0.0, 0.4, 0.8, 0.7, 0.6]
    parts = ["adj"] * 3 + ["noun"] * 7
    given = [
        NegativeRow(str(n), part, "", close)
        for n, (part, close) in enumerate(zip(parts, closeness, strict=True))
    ]
    # 5 of 10: floor(5 * 3 / 10) adjectives, the rest nouns.
    assert training_negatives(given, 5).tolist() == [1, 3, 5, 6, 9]
    assert training_negatives(given, 100).tolist() == list(range(10))
    unknown = [replace(row, closeness=None) for row in given]
    assert training_negatives(unknown, 5).tolist() == [0, 3, 4, 5, 6]
    with pytest.raises(UsageError, match="lapt needs negative labels"):
        training_negatives([], 5)


def test_ten_thousand_negatives_are_trained_with_the_published_thousand() -> None:
    given = [NegativeRow(str(n), "adj" if n < 1824 else "noun", "", n / 1e4) for n in range(10_000)]
    chosen = training_negatives(given, PAPER.train_negatives)
    assert ((chosen < 1824).sum(), len(chosen)) == (182, 1000)


def test_the_bank_of_texts_keeps_its_templates_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def encode(texts: list[str]) -> NDArray[np.float32]:
        asked.extend(texts)
        return np.array([[len(text), 1, text.count("origami")] for text in texts], np.float32)

    monkeypatch.setattr("vlood.methods.lapt_prompts._TEXTS_AT_ONCE", 15)
    templates = read_templates("tip")
    assert len(templates) == 7
    bank = text_bank(encode, ["dog", "lemon_tree", "cat"], templates)
    assert bank.shape == (3, 7, 3)
    np.testing.assert_allclose(np.linalg.norm(bank, axis=2), 1, rtol=1e-6)
    assert (bank[..., 2] > 0).sum(axis=1).tolist() == [1, 1, 1]
    assert asked[7] == "itap of a lemon tree."


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"contexts": "shared"}, "contexts is 'shared'; expected one of distribution-aware"),
        ({"objective": "ce"}, "objective is 'ce'"),
        ({"mix_alpha_cd": 0.0}, "mix_alpha_cd is 0.0"),
        ({"train_negatives": 0}, "train_negatives is 0"),
        ({"weight_plain": -1.0}, "weight_plain is -1.0"),
        ({"weight_plain": 0.0, "weight_cross_modal": 0.0}, "both 0; give one of them a weight"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        LaptSettings(**values)
