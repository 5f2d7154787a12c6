"""CMA's loss: its fused form, its limits, and texts that several images share."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vlood.methods.cma_loss import WEIGHT, cma_loss, evidence

B, D, SCALE = 9, 12, 20.0
OWN = torch.tensor([0, 3, 1, 1, 2, 0, 1, 3, 4])


def rows(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, D, generator=generator, dtype=torch.float64)


IMAGES, TEXTS = rows(B, 0), rows(5, 1)


def long_form(weight: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return loss, image and text cross-entropy as published: B texts, copies among them."""
    logits = SCALE * F.normalize(IMAGES, dim=-1) @ F.normalize(TEXTS[OWN], dim=-1).T
    target = torch.arange(B)
    image, text = F.cross_entropy(logits, target), F.cross_entropy(logits.T, target)
    align_image, align_text = -logits.logsumexp(1).mean(), -logits.logsumexp(0).mean()
    return (image + weight * align_image) / 2 + (text + weight * align_text) / 2, image, text


@pytest.mark.parametrize("weight", [0.0, WEIGHT, 0.1, 1.0])
def test_distinct_texts_give_the_published_loss_of_all_copies(weight: float) -> None:
    loss, parts = cma_loss(IMAGES, TEXTS, OWN, SCALE, weight=weight)
    expected, image, text = long_form(weight)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(parts["image"], image)
    torch.testing.assert_close(parts["text"], text)
    logits = SCALE * F.normalize(IMAGES, dim=-1) @ F.normalize(TEXTS[OWN], dim=-1).T
    sums = logits.logsumexp(0).mean() + logits.logsumexp(1).mean()
    torch.testing.assert_close(loss, -logits.diagonal().mean() + (1 - weight) / 2 * sums)


def test_without_the_weight_it_is_the_symmetric_cross_entropy_of_flyp() -> None:
    loss, parts = cma_loss(IMAGES, TEXTS, OWN, SCALE, weight=0.0)
    torch.testing.assert_close(loss, (parts["image"] + parts["text"]) / 2)


def test_a_saturated_pair_is_still_pulled_with_the_weights_strength() -> None:
    # One image, one text: both cross-entropies are zero whatever the cosine is.
    image = torch.tensor([[1.0, 0.2]]).requires_grad_()
    text, own = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    cosine = F.normalize(image, dim=-1)[0, 0]
    (expected,) = torch.autograd.grad(-0.1 * SCALE * cosine, image)
    loss, parts = cma_loss(image, text, own, SCALE, weight=0.1)
    (found,) = torch.autograd.grad(loss, image)
    torch.testing.assert_close(found, expected)
    assert float(parts["image"].detach()) == pytest.approx(0, abs=1e-6)
    (flyp,) = torch.autograd.grad(cma_loss(image, text, own, SCALE, weight=0.0)[0], image)
    assert float(flyp.abs().max()) < 1e-6


def test_images_of_one_class_are_right_answers_together() -> None:
    logits = SCALE * F.normalize(IMAGES, dim=-1) @ F.normalize(TEXTS, dim=-1).T
    target = F.one_hot(OWN, 5).double()
    image = F.cross_entropy(logits, OWN)
    spread = (target / target.sum(0)).T
    text = -(spread * logits.T.log_softmax(1)).sum(1).mean()
    loss, parts = cma_loss(IMAGES, TEXTS, OWN, SCALE, weight=0.0, multi_positive=True)
    torch.testing.assert_close(parts["image"], image)
    torch.testing.assert_close(parts["text"], text)
    torch.testing.assert_close(loss, (image + text) / 2)
    # Where no class comes twice, both are the same.
    once = torch.arange(5)
    plain = cma_loss(IMAGES[:5], TEXTS, once, SCALE)[0]
    torch.testing.assert_close(
        plain, cma_loss(IMAGES[:5], TEXTS, once, SCALE, multi_positive=True)[0]
    )


def test_a_perfect_batch_with_copies_has_no_loss_with_many_positives_alone() -> None:
    own = torch.tensor([0, 0, 0, 1])
    texts = torch.eye(2, D, dtype=torch.float64)
    images = texts[own]
    apart = cma_loss(images, texts, own, 1000.0, weight=0.0)[1]
    assert float(apart["image"]) == pytest.approx(0.75 * torch.tensor(3.0).log().item(), abs=1e-6)
    together = cma_loss(images, texts, own, 1000.0, weight=0.0, multi_positive=True)[1]
    assert float(together["image"]) == pytest.approx(0, abs=1e-9)


def test_gradients_are_right_and_reach_the_scale() -> None:
    images, texts = IMAGES.clone().requires_grad_(), TEXTS.clone().requires_grad_()
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    for many in (False, True):
        assert torch.autograd.gradcheck(
            lambda a, b, c, many=many: cma_loss(a, b, OWN, c, weight=0.1, multi_positive=many)[0],
            (images, texts, scale),
        )
    found = evidence(images, texts, OWN, scale)
    assert float(found.shares.sum()) == pytest.approx(1)
    assert found.images.shape == (B,)
    assert found.texts.shape == (5,)
