"""The losses of heads on stored embeddings, as handed to their training, against plain NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.methods.feature_world import OTHERS, TRAINING, K, fit
from vlood.methods import abet, mixoe, palm, tagood
from vlood.methods.contract import Detector

Array = NDArray[np.float64]
BATCH = np.array([3, 0, 17, 21, 8, 40])
ROWS = TRAINING.raw.astype(np.float64)
LABELS = TRAINING.labels[BATCH]
FROM_MEAN = ROWS - ROWS.mean(axis=0)


class Handed:
    """What a method hands to its training, which then does nothing."""

    loss: Callable[[torch.Tensor], torch.Tensor]
    parameters: Sequence[torch.Tensor]
    detector: Detector

    def __init__(self, module: ModuleType, monkeypatch: pytest.MonkeyPatch, **values: Any) -> None:
        def kept(name: str, parameters: Any, loss: Any, rows: int, *_: Any, seed: int) -> None:
            self.loss, self.parameters = loss, parameters
            assert (name, rows, seed) == (module.RECORD.name, len(ROWS), 5)

        monkeypatch.setattr(module, "train_head", kept)
        self.detector = fit(module.RECORD.name, seed=5, embeddings="raw", **values)

    def random(self) -> list[Array]:
        """Move every parameter somewhere, and return where."""
        rng = np.random.default_rng(1)
        with torch.no_grad():
            for each in self.parameters:
                each.copy_(torch.from_numpy(rng.normal(size=tuple(each.shape)) * 0.3))
        return [each.detach().numpy().astype(np.float64) for each in self.parameters]

    def value(self, batch: NDArray[np.int64] = BATCH) -> float:
        return float(self.loss(torch.from_numpy(batch)).detach())


def unit(rows: Array) -> Array:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def log_sum_exp(values: Array) -> float:
    return float(np.log(np.exp(values).sum()))


def cross_entropy(logits: Array, targets: Array) -> float:
    """The mean over rows, targets being shares of classes."""
    parts = [log_sum_exp(row) - row @ share for row, share in zip(logits, targets, strict=True)]
    return float(np.mean(parts))


def test_abet_divides_cosines_by_a_temperature_of_the_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handed = Handed(abet, monkeypatch)
    directions, slope, offset = handed.random()
    scaled = FROM_MEAN[BATCH] / np.linalg.norm(FROM_MEAN, axis=1).mean()
    temperatures = 1 / (1 + np.exp(-(scaled @ slope + offset)))
    logits = unit(ROWS[BATCH]) @ unit(directions).T / temperatures[:, None]
    assert handed.value() == pytest.approx(cross_entropy(logits, np.eye(K)[LABELS]), rel=1e-4)


@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_mixoe_mixes_images_and_targets_alike(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, alpha: float
) -> None:
    np.save(tmp_path / "others.npy", OTHERS)
    outliers = str(tmp_path / "others.npy")
    handed = Handed(mixoe, monkeypatch, outliers=outliers, alpha=alpha, weight=3.0)
    weight, bias = handed.random()
    # The shares are drawn first and the outliers then, both anew at every step.
    rng = np.random.default_rng(5)
    scale = np.linalg.norm(FROM_MEAN, axis=1).mean()
    strange = (OTHERS - ROWS.mean(axis=0)) / scale
    # A batch need not hold every class.
    for batch in (BATCH, np.array([0, 4, 1])):
        shares = rng.beta(alpha, alpha, len(batch))
        picked = rng.integers(len(OTHERS), size=len(batch))
        known = FROM_MEAN[batch] / scale
        mixed = [
            share * row + (1 - share) * other
            for share, row, other in zip(shares, known, strange[picked], strict=True)
        ]
        own = np.eye(K)[TRAINING.labels[batch]]
        targets = [
            share * row + (1 - share) * np.full(K, 1 / K)
            for share, row in zip(shares, own, strict=True)
        ]
        expected = cross_entropy(known @ weight.T + bias, own) + 3.0 * cross_entropy(
            np.array(mixed) @ weight.T + bias, np.array(targets)
        )
        assert handed.value(batch) == pytest.approx(expected, rel=1e-4)


def test_tagood_asks_for_the_own_centre_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    handed = Handed(tagood, monkeypatch, width=5, temperature=0.3)
    weight, centres = handed.random()
    cosines = unit(FROM_MEAN[BATCH] @ weight.T) @ unit(centres).T
    apart = [1 - row[label] for row, label in zip(cosines, LABELS, strict=True)]
    expected = cross_entropy(cosines / 0.3, np.eye(K)[LABELS]) + np.mean(apart)
    assert handed.value() == pytest.approx(expected, rel=1e-4)


def plain_shares(near: Array) -> Array:
    """Sinkhorn's rounds: every prototype of a class is used alike, every image once."""
    shares = np.exp(near / 0.05)
    for _ in range(3):
        for label in set(LABELS.tolist()):
            shares[label == LABELS] /= shares[label == LABELS].sum(axis=0)
        shares /= shares.sum(axis=1, keepdims=True)
    return shares


