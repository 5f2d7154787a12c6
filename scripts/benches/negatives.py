"""Negative labels: grouped scores, mining, a bank's index, and what 10,000 of them cost."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benches.measuring import (
    Measured,
    anonymous_megabytes,
    in_own_process,
    rounded,
    timed,
    watched_memory,
)
from benches.pictures import picture_folder, pipeline, score_to_file


def negatives(options: argparse.Namespace) -> Iterator[Measured]:
    """The closed form over softmaxes, mining small and large corpora, the share of a score."""
    yield closed_form(options.count or 2000)
    yield Measured(
        *("negatives", "mining"),
        ("measured", "seconds", "MB over the arrays"),
        tuple(mining(candidates, 1000, 512) for candidates in (70_000, 1_000_000)),
    )
    yield negatives_share(options)
    yield index_recall(1_000_000, 128)


def closed_form(
    images: int, classes: int = 1000, negatives: int = 10_000, groups: int = 100
) -> Measured:
    """NegLabel's score with a softmax a group, as published code does it, and as vlood does it."""
    import numpy as np
    import torch

    from vlood.backbone.image_features import ImageFeatures
    from vlood.methods import neglabel, registry
    from vlood.negatives.negative_features import NegativeFeatures
    from vlood.prompts.templates import ClassFeatures

    rng = np.random.default_rng(0)
    method = registry.get("neglabel")
    raw = rng.normal(size=(images, 512)).astype(np.float32)
    ids = ClassFeatures.of(["c"] * classes, rng.normal(size=(classes, 512)))
    words = NegativeFeatures.of(["n"] * negatives, rng.normal(size=(negatives, 512)))
    detector = method.fit(ids, method.settings(groups=groups), 100.0, negatives=words)
    features = ImageFeatures(raw)
    unit = torch.from_numpy(features.unit)
    positive = 100 * unit @ torch.from_numpy(ids.features).T
    negative = 100 * unit @ torch.from_numpy(detector.tensors["negative_features"]).T
    order = torch.randperm(negatives)
    arrays, sizes = (positive.numpy(), negative.numpy()), detector.tensors["group_sizes"]

    def published() -> torch.Tensor:
        grouped = negative.T[order].T.reshape(images, groups, -1).contiguous()
        shares = []
        for number in range(groups):
            both = torch.cat([positive, grouped[:, number]], -1).softmax(-1)
            shares.append(both[:, :classes].sum(-1).unsqueeze(-1))
        return torch.cat(shares, -1).mean(-1)

    def plain() -> np.ndarray:
        total = np.zeros(images)
        for group in np.split(arrays[1], groups, axis=1):
            both = np.concatenate([arrays[0], group], axis=1)
            weights = np.exp(both - both.max(axis=1, keepdims=True))
            total += (weights / weights.sum(axis=1, keepdims=True))[:, :classes].sum(axis=1)
        return total / groups

    in_torch, _ = timed(published, repeat=3)
    slow, softmaxes = timed(plain, repeat=3)
    fast, closed = timed(lambda: neglabel.id_mass(*arrays, sizes), repeat=5)
    whole, scores = timed(lambda: method.score(detector, features), repeat=3)
    true = softmaxes_in_double(positive.double(), negative.double(), groups)
    off = [rounded(abs(one - true).max(), 2) for one in (softmaxes, closed, scores.score)]
    shape = f"{negatives:,} negatives in {groups} groups, {images:,} images, {classes:,} classes"
    return Measured(
        *("reference-forms", "neglabel"),
        (
            "measured",
            "published form",
            "vlood",
            "unit",
            "times as fast",
            "off, published and vlood",
        ),
        (
            (
                f"NegLabel, {shape}: {groups} softmaxes in NumPy against the closed form",
                *(round(slow * 1e3), round(fast * 1e3), "ms", rounded(slow / fast), off[:2]),
            ),
            (
                "the same against the published procedure in torch, its permutation included",
                *(round(in_torch * 1e3), round(fast * 1e3), "ms", rounded(in_torch / fast), None),
            ),
            (
                "the closed form with the cosines",
                *(None, round(whole * 1e3), "ms", None, [off[2]]),
            ),
        ),
        caption=("Off is the largest difference from double precision.",),
    )


def softmaxes_in_double(positive: Any, negative: Any, groups: int) -> Any:
    """Return the same mean of softmax masses in double precision."""
    import torch

    total = 0
    for group in negative.reshape(len(negative), groups, -1).unbind(1):
        both = torch.cat([positive, group], -1).softmax(-1)
        total = total + both[:, : positive.shape[1]].sum(-1)
    return (total / groups).numpy()


def mining(candidates: int, classes: int, width: int) -> tuple[Any, ...]:
    """Choose negatives from embeddings on disk: seconds, and memory over the arrays."""
    with tempfile.TemporaryDirectory() as scratch:
        return tuple(in_own_process(mine_embeddings, scratch, candidates, classes, width))


