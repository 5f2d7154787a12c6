"""Local-Prompt's losses: plain loops, limits, chunks, and numbers far from zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vlood.methods.local_prompt_loss import (
    LossWeights,
    diversity,
    local_prompt_loss,
    negative_loss,
    positive_loss,
)

B, R, C, M, D = 5, 7, 4, 3, 6


def unit(*shape: int, seed: int) -> torch.Tensor:
    drawn = np.random.default_rng(seed).normal(size=shape)
    return F.normalize(torch.tensor(drawn), dim=-1)


POSITIVE, NEGATIVE = unit(B, R, D, seed=0), unit(B, R, D, seed=1)
LOCAL, NAMELESS = unit(C, D, seed=2), unit(M, D, seed=3)
LABELS = torch.tensor([0, 3, 1, 1, 2])


def loss(top_k: int = 3, scale: float = 7.0, **options: Any) -> Any:
    return local_prompt_loss(
        POSITIVE, NEGATIVE, LABELS, LOCAL, NAMELESS, scale=scale, top_k=top_k, **options
    )


def plain(top_k: int, scale: float) -> tuple[float, float]:
    """L_pos and L_neg as the definitions read, one image at a time."""
    pulls, pushes = [], []
    prompts = np.concatenate([LOCAL, NAMELESS])
    for row, label in enumerate(LABELS.tolist()):
        a, d = (np.exp(scale * one[row].numpy() @ prompts.T) for one in (POSITIVE, NEGATIVE))
        best = np.sort(a, axis=0)[::-1][:top_k]
        pulls.append(-np.log(best[:, label].sum() / best.sum()))
        regions = np.argsort(-d[:, label])[:top_k]
        evidence = d[regions][:, C:].sum()
        others = np.sort(d[:, :C], axis=0)[::-1][:top_k].sum()
        pushes.append(-np.log(evidence / (evidence + others)))
    return float(np.mean(pulls)), float(np.mean(pushes))


@pytest.mark.parametrize("top_k", [1, 3, R, 99])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_losses_are_those_of_plain_loops(top_k: int, temperature: float) -> None:
    total, parts = loss(top_k, weights=LossWeights(5.0, 0.5, temperature))
    pull, push = plain(top_k, 7.0 / temperature)
    assert float(parts["positive"]) == pytest.approx(pull, rel=1e-12)
    assert float(parts["negative"]) == pytest.approx(push, rel=1e-12)
    spread = float((NAMELESS @ NAMELESS.T).sum() / (M * (M - 1)))
    assert float(parts["diversity"]) == pytest.approx(spread, rel=1e-12)
    assert float(total) == pytest.approx(pull + 5 * push + 0.5 * spread, rel=1e-12)


def test_one_prompt_at_a_time_is_the_same_with_its_gradients() -> None:
    grads = []
    for at_once in (1, 2 * B * R, 1 << 23):
        local, nameless = (one.clone().requires_grad_() for one in (LOCAL, NAMELESS))
        total, _ = local_prompt_loss(
            POSITIVE, NEGATIVE, LABELS, local, nameless, scale=9.0, top_k=2, at_once=at_once
        )
        total.backward()
        assert local.grad is not None
        assert nameless.grad is not None
        grads.append(torch.cat([total.detach()[None], local.grad.ravel(), nameless.grad.ravel()]))
    torch.testing.assert_close(grads[0], grads[2], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grads[1], grads[2], rtol=1e-12, atol=1e-12)


def test_one_class_and_no_negatives_have_nothing_to_lose() -> None:
    none = torch.zeros(0, D, dtype=torch.float64)
    _, parts = local_prompt_loss(
        POSITIVE,
        NEGATIVE,
        torch.zeros(B, dtype=torch.int64),
        LOCAL[:1],
        none,
        scale=50.0,
        top_k=R,
        weights=LossWeights(negative=0.0),
    )
    assert float(parts["positive"]) == pytest.approx(0, abs=1e-12)


def test_a_negative_view_like_no_class_has_no_loss() -> None:
    # The logits of class prompts go to minus infinity.
    evidence = torch.tensor([1.0, -2.0])
    assert float(negative_loss(evidence, evidence - 200)) < 1e-30
    assert float(positive_loss(evidence, evidence - 200, evidence)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("count", [2, 5, 6])
def test_diversity_of_orthogonal_and_of_identical_prompts(count: int) -> None:
    assert float(diversity(torch.eye(6)[:count])) == pytest.approx(1 / (count - 1))
    same = torch.eye(6)[:1].expand(count, -1)
    assert float(diversity(same)) == pytest.approx(count / (count - 1))
    assert float(diversity(same[:1])) == 0


def test_large_logits_neither_overflow_nor_lose_their_gradient() -> None:
    local = LOCAL.float().requires_grad_()
    total, _ = local_prompt_loss(
        POSITIVE.float(),
        NEGATIVE.float(),
        LABELS,
        local,
        NAMELESS.float(),
        scale=5000.0,
        top_k=2,
    )
    total.backward()
    assert torch.isfinite(total)
    assert local.grad is not None
    assert torch.isfinite(local.grad).all()
    assert float(local.grad.abs().max()) > 1


def test_a_step_along_the_gradient_sides_regions_with_their_prompts() -> None:
    local, nameless = (one.clone().requires_grad_() for one in (LOCAL, NAMELESS))
    total, parts = local_prompt_loss(
        POSITIVE, NEGATIVE, LABELS, local, nameless, scale=5.0, top_k=2
    )
    total.backward()
    assert local.grad is not None
    assert nameless.grad is not None
    with torch.no_grad():
        after, later = local_prompt_loss(
            POSITIVE,
            NEGATIVE,
            LABELS,
            local - 0.005 * local.grad,
            nameless - 0.005 * nameless.grad,
            scale=5.0,
            top_k=2,
        )
    assert after < total
    assert later["negative"] < parts["negative"]
