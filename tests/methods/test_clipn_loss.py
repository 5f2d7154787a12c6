"""CLIPN's losses against their definitions, at their limits, and in parts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vlood.methods.clipn_loss import losses, opposite

N, D, SCALE = 7, 12, 20.0


def units(count: int, seed: int) -> torch.Tensor:
    drawn = torch.randn(count, D, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=1)


IMAGES, TEXTS, NO = units(N, 0), units(N, 1), units(N, 2)


def test_at_the_beginning_they_are_ln_2_and_almost_2() -> None:
    parts = losses(IMAGES, TEXTS, TEXTS.clone(), 100.0)
    assert float(parts.yes) == pytest.approx(math.log(2), abs=1e-6)
    assert float(parts.no) == pytest.approx(math.log(2), abs=1e-6)
    assert float(parts.tso) == pytest.approx(1.99, abs=1e-4)
    assert float(parts.total()) == pytest.approx(math.log(2) + 1.99 / 2, abs=1e-4)
    assert float(parts.total(1.0)) == pytest.approx(2 * math.log(2) + 1.99, abs=1e-4)


def test_they_are_logarithms_of_two_way_softmaxes() -> None:
    yes, no = (SCALE * (IMAGES.double() @ one.double().T) for one in (TEXTS, NO))
    q = torch.softmax(torch.stack([yes, no]), dim=0).numpy()
    own = np.eye(N, dtype=bool)
    parts = losses(IMAGES, TEXTS, NO, SCALE)
    assert float(parts.yes) == pytest.approx(-np.log(q[0][own]).mean(), rel=1e-5)
    assert float(parts.no) == pytest.approx(-np.log(q[1][~own]).mean(), rel=1e-5)
    apart = np.linalg.norm(TEXTS - NO, axis=1)
    assert float(parts.tso) == pytest.approx((2 - np.sqrt(apart**2 + 1e-4)).mean(), rel=1e-5)


def test_two_images_by_hand() -> None:
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    no = torch.tensor([[0.0, 1.0], [0.6, 0.8]])
    parts = losses(images, images, no, 2.0)
    # margins 2 (image . text - image . no): [[2, -1.2], [-2, 0.4]]
    assert float(parts.yes) == pytest.approx(
        (math.log1p(math.exp(-2)) + math.log1p(math.exp(-0.4))) / 2, rel=1e-6
    )
    assert float(parts.no) == pytest.approx(
        (math.log1p(math.exp(-1.2)) + math.log1p(math.exp(-2))) / 2, rel=1e-6
    )


@pytest.mark.parametrize("same", [None, [0, 1, 0, 2, 2, 2, 3]])
def test_some_captions_at_a_time_are_all_at_once(same: list[int] | None) -> None:
    no = NO.clone().requires_grad_()
    left_out, pairs = None, None
    if same is not None:
        labels = torch.tensor(same)
        left_out = labels[:, None] == labels[None]
        pairs = int((~left_out).sum())
    whole = losses(IMAGES, TEXTS, no, SCALE, left_out=left_out, pairs=pairs)
    (expected,) = torch.autograd.grad(whole.total(), no)
    total, gradient = 0.0, torch.zeros_like(expected)
    for rows in (torch.tensor([4, 0, 6]), torch.tensor([1]), torch.tensor([5, 3, 2])):
        part = losses(
            IMAGES,
            TEXTS[rows],
            no[rows],
            SCALE,
            own=rows,
            left_out=None if left_out is None else left_out[:, rows],
            pairs=pairs,
        ).total() * (len(rows) / N)
        total += float(part.detach())
        gradient += torch.autograd.grad(part, no)[0]
    assert total == pytest.approx(float(whole.total()), rel=1e-6)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)


def test_pairs_left_out_have_no_part() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 3, 4])
    left_out = labels[:, None] == labels[None]
    pairs = int((~left_out).sum())
    parts = losses(IMAGES, TEXTS, NO, SCALE, left_out=left_out, pairs=pairs)
    margin = SCALE * (IMAGES @ TEXTS.T - IMAGES @ NO.T)
    assert float(parts.no) == pytest.approx(
        float(torch.nn.functional.softplus(margin)[~left_out].mean()), rel=1e-5
    )
    everything = torch.ones(N, N, dtype=torch.bool)
    assert float(losses(IMAGES, TEXTS, NO, SCALE, left_out=everything, pairs=0).no) == 0


def test_extremes_stay_finite() -> None:
    opposite_texts = -TEXTS
    for no in (TEXTS.clone(), opposite_texts.clone()):
        no.requires_grad_()
        total = losses(IMAGES, TEXTS, no, 1e4).total()
        (gradient,) = torch.autograd.grad(total, no)
        assert torch.isfinite(total)
        assert torch.isfinite(gradient).all()
    assert float(opposite(TEXTS, opposite_texts)) == pytest.approx(0, abs=1e-4)
