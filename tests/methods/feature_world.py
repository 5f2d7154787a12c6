"""Clusters in a few directions of a space, some of them strange: what the tests learn and score."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ClassifierLogits, ImageFeatures
from vlood.methods import registry
from vlood.methods.contract import Detector, make_settings
from vlood.prompts.templates import ClassFeatures
from vlood.training.labelled import LabelledFeatures

Array = NDArray[Any]
K, D, EACH = 4, 24, 12
NAMES = ("red", "green thing", "blue", "grey")


def _clusters(count: int, seed: int) -> tuple[Array, Array]:
    """Return `count` rows of each of K + 2 clusters and their numbers."""
    centres = np.random.default_rng(0).normal(size=(K + 2, D)) * 4
    rng = np.random.default_rng(seed)
    labels = np.arange(count * (K + 2)) % (K + 2)
    spread = np.linspace(0.3, 2.0, D)
    rows = centres[labels] + rng.normal(size=(len(labels), D)) * spread
    return (rows + 1.5).astype(np.float32), labels.astype(np.int64)


_ROWS, _LABELS = _clusters(EACH, 1)
_TEST, _TEST_LABELS = _clusters(10, 2)
TRAINING = LabelledFeatures(_ROWS[_LABELS < K], _LABELS[_LABELS < K])
KNOWN = ImageFeatures(_TEST[_TEST_LABELS < K])
KNOWN_LABELS = _TEST_LABELS[_TEST_LABELS < K]
STRANGE = ImageFeatures(_TEST[_TEST_LABELS >= K])
OTHERS = _ROWS[_LABELS >= K]
CLASSES = ClassFeatures.of(
    NAMES, np.stack([TRAINING.raw[TRAINING.labels == label].mean(0) for label in range(K)]) + 1
)


def fit(method: str, images: LabelledFeatures = TRAINING, seed: int = 0, **values: Any) -> Detector:
    """Fit a method to the known clusters."""
    found = registry.get(method)
    settings = make_settings(found, values)
    return found.fit(CLASSES, settings, 20.0, images=images, seed=seed)


def auroc(inside: Array, outside: Array) -> float:
    return float((inside[:, None] > outside).mean())


def with_logits(images: ImageFeatures, values: Array, names: tuple[str, ...]) -> ImageFeatures:
    return replace(images, logits=ClassifierLogits(values.astype(np.float32), names))
