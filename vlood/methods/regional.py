"""Where in an image a detector sees its classes: the ID-ness of regions, in one scale for a map.

Each region is taken as if it were an image of its own, as GL-MCM (Miyai et al., 2025) does, and its
ID-ness is a probability: of its best class, or the mass on all classes where a method has something
to hold against them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures, unit
from vlood.errors import UsageError
from vlood.methods import registry
from vlood.methods.contract import Detector, Regional
from vlood.methods.logits import class_cosines, max_probability

# With 10,000 negatives and 196 regions a batch of cosines would be a quarter of a gigabyte.
_COSINES_AT_ONCE = 4_000_000
SURE = 0.99
"""A model that gives a class this probability is called sure of it."""
# Cosines differ by no more.
_LARGEST_LEAD = 2.0
_CLASSES_ASKED = 64
_HALVINGS = 40


def regional_idness(detector: Detector, images: ImageFeatures) -> NDArray[np.float64]:
    """Return the ID-ness of every region of N images, [N, rows, columns] in [0, 1].

    Higher = more in-distribution. A region's feature is given the length of its image's, for
    methods that read lengths. A test-time method answers as it does before its first image.

    Raises:
        UsageError: the images come without local features or their grid.
    """
    if images.local is None or images.local_grid is None:
        raise UsageError("a map of regions needs local (patch) embeddings; these images have none")
    count, regions, width = images.local.shape
    of_regions = regional_of(detector).score
    columns = max(1, len(detector.class_names) + len(detector.negative_names))
    at_once = max(1, _COSINES_AT_ONCE // (regions * columns))
    values = np.empty((count, regions))
    for start in range(0, count, at_once):
        rows = slice(start, start + at_once)
        lengths = np.linalg.norm(images.raw[rows], axis=1)[:, None, None]
        features = (unit(images.local[rows]) * lengths).astype(np.float32).reshape(-1, width)
        values[rows] = of_regions(detector, ImageFeatures(features)).reshape(-1, regions)
    return values.reshape(count, *images.local_grid)


def deciding_regions(
    detector: Detector, images: ImageFeatures
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]] | None:
    """Return which region of each image looks most like a class, which class, and its ID-ness.

    That region carries the regional part of a score of GL-MCM and Local-Prompt.

    Returns:
        Regions int64 [N] in row-major order, classes int64 [N] and ID-ness float64 [N]; None where
        the method does not score with regions, or the images come without them.
    """
    if "local" not in registry.get(detector.method).record.needs:
        return None
    if images.local is None or images.local_grid is None:
        return None
    values = regional_idness(detector, images).reshape(len(images), -1)
    best = values.argmax(axis=1).astype(np.int64)
    rows = np.arange(len(images))
    prompts = detector.tensors.get("local_features", detector.tensors["class_features"])
    label = (unit(images.local[rows, best]) @ prompts.T).argmax(axis=1).astype(np.int64)
    return best, label, values[rows, best]


def regional_ends(detector: Detector) -> tuple[float, float]:
    """Return the least and the largest ID-ness that a map's colours tell apart.

    They depend on the detector alone, never on the images, so that its maps compare.

    Raises:
        UsageError: the detector gives every region of every image the same value.
    """
    low, high = regional_of(detector).ends(detector)
    if not low < high:
        raise UsageError(
            f"{detector.method} gives every region the same probability when there is one class "
            "and nothing to hold against it; add classes, or use a method with negatives"
        )
    return low, high


def regional_of(detector: Detector) -> Regional:
    """Return how a detector's method looks at regions."""
    method = registry.get(detector.method)
    if method.regional is not None:
        return method.regional
    return LOGIT_MATCH if method.logits is None else OWN_LOGIT_MATCH


def softmax_ends(
    texts: NDArray[np.float32], classes: int, sharpness: float, logit_scale: float
) -> tuple[float, float]:
    """Return the ends of the colours for the largest softmax probability of a class.

    The low end is chance. The high end is what a region gets that makes the model 99 % sure of a
    class at its own logit scale. At temperature 1 on cosines that is only a little above chance:
    on a map from 0 to 1 all regions would look alike. Such a region is taken to lead each other
    text by so much as this is unlike the class's; the median over classes is returned.

    Args:
        texts: unit features [n, D] of all that the softmax is over, the classes first.
        classes: how many of them are classes.
        sharpness: what multiplies the cosines in the softmax, 1 / T.
        logit_scale: the model's own factor.
    """
    chance = 1 / len(texts)
    if len(texts) < 2:
        return chance, chance
    best = np.unique(np.linspace(0, classes - 1, min(classes, _CLASSES_ASKED)).astype(np.intp))
    unlike = np.clip(1.0 - texts[best].astype(np.float64) @ texts.T, 0.0, None)
    # The class itself is no rival.
    unlike[np.arange(len(best)), best] = np.inf
    farthest = np.where(np.isinf(unlike), 0.0, unlike).max(axis=1)
    lower, upper = np.zeros(len(best)), _LARGEST_LEAD / np.maximum(farthest, 1e-6)
    for _ in range(_HALVINGS):
        middle = (lower + upper) / 2
        rivals = np.exp(-logit_scale * middle[:, None] * unlike).sum(axis=1)
        sure = 1 / (1 + rivals) >= SURE
        lower, upper = np.where(sure, lower, middle), np.where(sure, middle, upper)
    rivals = np.exp(-sharpness * upper[:, None] * unlike).sum(axis=1)
    return chance, float(np.median(1 / (1 + rivals)))


def whole_range(detector: Detector) -> tuple[float, float]:
    """Return 0 and 1, the ends of an ID mass: at one half both sides weigh the same."""
    return 0.0, 1.0


def _concept_match(detector: Detector, regions: ImageFeatures) -> NDArray[np.float64]:
    return max_probability(class_cosines(detector, regions) / detector.settings.temperature)


def _concept_ends(detector: Detector) -> tuple[float, float]:
    return _class_ends(detector, 1 / detector.settings.temperature)


def _logit_match(detector: Detector, regions: ImageFeatures) -> NDArray[np.float64]:
    return max_probability(class_cosines(detector, regions) * _logit_sharpness(detector))


def _logit_ends(detector: Detector) -> tuple[float, float]:
    return _class_ends(detector, _logit_sharpness(detector))


def _own_logit_match(detector: Detector, regions: ImageFeatures) -> NDArray[np.float64]:
    own = registry.get(detector.method).logits
    assert own is not None
    return max_probability(own(detector, regions))


def _own_logit_ends(detector: Detector) -> tuple[float, float]:
    # Such logits have no bound that cosines have, so neither has their lead.
    classes = len(detector.class_names)
    return 1 / classes, SURE if classes > 1 else 1.0


def _class_ends(detector: Detector, sharpness: float) -> tuple[float, float]:
    classes = detector.tensors["class_features"]
    return softmax_ends(classes, len(classes), sharpness, detector.logit_scale)


def _logit_sharpness(detector: Detector) -> float:
    return float(detector.logit_scale / getattr(detector.settings, "temperature", 1.0))


_BEST_CLASS = "probability of a region's best class"

CONCEPT_MATCH = Regional(_concept_match, _concept_ends, _BEST_CLASS)
"""Maximum concept match, the method's temperature being on cosines (MCM, GL-MCM)."""

OWN_LOGIT_MATCH = Regional(_own_logit_match, _own_logit_ends, _BEST_CLASS)
"""The same of a method's own logits, where it has some."""

LOGIT_MATCH = Regional(_logit_match, _logit_ends, _BEST_CLASS)
"""The same at the logit scale, over the method's temperature where it has one: the default."""
