"""GEN: generalised entropy of a probe's answer, which sees small probabilities better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.errors import UsageError
from vlood.methods.contract import Detector, Method, MethodRecord, Scores, check_whole, setting
from vlood.methods.logits import softmax, with_labels
from vlood.methods.probe_head import HEAD, HeadSettings, fit_head, head_logits
from vlood.prompts.templates import ClassFeatures
from vlood.training.labelled import LabelledFeatures

RECORD = MethodRecord(
    name="gen",
    title="GEN",
    paper="GEN: Pushing the Limits of Softmax-Based Out-of-Distribution Detection",
    year=2023,
    venue="CVPR",
    url="https://openaccess.thecvf.com/content/CVPR2023/html/Liu_GEN_Pushing_the_Limits_of_Softmax-Based_Out-of-Distribution_Detection_CVPR_2023_paper.html",
    summary="minus the generalised entropy of a probe's largest probabilities",
    score_note="-sum of p^g (1 - p)^g over the M largest p of softmax(W f + b), g = 0.1, T = 1",
    needs=("classes", "images"),
    trains=True,
    licence="none stated",
    names_only=True,
)

# pytorch-ood's: a probability of 0 to the power of 0.1 would jump with the last digit.
_LEAST = 1e-7


@dataclass(frozen=True)
class GenSettings(HeadSettings):
    """Settings of GEN."""

    method: ClassVar[str] = "gen"

    gamma: float = setting(0.1, help="the power", unit="-", source="the paper, section 3.1")
    largest: int = setting(
        100,
        help="how many of the largest probabilities are summed; all where there are fewer classes",
        unit="classes",
        source="the paper, section 4: M = 100 of ImageNet's 1000",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.gamma < 1:
            raise UsageError(f"gen: gamma is {self.gamma}; expected a number between 0 and 1")
        check_whole("gen", "largest", self.largest, 1)


def fit(
    classes: ClassFeatures,
    settings: GenSettings,
    logit_scale: float,
    *,
    images: LabelledFeatures,
    seed: int = 0,
    device: str = "cpu",
) -> Detector:
    """Train the probe; nothing else is learned.

    Raises:
        UsageError: fewer than two classes, or a class without images.
    """
    head = fit_head(settings, classes.names, images, seed=seed)
    return Detector(RECORD.name, head.settings, classes.names, head.tensors(), float(logit_scale))


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images: minus the generalised entropy (eq. 1 and 2 of the paper)."""
    own, settings = head_logits(detector, images), detector.settings
    return with_labels(-generalised_entropy(softmax(own), settings.gamma, settings.largest), own, 1)


def generalised_entropy(
    probabilities: NDArray[np.float64], gamma: float, largest: int
) -> NDArray[np.float64]:
    """Return the sum of p^g (1 - p)^g over the largest probabilities of each of N answers, [N]."""
    top = np.sort(probabilities, axis=1)[:, -largest:].clip(_LEAST, 1 - _LEAST)
    return np.asarray((top**gamma * (1 - top) ** gamma).sum(axis=1))


METHOD = Method(RECORD, GenSettings, fit, score, arrays=HEAD, logits=head_logits)
