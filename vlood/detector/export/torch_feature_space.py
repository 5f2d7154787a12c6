"""The formulas of the methods of feature space in torch, in double precision as in NumPy.

Distances are differences of large numbers, and powers of small ones amplify the last digit, so
embeddings are brought to double precision first; only the bank of k-NN stays as it is.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlood.errors import UsageError
from vlood.methods.contract import Detector
from vlood.methods.knn import UNSEEN, VOTE_TEMPERATURE

Arrays = dict[str, Any]
"""Tensors by name, and ``classes``, how many there are."""


def refusal_of(detector: Detector) -> str | None:
    """Return why no graph can be made of a detector of feature space, or None."""
    if detector.method == "knn" and len(detector.tensors["centroids"]) > 1:
        return "its bank is searched list by list; tune it with fewer images (--set share)"
    if detector.method == "cooked" and "classifier" in detector.settings.chosen():
        return "a classifier is a member, whose logits come from outside the model"
    return None


def _unit(vectors: Tensor) -> Tensor:
    lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    unit: Tensor = vectors / lengths.clamp(min=1e-12)
    return unit


def _rows(settings: Any, features: Tensor) -> Tensor:
    return (_unit(features) if settings.embeddings == "unit" else features).double()


def _linear(own: Arrays, rows: Tensor) -> Tensor:
    logits: Tensor = rows @ own["weight"].double().T + own["bias"].double()
    return logits


def _distances(own: Arrays, rows: Tensor) -> Tensor:
    """Return squared distances [N, K]."""
    white = own["whitening"].double()
    placed = (rows - own["origin"].double()) @ white
    centres = own["means"].double() @ white
    lengths = placed.square().sum(1, keepdim=True) + centres.square().sum(1)
    found: Tensor = (lengths - 2 * placed @ centres.T).clamp(min=0)
    return found


def mahalanobis(
    settings: Any, scale: float, own: Arrays, features: Tensor, local: Tensor
) -> tuple[Tensor, Tensor]:
    """Return minus the least squared distance [N], and logits [N, K], of features [N, D]."""
    distances = _distances(own, _rows(settings, features))
    return -distances.amin(1), -distances / 2


def relative_mahalanobis(
    settings: Any, scale: float, own: Arrays, features: Tensor, local: Tensor
) -> tuple[Tensor, Tensor]:
    """Return minus the least distance beyond that to all images [N], and logits [N, K]."""
    rows = _rows(settings, features)
    distances = _distances(own, rows)
    centred = rows - own["origin"].double() - own["background_mean"].double()
    background = (centred @ own["background_whitening"].double()).square().sum(1, keepdim=True)
    return -(distances - background).amin(1), -distances / 2


def gen(
    settings: Any, scale: float, own: Arrays, features: Tensor, local: Tensor
) -> tuple[Tensor, Tensor]:
    """Return minus the generalised entropy [N], and logits [N, K]."""
    logits = _linear(own, _rows(settings, features))
    p = logits.softmax(1)
    top = p.topk(min(settings.largest, own["classes"]), 1).values.clamp(1e-7, 1 - 1e-7)
    return -(top * (1 - top)).pow(settings.gamma).sum(1), logits


def kl_matching(
    settings: Any, scale: float, own: Arrays, features: Tensor, local: Tensor
) -> tuple[Tensor, Tensor]:
    """Return minus the least divergence from a typical answer [N], and logits [N, K]."""
    logits = _linear(own, _rows(settings, features))
    logs = logits.log_softmax(1)
    p = logs.exp()
    typical = own["typical"].double().clamp(min=float(torch.finfo(torch.float32).tiny)).log()
    return -((p * logs).sum(1, keepdim=True) - p @ typical.T).amin(1), logits


def _left_over(own: Arrays, rows: Tensor) -> Tensor:
    outside = (rows - own["origin"].double()) @ own["residual"].double().T
    lengths: Tensor = torch.linalg.vector_norm(outside, dim=1)
    return lengths


def vim(
    settings: Any, scale: float, own: Arrays, features: Tensor, local: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the energy less the virtual logit [N], and logits [N, K]."""
    rows = _rows(settings, features)
    logits = _linear(own, rows)
    return logits.logsumexp(1) - own["alpha"].double()[0] * _left_over(own, rows), logits


