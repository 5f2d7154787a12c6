"""Go through a stream of images with a test-time method; keep its state in one file between runs.

A state file is one safetensors file: the state's arrays, and in its metadata what they belong to.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.errors import UsageError
from vlood.features.atomic import write_atomically
from vlood.methods import registry
from vlood.methods.contract import Detector, Scores, State, Stream

SCHEMA_VERSION = 1
_METADATA = "vlood_stream"
_DIGEST_BYTES = 16


@dataclass(frozen=True)
class StreamOrder:
    """Which images a stream has seen, in order: a state means nothing without it.

    Attributes:
        images: how many.
        digest: hex, of all their ids one after the other; it does not depend on the batches.
    """

    images: int = 0
    digest: str = ""

    def after(self, ids: Iterable[str]) -> StreamOrder:
        """Return the order with a batch's ids at its end."""
        images, digest = self.images, bytes.fromhex(self.digest)
        for one in ids:
            images += 1
            text = one.encode("utf-8", "surrogateescape")
            digest = blake2b(digest + text, digest_size=_DIGEST_BYTES).digest()
        return StreamOrder(images, digest.hex())


def start_stream(detector: Detector) -> State:
    """Return the state before the first image.

    Raises:
        UsageError: the detector's method scores each image by itself.
    """
    return _stream_of(detector).start(detector)


def step_stream(detector: Detector, features: ImageFeatures, state: State) -> tuple[Scores, State]:
    """Score the next batch; return its scores and the state after it.

    Raises:
        UsageError: the detector's method scores each image by itself.
    """
    return _stream_of(detector).step(detector, features, state)


def save_state(path: Path, detector: Detector, state: State, order: StreamOrder) -> None:
    """Write a state to one ``.safetensors`` file, whole or not at all.

    Raises:
        OSError: the place cannot be written.
    """
    from safetensors.numpy import save

    arrays = {name: np.asarray(array, order="C") for name, array in state.items()}
    described = {
        "schema": SCHEMA_VERSION,
        **_identity(detector),
        "state": arrays_digest(arrays),
        "order": dataclasses.asdict(order),
    }
    write_atomically(path, save(arrays, {_METADATA: json.dumps(described)}))


def load_state(path: Path, detector: Detector) -> tuple[State, StreamOrder]:
    """Read a state back, for the detector that it was saved with.

    Raises:
        UsageError: there is no such file, it is damaged or newer than this vlood, or it belongs to
            another method, other settings or another detector.
    """
    arrays, described = _read(path)
    if described["schema"] > SCHEMA_VERSION:
        raise UsageError(
            f"{path}: the stream's state is of schema {described['schema']} and this vlood reads "
            f"up to {SCHEMA_VERSION}; update vlood"
        )
    expected = _identity(detector)
    if described["method"] != detector.method:
        raise UsageError(
            f"{path}: the stream's state is of the method {described['method']}, not "
            f"{detector.method}; go on with --method {described['method']}, or start a new stream"
        )
    differing = _differing_settings(described["settings"], expected["settings"])
    if differing:
        raise UsageError(
            f"{path}: the stream was begun with other settings ({differing}); go on with those, or "
            "start a new stream"
        )
    if described["detector"] != expected["detector"]:
        raise UsageError(
            f"{path}: the stream was begun with other classes, negatives or another model; go on "
            "with the same detector, or start a new stream"
        )
    if described["state"] != arrays_digest(arrays):
        raise _damaged(path)
    return arrays, StreamOrder(**described["order"])


def mixed_stream(
    detector: Detector,
    id_features: ImageFeatures,
    ood_features: ImageFeatures,
    *,
    batch_size: int,
    seed: int,
) -> tuple[Scores, Scores]:
    """Score an ID and an OOD set as one shuffled stream, as test-time methods are evaluated.

    Args:
        detector: of a test-time method; its state starts afresh.
        id_features: N raw features; local ones are left out.
        ood_features: M of them.
        batch_size: images a step.
        seed: of the shuffle.

    Returns:
        The scores of the N and of the M images, each in their own order.

    Raises:
        UsageError: the detector's method scores each image by itself, the two sets' widths
            differ, or the batch size is not positive.
    """
    if batch_size < 1:
        raise UsageError(f"the batch size of a stream is {batch_size}; expected 1 or more")
    widths = id_features.raw.shape[1], ood_features.raw.shape[1]
    if widths[0] != widths[1]:
        raise UsageError(
            f"the ID embeddings are {widths[0]} wide and the OOD embeddings {widths[1]}; both must "
            "come from one model"
        )
    raw = np.concatenate([id_features.raw, ood_features.raw])
    order = np.random.default_rng(seed).permutation(len(raw))
    score, label, confidence = np.empty(len(raw)), np.empty(len(raw), np.int64), np.empty(len(raw))
    state = start_stream(detector)
    for begin in range(0, len(raw), batch_size):
        rows = order[begin : begin + batch_size]
        found, state = step_stream(detector, ImageFeatures(raw[rows]), state)
        score[rows], label[rows], confidence[rows] = found.score, found.label, found.confidence
    parts = slice(None, len(id_features)), slice(len(id_features), None)
    first, second = (Scores(score[part], label[part], confidence[part]) for part in parts)
    return first, second


def arrays_digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return a digest (hex) of named arrays: names, types, shapes and values."""
    digest = blake2b(digest_size=_DIGEST_BYTES)
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(array.reshape(-1).data)
    return digest.hexdigest()


def _stream_of(detector: Detector) -> Stream:
    stream = registry.get(detector.method).stream
    if stream is None:
        raise UsageError(
            f"{detector.method} scores each image by itself and keeps no state; leave the stream's "
            "state out, or use a test-time method such as --method adaneg"
        )
    return stream


def _identity(detector: Detector) -> dict[str, Any]:
    """Describe what a state belongs to."""
    scale = np.array(detector.logit_scale)
    return {
        "method": detector.method,
        "settings": dataclasses.asdict(detector.settings),
        "detector": arrays_digest({**detector.tensors, "logit_scale": scale}),
    }


def _read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read the arrays and what describes them; check the description's shape."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UsageError(f"{path}: there is no such file; it is written at the end of a stream")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise _damaged(path) from error
    if _METADATA not in metadata:
        raise UsageError(
            f"{path}: is no stream's state; give a file that a test-time method has written"
        )
    try:
        described = json.loads(metadata[_METADATA])
        newer = described["schema"] > SCHEMA_VERSION
        missing = {"method", "settings", "detector", "state", "order"} - set(described)
        if not newer and (missing or set(described["order"]) != {"images", "digest"}):
            raise _damaged(path)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path) from error
    return arrays, described


def _differing_settings(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Name the settings that differ, with their saved values."""
    absent = object()
    return ", ".join(
        f"{name}={saved.get(name)}"
        for name in sorted({*saved, *now})
        if saved.get(name, absent) != now.get(name, absent)
    )


def _damaged(path: Path) -> UsageError:
    return UsageError(f"{path}: the stream's state is damaged; start a new stream without it")
