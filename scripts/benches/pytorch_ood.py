"""Detectors of feature space against pytorch-ood's on the same arrays: agreement and speed.

pytorch-ood is no dependency: install it beside vlood, or put it on PYTHONPATH.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from benches.measuring import Measured, rounded, timed_on_cpu

PLAIN = {"covariance": "empirical", "embeddings": "raw"}
METHODS: dict[str, dict[str, str]] = {
    "knn": {"k": "10"},
    "mahalanobis": PLAIN,
    "relative-mahalanobis": PLAIN,
}
ROWS, QUERIES, WIDTH, CLASSES = 20_000, 2_000, 512, 100


def pytorch_ood(options: argparse.Namespace) -> Iterator[Measured]:
    """Fit and score with both, three times in turn; ratios are of one run."""
    from importlib.metadata import version

    import torch

    from vlood.backbone.image_features import ImageFeatures
    from vlood.methods import registry
    from vlood.methods.contract import make_settings
    from vlood.prompts.templates import ClassFeatures
    from vlood.training.labelled import LabelledFeatures

    count = options.count or ROWS
    rows, labels = drawn(count, seed=1)
    asked, _ = drawn(QUERIES, seed=2)
    images = LabelledFeatures(rows, labels)
    bank, truth, queries = (torch.from_numpy(each) for each in (rows, labels, asked))
    named = ClassFeatures(tuple(f"c{k}" for k in range(CLASSES)), np.zeros((CLASSES, 0), "f4"))
    table = []
    for name, settings in METHODS.items():
        method = registry.get(name)
        chosen = make_settings(method, settings)
        runs = []
        for _ in range(3):
            own_fit, ours = timed_on_cpu(
                partial(method.fit, named, chosen, 100.0, images=images, seed=0)
            )
            their_fit, theirs = timed_on_cpu(partial(fitted, name, bank, truth))
            own_score, scores = timed_on_cpu(partial(method.score, ours, ImageFeatures(asked)))
            their_score, found = timed_on_cpu(partial(theirs.predict_features, queries))
            runs.append(((their_fit, own_fit), (their_score, own_score)))
        cells: list[float] = []
        for each in zip(*runs, strict=True):
            slow, fast = sorted(each, key=lambda pair: pair[0] / pair[1])[1]
            cells += [rounded(slow, 3), rounded(fast, 3), rounded(slow / fast, 2)]
        ranks = [np.argsort(np.argsort(one)) for one in (scores.score, -found.numpy())]
        table.append((name, *cells, round(float(np.corrcoef(*ranks)[0, 1]), 5)))
    yield Measured(
        *("pytorch-ood", "features"),
        (
            *("method", "fit, pytorch-ood, s", "fit, vlood, s", "fit, times as fast"),
            *("score, pytorch-ood, s", "score, vlood, s", "score, times as fast"),
            "rank correlation",
        ),
        tuple(table),
        caption=(
            f"pytorch-ood {version('pytorch-ood')} on the CPU, {count:,} training rows of "
            f"{CLASSES} classes and {QUERIES:,} test rows, {WIDTH} wide, each",
            "class around a mean of its own; seconds of processor time, medians of the ratios of "
            "three runs, both in turn. A rank",
            "correlation of 1 is the same order of the test rows.",
        ),
    )


def fitted(name: str, bank: Any, labels: Any) -> Any:
    """Return pytorch-ood's detector of a method, fitted."""
    from pytorch_ood import detector as theirs

    make = {
        "knn": partial(theirs.KNN, None, k=int(METHODS["knn"]["k"])),
        "mahalanobis": partial(theirs.Mahalanobis, None),
        "relative-mahalanobis": partial(theirs.RMD, None),
    }
    return make[name]().fit_features(bank, labels)


def drawn(count: int, seed: int) -> tuple[Any, Any]:
    """Draw unit rows around the means of their classes."""
    means = np.random.default_rng(0).normal(size=(CLASSES, WIDTH)).astype(np.float32)
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=count)
    rows = means[labels] + 1.5 * rng.standard_normal((count, WIDTH), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), labels