def mine_embeddings(scratch: str, candidates: int, classes: int, width: int) -> list[Any]:
    """Mine in this process, whose memory is then that of mining alone."""
    import numpy as np

    from vlood.engines.mining import CheckedRows
    from vlood.negatives.corpus import Corpus
    from vlood.negatives.mining import MiningSettings, mine
    from vlood.prompts.classes import ClassName

    path = Path(scratch) / "corpus.npy"
    rng = np.random.default_rng(0)
    rows = np.lib.format.open_memmap(path, "w+", np.float32, (candidates, width))
    for start in range(0, candidates, 50_000):
        rows[start : start + 50_000] = rng.normal(size=(min(50_000, candidates - start), width))
    rows.flush()
    del rows
    corpus, _ = Corpus.of_names([f"word {n}" for n in range(candidates)], ["bench"] * candidates)
    ids = rng.normal(size=(classes, width)).astype(np.float32)
    ids /= np.linalg.norm(ids, axis=1, keepdims=True)
    names = [ClassName.of(f"class {n}") for n in range(classes)]
    in_memory = candidates <= 100_000
    mapped = np.load(path, mmap_mode="r")
    source = np.array(mapped) if in_memory else CheckedRows(path, mapped)
    before = anonymous_megabytes()
    with watched_memory() as peak:
        seconds, mined = timed(lambda: mine(corpus, source, names, ids, MiningSettings()))
    where = "in memory" if in_memory else "on disk"
    what = f"choose {len(mined.rows):,} of {candidates:,} x {width} embeddings {where}"
    return [f"{what} for {classes:,} classes", round(seconds, 2), round(peak[0] - before)]


def negatives_share(options: argparse.Namespace) -> Measured:
    """What scoring against 10,000 negatives adds to scoring images end to end."""
    import numpy as np

    from vlood.methods import registry
    from vlood.negatives.negative_features import NegativeFeatures
    from vlood.prompts.templates import ClassFeatures

    with tempfile.TemporaryDirectory() as scratch:
        folder = picture_folder(Path(scratch) / "pictures", 256, (400, 300))
        backbone, mcm, settings, items = pipeline(Path(scratch), folder, "ViT-B-32", options)
        rng = np.random.default_rng(0)
        words = NegativeFeatures.of(["n"] * 10_000, rng.normal(size=(10_000, backbone.embed_dim)))
        method = registry.get("neglabel")
        classes = ClassFeatures.of(mcm.class_names, mcm.tensors["class_features"])
        neglabel = method.fit(classes, method.settings(), mcm.logit_scale, negatives=words)
        out = Path(scratch) / "out.jsonl"
        score_to_file(items[:64], backbone, mcm, settings, out)
        shares, plain_rate = [], 0.0
        for _ in range(3):
            plain, _ = timed(lambda: score_to_file(items, backbone, mcm, settings, out))
            both, _ = timed(lambda: score_to_file(items, backbone, neglabel, settings, out))
            shares.append(both / plain - 1)
            plain_rate = len(items) / plain
        features = backbone.encode_pixels(np.zeros((32, *backbone.preprocessing.size, 3), np.uint8))
        of_mcm, _ = timed(lambda: registry.score(mcm, features), repeat=20)
        of_neglabel, _ = timed(lambda: registry.score(neglabel, features), repeat=20)
    added = (of_neglabel - of_mcm) / 32
    return Measured(
        *("negatives", "share"),
        (
            "measured",
            "us an image more than MCM",
            "% of scoring end to end",
            "whole runs, % longer",
        ),
        (
            (
                f"10,000 negatives in `vlood score`, ViT-B-32 at {plain_rate:.1f} images/s",
                *(round(added * 1e6), rounded(100 * added * plain_rate, 2)),
                [round(100 * share, 2) for share in shares],
            ),
        ),
    )


def index_recall(rows: int, width: int) -> Measured:
    """Recall@10 and speed of a bank's index on rows around cluster centres."""
    import numpy as np

    from vlood.negatives.index import build_index, measure_recall

    rng = np.random.default_rng(0)
    centres = rng.standard_normal((rows // 200, width), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    features = np.empty((rows, width), np.float32)
    for start in range(0, rows, 50_000):
        stop = min(rows, start + 50_000)
        block = rng.standard_normal((stop - start, width), dtype=np.float32)
        block *= np.float32(0.8) / np.linalg.norm(block, axis=1, keepdims=True)
        features[start:stop] = block + centres[rng.integers(len(centres), size=stop - start)]
    seconds, index = timed(lambda: build_index(features, "auto"))
    recall = measure_recall(index, features, sample=1000, seed=1)
    queries = features[:1000]
    search, _ = timed(lambda: index.search(queries, 10, rows=features))
    return Measured(
        *("negatives", "index"),
        ("measured", "s to build", ("recall@10", 3), "queries/s"),
        (
            (
                f"{index.kind} over {rows:,} x {width} rows in clusters of 200 with noise",
                *(round(seconds), round(recall, 4), round(len(queries) / search)),
            ),
        ),
    )
