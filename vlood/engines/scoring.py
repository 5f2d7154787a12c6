"""Score images or embeddings with a detector, in this process, as a stream of records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.engines.explaining import NearestNegatives, explain
from vlood.engines.records import Record, rounded
from vlood.engines.stepping import stepping, with_steps
from vlood.engines.streaming import StreamOrder, start_stream, step_stream
from vlood.errors import UsageError
from vlood.features.cache import FeatureCache
from vlood.features.embeddings import Embeddings
from vlood.features.stream import StreamSettings, encode_images
from vlood.images.loader import image_digest
from vlood.images.sources import ImageItem
from vlood.methods import registry
from vlood.methods.contract import Detector, Scores, State

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone
    from vlood.detector.calibration import Calibration

_EMBEDDING_ROWS = 4096


@dataclass(frozen=True)
class Decision:
    """What turns a score into records.

    Attributes:
        threshold: a score below it is OOD; None leaves it to the calibration.
        explain: whether to say why.
        negatives: what explanations name.
        calibration: gives p-values and, without ``threshold``, decides.
        alpha: decide by p-value instead: OOD is at most this.
        threshold_free: decide by the method's own rule, without a threshold.
    """

    threshold: float | None = None
    explain: bool = False
    negatives: NearestNegatives | None = None
    calibration: Calibration | None = None
    alpha: float | None = None
    threshold_free: bool = False

    def p_values(self, scores: Scores) -> list[float] | list[None]:
        """Return the p-value of each of N scores, or None where there is no calibration."""
        if self.calibration is None:
            return [None] * len(scores)
        from vlood.detector.calibration import p_values

        found = p_values(self.calibration, scores.score, scores.label)
        return [rounded(value) for value in found.tolist()]

    def is_ood(self, score: float, label: int, p_value: float | None) -> bool | None:
        """Decide of one image by its rounded score and p-value; None where nothing decides."""
        if self.alpha is not None and p_value is not None:
            return p_value <= self.alpha
        if self.threshold is not None:
            return score < self.threshold
        if self.calibration is not None:
            return score < self.calibration.per_class.get(label, self.calibration.threshold)
        return None


class Scorer:
    """Score batches one after the other; test-time detectors carry a state from each to the next.

    Attributes:
        detectors: what scores.
        states: for each detector its state after the batches so far, or None where it keeps none.
        order: the images seen so far.
    """

    def __init__(
        self,
        detectors: Sequence[Detector],
        states: Sequence[State | None] | None = None,
        order: StreamOrder | None = None,
    ) -> None:
        self.detectors = list(detectors)
        if states is None:
            states = [start_stream(one) if is_stream(one) else None for one in detectors]
        self.states = list(states)
        self.order = order or StreamOrder()

    def score(self, features: ImageFeatures, ids: Sequence[str]) -> list[Scores]:
        """Return what each detector says of the next N images."""
        scores = []
        for number, detector in enumerate(self.detectors):
            state = self.states[number]
            if state is None:
                scores.append(registry.score(detector, features))
            else:
                found, self.states[number] = step_stream(detector, features, state)
                scores.append(found)
        if any(state is not None for state in self.states):
            self.order = self.order.after(ids)
        return scores


def own_decision(detector: Detector, features: ImageFeatures) -> NDArray[np.bool_]:
    """Say by a method's own rule which images are OOD, bool [N].

    Raises:
        UsageError: it has none.
    """
    check_own_rule(detector.method)
    decide = registry.get(detector.method).decide
    assert decide is not None
    return decide(detector, features)


def check_own_rule(method: str) -> None:
    """Refuse a method that cannot decide without a threshold.

    Raises:
        UsageError: it has no rule of its own.
    """
    if registry.get(method).decide is None:
        raise UsageError(
            f"--threshold-free: --method {method} has no rule of its own that decides without a "
            "threshold (clipn has one); give --threshold, or calibrate a detector"
        )


def is_stream(detector: Detector) -> bool:
    """Say whether a detector's scores depend on the images that came before."""
    return registry.get(detector.method).stream is not None


