"""LoCoOp: CoOp whose prompts are kept undecided about the parts of images that are not the class.

Regions of the training images whose likeliest classes do not hold the label are taken for OOD
examples, and the entropy of their class probabilities is raised (Miyai et al. 2023). Everything
else is CoOp's. What comes out is a detector of GL-MCM, or of MCM, on the learned prompts' features,
the same as `vlood import locoop` makes of a checkpoint.

There is no ``views`` setting as CoOp has one: each view would need the embeddings of its regions
kept too, fifty to two hundred times what CoOp keeps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures, unit
from vlood.errors import UsageError
from vlood.methods import gl_mcm, mcm
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
    check_positive,
    check_whole,
    setting,
)
from vlood.methods.regional import CONCEPT_MATCH
from vlood.prompts.templates import ClassFeatures
from vlood.training.labelled import LabelledFeatures

if TYPE_CHECKING:
    import torch

    from vlood.training.loop import Loss
    from vlood.training.tuning import Tuning

RECORD = MethodRecord(
    name="locoop",
    title="LoCoOp",
    paper="LoCoOp: Few-Shot Out-of-Distribution Detection via Prompt Learning",
    year=2023,
    venue="NeurIPS",
    url="https://arxiv.org/abs/2306.01293",
    summary="GL-MCM (or MCM) on learned prompts that training keeps undecided about background",
    score_note=(
        "MCM + max over regions and classes of softmax(cos), T = 1 on cosines of learned prompts "
        "(--set score=mcm: MCM alone; say which with a figure)"
    ),
    needs=("classes", "local", "images", "text-tower"),
    trains=True,
    licence="MIT",
)

SCORES = ("gl-mcm", "mcm")
_CODE = "LoCoOp's code, its scripts"
_PAPER = "the paper, section 4.1"
_SCORED = {"gl-mcm": "GL-MCM, lambda 1, T = 1 on cosines", "mcm": "MCM, T = 1 on cosines"}


@dataclass(frozen=True)
class LoCoOpSettings(ContextSettings):
    """Settings of LoCoOp; augmented views, which CoOp has, are not among them."""

    method: ClassVar[str] = "locoop"
    scores: ClassVar[tuple[str, ...]] = SCORES

    score: str = setting(
        "gl-mcm",
        help="gl-mcm: MCM of the image plus that of its best region, both weighted 1; mcm: of the "
        "image alone; the authors report both and ask to state which was used",
        unit="-",
        source=_CODE,
    )
    epochs: int = setting(50, help="passes over the images", unit="passes", source=_PAPER)
    lambda_value: float = setting(
        0.25,
        help="weight of the entropy of regions that are not of their class; 0: CoOp's loss",
        unit="1",
        source=_PAPER,
    )
    top_k: int = setting(
        0,
        help="a region is not of its class where so many classes or more are likelier; 0: a fifth "
        "of the classes",
        unit="classes",
        source=f"{_PAPER}: 200 of 1,000",
    )
    accumulate: int = setting(
        1,
        help="parts that a step is made in, to save memory; the entropy is then a mean over the "
        "regions of each part, not of the step, so that the result differs a little",
        unit="parts",
        source=OURS,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self.method, "epochs", self.epochs, 1)
        check_whole(self.method, "top_k", self.top_k, 0)
        check_positive(self.method, "lambda_value", self.lambda_value, or_zero=True)


def top_k_of(settings: LoCoOpSettings, classes: int) -> int:
    """Return K for so many classes: the one set, or a fifth of them.

    Raises:
        UsageError: with it no region could be taken, or there is a single class.
    """
    from vlood.methods.locoop_loss import check_top_k, default_top_k

    check_classes(settings, classes)
    top_k = settings.top_k or default_top_k(classes)
    check_top_k(top_k, classes)
    return top_k


def check_training(settings: LoCoOpSettings, classes: int) -> None:
    """Refuse what cannot be trained, before any image is looked at.

    Raises:
        UsageError: a single class, or a ``top_k`` that leaves no region to be taken.
    """
    top_k_of(settings, classes)


def fit(
    classes: ClassFeatures,
    settings: LoCoOpSettings,
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
        images: labelled embeddings with local ones, every class among them.
        tuning: the model, the prompts' names and the run.
        seed: of the vectors' start, the order of images and everything drawn.
        device: where the model is.

    Raises:
        UsageError: fewer than two classes, a ``top_k`` that leaves no region, images without local
            embeddings, a class without images, a model without a causal text tower, or a name that
            leaves no room for the vectors.
        VloodError: the loss is not finite.
    """
    top_k = top_k_of(settings, len(classes))
    made = train_contexts(
        classes,
        settings,
        image_loss(settings, images, logit_scale, top_k),
        images=images,
        tuning=tuning,
        epochs=settings.epochs,
        seed=seed,
        device=device,
        about={"top_k": top_k, "scored_with": _SCORED[settings.score]},
    )
    compiled = compiled_from(made.classes, settings, logit_scale)
    return TunedDetector(**vars(compiled), learned=made.learned)


def compiled_from(classes: ClassFeatures, settings: LoCoOpSettings, logit_scale: float) -> Detector:
    """Return the detector of learned prompts' features: one of GL-MCM, or of MCM."""
    if settings.score == "mcm":
        return mcm.fit(classes, mcm.MCMSettings(), logit_scale)
    return gl_mcm.fit(classes, gl_mcm.GLMCMSettings(lambda_local=1.0), logit_scale)


def image_loss(
    settings: LoCoOpSettings, images: LabelledFeatures, logit_scale: float, top_k: int
) -> ImageLoss:
    """Return LoCoOp's loss of images and their regions.

    Raises:
        UsageError: the images come without local embeddings.
    """
    import torch

    from vlood.methods.locoop_loss import locoop_loss
    from vlood.training.loop import Loss

    if images.local is None:
        raise UsageError(
            "locoop learns from the regions of images and these come without local (patch) "
            "embeddings; store them with `vlood embed --local`, or use --method coop"
        )
    whole, local = unit(images.raw), images.local
    labels = torch.from_numpy(images.labels)

    def loss(
        text: torch.Tensor, rows: NDArray[np.int64], random: np.random.Generator | None
    ) -> Loss:
        own = labels[torch.from_numpy(rows)].to(text.device)
        # Regions are made unit a batch at a time: a second copy of them all may be gigabytes.
        seen, regions = (
            torch.from_numpy(each).to(text.device) for each in (whole[rows], unit(local[rows]))
        )
        logits = logit_scale * seen @ text.T
        total, parts = locoop_loss(
            logits,
            logit_scale * regions @ text.T,
            own,
            top_k=top_k,
            weight=settings.lambda_value,
        )
        right = (logits.detach().argmax(dim=1) == own).float().mean()
        return Loss(total, {"accuracy": right, **parts})

    return loss


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images with the formula that the detector was compiled to."""
    if detector.method == "mcm":
        return mcm.score(detector, images)
    return gl_mcm.score(detector, images)


METHOD = Method(
    RECORD, LoCoOpSettings, fit, score, regional=CONCEPT_MATCH, check_training=check_training
)
