"""LoCoOp's loss: which regions it takes, what it makes of them, and its limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vlood.errors import UsageError
from vlood.methods.locoop_loss import (
    check_top_k,
    default_top_k,
    irrelevant_regions,
    locoop_loss,
    mean_entropy,
)


def logits(seed: int = 0, classes: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    whole, local = rng.normal(0, 3, (4, classes)), rng.normal(0, 3, (4, 9, classes))
    return (
        torch.tensor(whole, requires_grad=True),
        torch.tensor(local, requires_grad=True),
        torch.tensor(rng.integers(classes, size=4)),
    )


@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_the_loss_is_that_of_plain_loops(top_k: int) -> None:
    whole, local, labels = logits()
    entropies, ranks = [], []
    for row, label in enumerate(labels.tolist()):
        for region in local[row].detach().numpy():
            best = np.argsort(-region)[:top_k]
            ranks.append(label in best)
            if label not in best:
                p = np.exp(region) / np.exp(region).sum()
                entropies.append(-(p * np.log(p + 1e-5)).sum())
    p = np.exp(whole.detach().numpy())
    own = -np.log(p[range(4), labels] / p.sum(axis=1)).mean()
    loss, parts = locoop_loss(whole, local, labels, top_k=top_k, weight=0.25)
    assert float(loss.detach()) == pytest.approx(own - 0.25 * np.mean(entropies), abs=1e-12)
    assert float(parts["cross_entropy"].detach()) == pytest.approx(own, abs=1e-12)
    assert float(parts["local_entropy"].detach()) == pytest.approx(np.mean(entropies), abs=1e-12)
    assert float(parts["irrelevant"]) == pytest.approx(1 - np.mean(ranks))


def test_only_the_chosen_regions_are_pushed_and_towards_indecision() -> None:
    whole, local, labels = logits()
    chosen = irrelevant_regions(local, labels, 2)
    assert chosen.any()
    assert not chosen.all()
    loss, parts = locoop_loss(whole, local, labels, top_k=2)
    loss.backward()
    assert local.grad is not None
    assert torch.equal(local.grad.abs().sum(dim=2) > 0, chosen)
    with torch.no_grad():
        after = locoop_loss(whole, local - 0.5 * local.grad, labels, top_k=2)[1]
    assert after["local_entropy"] > parts["local_entropy"]


def test_no_region_chosen_leaves_cross_entropy_and_a_zero_gradient() -> None:
    whole, local, labels = logits()
    loss, parts = locoop_loss(whole, local, labels, top_k=6)
    assert float(parts["local_entropy"].detach()) == 0
    assert torch.equal(loss, parts["cross_entropy"])
    loss.backward()
    assert local.grad is not None
    assert not local.grad.any()


def test_ties_keep_a_region_with_its_class() -> None:
    local = torch.tensor([[[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 2.0]]])
    assert irrelevant_regions(local, torch.tensor([1]), 1).tolist() == [[False, True, True]]
    assert irrelevant_regions(local, torch.tensor([1]), 2).tolist() == [[False, True, False]]


@pytest.mark.parametrize(
    ("row", "entropy"), [([5.0] * 8, math.log(8)), ([1e4, 0.0, 0.0], 0.0), ([-1e4, 3.0], 0.0)]
)
def test_entropy_keeps_its_limits_and_is_finite(row: list[float], entropy: float) -> None:
    given = torch.tensor([row], requires_grad=True)
    found = mean_entropy(given)
    assert float(found.detach()) == pytest.approx(entropy, abs=1e-4)
    found.backward()
    assert given.grad is not None
    assert given.grad.isfinite().all()


@pytest.mark.parametrize(
    ("classes", "top_k"), [(1000, 200), (100, 20), (20, 4), (12, 2), (3, 1), (2, 1)]
)
def test_k_is_a_fifth_of_the_classes(classes: int, top_k: int) -> None:
    assert default_top_k(classes) == top_k
    check_top_k(top_k, classes)


@pytest.mark.parametrize("top_k", [0, 5, 200])
def test_a_k_that_chooses_nothing_is_refused(top_k: int) -> None:
    with pytest.raises(UsageError, match=f"top_k is {top_k} and there are 5 classes.*such as 1"):
        check_top_k(top_k, 5)
