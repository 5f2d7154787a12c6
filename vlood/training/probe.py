"""Train a linear classifier on embeddings: logistic regression, or COOkeD's gradient descent."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

Probe = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Weights [K, D] and biases [K]: the logits of an embedding f are W f + b."""

# Inverse strengths of the L2 penalty that cross-validation compares, the strongest penalty first.
GRID: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
# Measured on ViT-B/32 embeddings of photographs with 1 to 4 shots: 1 to 100 give the same accuracy
# within 3 percent, and of those above 1 the lower ones tell OOD images apart better.
FEW_SHOT_C = 10.0
FOLDS = 5
_ITERATIONS = 1000


@dataclass(frozen=True)
class Descent:
    """How gradient descent goes: SGD with Nesterov momentum and a cosine schedule down to zero.

    COOkeD's files name 20 epochs, a learning rate of 0.1 and the cross-entropy; momentum 0.9,
    weight decay 5e-4 and batches of 128 are the base recipe of OpenOOD, on which it is built.
    """

    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4


def fit_descent(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    descent: Descent,
    *,
    seed: int,
    device: str = "cpu",
) -> Probe:
    """Train by gradient descent from zero weights; the last epoch is what is kept.

    The loss is convex, so a start at zero loses nothing and needs no random numbers; ``seed``
    orders the batches.

    Args:
        features: float32 [N, D].
        labels: int64 [N], indices of classes.
        classes: K.
        descent: the schedule.
        seed: of the order of images.
        device: torch's name of the device.
    """
    import torch
    import torch.nn.functional as F

    rows = torch.from_numpy(np.ascontiguousarray(features, np.float32)).to(device)
    target = torch.from_numpy(np.ascontiguousarray(labels, np.int64)).to(device)
    weight = torch.zeros(classes, features.shape[1], device=device, requires_grad=True)
    bias = torch.zeros(classes, device=device, requires_grad=True)
    optimizer = torch.optim.SGD(
        [weight, bias],
        lr=descent.learning_rate,
        momentum=descent.momentum,
        weight_decay=descent.weight_decay,
        nesterov=descent.momentum > 0,
    )
    # On the CPU whatever the device, so that every device sees the same batches.
    generator = torch.Generator().manual_seed(seed)
    steps = descent.epochs * math.ceil(len(rows) / descent.batch_size)
    step = 0
    for _ in range(descent.epochs):
        order = torch.randperm(len(rows), generator=generator).to(device)
        for batch in torch.split(order, descent.batch_size):
            rate = descent.learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            loss = F.cross_entropy(F.linear(rows[batch], weight, bias), target[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
    return weight.detach().cpu().numpy(), bias.detach().cpu().numpy()


def fit_logistic(
    features: NDArray[np.float32], labels: NDArray[np.int64], classes: int, c: float
) -> Probe:
    """Fit multinomial logistic regression with an L2 penalty, to its one optimum.

    Args:
        features: float32 [N, D].
        labels: int64 [N], indices of classes, every class among them.
        classes: K, 2 or more.
        c: inverse strength of the penalty, for embeddings of mean length 1: they are scaled to it
            while fitting and the weights scaled back, so a strength means the same for any tower.
    """
    scale = mean_length(features)
    return _along(features, labels, classes, scale, [c])[0]


def choose_c(
    features: NDArray[np.float32], labels: NDArray[np.int64], classes: int, *, seed: int
) -> float:
    """Choose the inverse strength by cross-validation on the training images alone.

    Of :data:`GRID` it takes the strongest penalty whose accuracy is within one standard error of
    the best (the rule of Breiman et al. 1984): accuracy is flat over two decades, and along them a
    stronger penalty tells OOD images apart better. With fewer than :data:`FOLDS` images of some
    class there is too little to choose by: :data:`FEW_SHOT_C`.

    Args:
        features: float32 [N, D].
        labels: int64 [N], indices of classes.
        classes: K.
        seed: of the folds.
    """
    if np.bincount(labels, minlength=classes).min() < FOLDS:
        return FEW_SHOT_C
    from sklearn.model_selection import StratifiedKFold

    scale = mean_length(features)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    right = []
    for train, test in folds.split(features, labels):
        probes = _along(features[train], labels[train], classes, scale, GRID)
        right.append(
            [(labels[test] == _predicted(features[test], probe)).mean() for probe in probes]
        )
    accuracy = np.asarray(right, np.float64)
    mean = accuracy.mean(axis=0)
    best = int(mean.argmax())
    error = accuracy[:, best].std(ddof=1) / math.sqrt(FOLDS)
    chosen = GRID[int(np.flatnonzero(mean >= mean[best] - error)[0])]
    logger.debug("C = %g: accuracy %s over %s", chosen, mean.round(4).tolist(), GRID)
    return chosen


def mean_length(features: NDArray[np.float32]) -> float:
    """Return the mean length of embeddings [N, D], 1 where they are all zeros."""
    return float(np.sqrt(np.einsum("nd,nd->n", features, features)).mean()) or 1.0


def _along(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    scale: float,
    strengths: Sequence[float],
) -> list[Probe]:
    """Fit one probe a strength, each from where the one before ended."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=_ITERATIONS, warm_start=True)
    rows = features.astype(np.float64) / scale
    probes = []
    with warnings.catch_warnings():
        # It stops at the last digits where images of two classes look the same; that is no news.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for c in strengths:
            model.set_params(C=c).fit(rows, labels)
            weight, bias = model.coef_, model.intercept_
            if classes == 2:
                # One row speaks for the second class; softmax of (-z/2, z/2) is the same.
                weight, bias = np.concatenate([-weight, weight]) / 2, np.array([-bias, bias]) / 2
            weight = np.asarray(weight / scale, np.float32)
            probes.append((weight, np.asarray(bias, np.float32).reshape(classes)))
    return probes


def _predicted(features: NDArray[np.float32], probe: Probe) -> NDArray[np.int64]:
    weight, bias = probe
    return np.asarray((features @ weight.T + bias).argmax(axis=1), np.int64)
