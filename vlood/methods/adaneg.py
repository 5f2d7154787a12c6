"""AdaNeg: NegLabel with proxies that a memory of confident test images draws to the test images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.errors import UsageError
from vlood.methods.adaneg_memory import assign, confident, proxy_cosines, remember, start
from vlood.methods.adaneg_settings import AdaNegSettings
from vlood.methods.contract import (
    ORDER_DEPENDENT,
    Detector,
    Method,
    MethodRecord,
    Regional,
    Scores,
    State,
    Stream,
    check_positive,
)
from vlood.methods.logits import check_width, log_sum_exp
from vlood.methods.neglabel import (
    ID_MASS,
    check_same_width,
    group_sizes,
    grouped_order,
    id_mass,
    number_of_groups,
)
from vlood.methods.regional import whole_range
from vlood.negatives.negative_features import NegativeFeatures, is_permutation
from vlood.prompts.templates import ClassFeatures

RECORD = MethodRecord(
    name="adaneg",
    title="AdaNeg",
    paper=("AdaNeg: Adaptive Negative Proxy Guided OOD Detection with Vision-Language Models"),
    year=2024,
    venue="NeurIPS",
    url="https://arxiv.org/abs/2410.20149",
    summary="NegLabel whose class and negative features move towards confident test images",
    score_note="NegLabel(adapted proxies) + lambda NegLabel(text), T = 1 on logits, 5 groups",
    needs=("classes", "negatives"),
    licence="MIT",
    stream=ORDER_DEPENDENT,
    template="the nice {}",
)

# Rows are scored in pieces: whole batches would be gigabytes.
_LOGITS_AT_ONCE = 1 << 19


def fit(
    classes: ClassFeatures,
    settings: AdaNegSettings,
    logit_scale: float,
    *,
    negatives: NegativeFeatures,
) -> Detector:
    """Build the detector.

    Raises:
        UsageError: there are fewer negatives than groups.
    """
    check_positive("adaneg", "logit_scale", logit_scale)
    check_same_width(classes, negatives)
    number_of_groups("adaneg", settings.groups, len(negatives))
    tensors: dict[str, NDArray[Any]] = {
        "class_features": classes.features,
        "negative_features": negatives.features,
        "permutation": negatives.permutation,
    }
    return Detector("adaneg", settings, classes.names, tensors, float(logit_scale), negatives.names)


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images as the first and only batch of a stream."""
    return step(detector, images, start(detector))[0]


def step(detector: Detector, images: ImageFeatures, state: State) -> tuple[Scores, State]:
    """Score the next N images; the confident ones among them enter the memory first.

    Returns:
        Scores, and the state after them; the given one stays as it is. With ``combine`` a score is
        in [0, 1 + lambda_text] ([0, 2] with the adaptive gap), otherwise in [0, 1]. A label is the
        arg-max over the classes of the probabilities by text and by proxies together.
    """
    settings: AdaNegSettings = detector.settings
    classes = detector.tensors["class_features"]
    features, count = images.unit, len(classes)
    check_width(features, classes)
    text = np.concatenate([classes, detector.tensors["negative_features"]])
    scale = np.float32(detector.logit_scale)
    logits = (features @ text.T) * scale
    plain = _grouped_mass(detector, logits)

    is_id, is_ood, window = confident(plain, state["window"], settings)
    rows, entropies, chosen = assign(logits, count, is_id, is_ood)
    after = {
        **remember(state, rows, entropies, features[chosen]),
        "window": window,
        "seen": np.asarray(state["seen"] + len(features)),
    }

    adapted = logits.copy()
    touched, stored = after["touched"], after["images"][:, : after["filled"].max(initial=0)]
    adapted[:, touched] = scale * proxy_cosines(features, text[touched], stored, settings)
    total = _combined(plain, _grouped_mass(detector, adapted), settings)
    label = _labels(logits, adapted, count, settings)
    nearest = logits[:, :count]
    chosen_logit = np.take_along_axis(nearest, label[:, None], axis=1)[:, 0].astype(np.float64)
    return Scores(total, label, np.exp(chosen_logit - log_sum_exp(nearest))), after


def regional(detector: Detector, regions: ImageFeatures) -> NDArray[np.float64]:
    """Return the NegLabel score of each of n regions by the text features, [n].

    Regions neither enter the memory nor meet it: it holds whole images.
    """
    text = [detector.tensors["class_features"], detector.tensors["negative_features"]]
    features = regions.unit
    check_width(features, text[0])
    logits = (features @ np.concatenate(text).T) * np.float32(detector.logit_scale)
    return _grouped_mass(detector, logits)


def _grouped_mass(detector: Detector, logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the NegLabel score [N] of logits [N, C + M]."""
    count, permutation = len(detector.class_names), detector.tensors["permutation"]
    groups = number_of_groups("adaneg", detector.settings.groups, len(permutation))
    order = grouped_order(permutation, groups, "drop")
    sizes = group_sizes(len(order), groups)
    mass = np.empty(len(logits))
    at_once = max(1, _LOGITS_AT_ONCE // len(permutation))
    for begin in range(0, len(logits), at_once):
        piece = logits[begin : begin + at_once]
        negative = np.take(piece, count + order, axis=1)
        mass[begin : begin + at_once] = id_mass(piece[:, :count], negative, sizes)
    return mass


def _combined(
    plain: NDArray[np.float64], adapted: NDArray[np.float64], settings: AdaNegSettings
) -> NDArray[np.float64]:
    if settings.combine == "adaonly":
        return adapted
    if settings.combine == "vanillaonly":
        return plain
    if settings.combine == "multiply":
        return adapted * plain
    return adapted + plain * (1.0 if settings.adaptive_gap else settings.lambda_text)


def _labels(
    logits: NDArray[np.float32],
    adapted: NDArray[np.float32],
    count: int,
    settings: AdaNegSettings,
) -> NDArray[np.int64]:
    """Return the most probable class by text and proxies together, [N]."""
    if settings.adaptive_gap:
        total = _probabilities(logits[:, :count], count) + _probabilities(adapted[:, :count], count)
    else:
        weight = settings.lambda_text
        total = _probabilities(logits, count) + weight * _probabilities(adapted, count)
    return np.asarray(total.argmax(axis=1), np.int64)


def _probabilities(logits: NDArray[np.float32], count: int) -> NDArray[np.float64]:
    """Return the first ``count`` columns of the softmax over all columns."""
    return np.asarray(np.exp(logits[:, :count] - log_sum_exp(logits)[:, None]))


def check(detector: Detector) -> None:
    """Refuse a permutation that is none of the negatives.

    Raises:
        UsageError: naming what was expected.
    """
    if not is_permutation(detector.tensors["permutation"], len(detector.negative_names)):
        raise UsageError("permutation is none of the negatives")


METHOD = Method(
    RECORD,
    AdaNegSettings,
    fit,
    score,
    Stream(start, step),
    arrays={"class_features": "K D", "negative_features": "M D", "permutation": "M int"},
    check=check,
    regional=Regional(regional, whole_range, ID_MASS),
)
