"""Score images or embeddings with a detector, in this process, as a stream of records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.engines.records import Record, rounded
from vlood.features.cache import FeatureCache
from vlood.features.embeddings import Embeddings
from vlood.features.stream import StreamSettings, encode_images
from vlood.images.sources import ImageItem
from vlood.methods import registry
from vlood.methods.contract import Detector, Scores
from vlood.methods.logits import top_labels

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone

_EMBEDDING_ROWS = 4096
_TOP_LABELS = 5


@dataclass(frozen=True)
class Decision:
    """What turns a score into records: the threshold, and whether to explain."""

    threshold: float | None = None
    explain: bool = False


@dataclass(frozen=True)
class ScoredBatch:
    """One batch of inputs and what a detector says of those that could be read.

    ``scores`` has one row for each entry of ``positions``, which index ``ids`` and ``labels``.
    """

    ids: list[str]
    labels: list[str | None]
    positions: NDArray[np.int64]
    features: ImageFeatures
    scores: list[Scores]
    errors: dict[int, str]


def needs_local(detectors: Iterable[Detector]) -> bool:
    """Say whether any of the detectors reads local embeddings."""
    return any("local" in registry.get(one.method).record.needs for one in detectors)


def score_images(
    items: Iterable[ImageItem],
    backbone: Backbone,
    detectors: list[Detector],
    settings: StreamSettings,
    *,
    cache: FeatureCache | None = None,
) -> Iterator[ScoredBatch]:
    """Yield scored batches in input order; every image is encoded once for all detectors."""
    local = needs_local(detectors)
    for batch in encode_images(items, backbone, settings, cache=cache, local=local):
        yield ScoredBatch(
            ids=[item.path for item in batch.items],
            labels=[item.label for item in batch.items],
            positions=batch.positions,
            features=batch.features,
            scores=[registry.score(one, batch.features) for one in detectors],
            errors=batch.errors,
        )


def score_embeddings(embeddings: Embeddings, detectors: list[Detector]) -> Iterator[ScoredBatch]:
    """Yield scored batches of stored embeddings, read a few thousand rows at a time."""
    for start in range(0, len(embeddings.ids), _EMBEDDING_ROWS):
        rows = slice(start, start + _EMBEDDING_ROWS)
        raw = np.asarray(embeddings.features[rows], np.float32)
        local = None if embeddings.local is None else np.asarray(embeddings.local[rows], np.float32)
        features = ImageFeatures(raw=raw, local=local)
        ids = embeddings.ids[rows]
        yield ScoredBatch(
            ids=ids,
            labels=_labels(embeddings, rows, len(ids)),
            positions=np.arange(len(ids)),
            features=features,
            scores=[registry.score(one, features) for one in detectors],
            errors={},
        )


def _labels(embeddings: Embeddings, rows: slice, count: int) -> list[str | None]:
    if embeddings.labels is None:
        return [None] * count
    return [label or None for label in embeddings.labels[rows]]


def records_of(batch: ScoredBatch, detector: Detector, decision: Decision) -> list[Record]:
    """Return the records of one batch for its first detector, in input order."""
    records: list[Record | None] = [None] * len(batch.ids)
    for position, reason in batch.errors.items():
        records[position] = {"path": batch.ids[position], "error": reason}
    scores = batch.scores[0]
    tops = _top_labels(detector, batch.features) if decision.explain else None
    for row, position in enumerate(batch.positions.tolist()):
        score = rounded(float(scores.score[row]))
        record: Record = {
            "path": batch.ids[position],
            "score": score,
            "ood": None if decision.threshold is None else score < decision.threshold,
            "label": detector.class_names[int(scores.label[row])],
            "confidence": rounded(float(scores.confidence[row])),
            "p_value": None,
            "method": detector.method,
        }
        if tops is not None:
            record["top_labels"] = tops[row]
        records[position] = record
    return [record for record in records if record is not None]


def _top_labels(detector: Detector, features: ImageFeatures) -> list[list[dict[str, object]]]:
    """Return each row's most likely classes with their softmax probabilities."""
    index, probability = top_labels(detector, features, _TOP_LABELS)
    return [
        [
            {"label": detector.class_names[k], "probability": rounded(share)}
            for k, share in zip(labels, shares, strict=True)
        ]
        for labels, shares in zip(index.tolist(), probability.tolist(), strict=True)
    ]
