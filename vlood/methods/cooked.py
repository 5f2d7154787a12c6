"""COOkeD: the mean of the probabilities of a closed-world classifier, CLIP and a linear probe."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ClassifierLogits, ImageFeatures
from vlood.errors import UsageError
from vlood.methods.contract import (
    Detector,
    Method,
    MethodRecord,
    Scores,
    check_choice,
    check_positive,
    check_unit_rows,
    setting,
)
from vlood.methods.logits import class_cosines, log_sum_exp, probability_entropy, softmax
from vlood.methods.probe_head import HEAD, HeadSettings, fit_head, head_logits, unseen_logits
from vlood.prompts.templates import ClassFeatures
from vlood.training.labelled import LabelledFeatures

logger = logging.getLogger(__name__)

RECORD = MethodRecord(
    name="cooked",
    title="COOkeD",
    paper="COOkeD: Ensemble-based OOD detection in the era of zero-shot CLIP",
    year=2025,
    venue="ICCV Workshops",
    url="https://arxiv.org/abs/2507.22576",
    summary="mean of the probabilities of a closed-world classifier, zero-shot CLIP and a probe",
    score_note=(
        "max (or minus entropy) of the mean of softmax(classifier), softmax(s cos) and "
        "softmax(W f + b), T = 1 each; the classifier is --classifier, or its logits come with the "
        "embeddings"
    ),
    needs=("classes", "images"),
    trains=True,
    licence="none stated",
    template="a photo of a {}",
)

SCORES = ("msp", "entropy")
MEMBERS = ("classifier", "clip", "probe")


@dataclass(frozen=True)
class CookedSettings(HeadSettings):
    """Settings of the ensemble."""

    method: ClassVar[str] = "cooked"

    score: str = setting(
        "msp",
        help="msp: the largest mean probability; entropy: minus the entropy of the mean, in nats",
        unit="-",
        source="COOkeD's code reports both",
    )
    members: str = setting(
        "auto",
        help="which of classifier+clip+probe; auto: all, the classifier if there is --classifier "
        "or the training embeddings come with its logits",
        unit="-",
        source="COOkeD's code has all three, always",
    )
    classifier_weight: float = setting(
        1.0, help="weight of the classifier's probabilities", unit="-", source="COOkeD: equal"
    )
    clip_weight: float = setting(
        1.0, help="weight of CLIP's probabilities", unit="-", source="COOkeD: equal"
    )
    probe_weight: float = setting(
        1.0, help="weight of the probe's probabilities", unit="-", source="COOkeD: equal"
    )
    calibrated: bool = setting(
        False,
        help="give each member the temperature that makes training images most likely, the probe "
        "on folds it has not seen; a classifier trained on the same images stays over-confident",
        unit="-",
        source="Guo et al. 2017; COOkeD has none",
    )
    classifier_temperature: float = setting(
        1.0, help="divides the classifier's logits", unit="logit", source="COOkeD: 1"
    )
    clip_temperature: float = setting(
        1.0, help="divides CLIP's logits", unit="logit", source="COOkeD: 1"
    )
    probe_temperature: float = setting(
        1.0, help="divides the probe's logits", unit="logit", source="COOkeD: 1"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("cooked", "score", self.score, SCORES)
        if self.members != "auto":
            chosen = self.members.split("+")
            if not set(chosen) <= set(MEMBERS) or len(set(chosen)) < len(chosen):
                raise UsageError(
                    f"cooked: members is {self.members!r}; expected auto, or some of "
                    "classifier+clip+probe with + between"
                )
        for member in MEMBERS:
            check_positive("cooked", f"{member}_weight", self.weight(member))
            check_positive("cooked", f"{member}_temperature", self.temperature(member))

    def weight(self, member: str) -> float:
        """Return the weight of a member."""
        return float(getattr(self, f"{member}_weight"))

    def temperature(self, member: str) -> float:
        """Return the temperature of a member."""
        return float(getattr(self, f"{member}_temperature"))

    def chosen(self) -> tuple[str, ...]:
        """Return the members, in COOkeD's order."""
        return tuple(each for each in MEMBERS if each in self.members.split("+"))


