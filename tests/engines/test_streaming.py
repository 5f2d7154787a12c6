"""A stream in pieces, saved and loaded between them, is the same stream."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from vlood.backbone.image_features import ImageFeatures
from vlood.engines.streaming import (
    StreamOrder,
    load_state,
    mixed_stream,
    save_state,
    start_stream,
    step_stream,
)
from vlood.errors import UsageError
from vlood.methods import registry
from vlood.methods.contract import Detector, State, make_settings
from vlood.negatives.negative_features import NegativeFeatures
from vlood.prompts.templates import ClassFeatures

Array = NDArray[Any]
C, M, D = 5, 40, 12
STREAMS = ("adaneg", "tanl")


def make_detector(name: str, seed: int = 0, **settings: Any) -> Detector:
    rng = np.random.default_rng(seed)
    method = registry.get(name)
    given: dict[str, Any] = {
        "negatives": NegativeFeatures.of([str(row) for row in range(M)], rng.normal(size=(M, D)))
    }
    if "noise" in method.record.needs:
        given["noise"] = rng.normal(size=(15, D))
    return method.fit(
        ClassFeatures.of([str(row) for row in range(C)], rng.normal(size=(C, D))),
        make_settings(method, settings),
        30.0,
        **given,
    )


def make_images(count: int = 60, seed: int = 1) -> ImageFeatures:
    rng = np.random.default_rng(seed)
    text = make_detector("adaneg").tensors
    near = np.concatenate([text["class_features"], text["negative_features"][:5]])
    picked = near[rng.integers(0, len(near), count)]
    return ImageFeatures((picked + 0.2 * rng.normal(size=(count, D))).astype(np.float32))


def run(detector: Detector, images: ImageFeatures, state: State) -> tuple[Array, State]:
    parts = []
    for begin in range(0, len(images), 10):
        batch = ImageFeatures(images.raw[begin : begin + 10])
        scores, state = step_stream(detector, batch, state)
        parts.append(scores.score)
    return np.concatenate(parts), state


@pytest.fixture(params=STREAMS)
def detector(request: pytest.FixtureRequest) -> Detector:
    return make_detector(request.param)


def test_a_stream_goes_on_bit_for_bit(detector: Detector, tmp_path: Path) -> None:
    images = make_images()
    whole, last = run(detector, images, start_stream(detector))
    path = tmp_path / "state.safetensors"
    first, state = run(detector, ImageFeatures(images.raw[:30]), start_stream(detector))
    order = StreamOrder().after(f"{row}.png" for row in range(30))
    save_state(path, detector, state, order)
    assert [each.name for each in tmp_path.iterdir()] == ["state.safetensors"]

    loaded, loaded_order = load_state(path, make_detector(detector.method))
    assert loaded_order == order
    for name, array in state.items():
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].dtype == array.dtype
        assert loaded[name].shape == array.shape
    second, after = run(detector, ImageFeatures(images.raw[30:]), loaded)
    np.testing.assert_array_equal(np.concatenate([first, second]), whole)
    for name, array in last.items():
        np.testing.assert_array_equal(after[name], array)


def test_a_fresh_state_can_be_saved(detector: Detector, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, detector, start_stream(detector), StreamOrder())
    state, order = load_state(path, detector)
    assert order == StreamOrder(0, "")
    assert set(state) == set(start_stream(detector))


def test_the_order_knows_ids_and_their_order_but_no_batches() -> None:
    whole = StreamOrder().after(["a", "b", "c"])
    assert whole == StreamOrder().after(["a"]).after([]).after(["b", "c"])
    assert whole.images == 3
    others = (["a", "c", "b"], ["a", "bc"], ["a", "b"], ["ab", "c", ""])
    assert all(StreamOrder().after(other).digest != whole.digest for other in others)


def saved(tmp_path: Path, detector: Detector) -> Path:
    path = tmp_path / "state.safetensors"
    _, state = run(detector, make_images(20), start_stream(detector))
    save_state(path, detector, state, StreamOrder().after(["a"]))
    return path


def test_a_state_of_something_else_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, make_detector("adaneg"))
    with pytest.raises(UsageError, match="is of the method adaneg, not tanl; go on with --method"):
        load_state(path, make_detector("tanl"))
    with pytest.raises(UsageError, match=r"begun with other settings \(beta=5, gap=0.5\)"):
        load_state(path, make_detector("adaneg", beta=3, gap=0.25))
    for other in (
        make_detector("adaneg", seed=1),
        replace(make_detector("adaneg"), logit_scale=31.0),
    ):
        with pytest.raises(UsageError, match="other classes, negatives or another model"):
            load_state(path, other)


def test_a_file_that_is_no_good_is_refused(tmp_path: Path) -> None:
    detector = make_detector("adaneg")
    path = saved(tmp_path, detector)
    data = path.read_bytes()
    for damaged in (b"", data[:100], data[:-1], data[:-1] + bytes([data[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match="is damaged; start a new stream"):
            load_state(path, detector)
    save_file({"features": np.ones((2, 3))}, path)
    with pytest.raises(UsageError, match="is no stream's state"):
        load_state(path, detector)
    with pytest.raises(UsageError, match="there is no such file"):
        load_state(tmp_path / "absent.safetensors", detector)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda described: described.update(schema=2), "of schema 2 and this vlood reads up to 1"),
        (lambda described: described.update(schema="x"), "is damaged"),
        (lambda described: described.pop("schema"), "is damaged"),
        (lambda described: described.pop("settings"), "is damaged"),
        (lambda described: described.update(order={"images": 3}), "is damaged"),
        (lambda described: described.update(order=None), "is damaged"),
        (lambda described: described.update(state="00"), "is damaged"),
    ],
)
def test_a_description_that_is_no_good_is_refused(
    change: Callable[[dict[str, Any]], Any], words: str, tmp_path: Path
) -> None:
    detector = make_detector("adaneg")
    path = saved(tmp_path, detector)
    with safe_open(path, framework="numpy") as file:
        described = json.loads(file.metadata()["vlood_stream"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(described)
    save_file(arrays, path, {"vlood_stream": json.dumps(described)})
    with pytest.raises(UsageError, match=words):
        load_state(path, detector)


def test_a_method_without_a_stream_says_so() -> None:
    method = registry.get("mcm")
    classes = ClassFeatures.of(["a", "b"], np.eye(2, D))
    with pytest.raises(UsageError, match="mcm scores each image by itself"):
        start_stream(method.fit(classes, method.settings(), 100.0))


def test_a_mixed_stream_is_shuffled_and_put_back(detector: Detector) -> None:
    inside, outside = make_images(35), make_images(20, seed=2)
    first, second = mixed_stream(detector, inside, outside, batch_size=10, seed=4)
    assert (len(first), len(second)) == (35, 20)
    raw = np.concatenate([inside.raw, outside.raw])
    order = np.random.default_rng(4).permutation(55)
    scores, _ = run(detector, ImageFeatures(raw[order]), start_stream(detector))
    found = np.concatenate([first.score, second.score])
    np.testing.assert_array_equal(found[order], scores)
    again = mixed_stream(detector, inside, outside, batch_size=10, seed=4)
    np.testing.assert_array_equal(again[0].score, first.score)
    other = mixed_stream(detector, inside, outside, batch_size=10, seed=5)
    assert not np.array_equal(other[0].score, first.score)


def test_a_mixed_stream_needs_a_batch_and_one_width(detector: Detector) -> None:
    images = make_images(5)
    with pytest.raises(UsageError, match="batch size of a stream is 0"):
        mixed_stream(detector, images, images, batch_size=0, seed=0)
    narrow = ImageFeatures(np.ones((3, 2), np.float32))
    with pytest.raises(UsageError, match="12 wide and the OOD embeddings 2"):
        mixed_stream(detector, images, narrow, batch_size=2, seed=0)
