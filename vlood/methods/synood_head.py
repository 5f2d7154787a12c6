"""SynOOD's residual head on image embeddings, and the losses of its two stages.

Li et al., ICCV 2025. The head moves an embedding v, as the tower gives it, by
``g ReLU(LayerNorm(W v + b))``; g is 1 in the paper. Everything is a function of arrays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

WEIGHT, BIAS, NORM_WEIGHT, NORM_BIAS = "head_weight", "head_bias", "norm_weight", "norm_bias"
GAIN = "gain"
SHAPES = {WEIGHT: "D D", BIAS: "D", NORM_WEIGHT: "D", NORM_BIAS: "D", GAIN: "S"}
EPSILON = 1e-5
# Rows are moved so many at a time, to bound the memory.
_ROWS_AT_ONCE = 1 << 16


def starting_head(
    width: int, random: np.random.Generator, *, zero: bool
) -> dict[str, NDArray[np.float32]]:
    """Return a head's arrays as training starts from them.

    The linear part is drawn as torch draws one, uniform within 1 / sqrt(D); the normalisation is
    plain. With ``zero`` the gain starts at 0: the head changes nothing at first. A zero in the
    normalisation would not do, since ReLU has no gradient there.

    Args:
        width: D.
        random: draws W and b.
        zero: whether the gain starts at 0 and not at 1.
    """
    bound = 1 / math.sqrt(width)
    return {
        WEIGHT: random.uniform(-bound, bound, (width, width)).astype(np.float32),
        BIAS: random.uniform(-bound, bound, width).astype(np.float32),
        NORM_WEIGHT: np.ones(width, np.float32),
        NORM_BIAS: np.zeros(width, np.float32),
        GAIN: np.full(1, 0.0 if zero else 1.0, np.float32),
    }


def project(head: Mapping[str, NDArray[Any]], rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return embeddings [N, D] moved by the head, not normalised, float32 [N, D]."""
    moved = np.empty((len(rows), rows.shape[1]), np.float32)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[start : start + _ROWS_AT_ONCE]
        hidden = some @ head[WEIGHT].T + head[BIAS]
        hidden -= hidden.mean(axis=1, keepdims=True)
        hidden /= np.sqrt(np.square(hidden).mean(axis=1, keepdims=True) + EPSILON)
        hidden = np.maximum(hidden * head[NORM_WEIGHT] + head[NORM_BIAS], 0)
        moved[start : start + _ROWS_AT_ONCE] = some + head[GAIN] * hidden
    return moved


def projected(head: Mapping[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
    """Return the same [N, D] in torch, with gradients."""
    import torch.nn.functional as F

    hidden = F.linear(rows, head[WEIGHT], head[BIAS])
    hidden = F.layer_norm(hidden, hidden.shape[-1:], head[NORM_WEIGHT], head[NORM_BIAS], EPSILON)
    return rows + head[GAIN] * F.relu(hidden)


def head_loss(
    head: Mapping[str, torch.Tensor],
    rows: torch.Tensor,
    labels: torch.Tensor,
    texts: torch.Tensor,
    logit_scale: float,
) -> torch.Tensor:
    """Return the cross-entropy of moved images among classes and mined labels, a mean.

    Args:
        head: its tensors.
        rows: embeddings [B, D], not normalised.
        labels: int64 [B], columns of ``texts``.
        texts: frozen unit features [C + L, D].
        logit_scale: s.
    """
    import torch.nn.functional as F

    return F.cross_entropy(
        logit_scale * F.normalize(projected(head, rows), dim=1) @ texts.T, labels
    )


def label_loss(
    vectors: torch.Tensor, rows: torch.Tensor, labels: torch.Tensor, logit_scale: float
) -> torch.Tensor:
    """Return the cross-entropy of synthetic images among the mined labels alone, a mean.

    Args:
        vectors: trained [L, D]; their directions count.
        rows: unit embeddings [B, D], which the head has not moved.
        labels: int64 [B], rows of ``vectors``.
        logit_scale: s.
    """
    import torch.nn.functional as F

    return F.cross_entropy(logit_scale * rows @ F.normalize(vectors, dim=1).T, labels)
