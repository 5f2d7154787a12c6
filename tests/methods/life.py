"""The common tester: a small world that any method is fitted to, and what holds of every method."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures, unit
from vlood.detector.folder import load_detector, save_detector
from vlood.detector.saved import SavedDetector
from vlood.errors import UsageError
from vlood.methods import registry
from vlood.methods.contract import Detector, make_settings
from vlood.methods.ensemble import combined
from vlood.methods.logits import top_labels
from vlood.negatives.negative_features import NegativeFeatures, NegativeRow
from vlood.prompts.classes import ClassName
from vlood.prompts.templates import ClassFeatures
from vlood.training.labelled import LabelledFeatures

Array = NDArray[Any]
# Their training gives detectors of other methods, whose lives are tested.
COMPILED = {
    "coop": ("mcm", "msp"),
    "locoop": ("mcm", "gl-mcm"),
    "lapt": ("neglabel",),
    "cma": ("mcm", "neglabel"),
}
# Settings that make a fit short, of the methods that have them.
QUICK = {"c": 1.0, "epochs": 5, "head_epochs": 2, "label_epochs": 2}
KEPT = {".json", ".md", ".safetensors", ".parquet", ".faiss"}


def normal(*shape: int, seed: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@dataclass(frozen=True)
class World:
    """What methods are fitted to: classes, negatives, and images of both kinds.

    With ``apart``, images lie around the features of their classes; else they lie anywhere.
    """

    classes: int = 4
    width: int = 16
    negatives: int = 30
    regions: tuple[int, int] = (2, 3)
    scale: float = 20.0
    apart: bool = False
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple("abcdefgh"[: self.classes]))

    @property
    def texts(self) -> ClassFeatures:
        return ClassFeatures.of(list(self.names), normal(self.classes, self.width, seed=2))

    @property
    def negative_texts(self) -> NegativeFeatures:
        names = [f"n{row}" for row in range(self.negatives)]
        return NegativeFeatures.of(names, normal(self.negatives, self.width, seed=3))

    @property
    def training(self) -> LabelledFeatures:
        labels = np.arange(8 * self.classes) % self.classes
        rows = normal(len(labels), self.width, seed=11) * 3
        return LabelledFeatures(self._around(rows, labels, 0.1), labels)

    @property
    def with_made(self) -> LabelledFeatures:
        """Training images, and two of negatives, whose labels come after those of the classes."""
        rows, labels = self.training.raw, self.training.labels
        made = normal(2, self.width, seed=13)
        if self.apart:
            made = self.negative_texts.features[:2] * 5
        return LabelledFeatures(
            np.concatenate([rows, made]), np.append(labels, [self.classes, self.classes + 1])
        )

    def images(self, count: int = 9, seed: int = 0) -> tuple[ImageFeatures, Array]:
        """Return images of the classes in turn, with regions, and their labels."""
        labels = np.arange(count) % self.classes
        raw = normal(count, self.width, seed=seed) * 3
        high, wide = self.regions
        local = normal(count, high * wide, self.width, seed=seed + 1) * 2
        if self.apart:
            own = self.texts.features[labels]
            local = 0.15 * local + 6 * own[:, None]
        return ImageFeatures(self._around(raw, labels, 0.1), local, self.regions), labels

    def strangers(self, count: int = 9) -> ImageFeatures:
        """Return images that lie near a negative each."""
        texts = self.negative_texts.features[2 + np.arange(count) % 5]
        raw = 6 * texts + 0.3 * normal(count, self.width, seed=40)
        local = np.repeat(raw[:, None], int(np.prod(self.regions)), axis=1)
        return ImageFeatures(raw, local + 0.3 * normal(*local.shape, seed=41), self.regions)

    def _around(self, rows: Array, labels: Array, share: float) -> Array:
        if not self.apart:
            return rows
        return (share * rows + 6 * self.texts.features[labels]).astype(np.float32)


def detector(
    method: str, world: World, classes: ClassFeatures | None = None, **values: Any
) -> Detector:
    """Return a detector of any method that scores: fitted, or of arrays where training is long."""
    found = registry.get(method)
    settings = make_settings(found, values)
    classes = classes or world.texts
    count, width = world.classes, world.width
    if method == "ensemble":
        members = {name: detector(name, world, classes) for name in ("mcm", "neglabel")}
        known = [registry.score(one, world.images()[0]).score for one in members.values()]
        return combined(members, settings, known)
    if method == "clipn":
        no = -classes.features if world.apart else unit(normal(count, width, seed=4))
        tensors = {"class_features": classes.features, "no_features": no}
    elif method in ("linear-probe", "mixoe"):
        weight = classes.features if world.apart else normal(count, width, seed=5)
        bias = np.zeros(count, np.float32) if world.apart else normal(count, seed=6)
        tensors = {"weight": weight, "bias": bias}
    elif method == "local-prompt":
        names = ("class_features", "local_features", "local_negative_features")
        tensors = {name: unit(normal(count, width, seed=7 + at)) for at, name in enumerate(names)}
        if world.apart:
            tensors |= {"class_features": classes.features, "local_features": classes.features}
    elif found.learns:
        beside: dict[str, Any] = {"layers": (width,), "negatives": world.negative_texts}
        needs = {name: beside[name] for name in found.record.needs if name in beside}
        images = world.with_made if method == "synood" else world.training
        return found.fit(classes, settings, world.scale, images=images, **needs)
    else:
        noise = normal(9, width, seed=10)
        given: dict[str, Any] = {"negatives": world.negative_texts, "noise": noise}
        needs = {name: given[name] for name in found.record.needs if name in given}
        return found.fit(classes, settings, world.scale, **needs)
    return Detector(method, settings, world.names, tensors, world.scale)


def rows_of(images: ImageFeatures, rows: Any) -> ImageFeatures:
    """Return some of the images, a copy."""
    local = None if images.local is None else images.local[rows].copy()
    return replace(images, raw=images.raw[rows].copy(), local=local)


def assert_same_scores(one: Any, other: Any) -> None:
    for name in ("score", "label", "confidence"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def check_scores(one: Detector, images: ImageFeatures, labels: Array, strange: Any) -> None:
    """Scores are numbers of the right kind, higher = more in-distribution, and pure."""
    for array in (images.raw, images.local, *one.tensors.values()):
        array.flags.writeable = False
    found = registry.score(one, images)
    assert found.score.shape == found.label.shape == found.confidence.shape == (len(images.raw),)
    assert found.score.dtype == found.confidence.dtype == np.float64
    assert found.label.dtype == np.int64
    assert np.isfinite(found.score).all()
    assert ((found.confidence >= 0) & (found.confidence <= 1 + 1e-9)).all()
    assert (found.label == labels).mean() > 0.8
    assert found.score.mean() > registry.score(one, strange).score.mean()
    assert_same_scores(found, registry.score(one, images))
    order, probability = top_labels(one, images, 2)
    if not registry.get(one.method).stream:
        np.testing.assert_array_equal(order[:, 0], found.label)
        np.testing.assert_allclose(probability[:, 0], found.confidence, rtol=1e-5)


def check_independence(one: Detector, images: ImageFeatures) -> None:
    """An image scores alike beside others, in another order, alone, and beside a broken one."""
    found = registry.score(one, images).score
    turned = registry.score(one, rows_of(images, slice(None, None, -1))).score
    np.testing.assert_allclose(turned[::-1], found, rtol=1e-4, atol=1e-6)
    alone = [registry.score(one, rows_of(images, [row])).score[0] for row in (0, 4)]
    np.testing.assert_allclose(alone, found[[0, 4]], rtol=1e-4, atol=1e-6)
    broken = rows_of(images, slice(None))
    broken.raw[1] = np.nan
    if broken.local is not None:
        broken.local[1] = np.nan
    with np.errstate(invalid="ignore"):
        try:
            beside = registry.score(one, broken).score
        except UsageError:
            return
    np.testing.assert_allclose(np.delete(beside, 1), np.delete(found, 1), rtol=1e-4, atol=1e-6)


def check_bad_input(one: Detector, images: ImageFeatures) -> None:
    """No images give no scores; images of another width are refused in a sentence."""
    none = registry.score(one, rows_of(images, slice(0)))
    assert len(none) == 0
    wide = np.ones((2, images.raw.shape[1] + 1), np.float32)
    assert images.local_grid is not None
    local = np.repeat(wide[:, None], int(np.prod(images.local_grid)), axis=1)
    with pytest.raises(UsageError, match="wide"):
        registry.score(one, ImageFeatures(wide, local, images.local_grid))


def check_folder(one: Detector, images: ImageFeatures, folder: Path) -> None:
    """A saved detector is the same detector, to the bit, and nothing of it is pickled."""
    classes = tuple(map(ClassName.of, one.class_names))
    negatives = tuple(NegativeRow(name) for name in one.negative_names)
    members = {name: SavedDetector(each, classes) for name, each in one.members.items()}
    if one.members:
        members = {
            name: replace(each, negatives=tuple(map(NegativeRow, each.detector.negative_names)))
            for name, each in members.items()
        }
    save_detector(folder, SavedDetector(one, classes, negatives=negatives, members=members))
    loaded = load_detector(folder).detector
    assert (loaded.method, loaded.settings) == (one.method, one.settings)
    assert (loaded.class_names, loaded.negative_names) == (one.class_names, one.negative_names)
    assert set(loaded.tensors) == set(one.tensors)
    for name, array in one.tensors.items():
        assert loaded.tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded.tensors[name], array)
    assert_same_scores(registry.score(loaded, images), registry.score(one, images))
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= KEPT


def check_life(method: str, folder: Path) -> None:
    """Take a method through its life in a world whose images lie around their classes."""
    world = World(apart=True)
    takes = registry.get(method).setting_names()
    values: dict[str, Any] = {name: value for name, value in QUICK.items() if name in takes}
    one, again = (detector(method, world, **values) for _ in range(2))
    assert one.method == method
    assert one.class_names == world.names
    assert registry.width(one) == world.width
    assert set(again.tensors) == set(one.tensors)
    for name, array in one.tensors.items():
        np.testing.assert_array_equal(again.tensors[name], array)
    images, labels = world.images()
    check_scores(one, images, labels, world.strangers())
    if not registry.get(method).stream:
        check_independence(one, images)
    check_bad_input(one, images)
    check_folder(one, images, folder / "detector")
    alone = World(classes=1, apart=True)
    try:
        single = detector(method, alone, **values)
    except UsageError:
        return
    found = registry.score(single, alone.images()[0])
    assert np.isfinite(found.score).all()
    assert (found.label == 0).all()
