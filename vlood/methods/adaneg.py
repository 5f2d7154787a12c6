"""AdaNeg: NegLabel with proxies that a memory of confident test images draws to the test images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures, unit
from vlood.errors import UsageError
from vlood.methods.contract import (
    ORDER_DEPENDENT,
    Detector,
    Method,
    MethodRecord,
    Regional,
    Scores,
    State,
    Stream,
    check_choice,
    check_positive,
    check_share,
    check_whole,
    setting,
)
from vlood.methods.logits import check_width, log_sum_exp
from vlood.methods.neglabel import (
    ID_MASS,
    check_same_width,
    confident_sides,
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

COMBINE = ("combine", "adaonly", "vanillaonly", "multiply")
_WINDOW = 10_000
_SEEDED = 100
# Rows are scored, and memories weighted, in pieces: whole batches would be gigabytes.
_LOGITS_AT_ONCE = 1 << 19
_WEIGHTS_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class AdaNegSettings:
    """Settings of AdaNeg."""

    groups: int = setting(
        5,
        help="groups the negatives are split into, the remainder dropped; 0: groups of about 100",
        unit="groups",
        source="the authors' scripts, group_num 5",
    )
    threshold: float = setting(
        0.5,
        help="the NegLabel score between in and out of distribution",
        unit="score",
        source="the authors' scripts, thres 0.5",
    )
    gap: float = setting(
        0.5,
        help="share of the way from the threshold to 1 (and to 0) where confidence begins",
        unit="1",
        source="the authors' scripts, gap 0.5: above 0.75 and below 0.25",
    )
    adaptive_gap: bool = setting(
        False,
        help="widen the gap of the rarer side; the two scores then weigh the same",
        unit="-",
        source="the authors' second class; their ImageNet script does not use it",
    )
    memory_length: int = setting(
        10,
        help="image slots of a class or negative; one always stays empty",
        unit="images",
        source="the authors' scripts, memleng 10: 9 images are held",
    )
    sample_adaptive: bool = setting(
        True,
        help="weight the memory by its likeness to each image, instead of a plain mean",
        unit="-",
        source="the paper; the authors' script runs both",
    )
    beta: int = setting(
        5,
        help="sharpness of the sample-adaptive weights exp(-beta (1 - cos))",
        unit="1/cosine",
        source="the authors' scripts say 5.5 and their code cuts it to the whole number 5",
    )
    lambda_text: float = setting(
        0.1,
        help="weight of the score with the text features alone",
        unit="1",
        source="the authors' scripts, lambdaval 0.1; their adaptive gap ignores it (1)",
    )
    combine: str = setting(
        "combine",
        help="how the two scores are joined: combine (sum), adaonly, vanillaonly or multiply",
        unit="-",
        source="the authors' scripts, in_score combine",
    )

    def __post_init__(self) -> None:
        check_whole("adaneg", "groups", self.groups, 0)
        check_positive("adaneg", "lambda_text", self.lambda_text, or_zero=True)
        check_positive("adaneg", "beta", self.beta, or_zero=True)
        check_share("adaneg", "threshold", self.threshold)
        check_share("adaneg", "gap", self.gap)
        if self.memory_length < 2:
            raise UsageError(
                f"adaneg: memory_length is {self.memory_length}; expected 2 or more, because one "
                "slot always stays empty"
            )
        check_choice("adaneg", "combine", self.combine, COMBINE)


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


def start(detector: Detector) -> State:
    """Return an empty memory.

    Only classes and negatives that hold an image are stored, T of them, as rows of the class
    features followed by the negative features:

    - ``touched`` int64 [T]: which rows, in the order of their first image;
    - ``images`` float32 [T, memory_length - 1, D]: unit image features, zeros where none is;
    - ``entropies`` float32 [T, memory_length - 1] of those images, and ``filled`` int64 [T];
    - ``window`` uint8: the last confident decisions, 1 = in-distribution (adaptive gap only);
    - ``seen`` int64 []: images so far.
    """
    slots = detector.settings.memory_length - 1
    width = detector.tensors["class_features"].shape[1]
    seeded = _SEEDED if detector.settings.adaptive_gap else 0
    return {
        "touched": np.empty(0, np.int64),
        "images": np.empty((0, slots, width), np.float32),
        "entropies": np.empty((0, slots), np.float32),
        "filled": np.empty(0, np.int64),
        "window": np.tile(np.array([1, 0], np.uint8), seeded),
        "seen": np.array(0, np.int64),
    }


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
    rows, entropies, chosen = _assign(logits, count, is_id, is_ood)
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


def confident(
    plain: NDArray[np.float64], window: NDArray[np.uint8], settings: AdaNegSettings
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.uint8]]:
    """Say which images are surely in and which surely out of distribution.

    Args:
        plain: NegLabel scores [N].
        window: the last decisions; with ``adaptive_gap`` their ratio replaces the gap of the side
            that was decided for less often.
        settings: ``threshold``, ``gap`` and ``adaptive_gap``.

    Returns:
        Two masks [N] and the new window.
    """
    middle = settings.threshold
    is_id, is_ood = confident_sides(plain, middle, settings.gap)
    if not settings.adaptive_gap:
        return is_id, is_ood, window
    decisions = np.repeat(np.array([1, 0], np.uint8), [is_id.sum(), is_ood.sum()])
    window = np.concatenate([window, decisions])[-_WINDOW:]
    ratio = int(window.sum()) / len(window)
    if ratio > 0.5:
        _, is_ood = confident_sides(plain, middle, ratio)
    elif ratio < 0.5:
        is_id, _ = confident_sides(plain, middle, 1 - ratio)
    return is_id, is_ood, window


def remember(
    state: State,
    rows: NDArray[np.int64],
    entropies: NDArray[np.float32],
    features: NDArray[np.float32],
) -> dict[str, NDArray[Any]]:
    """Put images into the memory one after the other, on a copy.

    An image takes its row's next free slot. Where none is free it replaces the image of the
    largest entropy (the last of equal ones), if its own is smaller.

    Args:
        state: as :func:`start` describes it.
        rows: where each of n images goes.
        entropies: of each, [n].
        features: unit features [n, D].
    """
    memory = {name: state[name] for name in ("touched", "images", "entropies", "filled")}
    if not len(rows):
        return memory
    fresh, first = np.unique(rows, return_index=True)
    is_new = ~np.isin(fresh, memory["touched"])
    fresh = rows[np.sort(first[is_new])]
    memory = {
        "touched": np.concatenate([memory["touched"], fresh]),
        **{name: _extended(memory[name], len(fresh)) for name in ("images", "entropies", "filled")},
    }
    place_of = {row: place for place, row in enumerate(memory["touched"].tolist())}
    stored, filled = memory["entropies"], memory["filled"]
    slots = stored.shape[1]
    for number, row in enumerate(rows.tolist()):
        place = place_of[row]
        slot = int(filled[place])
        if slot < slots:
            filled[place] += 1
        else:
            slot = slots - 1 - int(stored[place, ::-1].argmax())
            if not entropies[number] < stored[place, slot]:
                continue
        stored[place, slot] = entropies[number]
        memory["images"][place, slot] = features[number]
    return memory


def proxy_cosines(
    features: NDArray[np.float32],
    text: NDArray[np.float32],
    stored: NDArray[np.float32],
    settings: AdaNegSettings,
) -> NDArray[np.float32]:
    """Return the cosine of N images with the proxies of T touched rows, [N, T].

    A proxy is the normalised sum of the text feature and the stored images: unweighted, or
    weighted for each image z by exp(-beta (1 - cos(z, .))). Only its cosine is needed, which the
    slots' cosines with z and with each other give; no proxy is built for each image.

    Args:
        features: unit image features [N, D].
        text: unit text features [T, D].
        stored: unit image features [T, S, D], zeros in free slots.
        settings: ``sample_adaptive`` and ``beta``.
    """
    if not settings.sample_adaptive:
        return np.asarray(features @ unit(text + stored.sum(axis=1)).T)
    cosines = np.empty((len(features), len(text)), np.float32)
    at_once = max(1, _WEIGHTS_AT_ONCE // max(1, len(features) * (1 + stored.shape[1])))
    for begin in range(0, len(text), at_once):
        rows = slice(begin, begin + at_once)
        slots = np.concatenate([text[rows, None], stored[rows]], axis=1)
        cosines[:, rows] = _sample_adaptive(features, slots, settings.beta).T
    return cosines


def _sample_adaptive(
    features: NDArray[np.float32], slots: NDArray[np.float32], beta: int
) -> NDArray[np.floating]:
    """Return the cosines [t, N] with the sums of slots [t, J, D] weighted for each image."""
    rows, count, width = slots.shape
    cosines = (slots.reshape(-1, width) @ features.T).reshape(rows, count, -1)
    weights = np.exp(beta * (cosines - 1))
    along = (weights * cosines).sum(axis=1)
    between = slots @ slots.transpose(0, 2, 1)
    squared_length = (weights * (between @ weights)).sum(axis=1)
    return np.asarray(along / np.sqrt(np.maximum(squared_length, np.float32(1e-24))))


def _assign(
    logits: NDArray[np.float32],
    count: int,
    is_id: NDArray[np.bool_],
    is_ood: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Return row, entropy and index of every confident image, those of the classes first."""
    id_images, ood_images = np.flatnonzero(is_id), np.flatnonzero(is_ood)
    id_logits, ood_logits = logits[id_images, :count], logits[ood_images, count:]
    rows = np.concatenate([id_logits.argmax(axis=1), ood_logits.argmax(axis=1) + count])
    entropies = np.concatenate([_entropy(id_logits), _entropy(ood_logits)])
    return rows.astype(np.int64), entropies, np.concatenate([id_images, ood_images])


def _entropy(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return -sum p log(p + 1e-8) over the last axis, in the single precision of the reference.

    In double precision the term 1e-8 makes sure images' entropies negative: they would then
    displace free slots, whose entropy is 0.
    """
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = weights / weights.sum(axis=1, keepdims=True)
    return np.asarray(-(p * np.log(p + np.float32(1e-8))).sum(axis=1), np.float32)


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


def _extended(array: NDArray[Any], rows: int) -> NDArray[Any]:
    """Return a copy with rows of zeros at its end."""
    return np.concatenate([array, np.zeros((rows, *array.shape[1:]), array.dtype)])


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