def fit(
    classes: ClassFeatures,
    settings: CookedSettings,
    logit_scale: float,
    *,
    images: LabelledFeatures,
    seed: int = 0,
    device: str = "cpu",
) -> Detector:
    """Train the probe, settle who is a member, and find their temperatures if asked to.

    Raises:
        UsageError: fewer than two classes, a class without images, or a classifier of other ones.
    """
    check_positive(RECORD.name, "logit_scale", logit_scale)
    if images.logits is not None:
        check_classifier(images.logits, classes.names)
    if settings.members == "auto":
        some = MEMBERS if images.logits is not None else ("clip", "probe")
        settings = replace(settings, members="+".join(some))
        if images.logits is None:
            logger.warning(
                "cooked: there is no --classifier and no logits of one come with the training "
                "images, so it is the mean of two members, CLIP and the probe"
            )
    head = fit_head(settings, classes.names, images, seed=seed)
    settings = head.settings
    tensors = {"class_features": classes.features, **head.tensors()}
    made = Detector(RECORD.name, settings, classes.names, tensors, float(logit_scale))
    if not settings.calibrated:
        return made
    own = {"clip": class_cosines(made, ImageFeatures(images.raw)) * logit_scale}
    if "probe" in settings.chosen():
        own["probe"] = unseen_logits(head, images.labels)
    if images.logits is not None:
        own["classifier"] = images.logits.values.astype(np.float64)
    found: dict[str, Any] = {
        f"{member}_temperature": best_temperature(own[member], images.labels)
        for member in settings.chosen()
        if member in own
    }
    return replace(made, settings=replace(settings, **found))


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images by the mean of the members' probabilities."""
    mean = probabilities(detector, images)
    label = mean.argmax(axis=1).astype(np.int64)
    best = mean.max(axis=1)
    if detector.settings.score == "entropy":
        return Scores(-probability_entropy(mean), label, best)
    return Scores(best, label, best)


def logits(detector: Detector, images: ImageFeatures) -> NDArray[np.float64]:
    """Return the log of the mean probabilities, [N, K]."""
    return np.asarray(np.log(np.maximum(probabilities(detector, images), 1e-300)))


def probabilities(detector: Detector, images: ImageFeatures) -> NDArray[np.float64]:
    """Return the weighted mean of the members' probabilities, [N, K].

    Raises:
        UsageError: the classifier is a member and the images come without its logits, or with
            those of other classes.
    """
    settings = detector.settings
    own = members_logits(detector, images)
    return mean_probability(
        [softmax(own[each] / settings.temperature(each)) for each in own],
        [settings.weight(each) for each in own],
    )


def members_logits(detector: Detector, images: ImageFeatures) -> Mapping[str, NDArray[np.float64]]:
    """Return the logits [N, K] of each member, before its temperature.

    Raises:
        UsageError: a member is a classifier, and no logits of it came with the images.
    """
    found: dict[str, NDArray[np.float64]] = {}
    for member in detector.settings.chosen():
        if member == "clip":
            found[member] = class_cosines(detector, images) * detector.logit_scale
        elif member == "probe":
            found[member] = head_logits(detector, images)
        else:
            if images.logits is None:
                raise UsageError(
                    "cooked: a classifier is a member and these images come without its logits; "
                    "give --classifier with images, put them beside embeddings (X.logits.npy, "
                    "X.logits.txt), or train with --set members=clip+probe"
                )
            check_classifier(images.logits, detector.class_names)
            found[member] = images.logits.values.astype(np.float64)
    return found


def mean_probability(
    members: Sequence[NDArray[np.floating]], weights: Sequence[float]
) -> NDArray[np.float64]:
    """Return the weighted mean of several classifiers' probabilities, each [N, K]."""
    return np.asarray(np.average(np.stack(members).astype(np.float64), axis=0, weights=weights))


def check_classifier(logits: ClassifierLogits, classes: Sequence[str]) -> None:
    """Refuse a classifier whose outputs are not the classes, in their order.

    Raises:
        UsageError: another number, other names, or another order.
    """
    theirs, ours = [_folded(one) for one in logits.names], [_folded(one) for one in classes]
    if theirs == ours:
        return
    if len(theirs) != len(ours):
        raise UsageError(
            f"cooked: the classifier has {len(theirs)} outputs and the class list {len(ours)} "
            "classes; use a classifier of these classes, or give --classes its own"
        )
    if sorted(theirs) == sorted(ours):
        raise UsageError(
            "cooked: the classifier's outputs are the classes in another order; give --classes in "
            "its order, or put the columns of its logits and their names in that of --classes"
        )
    other = next(name for name, own in zip(logits.names, ours, strict=True) if _folded(name) != own)
    raise UsageError(
        f"cooked: the classifier has other classes than the list, such as {other}; use a "
        "classifier of these classes, or give --classes its own"
    )


def best_temperature(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return the T for which softmax([N, K] / T) makes labels [N] most likely (Guo et al. 2017)."""
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(labels))

    def cost(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float((log_sum_exp(scaled) - scaled[rows, labels]).mean())

    return float(np.exp(minimize_scalar(cost, bounds=(-5.0, 5.0), method="bounded").x))


def check(detector: Detector) -> None:
    """Refuse a stored ensemble without members.

    Raises:
        UsageError: naming what is wrong.
    """
    check_unit_rows(detector, "class_features")
    if not detector.settings.chosen():
        raise UsageError("members must name some of classifier+clip+probe")


def may_read_classifier(settings: CookedSettings) -> bool:
    """Say whether a classifier is among the members, or may be."""
    return settings.members == "auto" or "classifier" in settings.chosen()


def _folded(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


METHOD = Method(
    RECORD,
    CookedSettings,
    fit,
    score,
    arrays={"class_features": "K D", **HEAD},
    check=check,
    logits=logits,
    classifier=may_read_classifier,
)
