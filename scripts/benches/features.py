"""k-NN and Mahalanobis with a bank of 1,281,167 embeddings."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

from benches.measuring import Measured, anonymous_megabytes, watched_memory


def features(options: argparse.Namespace) -> Iterator[Measured]:
    """Fit and score with a bank of ImageNet's size: half of its rows in clusters, half random."""
    import numpy as np

    from vlood.backbone.image_features import ImageFeatures
    from vlood.methods import registry
    from vlood.methods.contract import make_settings
    from vlood.prompts.templates import ClassFeatures
    from vlood.training.labelled import LabelledFeatures

    count, width, classes = options.count or 1_281_167, 512, 1000
    rows, labels = clustered_rows(count, width, classes, seed=0)
    queries, _ = clustered_rows(16_384, width, classes, seed=1)
    images, asked = LabelledFeatures(rows, labels), ImageFeatures(queries)
    named = ClassFeatures(tuple(f"c{k}" for k in range(classes)), np.zeros((classes, 0), "f4"))
    del rows, labels
    rows_of_table, found = [], ""
    for name in ("mahalanobis", "relative-mahalanobis", "knn"):
        method = registry.get(name)
        before, cpu, start = anonymous_megabytes(), time.process_time(), time.perf_counter()
        with watched_memory() as peak:
            fitted = method.fit(named, make_settings(method, {}), 100.0, images=images, seed=0)
        clock, busy = time.perf_counter() - start, time.process_time() - cpu
        rates, cpu = [], time.process_time()
        for _ in range(3):
            start = time.perf_counter()
            for first in range(0, len(asked), 4096):
                method.score(fitted, ImageFeatures(asked.raw[first : first + 4096]))
            rates.append(len(asked) / (time.perf_counter() - start))
        of_cpu = 3 * len(asked) / (time.process_time() - cpu)
        if name == "knn":
            own = fitted.settings
            lists = len(fitted.tensors["centroids"])
            found = (
                f"k-NN has {lists:,} lists and looks into {own.probes}; its recall of the "
                f"{own.k} nearest is {own.recall:.3f} on rows between "
                f"neighbours, {knn_recall(fitted, asked.raw[:500:2])} on new rows in clusters, "
                f"{knn_recall(fitted, asked.raw[1:500:2])} on those anywhere."
            )
        rows_of_table.append(
            (
                *(name, round(clock, 1), round(busy, 1), round(peak[0] - before)),
                *(round(min(rates)), round(max(rates)), round(of_cpu)),
            )
        )
    yield Measured(
        *("features", "bank"),
        (
            *("method", "fit, s", "fit, s of CPU", "peak over the embeddings, MB"),
            *("images/s, slowest run", "images/s, fastest run", "images a second of CPU"),
        ),
        tuple(rows_of_table),
        caption=(
            f"{count:,} x {width} ({images.raw.nbytes / 1e9:.1f} GB), {classes:,} classes, every "
            "second row in a cluster of its class, the others",
            f"anywhere on the sphere; three runs of scoring {len(asked):,} rows. {found}",
        ),
    )


def clustered_rows(count: int, width: int, classes: int, seed: int) -> tuple[Any, Any]:
    """Make unit rows in chunks, every second one in a cluster of its class, the others anywhere."""
    import numpy as np

    centres = np.random.default_rng(0).normal(size=(4 * classes, width)).astype(np.float32)
    rng = np.random.default_rng([seed, 1])
    labels = rng.integers(classes, size=count)
    rows = np.empty((count, width), np.float32)
    for first in range(0, count, 16_384):
        part = slice(first, min(count, first + 16_384))
        chunk = rng.standard_normal((part.stop - first, width), np.float32)
        near = np.arange(len(chunk)) % 2 == 0
        cluster = labels[part] * 4 + rng.integers(4, size=len(chunk))
        chunk[near] = centres[cluster[near]] + 0.7 * chunk[near]
        rows[part] = chunk / np.linalg.norm(chunk, axis=1, keepdims=True)
    return rows, labels


def knn_recall(detector: Any, queries: Any) -> str:
    """Tell the share of the true nearest rows that is found, and how far off the distance is."""
    import faiss
    import numpy as np

    from vlood.training.neighbours import Bank

    own, k = detector.tensors, detector.settings.k
    bank = Bank(own["bank"], own["centroids"], own["list_ends"])
    near, found = bank.nearest(queries, k, detector.settings.probes)
    cosines, truth = faiss.knn(queries, own["bank"], k, metric=faiss.METRIC_INNER_PRODUCT)
    off = np.sqrt((1 - near[:, -1]) / (1 - cosines[:, -1])).mean() - 1
    shares = [len(np.intersect1d(a, b)) / k for a, b in zip(found, truth, strict=True)]
    return f"{np.mean(shares):.3f} (distance {100 * off:+.2f} %)"