@dataclass(frozen=True)
class ScoredBatch:
    """One batch of inputs and what a detector says of those that could be read.

    ``scores`` has one row for each entry of ``positions``, which index ``ids`` and ``labels``, and
    ``digests`` the digest of each one's content. ``encoded`` counts the images the model ran on.
    """

    ids: list[str]
    labels: list[str | None]
    positions: NDArray[np.int64]
    features: ImageFeatures
    scores: list[Scores]
    errors: dict[int, str]
    digests: list[bytes] = field(default_factory=list)
    encoded: int = 0


def needs_local(detectors: Iterable[Detector]) -> bool:
    """Say whether any of the detectors reads local embeddings."""
    return any("local" in registry.needs(one) for one in detectors)


def score_images(
    items: Iterable[ImageItem],
    backbone: Backbone,
    detectors: Sequence[Detector] | Scorer,
    settings: StreamSettings,
    *,
    cache: FeatureCache | None = None,
    local: bool = False,
) -> Iterator[ScoredBatch]:
    """Yield scored batches in input order; every image is encoded once for all detectors.

    A :class:`Scorer` instead of detectors goes on with the states it has. ``local`` asks for local
    embeddings that no detector needs.
    """
    scorer = detectors if isinstance(detectors, Scorer) else Scorer(detectors)
    local = local or needs_local(scorer.detectors)
    if stepping(scorer.detectors):
        # What the cache remembers are embeddings of pictures as they are.
        backbone, cache = with_steps(backbone, scorer.detectors), None
    for batch in encode_images(items, backbone, settings, cache=cache, local=local):
        ids = [item.path for item in batch.items]
        yield ScoredBatch(
            ids=ids,
            labels=[item.label for item in batch.items],
            positions=batch.positions,
            features=batch.features,
            scores=scorer.score(batch.features, [ids[row] for row in batch.positions.tolist()]),
            errors=batch.errors,
            digests=batch.digests,
            encoded=batch.encoded,
        )


def score_embeddings(
    embeddings: Embeddings,
    detectors: Sequence[Detector] | Scorer,
    *,
    batch_size: int = _EMBEDDING_ROWS,
) -> Iterator[ScoredBatch]:
    """Yield scored batches of stored embeddings, ``batch_size`` rows at a time."""
    scorer = detectors if isinstance(detectors, Scorer) else Scorer(detectors)
    for start in range(0, len(embeddings.ids), batch_size):
        rows = slice(start, start + batch_size)
        raw = np.asarray(embeddings.features[rows], np.float32)
        local = None if embeddings.local is None else np.asarray(embeddings.local[rows], np.float32)
        logits = None if embeddings.logits is None else embeddings.logits.rows(rows)
        features = ImageFeatures(raw=raw, local=local, logits=logits)
        ids = embeddings.ids[rows]
        yield ScoredBatch(
            ids=ids,
            labels=_labels(embeddings, rows, len(ids)),
            positions=np.arange(len(ids)),
            features=features,
            scores=scorer.score(features, ids),
            errors={},
            digests=[image_digest(row.tobytes()) for row in raw],
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
    p_values = decision.p_values(scores)
    explained = None
    if decision.explain:
        explained = explain(detector, decision.negatives, batch.features)
    own = own_decision(detector, batch.features) if decision.threshold_free else None
    for row, position in enumerate(batch.positions.tolist()):
        score = rounded(float(scores.score[row]))
        p_value = p_values[row]
        ood = decision.is_ood(score, int(scores.label[row]), p_value)
        if own is not None:
            ood = bool(own[row])
        record: Record = {
            "path": batch.ids[position],
            "score": score,
            "ood": ood,
            "label": detector.class_names[int(scores.label[row])],
            "confidence": rounded(float(scores.confidence[row])),
            "p_value": p_value,
            "method": detector.method,
        }
        if explained is not None:
            one = explained[row]
            record["top_labels"] = one.top_labels
            record["nearest_negatives"] = one.nearest_negatives
            if one.region is not None:
                record["deciding_region"] = one.region
            if one.members:
                record["members"] = list(one.members)
            record["explanation"] = one.sentence(ood, len(detector.class_names))
        records[position] = record
    return [record for record in records if record is not None]
