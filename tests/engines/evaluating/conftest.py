"""Small detectors and embedding sets, for evaluations that run in milliseconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vlood.engines.evaluating.run import Request, entrant_of
from vlood.engines.evaluating.sets import EvalSet
from vlood.features.embeddings import Embeddings
from vlood.features.stream import StreamSettings
from vlood.methods import registry
from vlood.methods.contract import Detector
from vlood.negatives.negative_features import NegativeFeatures
from vlood.prompts.classes import ClassName, label_lookup
from vlood.prompts.templates import ClassFeatures

D = 12
CLASSES = ClassFeatures.of(["dog", "cat", "owl"], np.eye(3, D))
INDEX = label_lookup(tuple(map(ClassName.of, CLASSES.names)))


def detector_of(name: str) -> Detector:
    """Fit a method on three classes."""
    method, rng = registry.get(name), np.random.default_rng(0)
    given: dict[str, Any] = {}
    if "negatives" in method.record.needs:
        rows = np.roll(np.eye(D), 3, axis=1)[:20]
        given["negatives"] = NegativeFeatures.of([f"n{row}" for row in range(len(rows))], rows)
    if "noise" in method.record.needs:
        given["noise"] = rng.normal(size=(15, D))
    return method.fit(CLASSES, method.settings(), 30.0, **given)


def set_of(
    name: str, group: str, count: int, seed: int, turned: int = 0, *, labelled: bool = True
) -> EvalSet:
    """Return a set of embeddings near the axes of the classes, turned away by some axes."""
    rng = np.random.default_rng(seed)
    labels = [CLASSES.names[row % 3] for row in range(count)]
    rows = np.roll(np.eye(3, D), turned, axis=1)[np.arange(count) % 3]
    raw = (rows + 0.2 * rng.normal(size=(count, D))).astype(np.float32)
    ids = [f"{seed}/{row}.png" for row in range(count)]
    held = (Embeddings(raw, ids, labels if labelled else None),)
    return EvalSet(name, group, (f"{name}.npy",), embeddings=held)


SETS = (
    set_of("known", "id", 24, 1),
    set_of("near set", "near", 15, 2, 4, labelled=False),
    set_of("far set", "far", 10, 3, 8, labelled=False),
)


@pytest.fixture
def request_of() -> Any:
    """Return a function that makes a request of methods over the three sets."""

    def make(*methods: str, **given: Any) -> Request:
        sets = given.pop("sets", SETS)
        entrants = [entrant_of(detector_of(name), name) for name in methods]
        settings = StreamSettings(batch_size=given.pop("batch_size", 32))
        return Request(sets, entrants, INDEX, settings, **given)

    return make