def plain_palm(made: Array, prototypes: Array, contrast: float) -> tuple[float, Array]:
    """PALM's loss at tau = 0.2 and momentum 0.7, and the prototypes [K, P, W] after it."""
    near = np.array([prototypes[label] @ row for row, label in zip(made, LABELS, strict=True)])
    shares = plain_shares(near)
    moved = np.zeros_like(prototypes)
    for row, label, share in zip(made, LABELS, shares, strict=True):
        moved[label] += share[:, None] * row
    prototypes = unit(0.7 * prototypes + 0.3 * moved)
    flat = prototypes.reshape(-1, made.shape[1])
    losses = [
        log_sum_exp(flat @ row / 0.2) - np.log(share @ np.exp(prototypes[label] @ row / 0.2))
        for row, label, share in zip(made, LABELS, shares, strict=True)
    ]
    total = float(np.mean(losses))
    if contrast and prototypes.shape[1] > 1:
        # Prototypes as this batch alone moves them; those that nothing moves stay.
        fresh = [
            [
                unit(step) if np.linalg.norm(step) > 1e-8 else old
                for step, old in zip(a, b, strict=True)
            ]
            for a, b in zip(moved, prototypes, strict=True)
        ]
        every = [(label, each) for label, some in enumerate(fresh) for each in some]
        between = []
        for one, (label, each) in enumerate(every):
            others = [(n, x @ each / 0.2) for k, (n, x) in enumerate(every) if k != one]
            alike = np.array([cosine for n, cosine in others if n == label])
            between.append(log_sum_exp(np.array([c for _, c in others])) - log_sum_exp(alike))
        total += contrast * float(np.mean(between))
    return total, prototypes


@pytest.mark.parametrize(("each", "contrast"), [(3, 0.6), (3, 0.0), (2, 1.0), (1, 1.0)])
def test_palm_gives_images_to_prototypes_that_follow_them(
    monkeypatch: pytest.MonkeyPatch, each: int, contrast: float
) -> None:
    values = {"prototypes": each, "contrast": contrast, "temperature": 0.2, "momentum": 0.7}
    handed = Handed(palm, monkeypatch, width=5, **values)
    # Not trained, the detector has the prototypes to begin with: images of their own class.
    start = handed.detector.tensors["prototypes"].astype(np.float64).reshape(K, each, 5)
    (projection,) = (one.detach().numpy().astype(np.float64) for one in handed.parameters)
    images = unit(FROM_MEAN @ projection.T)
    for label in range(K):
        near = start[label] @ images[TRAINING.labels == label].T
        np.testing.assert_allclose(near.max(axis=1), 1, atol=1e-4)
        assert len(set(near.argmax(axis=1).tolist())) == each

    (weight,) = handed.random()
    made, prototypes = unit(FROM_MEAN[BATCH] @ weight.T), start
    for _ in range(3):
        expected, prototypes = plain_palm(made, prototypes, contrast)
        assert handed.value() == pytest.approx(expected, rel=1e-4)
