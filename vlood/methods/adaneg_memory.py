"""AdaNeg's memory: which test images enter it, where they lie, and their cosines with its proxies.

The state of a stream, of which only classes and negatives that hold an image are stored, T of them,
as rows of the class features followed by the negative features:

- ``touched`` int64 [T]: which rows, in the order of their first image;
- ``images`` float32 [T, memory_length - 1, D]: unit image features, zeros where none is;
- ``entropies`` float32 [T, memory_length - 1] of those images, and ``filled`` int64 [T];
- ``window`` uint8: the last confident decisions, 1 = in-distribution (adaptive gap only);
- ``seen`` int64 []: images so far.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import unit
from vlood.methods.adaneg_settings import AdaNegSettings
from vlood.methods.contract import Detector, State
from vlood.methods.neglabel import confident_sides

_WINDOW = 10_000
_SEEDED = 100
# Memories are weighted in pieces: whole batches would be gigabytes.
_WEIGHTS_AT_ONCE = 1 << 18


def start(detector: Detector) -> State:
    """Return an empty memory, as this module describes it."""
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


def assign(
    logits: NDArray[np.float32],
    count: int,
    is_id: NDArray[np.bool_],
    is_ood: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Return row, entropy and index [M] each of confident images, those of the classes first.

    Args:
        logits: of B images [B, count + negatives].
        count: of the classes.
        is_id: bool [B], surely of a class.
        is_ood: bool [B], surely of none.
    """
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
        state: as this module describes it.
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


def _extended(array: NDArray[Any], rows: int) -> NDArray[Any]:
    """Return a copy with rows of zeros at its end."""
    return np.concatenate([array, np.zeros((rows, *array.shape[1:]), array.dtype)])


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
