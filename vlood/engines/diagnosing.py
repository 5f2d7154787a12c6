"""Measure how far a model, or a detector's tuned side, keeps images and texts apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.engines.training_images import LabelledBatch
from vlood.errors import UsageError
from vlood.evaluation.modality import ModalityFigures, modality_figures
from vlood.methods import registry
from vlood.methods.contract import Detector
from vlood.prompts.classes import ClassName, label_lookup


@dataclass(frozen=True, eq=False)
class Seen:
    """Embeddings of the images of a model: raw [N, D], classes [N] or -1, and what was unread."""

    raw: NDArray[np.float32]
    labels: NDArray[np.int64]
    unreadable: dict[str, str]


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """One model or detector, measured.

    Attributes:
        name: what is shown.
        model: the model's name.
        detector: the detector's folder, or None.
        images: as the entrant sees them, [N, D].
        labels: int64 [N].
        texts: of the classes [K, D].
        figures: the measures.
        unreadable: images that could not be read.
    """

    name: str
    model: str
    detector: str | None
    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    texts: NDArray[np.float32]
    figures: ModalityFigures
    unreadable: int

    def record(self, first: Diagnosis | None = None) -> dict[str, Any]:
        """Return a row; beside the first one also what changed since it."""
        row: dict[str, Any] = {
            "name": self.name,
            "model": self.model,
            "detector": self.detector,
            **asdict(self.figures),
            "unreadable": self.unreadable,
        }
        for name in ("modality_gap", "alignment", "uniformity"):
            before = None if first is None else getattr(first.figures, name)
            after = getattr(self.figures, name)
            changed = None if before is None or after is None else after - before
            row[f"{name}_change"] = changed
        return row


def see(batches: Iterable[LabelledBatch], classes: Sequence[ClassName]) -> Seen:
    """Gather embeddings; labels that are no class, and images without one, count as unlabelled.

    Raises:
        UsageError: no image could be read.
    """
    index = label_lookup(classes)
    raw, labels, unreadable = [], [], {}
    for batch in batches:
        raw.append(batch.features.raw)
        for position in batch.positions.tolist():
            label = batch.labels[position]
            labels.append(-1 if label is None else index.get(label, -1))
        unreadable.update({batch.ids[row]: reason for row, reason in batch.errors.items()})
    if not labels:
        reason = (
            f"none of the {len(unreadable)} images could be read" if unreadable else "no images"
        )
        raise UsageError(f"diagnose: {reason}; name images of the classes")
    return Seen(np.concatenate(raw), np.array(labels, np.int64), unreadable)


def diagnose(
    name: str,
    model: str,
    seen: Seen,
    texts: NDArray[np.float32],
    *,
    detector: Detector | None = None,
    folder: str | None = None,
) -> Diagnosis:
    """Measure a model with texts [K, D], or a detector with what it makes of classes and images.

    Raises:
        UsageError: embeddings are not finite, or too wide or narrow.
    """
    images = seen.raw if detector is None else as_seen_by(detector, seen.raw)
    figures = modality_figures(images, texts, seen.labels)
    return Diagnosis(name, model, folder, images, seen.labels, texts, figures, len(seen.unreadable))


def as_seen_by(detector: Detector, raw: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return images [N, D] as a detector sees them beside its classes: SynOOD moves them first."""
    if registry.get(detector.method).name == "synood":
        from vlood.methods.synood import moved

        return moved(detector, ImageFeatures(raw)).raw
    return raw
