"""Linear probe: a linear classifier on image embeddings, as the tower gives them or of length 1."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures, unit
from vlood.errors import UsageError
from vlood.methods.contract import (
    Detector,
    Method,
    MethodRecord,
    Scores,
    check_choice,
    check_positive,
    check_share,
    check_whole,
    setting,
)
from vlood.methods.logits import check_width, entropy, max_probability, with_labels
from vlood.methods.rows import has_length_one, refuse_normalised
from vlood.prompts.templates import ClassFeatures
from vlood.training.labelled import LabelledFeatures, check_every_class
from vlood.training.probe import Descent, choose_c, fit_descent, fit_logistic, mean_length

RECORD = MethodRecord(
    name="linear-probe",
    title="Linear probe",
    paper="COOkeD: Ensemble-based OOD detection in the era of zero-shot CLIP",
    year=2025,
    venue="ICCV Workshops",
    url="https://arxiv.org/abs/2507.22576",
    summary="largest softmax probability of a linear classifier on image embeddings",
    score_note="max softmax(W f + b), T = 1, f raw or unit as in training; or minus its entropy",
    needs=("classes", "images"),
    trains=True,
    licence="none stated",
    names_only=True,
)

SCORES = ("msp", "entropy")
SOLVERS = ("logistic", "sgd", "imported")
EMBEDDINGS = ("raw", "unit")
_COOKED = "COOkeD's file names, else OpenOOD's base recipe"


@dataclass(frozen=True)
class LinearProbeSettings:
    """Settings of the linear probe."""

    score: str = setting(
        "msp",
        help="msp: the largest probability; entropy: minus the entropy of the probabilities",
        unit="-",
        source="COOkeD's code reports both for each member of its ensemble",
    )
    solver: str = setting(
        "logistic",
        help="logistic: logistic regression to its optimum; sgd: COOkeD's gradient descent, whose "
        "rate suits raw embeddings of length about 10 as CLIP's are; imported: trained elsewhere",
        unit="-",
        source="measured: the optimum needs no recipe that fits the tower and the number of shots",
    )
    embeddings: str = setting(
        "raw",
        help="raw: embeddings as the tower gives them; unit: of length 1, in training and scoring",
        unit="-",
        source="COOkeD's code",
    )
    c: float = setting(
        0.0,
        help="logistic: inverse strength of the L2 penalty, for embeddings of mean length 1; "
        "0: chosen by cross-validation on the training images, 10 below 5 images a class",
        unit="-",
        source="measured",
    )
    epochs: int = setting(20, help="sgd: passes over the images", unit="passes", source=_COOKED)
    batch_size: int = setting(128, help="sgd: images a step", unit="images", source=_COOKED)
    learning_rate: float = setting(
        0.1, help="sgd: at the start, then by a cosine down to zero", unit="-", source=_COOKED
    )
    momentum: float = setting(0.9, help="sgd: Nesterov's", unit="-", source=_COOKED)
    weight_decay: float = setting(5e-4, help="sgd: L2 penalty", unit="-", source=_COOKED)
    length: float = setting(
        0.0,
        help="raw: mean length of the embeddings it was trained on, written by training; 0: not "
        "known",
        unit="-",
        source="tells raw embeddings from normalised ones",
    )

    def __post_init__(self) -> None:
        name = "linear-probe"
        check_choice(name, "score", self.score, SCORES)
        check_choice(name, "solver", self.solver, SOLVERS)
        check_choice(name, "embeddings", self.embeddings, EMBEDDINGS)
        check_positive(name, "c", self.c, or_zero=True)
        check_whole(name, "epochs", self.epochs, 1)
        check_whole(name, "batch_size", self.batch_size, 1)
        check_positive(name, "learning_rate", self.learning_rate)
        check_share(name, "momentum", self.momentum)
        check_positive(name, "weight_decay", self.weight_decay, or_zero=True)
        check_positive(name, "length", self.length, or_zero=True)


def fit(
    classes: ClassFeatures,
    settings: LinearProbeSettings,
    logit_scale: float,
    *,
    images: LabelledFeatures,
    seed: int = 0,
    device: str = "cpu",
) -> Detector:
    """Train the classifier; the strength that was chosen is in the detector's settings.

    Embeddings that all have length 1 already make a probe on unit embeddings, whatever was asked
    for: it is the same in training, and raw embeddings must not reach it unscaled.

    Args:
        classes: K names; their features are not looked at.
        settings: its settings.
        logit_scale: kept with the detector; no score depends on it.
        images: labelled embeddings, every class among them.
        seed: of the folds of cross-validation, or of the order of images.
        device: where gradient descent runs.

    Raises:
        UsageError: fewer than two classes, a class without images, or ``solver`` is ``imported``.
    """
    names = classes.names
    if settings.solver == "imported":
        raise UsageError(
            "linear-probe: solver imported says that it was trained elsewhere; train it here with "
            "logistic or sgd"
        )
    if len(names) < 2:
        raise UsageError(
            "linear-probe tells classes apart and needs at least 2 of them; add classes"
        )
    check_every_class(images.labels, names)
    if has_length_one(images.raw):
        settings = replace(settings, embeddings="unit")
    rows = unit(images.raw) if settings.embeddings == "unit" else images.raw
    settings = replace(settings, length=mean_length(rows))
    settings, weight, bias = _trained(rows, images.labels, len(names), settings, seed, device)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise UsageError(
            "linear-probe: gradient descent ran off to numbers that are not finite; use a lower "
            "--set learning_rate, --set embeddings=unit or --set solver=logistic"
        )
    tensors = {"weight": weight, "bias": bias}
    return Detector(RECORD.name, settings, names, tensors, float(logit_scale))


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images: the largest probability, in [1/K, 1], or minus the entropy (nats)."""
    own = logits(detector, images)
    by_entropy = detector.settings.score == "entropy"
    return with_labels(-entropy(own) if by_entropy else max_probability(own), own, 1.0)


