"""Methods that tune prompts or towers score with the formula their detector was compiled to."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from vlood.backbone.image_features import ImageFeatures
from vlood.methods import cma, coop, gl_mcm, lapt, locoop, mcm, msp, neglabel
from vlood.methods.contract import Detector
from vlood.negatives.negative_features import NegativeFeatures
from vlood.prompts.templates import ClassFeatures

RNG = np.random.default_rng(0)
CLASSES = ClassFeatures.of(["a", "b", "c"], RNG.normal(size=(3, 8)))
WORDS = NegativeFeatures.of([f"word {row}" for row in range(6)], RNG.normal(size=(6, 8)))
IMAGES = ImageFeatures(
    RNG.normal(size=(5, 8)).astype(np.float32), RNG.normal(size=(5, 4, 8)).astype(np.float32)
)


def softmax(values: np.ndarray) -> np.ndarray:
    weights = np.exp(values)
    return weights / weights.sum(axis=-1, keepdims=True)


def cosines(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    rows = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows.astype(np.float64) @ others.T


COS = cosines(IMAGES.raw, CLASSES.features)
MCM = softmax(COS).max(axis=1)
LOCAL = softmax(cosines(IMAGES.local, CLASSES.features)).max(axis=(1, 2))
BESIDE = np.exp(np.concatenate([COS, cosines(IMAGES.raw, WORDS.features)], axis=1) / 0.5)


def of_words() -> Detector:
    settings = neglabel.NegLabelSettings(groups=1, temperature=25.0)
    return neglabel.fit(CLASSES, settings, 50.0, negatives=WORDS)


@pytest.mark.parametrize(
    ("module", "detector", "expected"),
    [
        (coop, mcm.fit(CLASSES, mcm.MCMSettings(), 50.0), MCM),
        (coop, msp.fit(CLASSES, msp.MSPSettings(), 50.0), softmax(50 * COS).max(axis=1)),
        (locoop, mcm.fit(CLASSES, mcm.MCMSettings(), 50.0), MCM),
        (locoop, gl_mcm.fit(CLASSES, gl_mcm.GLMCMSettings(), 50.0), MCM + LOCAL),
        (cma, mcm.fit(CLASSES, mcm.MCMSettings(), 50.0), MCM),
        (cma, of_words(), BESIDE[:, :3].sum(axis=1) / BESIDE.sum(axis=1)),
        (lapt, of_words(), BESIDE[:, :3].sum(axis=1) / BESIDE.sum(axis=1)),
    ],
)
def test_its_score_is_that_formula(
    module: ModuleType, detector: Detector, expected: np.ndarray
) -> None:
    found = module.score(detector, IMAGES)
    np.testing.assert_allclose(found.score, expected, rtol=1e-4)
    np.testing.assert_array_equal(found.label, COS.argmax(axis=1))
    assert module.METHOD.score is module.score
