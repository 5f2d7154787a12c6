"""CoOp: learned context vectors before the class names, trained on a few labelled images.

The prompts "[V] name." are trained by cross-entropy at the logit scale over image embeddings that
are encoded once; the text side is encoded anew every step. What comes out is a detector of MCM (or
MSP) on the learned prompts' features, the same as `vlood import coop` makes of a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures, unit
from vlood.methods import mcm, msp
from vlood.methods.context_training import (
    OURS,
    ContextSettings,
    ImageLoss,
    check_classes,
    train_contexts,
)
from vlood.methods.contract import (
    Detector,
    Method,
    MethodRecord,
    Scores,
    TunedDetector,
    check_whole,
    setting,
)
from vlood.methods.regional import CONCEPT_MATCH
from vlood.prompts.templates import ClassFeatures
from vlood.training.labelled import LabelledFeatures, class_counts

if TYPE_CHECKING:
    import torch

    from vlood.training.loop import Loss
    from vlood.training.tuning import Tuning

RECORD = MethodRecord(
    name="coop",
    title="CoOp",
    paper="Learning to Prompt for Vision-Language Models",
    year=2022,
    venue="IJCV",
    url="https://arxiv.org/abs/2109.01134",
    summary="MCM (or MSP) on prompts whose context vectors are learned from labelled images",
    score_note="max softmax(cos), T = 1 on cosines of learned prompts (--set score=msp: on logits)",
    needs=("classes", "images", "text-tower"),
    trains=True,
    licence="MIT",
)

SCORES = ("mcm", "msp")
# Epochs by images a class, and of ImageNet's thousand classes (the paper, section 4.1).
_EPOCHS = ((8, 200), (2, 100), (1, 50))
_MANY_CLASSES, _EPOCHS_OF_MANY = 1000, 50


@dataclass(frozen=True)
class CoOpSettings(ContextSettings):
    """Settings of CoOp."""

    method: ClassVar[str] = "coop"
    scores: ClassVar[tuple[str, ...]] = SCORES

    score: str = setting(
        "mcm",
        help="mcm: softmax of cosines; msp: of logits",
        unit="-",
        source="LoCoOp's code scores CoOp with MCM",
    )
    epochs: int = setting(
        0,
        help="passes over the images; 0: 200 from 8 images a class on, 100 from 2, 50 with 1, and "
        "50 from 1000 classes on",
        unit="passes",
        source="the paper, section 4.1",
    )
    views: int = setting(
        0,
        help="augmented views of each image (random resized crop and flip), one drawn a step; 0: "
        "the whole image alone",
        unit="views",
        source=f"{OURS}; CoOp's code makes a new one every epoch, and encodes it anew",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self.method, "epochs", self.epochs, 0)
        check_whole(self.method, "views", self.views, 0)


def epochs_of(settings: CoOpSettings, shots: int, classes: int) -> int:
    """Return how many epochs are trained: those set, or the paper's for so many images a class."""
    if settings.epochs:
        return settings.epochs
    if classes >= _MANY_CLASSES:
        return _EPOCHS_OF_MANY
    return next(epochs for least, epochs in _EPOCHS if shots >= least)


def fit(
    classes: ClassFeatures,
    settings: CoOpSettings,
    logit_scale: float,
    *,
    images: LabelledFeatures,
    tuning: Tuning,
    seed: int = 0,
    device: str = "cpu",
) -> TunedDetector:
    """Train the context vectors and compile them to class features.

    Args:
        classes: K names; their features are not looked at.
        settings: its settings.
        logit_scale: factor on cosines, in training too.
        images: labelled embeddings, every class among them.
        tuning: the model, the prompts' names and the run.
        seed: of the vectors' start, the order of images and everything drawn.
        device: where the model is.

    Raises:
        UsageError: fewer than two classes, a class without images, a model without a causal text
            tower, or a name that leaves no room for the vectors.
        VloodError: the loss is not finite.
    """
    check_classes(settings, len(classes))
    shots = int(class_counts(images.labels, len(classes)).min())
    made = train_contexts(
        classes,
        settings,
        image_loss(settings, images, logit_scale),
        images=images,
        tuning=tuning,
        epochs=max(1, epochs_of(settings, max(1, shots), len(classes))),
        seed=seed,
        device=device,
    )
    compiled = compiled_from(made.classes, settings, logit_scale)
    return TunedDetector(**vars(compiled), learned=made.learned)


def compiled_from(classes: ClassFeatures, settings: CoOpSettings, logit_scale: float) -> Detector:
    """Return the detector of learned prompts' features: one of MCM, or of MSP."""
    if settings.score == "msp":
        return msp.fit(classes, msp.MSPSettings(), logit_scale)
    return mcm.fit(classes, mcm.MCMSettings(), logit_scale)


def image_loss(settings: CoOpSettings, images: LabelledFeatures, logit_scale: float) -> ImageLoss:
    """Return the cross-entropy of images, whole or in a drawn view, at the logit scale."""
    import torch
    import torch.nn.functional as F

    from vlood.training.loop import Loss

    whole, views = unit(images.raw), images.views if settings.views else None
    labels = torch.from_numpy(images.labels)

    def loss(
        text: torch.Tensor, rows: NDArray[np.int64], random: np.random.Generator | None
    ) -> Loss:
        seen = whole[rows]
        if views is not None and random is not None:
            seen = unit(views[rows, random.integers(views.shape[1], size=len(rows))])
        own = labels[torch.from_numpy(rows)].to(text.device)
        logits = logit_scale * torch.from_numpy(seen).to(text.device) @ text.T
        right = (logits.detach().argmax(dim=1) == own).float().mean()
        return Loss(F.cross_entropy(logits, own), {"accuracy": right})

    return loss


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images with the formula that the detector was compiled to."""
    if detector.method == "msp":
        return msp.score(detector, images)
    return mcm.score(detector, images)


METHOD = Method(
    RECORD, CoOpSettings, fit, score, regional=CONCEPT_MATCH, check_training=check_classes
)
