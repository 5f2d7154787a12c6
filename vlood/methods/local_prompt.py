"""Local-Prompt: learned prompts for regions, among them prompts for what is no class at all."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.errors import UsageError
from vlood.methods.contract import (
    Detector,
    Method,
    MethodRecord,
    Regional,
    Scores,
    check_unit_rows,
)
from vlood.methods.local_prompt_fit import fit
from vlood.methods.local_prompt_settings import LocalPromptSettings
from vlood.methods.logits import (
    check_width,
    class_cosines,
    max_probability,
    regional_cosines,
    with_labels,
)
from vlood.methods.neglabel import NegLabelSettings
from vlood.methods.neglabel import check as check_groups
from vlood.methods.neglabel import score as neglabel_score
from vlood.methods.regional import softmax_ends

RECORD = MethodRecord(
    name="local-prompt",
    title="Local-Prompt",
    paper="Local-Prompt: Extensible Local Prompts for Few-Shot Out-of-Distribution Detection",
    year=2025,
    venue="ICLR",
    url="https://arxiv.org/abs/2409.04796",
    summary="MCM plus the mean of the best regional class probabilities against learned negatives",
    score_note="MCM + mean of the k largest regional softmax(cos / T), T = 1 on cosines; with "
    "`--set neglabel=W` + W NegLabel, vlood's own",
    needs=("classes", "local", "images", "text-tower", "view-regions"),
    trains=True,
    licence="none stated",
)

# Images are taken a few at a time: with 1,300 prompts and 196 regions a whole batch of regional
# cosines would be a quarter of a gigabyte.
_COSINES_AT_ONCE = 4_000_000


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images: MCM + R-MCM, in (0, 2]; the label weighs the image and its regions.

    Where the settings give a NegLabel term a weight (vlood's own, not in the paper), it is added.

    Raises:
        UsageError: the images come without local features.
    """
    settings: LocalPromptSettings = detector.settings
    cosines = class_cosines(detector, images)
    regional, evidence = np.empty(len(images)), cosines.copy()
    for rows, local, negative in _regional_cosines(detector, images):
        T = np.float32(settings.temperature)
        regional[rows] = regional_concept_match(local / T, negative / T, settings.top_k)
        evidence[rows] += local_evidence(local / T, settings.top_k)
    total = max_probability(cosines / settings.temperature) + regional
    if settings.neglabel and "negative_features" in detector.tensors:
        total += settings.neglabel * neglabel_score(_bank(detector), images).score
    return with_labels(total, evidence, detector.logit_scale)


def _bank(detector: Detector) -> Detector:
    """Return the NegLabel detector inside one that has such a term."""
    tensors = {name: detector.tensors[name] for name in ("negative_features", "group_sizes")}
    tensors["class_features"] = detector.tensors["bank_class_features"]
    return Detector(
        "neglabel",
        NegLabelSettings(),
        detector.class_names,
        tensors,
        detector.logit_scale,
        detector.negative_names,
    )


def logits(detector: Detector, images: ImageFeatures) -> NDArray[np.float64]:
    """Return the local-aware class evidence at the logit scale, [N, K]."""
    settings: LocalPromptSettings = detector.settings
    evidence = class_cosines(detector, images)
    for rows, local, _ in _regional_cosines(detector, images):
        evidence[rows] += local_evidence(local / np.float32(settings.temperature), settings.top_k)
    return evidence * detector.logit_scale


def regional_concept_match(
    local: NDArray[np.floating], negative: NDArray[np.floating], top_k: int
) -> NDArray[np.float64]:
    """Return the regional part of R-MCM [N]: the mean of the largest class probabilities.

    The k largest are taken over all regions and classes together; the softmax of a region is over
    its classes and its negatives.

    Args:
        local: cosines of regions and classes over T [N, R, C].
        negative: cosines of regions and negative prompts over T [N, R, M].
        top_k: at most R C of them.
    """
    count, regions, classes = local.shape
    probabilities = class_probabilities(local, negative)
    largest = _largest(probabilities.reshape(count, regions * classes), top_k)
    return np.asarray(largest.mean(axis=1, dtype=np.float64))


