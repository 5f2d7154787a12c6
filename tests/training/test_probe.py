"""Training a linear classifier: against plain forms, the optimum, and the same again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vlood.training.probe import (
    FEW_SHOT_C,
    GRID,
    Descent,
    choose_c,
    fit_descent,
    fit_logistic,
    mean_length,
)

Array = NDArray[Any]


def clusters(
    classes: int = 3, each: int = 12, width: int = 8, spread: float = 0.4, seed: int = 0
) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, width)) * 2
    labels = rng.permutation(np.repeat(np.arange(classes), each))
    rows = centres[labels] + rng.normal(size=(len(labels), width)) * spread
    return rows.astype(np.float32), labels


def probabilities(rows: Array, weight: Array, bias: Array) -> Array:
    logits = rows.astype(np.float64) @ weight.T.astype(np.float64) + bias
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_both_solvers_separate_what_is_separable(classes: int) -> None:
    rows, labels = clusters(classes)
    for weight, bias in (
        fit_logistic(rows, labels, classes, 10.0),
        fit_descent(rows, labels, classes, Descent(), seed=0),
    ):
        assert (weight.shape, bias.shape) == ((classes, 8), (classes,))
        assert weight.dtype == bias.dtype == np.float32
        assert (probabilities(rows, weight, bias).argmax(axis=1) == labels).all()


@pytest.mark.parametrize("classes", [2, 4])
def test_logistic_regression_ends_where_the_gradient_is_zero(classes: int) -> None:
    rows, labels = clusters(classes, spread=2.0)
    c, scale = 3.0, mean_length(rows)
    weight, bias = fit_logistic(rows, labels, classes, c)
    wrong = probabilities(rows, weight, bias) - np.eye(classes)[labels]
    # Of C sum CE + |V|^2 / 2, V = W scale on rows / scale; in two classes one row is penalised.
    gradient = c * wrong.T @ rows / scale + weight * scale * (2 if classes == 2 else 1)
    assert np.abs(gradient).max() < 0.02
    assert np.abs(wrong.sum(axis=0)).max() < 0.02


def test_a_strength_means_the_same_for_embeddings_of_any_length() -> None:
    rows, labels = clusters(spread=1.5)
    weight, bias = fit_logistic(rows, labels, 3, 5.0)
    longer, same = fit_logistic(rows * 64, labels, 3, 5.0)
    np.testing.assert_allclose(longer * 64, weight, atol=1e-4)
    np.testing.assert_allclose(same, bias, atol=1e-4)
    assert mean_length(np.zeros((2, 3), np.float32)) == 1


def test_descent_is_sgd_with_nesterov_momentum_and_a_cosine() -> None:
    rows, labels = clusters(3, each=5)
    recipe = Descent(epochs=3, batch_size=4, learning_rate=0.2, weight_decay=1e-2)
    weight, bias = fit_descent(rows, labels, 3, recipe, seed=7)
    params = [np.zeros((3, 8)), np.zeros(3)]
    velocity: list[Array | None] = [None, None]
    generator = torch.Generator().manual_seed(7)
    steps, step = 3 * 4, 0
    for _ in range(3):
        order = torch.randperm(15, generator=generator).numpy()
        for first in range(0, 15, 4):
            batch = order[first : first + 4]
            wrong = probabilities(rows[batch], params[0], params[1]) - np.eye(3)[labels[batch]]
            slopes = [wrong.T @ rows[batch] / len(batch), wrong.mean(axis=0)]
            rate = 0.2 * (1 + np.cos(np.pi * step / steps)) / 2
            for which, slope in enumerate(slopes):
                slope = slope + 1e-2 * params[which]
                held = velocity[which]
                velocity[which] = held = slope if held is None else 0.9 * held + slope
                params[which] = params[which] - rate * (slope + 0.9 * held)
            step += 1
    np.testing.assert_allclose(weight, params[0], atol=2e-6)
    np.testing.assert_allclose(bias, params[1], atol=2e-6)
    # From zero the classes' weights keep the mean zero, as those of COOkeD's files have.
    np.testing.assert_allclose(weight.mean(axis=0), 0, atol=1e-6)


def test_the_same_seed_gives_the_same_bits_and_no_generator_is_touched() -> None:
    rows, labels = clusters(3, each=20)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    recipe = Descent(batch_size=16)
    first = fit_descent(rows, labels, 3, recipe, seed=1)
    second = fit_descent(rows, labels, 3, recipe, seed=1)
    other = fit_descent(rows, labels, 3, recipe, seed=2)
    assert torch.rand(1) == expected
    np.testing.assert_array_equal(first[0], second[0])
    assert not np.array_equal(first[0], other[0])
    np.testing.assert_array_equal(
        fit_logistic(rows, labels, 3, 1.0)[0], fit_logistic(rows, labels, 3, 1.0)[0]
    )


def test_the_strength_is_chosen_by_cross_validation() -> None:
    # Easy: every strength is right everywhere, so the strongest penalty wins.
    rows, labels = clusters(each=10, spread=0.1)
    assert choose_c(rows, labels, 3, seed=0) == GRID[0]
    # A weak direction tells the classes apart beside a strong one that does not: it takes weights
    # that a strong penalty forbids.
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(2), 100)
    signal = (labels * 2 - 1) * 0.03 + rng.normal(size=200) * 0.005
    rows = np.stack([rng.normal(size=200), signal, np.ones(200)], axis=1).astype(np.float32)
    chosen = choose_c(rows, labels, 2, seed=0)
    assert chosen > 3
    assert chosen == choose_c(rows, labels, 2, seed=0)


def test_too_few_images_take_the_fixed_strength() -> None:
    rows, labels = clusters(3, each=4)
    assert choose_c(rows, labels, 3, seed=0) == FEW_SHOT_C
    rows, labels = clusters(3, each=5, spread=0.1)
    assert choose_c(rows, labels, 3, seed=0) == GRID[0]