def logits(detector: Detector, images: ImageFeatures) -> NDArray[np.float64]:
    """Return W f + b, [N, K]; f is scaled to length 1 only if the probe was trained so.

    Raises:
        UsageError: the images' features have another width than the probe, or are of length 1 and
            the probe was trained on raw ones, whose length counts.
    """
    weight, bias = detector.tensors["weight"], detector.tensors["bias"]
    check_width(images.raw, weight)
    rows = images.raw
    if detector.settings.embeddings == "unit":
        rows = images.unit
    else:
        refuse_normalised(RECORD.name, detector.settings.length, rows)
    return np.asarray(rows @ weight.T + bias, dtype=np.float64)


def check(detector: Detector) -> None:
    """Refuse a probe with numbers that are not finite.

    Raises:
        UsageError: naming the tensor.
    """
    for name in ("weight", "bias"):
        if not np.isfinite(detector.tensors[name]).all():
            raise UsageError(f"{name} must have finite numbers only")


def _trained(
    rows: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    settings: LinearProbeSettings,
    seed: int,
    device: str,
) -> tuple[LinearProbeSettings, NDArray[np.float32], NDArray[np.float32]]:
    if settings.solver == "sgd":
        descent = Descent(
            settings.epochs,
            settings.batch_size,
            settings.learning_rate,
            settings.momentum,
            settings.weight_decay,
        )
        made = fit_descent(rows, labels, classes, descent, seed=seed, device=device)
    else:
        if settings.c == 0:
            settings = replace(settings, c=choose_c(rows, labels, classes, seed=seed))
        made = fit_logistic(rows, labels, classes, settings.c)
    return (settings, *made)


METHOD = Method(
    RECORD,
    LinearProbeSettings,
    fit,
    score,
    arrays={"weight": "K D", "bias": "K"},
    check=check,
    logits=logits,
)
