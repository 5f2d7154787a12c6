"""A step of CMA: the fused form is the published one, and parts of a batch make the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlood.methods.cma_training import (
    Objective,
    UniqueTexts,
    cached_part,
    feature_gradients,
    fused_step,
    plain_step,
    text_span,
)

B, K, D, L = 11, 4, 6, 9


class Toy:
    """Two towers, inputs and labels, all small."""

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(5)
        self.image = torch.nn.Linear(8, D).double()
        self.text = torch.nn.Linear(L, D).double()
        self.log_scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
        for tower in (self.image, self.text):
            for parameter in tower.parameters():
                parameter.data.normal_(generator=random)
        self.pixels = torch.randn(B, 8, generator=random, dtype=torch.float64)
        self.tokens = torch.randn(K, L, generator=random, dtype=torch.float64)
        self.labels = np.array([0, 3, 1, 1, 0, 3, 3, 0, 1, 0, 3])

    def gradients(self, loss: torch.Tensor) -> list[torch.Tensor]:
        leaves = [*self.image.parameters(), *self.text.parameters(), self.log_scale]
        return list(torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("weight", [0.0, 0.001, 0.3])
def test_a_prompt_encoded_once_gives_what_a_prompt_for_every_image_gives(weight: float) -> None:
    toy = Toy()
    unique = UniqueTexts.of(toy.labels)
    assert unique.texts.tolist() == [0, 1, 3]
    fused, parts = fused_step(
        toy.image,
        toy.text,
        toy.pixels,
        toy.tokens[torch.from_numpy(unique.texts)],
        torch.from_numpy(unique.own),
        toy.log_scale.exp(),
        Objective(weight),
    )
    every = toy.tokens[torch.from_numpy(toy.labels)]
    plain = plain_step(toy.image, toy.text, toy.pixels, every, toy.log_scale.exp(), weight=weight)
    assert float(fused.detach()) == pytest.approx(float(plain.detach()), rel=1e-5)
    for one, other in zip(toy.gradients(fused), toy.gradients(plain), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert set(parts) == {"image", "text", "alignment"}


@pytest.mark.parametrize("parts", [2, 3, 5, 11])
@pytest.mark.parametrize("multi_positive", [False, True])
def test_parts_of_a_batch_add_up_to_its_loss_and_gradient(parts: int, multi_positive: bool) -> None:
    toy = Toy()
    unique = UniqueTexts.of(toy.labels)
    tokens = toy.tokens[torch.from_numpy(unique.texts)]
    own, objective = torch.from_numpy(unique.own), Objective(0.05, multi_positive)
    whole, _ = fused_step(
        toy.image, toy.text, toy.pixels, tokens, own, toy.log_scale.exp(), objective
    )
    kept = feature_gradients(toy.image(toy.pixels), toy.text(tokens), own, toy.log_scale, objective)
    total, start = torch.zeros(()), 0
    for some in np.array_split(np.arange(B), parts):
        rows = slice(start, start + len(some))
        start = rows.stop
        words = text_span(len(tokens), B, rows)
        share = len(some) / B
        term = cached_part(
            kept,
            toy.image(toy.pixels[rows]),
            toy.text(tokens[words]) if words.stop > words.start else None,
            rows,
            words,
            toy.log_scale,
            share,
        )
        total = total + term * share
    assert float(total.detach()) == pytest.approx(float(whole.detach()), rel=1e-6)
    for one, other in zip(toy.gradients(total), toy.gradients(whole), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@given(texts=st.integers(1, 40), extra=st.integers(0, 60), parts=st.integers(1, 12))
def test_every_text_goes_with_one_part(texts: int, extra: int, parts: int) -> None:
    images, start, found = texts + extra, 0, []
    for some in np.array_split(np.arange(images), parts):
        rows = slice(start, start + len(some))
        start = rows.stop
        span = text_span(texts, images, rows)
        assert span.stop - span.start <= len(some)
        found += range(span.start, span.stop)
    assert found == list(range(texts))


def test_a_scale_that_is_not_trained_has_no_gradient() -> None:
    toy = Toy()
    own = torch.tensor([0, 1, 2])
    images, texts = toy.image(toy.pixels[:3]), toy.text(toy.tokens[:3])
    kept = feature_gradients(images, texts, own, torch.tensor(2.0), Objective())
    assert kept.log_scale is None
