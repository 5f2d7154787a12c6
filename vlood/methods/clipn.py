"""CLIPN: a second text encoder says "no", and each class is asked twice."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.errors import UsageError
from vlood.methods.clipn_settings import CLIPNSettings
from vlood.methods.contract import (
    Detector,
    Method,
    MethodRecord,
    Regional,
    Scores,
    TunedDetector,
    check_unit_rows,
)
from vlood.methods.logits import class_cosines, softmax, with_labels
from vlood.methods.regional import whole_range
from vlood.prompts.classes import ClassName
from vlood.prompts.templates import ClassFeatures, class_features, read_no_templates

if TYPE_CHECKING:
    from vlood.training.labelled import LabelledFeatures
    from vlood.training.tuning import Tuning

RECORD = MethodRecord(
    name="clipn",
    title="CLIPN",
    paper="CLIPN for Zero-Shot OOD Detection: Teaching CLIP to Say No",
    year=2023,
    venue="ICCV",
    url="https://arxiv.org/abs/2308.12213",
    summary='probability that the trained "no" text encoder does not object to the classes',
    score_note="ATD: sum of q p, p = softmax(s cos), q = sigmoid(s cos - s cos-no), s the model's",
    needs=("classes", "captioned-images", "text-tower"),
    trains=True,
    licence="MIT",
)


def fit(
    classes: ClassFeatures,
    settings: CLIPNSettings,
    logit_scale: float,
    *,
    captions: LabelledFeatures,
    tuning: Tuning,
    seed: int = 0,
    device: str = "cpu",
) -> TunedDetector:
    """Train the "no" tower on images with captions, and compile both towers to class features.

    Args:
        classes: K names; their features are not looked at.
        settings: its settings.
        logit_scale: factor on cosines in training, and in scoring where the settings have none.
        captions: images with captions; images with labels get captions by templates.
        tuning: the model, the prompts' names and the run.
        seed: of the order of captions and everything drawn.
        device: where the model is.

    Raises:
        UsageError: one class and the rule is ATD, a model without a causal text tower, or too few
            images.
        VloodError: the loss is not finite.
    """
    from vlood.methods.clipn_training import compiled_no_features, train

    check_rule(settings, len(classes))
    pairs = read_no_templates(settings.no_templates)
    if tuning.templates and settings.variant == "hand-crafted":
        raise UsageError(
            "--template: the hand-crafted variant has templates in pairs; leave --template out, or "
            "give pairs with --set no_templates=FILE"
        )
    templates = tuning.templates or tuple(positive for positive, _ in pairs)
    names = [
        ClassName(name, prompt) for name, prompt in zip(classes.names, tuning.prompts, strict=True)
    ]
    learned = train(captions, tuning, settings, logit_scale, seed=seed, device=device)
    about = {**learned.about, "templates": list(templates)}
    if settings.variant == "hand-crafted":
        about["no_templates"] = [negation for _, negation in pairs]
    learned = replace(learned, about=about)
    tensors = {
        "class_features": class_features(tuning.encode, names, templates).features,
        "no_features": compiled_no_features(learned, tuning.backbone, names, templates),
    }
    return TunedDetector(
        RECORD.name, settings, classes.names, tensors, float(logit_scale), learned=learned
    )


def check_rule(settings: CLIPNSettings, classes: int) -> None:
    """Refuse ATD with a single class.

    Raises:
        UsageError: saying what to use.
    """
    if classes == 1 and settings.rule == "atd":
        raise UsageError(
            "clipn: ATD weighs classes by their probability among each other, and one class alone "
            "has probability 1 for every image; use --set rule=ctw, or add classes"
        )


def scale_of(detector: Detector) -> float:
    """Return the factor on the cosines of both encoders: the settings', or the model's."""
    return float(detector.settings.logit_scale) or detector.logit_scale


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images by the rule of the settings, in [0, 1]."""
    cosines, yes, no = _logits(detector, images)
    rule = atd if detector.settings.rule == "atd" else ctw
    return with_labels(rule(yes, no), cosines, detector.logit_scale)


def decide(detector: Detector, images: ImageFeatures) -> NDArray[np.bool_]:
    """Say which of N images are OOD [N], without a threshold: by the rule of the settings."""
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
    scale = scale_of(detector)
    return cosines, cosines * scale, against * scale


def check(detector: Detector) -> None:
    """Refuse features that are not of length 1, and one class where the rule needs several.

    Raises:
        UsageError: naming them, or one class and a rule for several.
    """
    check_rule(detector.settings, len(detector.class_names))
    check_unit_rows(detector, "class_features", "no_features")


def regional(detector: Detector, regions: ImageFeatures) -> NDArray[np.float64]:
    """Return the score of each of n regions by the rule of the settings, [n]."""
    return score(detector, regions).score


METHOD = Method(
    RECORD,
    CLIPNSettings,
    fit,
    score,
    arrays={"class_features": "K D", "no_features": "K D"},
    check=check,
    decide=decide,
    regional=Regional(regional, whole_range, 'probability that "no" does not object to a region'),
)