def class_probabilities(
    local: NDArray[np.floating], negative: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Return the softmax over classes and negatives, of the classes alone, [..., C].

    Args:
        local: cosines of regions and classes over T [..., C].
        negative: cosines of regions and negative prompts over T [..., M].
    """
    peak = np.maximum(local.max(axis=-1), negative.max(axis=-1, initial=-np.inf))[..., None]
    weights = np.exp(local - peak)
    total = weights.sum(axis=-1) + np.exp(negative - peak).sum(axis=-1)
    weights /= total[..., None]
    return np.asarray(weights)


def local_evidence(local: NDArray[np.floating], top_k: int) -> NDArray[np.float64]:
    """Return the log of the mean over a class's best regions of exp(cos / T), [N, C].

    Added to the global cosines it gives what the authors' code predicts by, as a logarithm: the
    exponential of the global cosine times that mean.

    Args:
        local: cosines of regions and classes over T [N, R, C].
        top_k: regions of each class, at most R.
    """
    best = _largest(np.moveaxis(local, 1, -1), top_k).astype(np.float64)
    peak = best.max(axis=-1, keepdims=True)
    return np.asarray(np.log(np.exp(best - peak).mean(axis=-1)) + peak[..., 0])


def _largest(values: NDArray[np.floating], count: int) -> NDArray[np.floating]:
    """Return the largest values along the last axis in any order, all where there are fewer."""
    if count >= values.shape[-1]:
        return values
    return np.partition(values, -count, axis=-1)[..., -count:]


def _regional_cosines(
    detector: Detector, images: ImageFeatures
) -> Iterator[tuple[slice, NDArray[np.float32], NDArray[np.float32]]]:
    """Yield the rows of a few images and their regions' cosines [n, R, K] and [n, R, M]."""
    if images.local is None:
        raise UsageError(
            "local-prompt needs local (patch) embeddings and these images have none; use a CLIP "
            "ViT or ResNet with --model, or embeddings made with 'vlood embed --local'"
        )
    classes = detector.tensors["local_features"]
    negatives = detector.tensors["local_negative_features"]
    regions = images.local.shape[1]
    at_once = max(1, _COSINES_AT_ONCE // max(1, regions * (len(classes) + len(negatives))))
    for start in range(0, len(images), at_once):
        rows = slice(start, start + at_once)
        local = images.local[rows]
        yield rows, regional_cosines(local, classes), regional_cosines(local, negatives)


def regional(detector: Detector, regions: ImageFeatures) -> NDArray[np.float64]:
    """Return the largest class probability of each of n regions by the local prompts, [n]."""
    T = np.float32(detector.settings.temperature)
    features, classes = regions.unit, detector.tensors["local_features"]
    check_width(features, classes)
    negative = features @ detector.tensors["local_negative_features"].T
    probabilities = class_probabilities(features @ classes.T / T, negative / T)
    return np.asarray(probabilities.max(axis=-1), dtype=np.float64)


def regional_ends(detector: Detector) -> tuple[float, float]:
    """Return chance among classes and negatives, and the probability of a sure answer."""
    classes, negatives = (
        detector.tensors[name] for name in ("local_features", "local_negative_features")
    )
    sharpness = 1 / detector.settings.temperature
    prompts = np.concatenate([classes, negatives])
    return softmax_ends(prompts, len(classes), sharpness, detector.logit_scale)


def check(detector: Detector) -> None:
    """Refuse features that are not of length 1, and a NegLabel term without its negatives.

    Raises:
        UsageError: naming them.
    """
    check_unit_rows(detector, "class_features", "local_features", "local_negative_features")
    if "negative_features" in detector.tensors:
        check_groups(detector)
    elif detector.settings.neglabel:
        raise UsageError("neglabel has a weight and there are no negatives")


METHOD = Method(
    RECORD,
    LocalPromptSettings,
    fit,
    score,
    arrays={
        "class_features": "K D",
        "local_features": "K D",
        "local_negative_features": "R D",
        "bank_class_features": "K D",
        "negative_features": "M D",
        "group_sizes": "G int",
    },
    optional=("bank_class_features", "negative_features", "group_sizes"),
    check=check,
    logits=logits,
    regional=Regional(
        regional, regional_ends, "probability of a region's best class, against negative prompts"
    ),
)
