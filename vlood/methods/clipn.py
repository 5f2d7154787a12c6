"""CLIPN: a second text encoder says "no", and each class is asked twice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.methods.contract import (
    Detector,
    Method,
    MethodRecord,
    RefuseToFit,
    Regional,
    Scores,
    check_choice,
    check_positive,
    check_unit_rows,
    setting,
)
from vlood.methods.logits import class_cosines, softmax, with_labels
from vlood.methods.regional import whole_range

RECORD = MethodRecord(
    name="clipn",
    title="CLIPN",
    paper="CLIPN for Zero-Shot OOD Detection: Teaching CLIP to Say No",
    year=2023,
    venue="ICCV",
    url="https://arxiv.org/abs/2308.12213",
    summary='probability that the trained "no" text encoder does not object to the classes',
    score_note="ATD: sum of q p, p = softmax(s cos), q = sigmoid(s cos - s cos-no), s = 100",
    trains=True,
    licence="MIT",
)

RULES = ("atd", "ctw")
COMPARES = ("shrunk", "raw")


@dataclass(frozen=True)
class CLIPNSettings:
    """Settings of CLIPN."""

    rule: str = setting(
        "atd",
        help="atd: agreeing to differ, over all classes; ctw: competing to win, the likeliest one",
        unit="-",
        source="the paper: ATD is the better of its two",
    )
    atd_compare: str = setting(
        "shrunk",
        help="what the probability of none of the classes must exceed where there is no "
        "threshold: shrunk (q p, which sum to one with it) or raw (p)",
        unit="-",
        source="ours: the paper can be read both ways, and its code decides by thresholds",
    )
    logit_scale: float = setting(
        100.0, help="factor on the cosines of both encoders", unit="1", source="its code, constant"
    )

    def __post_init__(self) -> None:
        check_choice("clipn", "rule", self.rule, RULES)
        check_choice("clipn", "atd_compare", self.atd_compare, COMPARES)
        check_positive("clipn", "logit_scale", self.logit_scale)


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images by the rule of the settings, in [0, 1]."""
    cosines, yes, no = _logits(detector, images)
    rule = atd if detector.settings.rule == "atd" else ctw
    return with_labels(rule(yes, no), cosines, detector.logit_scale)


def decide(detector: Detector, images: ImageFeatures) -> NDArray[np.bool_]:
    """Say which of N images are OOD, without a threshold: by the rule of the settings."""
    _, yes, no = _logits(detector, images)
    if detector.settings.rule == "ctw":
        return ctw_decision(yes, no)
    return atd_decision(yes, no, compare=detector.settings.atd_compare)


def yes_probability(yes: NDArray[np.floating], no: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return q [N, K], the softmax over "yes" and "no" of each class, without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0.0, no - yes)), dtype=np.float64)


def ctw(yes: NDArray[np.floating], no: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return q of the class with the largest "yes" logit, [N].

    Args:
        yes: scaled logits of the classes [N, K].
        no: scaled logits of their "no" texts [N, K].
    """
    likeliest = yes.argmax(axis=1)[:, None]
    return np.take_along_axis(yes_probability(yes, no), likeliest, axis=1)[:, 0]


def atd(yes: NDArray[np.floating], no: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the sum over classes of q p, [N]: one minus the probability of none of them.

    Args:
        yes: scaled logits of the classes [N, K].
        no: scaled logits of their "no" texts [N, K].
    """
    return np.asarray((yes_probability(yes, no) * softmax(yes)).sum(axis=1))


def ctw_decision(yes: NDArray[np.floating], no: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Say which images are OOD, bool [N]: "no" beats "yes" for the likeliest class."""
    return ctw(yes, no) < 0.5


def atd_decision(
    yes: NDArray[np.floating], no: NDArray[np.floating], *, compare: str = "shrunk"
) -> NDArray[np.bool_]:
    """Say which images are OOD, bool [N]: none of the classes is likelier than each of them.

    Args:
        yes: scaled logits of the classes [N, K].
        no: scaled logits of their "no" texts [N, K].
        compare: ``shrunk`` compares with q p, which sums to one with the probability of none;
            ``raw`` with p.
    """
    probability = softmax(yes)
    shrunk = yes_probability(yes, no) * probability
    none = 1.0 - shrunk.sum(axis=1)
    rivals = shrunk if compare == "shrunk" else probability
    return np.asarray(none > rivals.max(axis=1))


def _logits(
    detector: Detector, images: ImageFeatures
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the cosines with the classes, and the scaled "yes" and "no" logits, all [N, K]."""
    cosines = class_cosines(detector, images)
    against = np.asarray(images.unit @ detector.tensors["no_features"].T, dtype=np.float64)
    scale = detector.settings.logit_scale
    return cosines, cosines * scale, against * scale


def check(detector: Detector) -> None:
    """Refuse features that are not of length 1.

    Raises:
        UsageError: naming them.
    """
    check_unit_rows(detector, "class_features", "no_features")


def regional(detector: Detector, regions: ImageFeatures) -> NDArray[np.float64]:
    """Return the score of each of n regions by the rule of the settings, [n]."""
    return score(detector, regions).score


METHOD = Method(
    RECORD,
    CLIPNSettings,
    RefuseToFit("clipn", 'its "no" text features', "msp"),
    score,
    arrays={"class_features": "K D", "no_features": "K D"},
    check=check,
    regional=Regional(regional, whole_range, 'probability that "no" does not object to a region'),
)
