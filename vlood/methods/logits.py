"""The formulas on logits that the zero-shot scores share, stable and in double precision."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures, unit
from vlood.errors import UsageError
from vlood.methods import registry
from vlood.methods.contract import Detector, Scores


def class_cosines(detector: Detector, images: ImageFeatures) -> NDArray[np.float64]:
    """Return the cosine of every image with every class, [N, K].

    Raises:
        UsageError: the images' features have another width than the classes'.
    """
    classes = detector.tensors["class_features"]
    rows = images.unit
    check_width(rows, classes)
    return np.asarray(rows @ classes.T, dtype=np.float64)


def check_width(images: NDArray[np.float32], classes: NDArray[np.float32]) -> None:
    """Refuse image embeddings [N, D] that are not as wide as class embeddings [K, D].

    Raises:
        UsageError: naming both widths.
    """
    if images.shape[1] != classes.shape[1]:
        raise UsageError(
            f"the image embeddings are {images.shape[1]} wide and the class embeddings "
            f"{classes.shape[1]}; both must come from one model"
        )


def regional_cosines(
    local: NDArray[np.float32], classes: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the cosine of every region with every class, [N, R, K].

    Args:
        local: local features [N, R, D], not normalised.
        classes: unit rows [K, D].

    Raises:
        UsageError: the local features have another width than the classes'.
    """
    count, regions, width = local.shape
    rows = unit(local).reshape(count * regions, width)
    check_width(rows, classes)
    # One product of two matrices: NumPy multiplies image by image in 3-D, several times slower.
    return np.asarray(rows @ classes.T).reshape(count, regions, len(classes))


def log_sum_exp(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return log(sum(exp(logits))) of [..., K] over the last axis; nothing overflows."""
    peak = logits.max(axis=-1, keepdims=True)
    total = np.exp(logits - peak).sum(axis=-1)
    return np.asarray(np.log(total) + peak[..., 0], dtype=np.float64)


def max_probability(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the largest softmax probability of [..., K] over the last axis."""
    peak = logits.max(axis=-1, keepdims=True)
    return np.asarray(1.0 / np.exp(logits - peak).sum(axis=-1), dtype=np.float64)


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the softmax of [..., K] over the last axis."""
    weights = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def free_energy(logits: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return T LSE(logits [..., K] / T), the negative free energy (Liu et al. 2020, eq. 3)."""
    return temperature * log_sum_exp(logits / temperature)


def entropy(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the Shannon entropy (natural log) of the softmax of [..., K] over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    weights = np.exp(shifted)
    total = weights.sum(axis=-1)
    return np.asarray(np.log(total) - (weights * shifted).sum(axis=-1) / total, dtype=np.float64)


def probability_entropy(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the Shannon entropy (natural log) of probabilities [..., K] over the last axis."""
    tiny = np.finfo(probabilities.dtype).tiny
    return np.asarray(
        -(probabilities * np.log(np.maximum(probabilities, tiny))).sum(axis=-1), dtype=np.float64
    )


def with_labels(
    score: NDArray[np.float64], cosines: NDArray[np.float64], logit_scale: float
) -> Scores:
    """Complete scores [N] with the nearest class and its probability, from cosines [N, K]."""
    label = cosines.argmax(axis=1).astype(np.int64)
    return Scores(score, label, max_probability(cosines * logit_scale))


def class_logits(detector: Detector, images: ImageFeatures) -> NDArray[np.float64]:
    """Return the logits [N, K] that a detector's labels and confidences are made of."""
    own = registry.get(detector.method).logits
    if own is None:
        return class_cosines(detector, images) * detector.logit_scale
    return own(detector, images)


def top_labels(
    detector: Detector, images: ImageFeatures, count: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the indices and softmax probabilities of each image's most likely classes.

    Returns:
        Two arrays [N, min(count, K)], the most likely first; equal ones in the classes' order.
    """
    logits = class_logits(detector, images)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :count]
    chosen = np.take_along_axis(logits, order, axis=1)
    return order, np.exp(chosen - log_sum_exp(logits)[:, None])
