"""Methods that train with the loop, by the engine: CoOp on the bundled model's own world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engines.conftest import draw_world, read_world
from vlood.backbone.image_features import ImageFeatures
from vlood.detector.folder import load_detector, save_detector
from vlood.engines.applying import apply_detector
from vlood.engines.few_shot import fit_from_images
from vlood.engines.fitted import Fitted
from vlood.engines.mining import Encoder
from vlood.engines.negatives import NegativesChoice
from vlood.engines.saved_detectors import saved_from
from vlood.engines.text_side import TextSide
from vlood.engines.training_images import Candidates, LabelledBatch, few_shot_set
from vlood.engines.tuning import ItemViews, TuningRun
from vlood.engines.tuning_costs import run_cost
from vlood.errors import UsageError, VloodError
from vlood.features.cache import FeatureCache
from vlood.features.stream import StreamSettings, encode_images
from vlood.images.sources import ImageItem, find_images
from vlood.methods import registry
from vlood.prompts.classes import ClassName, read_classes
from vlood.prompts.contexts import Contexts, encode_prompts
from vlood.prompts.templates import ClassFeatures
from vlood.training.checkpoints import RunFolder
from vlood.training.few_shot import sample_shots
from vlood.training.labelled import LabelledFeatures

CLASSES = read_classes("world")
SIDE = TextSide(CLASSES)
QUICK = {"epochs": "12", "context_length": "4", "batch_size": "16"}
PER_CLASS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_world(tmp_path_factory.mktemp("world"), PER_CLASS)


@pytest.fixture(scope="module")
def images(folder: Path, backbone: Any) -> LabelledFeatures:
    return read_world(folder, backbone)


def tune(images: LabelledFeatures, encoder: Encoder, **options: Any) -> Fitted:
    settings = QUICK | options.pop("settings", {})
    return fit_from_images("coop", SIDE, images, encoder=encoder, settings=settings, **options)


def confidence_in_truth(features: np.ndarray, images: LabelledFeatures, scale: float) -> float:
    """Return minus the cross-entropy of the images."""
    unit = images.raw / np.linalg.norm(images.raw, axis=1, keepdims=True)
    logits = scale * unit.astype(np.float64) @ features.T
    logits -= logits.max(axis=1, keepdims=True)
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return float(np.log(probability[np.arange(len(images)), images.labels]).mean())


def test_training_beats_its_start_and_is_a_detector_like_an_imported_one(
    images: LabelledFeatures, plain: Encoder, tmp_path: Path
) -> None:
    reports = []
    run = TuningRun(on_step=reports.append)
    fitted = tune(images, plain, run=run, settings={"learning_rate": "0.02"})
    detector, learned = fitted.detector, fitted.learned
    assert learned is not None
    assert (detector.method, fitted.templates) == ("mcm", ())
    assert len(reports) == 12 * 3
    start = tune(images, plain, settings={"epochs": "1", "warmup_rate": "0"}).detector
    scores = [
        confidence_in_truth(each.tensors["class_features"], images, detector.logit_scale)
        for each in (start, detector)
    ]
    assert scores[1] > 0.75 * scores[0]  # a quarter of the loss is gone

    # What scores is what the kept contexts give, and it goes through a folder unchanged.
    contexts = Contexts(learned.arrays["ctx"])
    again = encode_prompts(plain.backbone, contexts, [each.prompt for each in CLASSES])
    own = ClassFeatures.of([each.name for each in CLASSES], again)
    np.testing.assert_allclose(detector.tensors["class_features"], own.features, atol=1e-6)
    saved = saved_from(fitted, CLASSES, plain, {}, training_log="step,loss\n1,2\n")
    save_detector(tmp_path / "d", saved)
    held = load_detector(tmp_path / "d")
    assert held.training_log == "step,loss\n1,2\n"
    assert held.learned is not None
    assert held.learned.about["settings"]["epochs"] == 12
    other = (ClassName.of("house"), ClassName.of("tree"))
    applied = apply_detector(
        held, other, NegativesChoice(), plain, threshold=None, where="d", announce=print
    )
    assert applied.detector.class_names == ("house", "tree")
    assert applied.detector.tensors["class_features"].shape == (2, images.raw.shape[1])


def test_the_same_seed_gives_the_same_bytes_and_a_stopped_run_too(
    images: LabelledFeatures, plain: Encoder, tmp_path: Path
) -> None:
    first = tune(images, plain, shots=2, seed=4)
    assert first.learned is not None

    def stop(report: Any) -> None:
        if report.step == 5:
            raise KeyboardInterrupt

    run = RunFolder(tmp_path / "run", resume=True)
    with pytest.raises(KeyboardInterrupt):
        tune(images, plain, shots=2, seed=4, run=TuningRun(run, stop))
    again = tune(images, plain, shots=2, seed=4, run=TuningRun(run))
    other = tune(images, plain, shots=2, seed=5)
    assert again.learned is not None
    assert other.learned is not None
    assert first.learned.arrays["ctx"].tobytes() == again.learned.arrays["ctx"].tobytes()
    assert not np.array_equal(first.learned.arrays["ctx"], other.learned.arrays["ctx"])
    with pytest.raises(UsageError, match=r"was started with something else \(images, seed"):
        tune(images, plain, shots=2, seed=5, run=TuningRun(run))


@pytest.mark.parametrize(
    "settings",
    [
        {"class_specific": "true", "position": "front"},
        {"init": "a picture of", "position": "middle", "score": "msp"},
        {"optimizer": "adamw", "accumulate": "3", "clip": "1"},
        {"patience": "2", "held_out": "0.5"},
        {"precision": "bf16"},
    ],
)
def test_every_way_to_train(
    images: LabelledFeatures, plain: Encoder, settings: dict[str, str]
) -> None:
    fitted = tune(images, plain, settings={"epochs": "3", **settings})
    assert fitted.learned is not None
    array = fitted.learned.arrays["ctx"]
    assert array.ndim == (3 if "class_specific" in settings else 2)
    assert np.isfinite(array).all()
    assert fitted.detector.method == settings.get("score", "mcm")
    assert ("held_out_loss" in fitted.learned.about) == ("patience" in settings)
    scores = registry.score(fitted.detector, ImageFeatures(images.raw))
    assert (scores.label == images.labels).mean() > 2 / len(CLASSES)


def test_views_are_encoded_once_and_trained_on(
    folder: Path, images: LabelledFeatures, backbone: Any, tmp_path: Path
) -> None:
    cache = FeatureCache(tmp_path / "cache")
    encoder, seen = Encoder(backbone, cache), []
    views = ItemViews(
        lambda: find_images([str(folder)]), backbone, StreamSettings(16), cache, seen.append
    )
    few = images.rows(sample_shots(images.labels, 1, 0, [each.name for each in CLASSES]))
    made = views(few, 2, 7)
    assert made.shape == (len(few), 2, images.raw.shape[1])
    assert sum(seen) == 2 * len(few)
    assert not np.allclose(made[:, 0], made[:, 1])
    rows = cache.info().spaces
    assert [space.rows for space in rows] == [len(few)] * 2
    np.testing.assert_array_equal(made, views(few, 2, 7))
    assert [space.rows for space in cache.info().spaces] == [len(few)] * 2

    with_views = tune(
        few, encoder, settings={"views": "2", "epochs": "4"}, run=TuningRun(views=views), seed=7
    )
    without = tune(few, encoder, settings={"epochs": "4"}, seed=7)
    assert with_views.learned is not None
    assert without.learned is not None
    assert not np.array_equal(with_views.learned.arrays["ctx"], without.learned.arrays["ctx"])
    with pytest.raises(UsageError, match="views=2 needs the images themselves"):
        tune(few, encoder, settings={"views": "2"})
    gone = replace(few, ids=("gone.png", *few.ids[1:]))
    with pytest.raises(VloodError, match=r"gone.png: the image is there no more"):
        views(gone, 1, 7)


def test_prompts_need_a_model_and_classes(
    images: LabelledFeatures, plain: Encoder, tmp_path: Path
) -> None:
    vectors = tmp_path / "classes.npy"
    np.save(vectors, np.eye(len(CLASSES), images.raw.shape[1], dtype=np.float32))
    vectors.with_suffix(".txt").write_text("\n".join(each.name for each in CLASSES))
    side = TextSide(CLASSES, class_embeddings=(vectors,))
    with pytest.raises(UsageError, match="learns prompts, and embeddings alone have no model"):
        fit_from_images("coop", side, images)
    one = TextSide(CLASSES[:1])
    with pytest.raises(UsageError, match="needs at least 2"):
        fit_from_images("coop", one, images.rows(np.flatnonzero(images.labels == 0)), encoder=plain)


def test_the_cost_of_a_run_is_measured_without_making_it(
    folder: Path, images: LabelledFeatures, backbone: Any, tmp_path: Path
) -> None:
    cache, settings = FeatureCache(tmp_path / "cache"), StreamSettings(16)
    items = list(find_images([str(folder)]))
    list(encode_images(items[:10], backbone, settings, cache=cache))

    def fit(some: LabelledFeatures, run: TuningRun) -> Fitted:
        return tune(some, Encoder(backbone, cache), run=run, settings={"views": "2"})

    cost = run_cost(
        "coop", fit, images.labels, items, backbone, settings, cache, views=2, seed=0, loops=True
    )
    assert (cost.images, cost.classes, cost.views) == (48, 12, 2)
    assert (cost.to_encode, cost.cached) == (48 * 3 - 10, 10)
    assert (cost.trainable, cost.steps, cost.state_bytes) == (4 * 64, 36, 4 * 64 * 4 * 2)
    assert cost.step_seconds is not None
    assert cost.step_seconds > 0
    assert cost.encode_seconds > 0
    assert cost.cache_bytes == cost.to_encode * backbone.embed_dim * 4
    probe = run_cost(
        "linear-probe", fit, images.labels, None, None, settings, None, views=0, seed=0, loops=False
    )
    assert (probe.to_encode, probe.steps, probe.train_seconds) == (0, None, None)


def drawn(items: Sequence[ImageItem], shots: int, damaged: frozenset[str]) -> tuple[Any, list[str]]:
    """Draw from images whose features are their numbers; return the set and what was read."""
    classes = tuple(map(ClassName.of, ("a", "b")))
    read: list[str] = []

    def encode(some: Sequence[ImageItem]) -> list[LabelledBatch]:
        read.extend(item.path for item in some)
        good = [row for row, item in enumerate(some) if item.path not in damaged]
        raw = np.array([[float(some[row].path)] for row in good], np.float32).reshape(-1, 1)
        errors = {row: "bad" for row in range(len(some)) if row not in good}
        ids = [item.path for item in some]
        return [LabelledBatch(ids, [], np.array(good, np.int64), ImageFeatures(raw), errors)]

    return few_shot_set(Candidates.of(items, classes), encode, classes, shots, 3), read


def test_few_shots_are_drawn_before_anything_is_read() -> None:
    items = [ImageItem(str(row), ("a", "b", "c", None)[row % 4]) for row in range(40)]
    found, read = drawn(items, 2, frozenset())
    labels = np.array([0, 1] * 10)
    paths = [item.path for item in items if item.label in ("a", "b")]
    wanted = [paths[row] for row in sample_shots(labels, 2, 3, ["a", "b"])]
    assert list(found.images.ids) == wanted == read
    np.testing.assert_array_equal(found.images.raw[:, 0], [float(path) for path in wanted])
    assert found.left_out() == (
        "--train: 20 of 40 images left out: the labels of 10 are none of the classes (c) and 10 "
        "have no label"
    )
    # One that cannot be read gives its place to another, and is told of.
    again, more = drawn(items, 2, frozenset(wanted[:1]))
    assert again.unreadable == {wanted[0]: "bad"}
    assert wanted[0] not in again.images.ids
    assert np.bincount(again.images.labels).tolist() == [2, 2]
    assert len(more) == len(set(more))
    with pytest.raises(UsageError, match="not every class has as many"):
        drawn(items, 10, frozenset(["0"]))
