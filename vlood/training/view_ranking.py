"""Which augmented views of an image show its class: ranked by the frozen global prompts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import unit


def view_similarities(
    views: NDArray[np.float32], labels: NDArray[np.int64], classes: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the cosine of every view with its image's class, float32 [N, V].

    Args:
        views: embeddings of V views of each image [N, V, D], not normalised.
        labels: int64 [N].
        classes: unit features of the classes' global prompts [C, D].
    """
    return np.asarray(np.einsum("nvd,nd->nv", unit(views), classes[labels]), np.float32)


def ranked_views(similarities: NDArray[np.floating], positives: int) -> NDArray[np.int64]:
    """Return the views to train with, int64 [N, P + 1]: the P most similar, then the least one.

    Equal views keep their order.

    Args:
        similarities: [N, V].
        positives: P, less than V.
    """
    order = np.argsort(-similarities, axis=1, kind="stable")
    return np.concatenate([order[:, :positives], order[:, -1:]], axis=1).astype(np.int64)