def residual(
    settings: Any, scale: float, own: Arrays, features: Tensor, local: Tensor
) -> tuple[Tensor, Tensor]:
    """Return minus the length outside the principal directions [N], and logits [N, K]."""
    rows = _rows(settings, features)
    return -_left_over(own, rows), _linear(own, rows)


def react(
    settings: Any, scale: float, own: Arrays, features: Tensor, local: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the energy of activations that are cut off [N], and logits [N, K]."""
    cut = own["cut"].double()[0]
    rows = _rows(settings, features)
    logits = _linear(own, torch.minimum(torch.maximum(rows, -cut), cut))
    return logits.logsumexp(1), logits


def ash(
    settings: Any, scale: float, own: Arrays, features: Tensor, local: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the energy of shaped activations [N], and logits [N, K]."""
    rows = _rows(settings, features)
    width = rows.shape[1]
    kept = max(1, width - round(width * settings.pruned))
    size = rows.abs()
    places = size.topk(kept, 1).indices
    left = torch.zeros_like(rows).scatter(1, places, rows.gather(1, places))
    before = size.sum(1, keepdim=True)
    if settings.shape == "b":
        left = left.sign() * before / kept
    elif settings.shape == "s":
        left = left * (before / left.abs().sum(1, keepdim=True).clamp(min=1e-300)).exp()
    logits = _linear(own, left)
    return logits.logsumexp(1), logits


def mixoe(
    settings: Any, scale: float, own: Arrays, features: Tensor, local: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the largest probability of the probe [N], and its logits [N, K]."""
    logits = _linear(own, _rows(settings, features))
    return logits.softmax(1).amax(1), logits


def _by(how: str, logits: Tensor) -> Tensor:
    logs = logits.log_softmax(1)
    if how == "entropy":
        return (logs.exp() * logs).sum(1)
    return logs.exp().amax(1) if how == "msp" else logits.logsumexp(1)


def tip_adapter(
    settings: Any, scale: float, own: Arrays, features: Tensor, local: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the score [N] and logits [N, K] of text and the cache of training images."""
    rows = _unit(features)
    text = (rows @ own["class_features"].T).double() * scale
    values = F.one_hot(own["key_labels"], own["classes"]).double()
    counts = values.sum(0)
    # A class with many images is not favoured: each counts by the smallest class over its own.
    least = torch.where(counts > 0, counts, counts.max()).min()
    values = values * (least / counts.clamp(min=1))
    near = (rows @ own["keys"].T).double()
    logits = text + settings.alpha * ((near - 1) * settings.beta).exp() @ values
    return _by(settings.score, logits), logits


def cooked(
    settings: Any, scale: float, own: Arrays, features: Tensor, local: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the score [N] and logits [N, K] of the mean of CLIP and the probe."""
    logits = {}
    if "clip" in settings.chosen():
        logits["clip"] = (_unit(features) @ own["class_features"].T).double() * scale
    if "probe" in settings.chosen():
        logits["probe"] = _linear(own, _rows(settings, features))
    whole = sum(settings.weight(name) for name in logits)
    parts = [
        (each / settings.temperature(name)).softmax(1) * (settings.weight(name) / whole)
        for name, each in logits.items()
    ]
    mean = torch.stack(parts).sum(0)
    logs = mean.clamp(min=1e-300).log()
    score = (mean * logs).sum(1) if settings.score == "entropy" else mean.amax(1)
    return score, logs


def abet(
    settings: Any, scale: float, own: Arrays, features: Tensor, local: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the energy of cosines over a learned temperature [N], and logits [N, K]."""
    raised = _rows(settings, features) @ own["slope"].double() + own["offset"].double()[0]
    inverse = 1 + (-raised).clamp(max=60.0).exp()
    cosines = _unit(features).double() @ own["directions"].double().T
    logits = cosines * inverse[:, None]
    return logits.logsumexp(1), logits


def _projected(settings: Any, own: Arrays, features: Tensor) -> Tensor:
    made = (_rows(settings, features) - own["mean"].double()) @ own["projection"].double().T
    return _unit(made)


def tagood(
    settings: Any, scale: float, own: Arrays, features: Tensor, local: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the largest cosine with a learned centre [N], and logits [N, K]."""
    cosines = _projected(settings, own, features) @ own["centres"].double().T
    return cosines.amax(1), cosines / settings.temperature


def palm(
    settings: Any, scale: float, own: Arrays, features: Tensor, local: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the log-density of the best class's mixture of prototypes [N], and logits [N, K]."""
    near = _projected(settings, own, features) @ own["prototypes"].double().T / settings.temperature
    grouped = near.reshape(-1, own["classes"], settings.prototypes)
    logits = grouped.logsumexp(2) - math.log(settings.prototypes)
    return logits.amax(1), logits


def gmm(
    settings: Any, scale: float, own: Arrays, features: Tensor, local: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the log-density of the mixture of all classes [N], and logits [N, K]."""
    basis = own["basis"].double()
    rows = _rows(settings, features) - own["mean"].double()
    directions, width = basis.shape
    inside = rows @ basis.T
    outside = (rows.square().sum(1) - inside.square().sum(1)).clamp(min=0)
    noise = own["noise"].double()[0]
    around = -0.5 * outside / noise - 0.5 * (width - directions) * (2 * math.pi * noise).log()
    factors = own["factors"].double()
    apart = inside[:, None] - own["means"].double()
    if factors.shape[2] == 1 and directions > 1:
        white, diagonal = apart * factors[:, :, 0], factors[:, :, 0]
    else:
        white = torch.matmul(apart[:, :, None], factors)[:, :, 0]
        diagonal = torch.diagonal(factors, 0, 1, 2)
    constant = diagonal.log().sum(1) - 0.5 * directions * math.log(2 * math.pi)
    densities = constant - 0.5 * white.square().sum(2) + own["log_weights"].double()
    member = F.one_hot(own["component_class"], own["classes"]).bool()
    shares = densities[:, :, None].masked_fill(~member, -torch.inf).logsumexp(1)
    logits = shares + around[:, None]
    return logits.logsumexp(1), logits


def knn(
    settings: Any, scale: float, own: Arrays, features: Tensor, local: Tensor
) -> tuple[Tensor, Tensor]:
    """Return minus the distance to the k-th nearest image [N], and its k nearest votes [N, K]."""
    rows = _unit(features)
    cosines, ids = (rows @ own["bank"].T).topk(settings.k, 1)
    last = own["bank"][ids[:, -1]]
    weights = cosines.double() / VOTE_TEMPERATURE
    mine = F.one_hot(own["bank_labels"][ids], own["classes"]).bool()
    peak = weights.amax(1, keepdim=True)
    mass = torch.where(mine, (weights - peak).exp()[:, :, None], 0.0).sum(1)
    floor = weights.amin(1, keepdim=True) - UNSEEN
    logits = torch.maximum(mass.clamp(min=1e-300).log() + peak, floor)
    return -torch.linalg.vector_norm((rows - last).double(), dim=1), logits


FORMULAS = {
    "knn": knn,
    "mahalanobis": mahalanobis,
    "relative-mahalanobis": relative_mahalanobis,
    "gmm": gmm,
    "gen": gen,
    "kl-matching": kl_matching,
    "vim": vim,
    "residual": residual,
    "react": react,
    "ash": ash,
    "mixoe": mixoe,
    "tip-adapter": tip_adapter,
    "cooked": cooked,
    "abet": abet,
    "palm": palm,
    "tagood": tagood,
}


def refuse(detector: Detector) -> None:
    """Refuse a detector of feature space that no graph can be made of.

    Raises:
        UsageError: saying why.
    """
    reason = refusal_of(detector)
    if reason is not None:
        raise UsageError(
            f"--format onnx: {detector.method} cannot be a graph here: {reason}; use --format tar"
        )
