"""LoCoOp by the engine, on the bundled model's own world; and what stops it and CoOp."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engines.conftest import draw_world, read_world
from vlood.backbone.image_features import ImageFeatures
from vlood.detector.card import card
from vlood.detector.export.coop import write_coop
from vlood.detector.importing.formats import import_detector
from vlood.detector.importing.target import Target
from vlood.engines.applying import apply_detector
from vlood.engines.few_shot import fit_from_images
from vlood.engines.fitted import Fitted
from vlood.engines.mining import Encoder
from vlood.engines.negatives import NegativesChoice
from vlood.engines.saved_detectors import saved_from
from vlood.engines.text_side import TextSide
from vlood.engines.tuning import ItemViews, TuningRun
from vlood.engines.tuning_costs import run_cost
from vlood.errors import UsageError, VloodError
from vlood.features.cache import FeatureCache
from vlood.features.stream import StreamSettings, encode_images
from vlood.images.sources import find_images
from vlood.methods import registry
from vlood.prompts.classes import ClassName, read_classes
from vlood.training.checkpoints import RunFolder
from vlood.training.labelled import LabelledFeatures

CLASSES = read_classes("world")
SIDE = TextSide(CLASSES)
QUICK = {"epochs": "6", "context_length": "4", "batch_size": "16", "learning_rate": "0.02"}
PER_CLASS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_world(tmp_path_factory.mktemp("world"), PER_CLASS)


@pytest.fixture(scope="module")
def images(folder: Path, backbone: Any) -> LabelledFeatures:
    return read_world(folder, backbone, local=True)


def tune(images: LabelledFeatures, encoder: Encoder, **options: Any) -> Fitted:
    settings = QUICK | options.pop("settings", {})
    method = options.pop("method", "locoop")
    return fit_from_images(method, SIDE, images, encoder=encoder, settings=settings, **options)


@pytest.fixture(scope="module")
def tuned(images: LabelledFeatures, backbone: Any) -> tuple[Fitted, list[Any]]:
    reports: list[Any] = []
    made = tune(images, Encoder(backbone, None), run=TuningRun(on_step=reports.append), seed=2)
    return made, reports


def test_lambda_weighs_the_entropy_of_regions_and_without_it_is_coop(
    images: LabelledFeatures, plain: Encoder, tuned: tuple[Fitted, list[Any]]
) -> None:
    reports = tuned[1]
    assert len(reports) == 6 * 2
    assert set(reports[0].parts) == {"accuracy", "cross_entropy", "local_entropy", "irrelevant"}
    assert reports[0].parts["irrelevant"] > 0

    def trained(weight: str) -> tuple[np.ndarray, float]:
        told: list[Any] = []
        run = TuningRun(on_step=told.append)
        made = tune(images, plain, settings={"lambda_value": weight}, run=run, seed=2)
        assert made.learned is not None
        return made.learned.arrays["ctx"], told[-1].parts["local_entropy"]

    # The same run but for lambda: the entropy of regions ends higher where it has more weight.
    (none, low), (_, high) = trained("0"), trained("5")
    assert high > low + 0.01
    coop = tune(images, plain, method="coop", seed=2).learned
    assert coop is not None
    np.testing.assert_allclose(none, coop.arrays["ctx"], atol=1e-6)


def test_it_is_a_gl_mcm_detector_that_says_what_made_it(
    images: LabelledFeatures, plain: Encoder, tuned: tuple[Fitted, list[Any]]
) -> None:
    fitted = tuned[0]
    assert fitted.learned is not None
    assert fitted.detector.method == "gl-mcm"
    assert fitted.detector.settings.lambda_local == 1.0
    about = fitted.learned.about
    assert (about["format"], about["top_k"], about["epochs"]) == ("locoop", 2, 6)
    assert about["scored_with"] == "GL-MCM, lambda 1, T = 1 on cosines"
    text = card(saved_from(fitted, CLASSES, plain, {}))
    assert "- learned: contexts, trained by LoCoOp and scored with GL-MCM" in text
    scores = registry.score(fitted.detector, ImageFeatures(images.raw, images.local))
    assert (scores.label == images.labels).mean() > 2 / len(CLASSES)

    alone = tune(images, plain, settings={"score": "mcm", "epochs": "1"})
    assert alone.learned is not None
    assert alone.detector.method == "mcm"
    assert alone.learned.about["scored_with"] == "MCM, T = 1 on cosines"


def test_other_names_and_the_way_out_and_back(
    images: LabelledFeatures, plain: Encoder, tuned: tuple[Fitted, list[Any]], tmp_path: Path
) -> None:
    saved = saved_from(tuned[0], CLASSES, plain, {})
    other = (ClassName.of("house"), ClassName.of("tree"))
    applied = apply_detector(
        saved, other, NegativesChoice(), plain, threshold=None, where="d", announce=print
    )
    assert applied.detector.method == "gl-mcm"
    assert applied.detector.class_names == ("house", "tree")

    told = write_coop(saved, plain.backbone, tmp_path / "run")
    assert told["epoch"] == 6
    file = tmp_path / "run" / "prompt_learner" / "model.pth.tar-6"
    back = import_detector("locoop", [file], Target.of(plain.backbone, CLASSES)).saved
    assert back.detector.method == "gl-mcm"
    held, own = back.detector.tensors["class_features"], saved.detector.tensors["class_features"]
    np.testing.assert_allclose(held, own, atol=1e-6)
    seen = ImageFeatures(images.raw, images.local)
    np.testing.assert_allclose(
        registry.score(back.detector, seen).score,
        registry.score(saved.detector, seen).score,
        atol=1e-6,
    )


def test_a_stopped_run_goes_on_to_the_same_bytes(
    images: LabelledFeatures, plain: Encoder, tuned: tuple[Fitted, list[Any]], tmp_path: Path
) -> None:
    def stop(report: Any) -> None:
        if report.step == 5:
            raise KeyboardInterrupt

    run = RunFolder(tmp_path / "run", resume=True)
    with pytest.raises(KeyboardInterrupt):
        tune(images, plain, seed=2, run=TuningRun(run, stop))
    assert images.local is not None
    others = replace(images, local=images.local + np.float32(1))
    with pytest.raises(UsageError, match=r"was started with something else \(images differ\)"):
        tune(others, plain, seed=2, run=TuningRun(run))
    again = tune(images, plain, seed=2, run=TuningRun(run))
    assert again.learned is not None
    assert tuned[0].learned is not None
    assert again.learned.arrays["ctx"].tobytes() == tuned[0].learned.arrays["ctx"].tobytes()


@pytest.mark.parametrize(
    "settings",
    [
        {"class_specific": "true", "position": "middle"},
        {"accumulate": "3", "init": "a picture of"},
        {"patience": "2", "held_out": "0.4", "top_k": "11"},
        {"precision": "bf16"},
    ],
)
def test_every_way_to_train(
    images: LabelledFeatures, plain: Encoder, settings: dict[str, str]
) -> None:
    fitted = tune(images, plain, settings={"epochs": "2", **settings})
    assert fitted.learned is not None
    array = fitted.learned.arrays["ctx"]
    assert array.ndim == (3 if "class_specific" in settings else 2)
    assert np.isfinite(array).all()
    assert ("held_out_loss" in fitted.learned.about) == ("patience" in settings)


def test_its_cost_counts_regions_and_no_cache(
    folder: Path, images: LabelledFeatures, backbone: Any, tmp_path: Path
) -> None:
    cache, settings = FeatureCache(tmp_path / "cache"), StreamSettings(16)
    items = list(find_images([str(folder)]))
    list(encode_images(items[:10], backbone, settings, cache=cache))

    def fit(some: LabelledFeatures, run: TuningRun) -> Fitted:
        assert some.local is not None
        assert images.local is not None
        assert some.local.shape == images.local.shape
        return tune(some, Encoder(backbone, cache), run=run)

    cost = run_cost(
        "locoop",
        fit,
        images.labels,
        items,
        backbone,
        settings,
        cache,
        views=0,
        seed=0,
        loops=True,
        local=True,
    )
    assert (cost.to_encode, cost.cached, cost.cache_bytes) == (len(images), 0, 0)
    assert (cost.trainable, cost.steps) == (4 * 64, 6 * 2)
    assert cost.encode_seconds > 0


# What stops a training, or does not: CoOp and LoCoOp alike.

BOTH = pytest.mark.parametrize("method", ["coop", "locoop"])


@BOTH
@pytest.mark.parametrize(
    ("rows", "shots", "words"),
    [
        (slice(PER_CLASS, None), None, r"1 of 12 classes have no training image \(airplane\)"),
        (slice(0, 1), None, r"11 of 12 classes have no training image"),
        (slice(0, 0), None, r"12 of 12 classes have no training image"),
        (slice(None), PER_CLASS + 1, r"--shots 4: not every class has as many .* use --shots 3"),
    ],
)
def test_too_few_images_are_one_sentence(
    method: str,
    rows: slice,
    shots: int | None,
    words: str,
    images: LabelledFeatures,
    plain: Encoder,
) -> None:
    few = images.rows(np.arange(len(images))[rows])
    settings = {"init": "a photo of a"}
    with pytest.raises(UsageError, match=words) as caught:
        tune(few, plain, method=method, shots=shots, settings=settings)
    assert "\n" not in str(caught.value)


@BOTH
def test_one_class_is_refused(method: str, images: LabelledFeatures, plain: Encoder) -> None:
    own = images.rows(np.flatnonzero(images.labels == 0))
    with pytest.raises(UsageError, match=f"{method} tells classes apart and needs at least 2"):
        fit_from_images(method, TextSide(CLASSES[:1]), own, encoder=plain)


@BOTH
def test_one_image_a_class_is_enough_but_not_to_keep_some_aside(
    method: str, images: LabelledFeatures, plain: Encoder
) -> None:
    assert tune(images, plain, method=method, shots=1, settings={"epochs": "1"}).trained
    with pytest.raises(UsageError, match="every class has a single one; use 2 images a class"):
        tune(images, plain, method=method, shots=1, settings={"patience": "1"})


@BOTH
def test_a_loss_that_is_no_number_stops_with_its_step(
    method: str, images: LabelledFeatures, plain: Encoder
) -> None:
    spoiled = images.raw.copy()
    spoiled[0] = np.nan
    rows = replace(images, raw=spoiled)
    settings = {"batch_size": str(len(images))}
    with pytest.raises(VloodError, match=r"loss of step 1 of 6 is not a finite number; try a lowe"):
        tune(rows, plain, method=method, settings=settings)
    far = {"learning_rate": "1e38", "warmup_epochs": "0", "epochs": "9"}
    with pytest.raises(VloodError, match=r"of step \d+ of 18 is not a finite number; try a lower"):
        tune(images, plain, method=method, settings=far)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)


def test_views_are_trained_on_though_the_disk_is_full(
    folder: Path,
    images: LabelledFeatures,
    backbone: Any,
    tmp_path: Path,
    full_disk: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache = FeatureCache(tmp_path / "cache")
    views = ItemViews(lambda: find_images([str(folder)]), backbone, StreamSettings(16), cache)
    made = tune(
        images,
        Encoder(backbone, cache),
        method="coop",
        run=TuningRun(views=views),
        settings={"views": "2", "epochs": "1"},
    )
    assert made.learned is not None
    assert np.isfinite(made.learned.arrays["ctx"]).all()
    assert "No space left" in caplog.text
    assert "Traceback" not in caplog.text


@BOTH
def test_a_run_that_cannot_be_kept_is_one_sentence(
    method: str, images: LabelledFeatures, plain: Encoder, tmp_path: Path, full_disk: None
) -> None:
    run = RunFolder(tmp_path / "run", resume=False)
    with pytest.raises(VloodError, match=r"run.*No space left on device") as caught:
        tune(images, plain, method=method, run=TuningRun(run))
    assert "\n" not in str(caught.value)
