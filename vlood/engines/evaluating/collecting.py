"""Go through a set once: what every detector says of each image, kept batch by batch.

A finished batch is a line of ``SET.partial.jsonl``, so a stopped evaluation goes on after it; a
finished set is one Parquet file (`score_files`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.engines.evaluating.sets import EvalSet, SetImages
from vlood.engines.explaining import NearestNegatives
from vlood.engines.scoring import ScoredBatch
from vlood.errors import UsageError
from vlood.images.item import ImageItem

NEAREST = 3
"""How many negatives are remembered of an image."""


@dataclass(frozen=True)
class Judged:
    """What one detector says of the N images of a set.

    Attributes:
        scores: float64 [N], higher = more in-distribution.
        predicted: int64 [N], indices of classes.
    """

    scores: NDArray[np.float64]
    predicted: NDArray[np.int64]

    def without(self, rows: Sequence[int]) -> Judged:
        """Return it without some images."""
        return Judged(np.delete(self.scores, rows), np.delete(self.predicted, rows))


@dataclass(frozen=True)
class Collected:
    """One pass over a set.

    Attributes:
        images: what is known of the images.
        judged: for each detector, what it says.
        features: raw embeddings [N, D] where they were kept, for test-time detectors.
        encoded: images the model ran on.
    """

    images: SetImages
    judged: list[Judged]
    features: NDArray[np.float32] | None = None
    encoded: int = 0


class PartialScores:
    """The finished batches of a set, one JSON line each, in a file that grows.

    Args:
        path: of the file; made with the first batch.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[dict[str, Any]]:
        """Return the finished batches; a torn last line is cut off."""
        found: list[dict[str, Any]] = []
        if not self.path.exists():
            return found
        end = 0
        with self.path.open("rb") as stream:
            for line in stream:
                try:
                    one = json.loads(line)
                except ValueError:
                    break
                if not line.endswith(b"\n"):
                    break
                found.append(one)
                end = stream.tell()
        with self.path.open("r+b") as stream:
            stream.truncate(end)
        return found

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a batch; it has left this process when the call returns."""
        with self.path.open("a", encoding="ascii") as stream:
            stream.write(json.dumps(line) + "\n")

    def remove(self) -> None:
        """Take the file away: the set is finished."""
        self.path.unlink(missing_ok=True)


Scored = Callable[[Iterator[ImageItem] | None], Iterable[ScoredBatch]]
"""Scores the images given, or with None the set's own embeddings."""


def collect(
    one: EvalSet,
    scored: Scored,
    detectors: int,
    *,
    partial: PartialScores | None = None,
    nearest: NearestNegatives | None = None,
    keep_features: bool = False,
    advance: Callable[[int], None] = lambda count: None,
) -> Collected:
    """Score a set batch by batch.

    Args:
        one: the set.
        scored: scores images with all detectors at once.
        detectors: how many they are.
        partial: where finished batches are kept; those it has are not scored again. None: nowhere.
        nearest: the negatives that images are compared with, or None.
        keep_features: whether embeddings are kept; finished batches are then not used, since they
            hold none.
        advance: told of every few images.

    Raises:
        UsageError: the set's images are not those of the finished batches.
    """
    lines: list[dict[str, Any]] = []
    features, encoded = [], 0
    items = None if one.embeddings is not None else one.items()
    if partial is not None and items is not None and not keep_features:
        lines = partial.lines()
        for line in lines:
            _skip(items, line["ids"], one.name)
            advance(len(line["ids"]))
    elif partial is not None:
        partial.remove()
    for batch in scored(items):
        line = _line(batch, nearest)
        if partial is not None and items is not None:
            partial.append(line)
        lines.append(line)
        encoded += batch.encoded
        if keep_features:
            features.append(batch.features.raw)
        advance(len(batch.ids))
    images, judged = _gathered(one, lines, detectors)
    return Collected(images, judged, np.concatenate(features) if features else None, encoded)


def _skip(items: Iterator[ImageItem], ids: Sequence[str], name: str) -> None:
    found = [item.path for item in islice(items, len(ids))]
    if found != list(ids):
        raise UsageError(
            f"--resume: the images of {name} changed since the evaluation was stopped; leave "
            "--resume out and name another folder to start over"
        )


def _line(batch: ScoredBatch, nearest: NearestNegatives | None) -> dict[str, Any]:
    """Return what is kept of a batch, JSON-able and exact."""
    line: dict[str, Any] = {
        "ids": batch.ids,
        "labels": batch.labels,
        "positions": batch.positions.tolist(),
        "digests": [digest.hex() for digest in batch.digests],
        "scores": [one.score.tolist() for one in batch.scores],
        "predicted": [one.label.tolist() for one in batch.scores],
        "errors": {str(row): reason for row, reason in batch.errors.items()},
    }
    if nearest is not None and len(batch.positions):
        cosines, rows = nearest.search(batch.features.raw, min(NEAREST, len(nearest.names)))
        line["nearest"] = [
            [[nearest.names[row], round(cosine, 6)] for row, cosine in zip(*both, strict=True)]
            for both in zip(rows.tolist(), cosines.tolist(), strict=True)
        ]
    return line


def _gathered(
    one: EvalSet, lines: Sequence[Mapping[str, Any]], detectors: int
) -> tuple[SetImages, list[Judged]]:
    paths: list[str] = []
    labels: list[str | None] = []
    digests: list[str] = []
    unreadable: dict[str, str] = {}
    near: list[list[tuple[str, float]]] = []
    scores: list[list[float]] = [[] for _ in range(detectors)]
    predicted: list[list[int]] = [[] for _ in range(detectors)]
    for line in lines:
        ids = line["ids"]
        paths.extend(ids[row] for row in line["positions"])
        labels.extend(line["labels"][row] for row in line["positions"])
        digests.extend(line["digests"])
        unreadable.update({ids[int(row)]: reason for row, reason in line["errors"].items()})
        near.extend([(word, cosine) for word, cosine in each] for each in line.get("nearest", []))
        for number in range(detectors):
            scores[number].extend(line["scores"][number])
            predicted[number].extend(line["predicted"][number])
    images = SetImages(
        one.name,
        one.group,
        paths,
        labels,
        digests,
        unreadable,
        near if near and len(near) == len(paths) else None,
        one.shift,
    )
    judged = [
        Judged(np.array(scores[number], np.float64), np.array(predicted[number], np.int64))
        for number in range(detectors)
    ]
    return images, judged
