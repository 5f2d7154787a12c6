"""A detector with what it was fitted from, which is what a saved one keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlood.methods.contract import Detector, Learned
from vlood.negatives.negative_features import NegativeFeatures

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone


@dataclass(frozen=True)
class TrainedOn:
    """What images a detector was trained on.

    Attributes:
        images: how many.
        shots: images a class that were drawn, or None where all were used.
        seed: of the draw and the training.
        sampled: ids of those drawn.
        digest: of their embeddings.
        label_noise: share of the labels that were made wrong.
    """

    images: int
    shots: int | None
    seed: int
    sampled: tuple[str, ...]
    digest: str
    label_noise: float = 0.0

    def provenance(self) -> dict[str, Any]:
        """Return what a saved detector keeps of it; JSON-able."""
        return {
            "training_images": self.images,
            "shots": self.shots,
            "seed": self.seed,
            "training_digest": self.digest,
            "sampled": list(self.sampled),
            **({"label_noise": self.label_noise} if self.label_noise else {}),
        }


@dataclass(frozen=True, eq=False)
class Fitted:
    """A detector with what it was fitted from.

    Attributes:
        detector: it.
        templates: the class templates, none with class embeddings.
        negatives: its negatives, or None.
        trained: the images it was trained on, or None where it learned nothing.
        learned: what was learned beside the detector's own tensors, or None.
        backbone: the tuned model that it is of, or None where the model stayed as it was.
    """

    detector: Detector
    templates: tuple[str, ...]
    negatives: NegativeFeatures | None = None
    trained: TrainedOn | None = None
    learned: Learned | None = None
    backbone: Backbone | None = None
