"""Local-Prompt by the engine: trained on the bundled model's world, stopped, combined, refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlood.backbone.image_features import ImageFeatures, unit
from vlood.detector.folder import load_detector, save_detector
from vlood.engines.applying import apply_detector
from vlood.engines.few_shot import fit_from_images
from vlood.engines.fitted import Fitted
from vlood.engines.global_prompts import with_global_prompts, with_neglabel
from vlood.engines.mining import Encoder
from vlood.engines.negatives import NegativesChoice
from vlood.engines.regional_views import RecomputedMaps, ViewEncoder, small_images, with_view
from vlood.engines.saved_detectors import saved_from
from vlood.engines.text_side import TextSide
from vlood.engines.tuning import ItemRegions, ItemViews, TuningRun
from vlood.errors import UsageError
from vlood.features.map_store import ABOUT_FILE, MapStore
from vlood.features.stream import StreamSettings, encode_images
from vlood.images.sources import ImageItem, find_images
from vlood.images.views import View
from vlood.images.world import id_images
from vlood.methods import registry
from vlood.methods.contract import Detector
from vlood.methods.local_prompt_fit import count_regions
from vlood.methods.logits import max_probability
from vlood.prompts.classes import ClassName, read_classes
from vlood.training.checkpoints import RunFolder
from vlood.training.labelled import LabelledFeatures

CLASSES = read_classes("world")[:3]
SIDE = TextSide(CLASSES)
QUICK = {"views": "4", "positive_views": "2", "context_length": "4", "epochs": "3"}
QUICK |= {"batch_size": "4"}


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[ImageItem]:
    base = tmp_path_factory.mktemp("world")
    names = {each.name for each in CLASSES}
    for picture in id_images("train", 2):
        if picture.label in names:
            (base / picture.path).parent.mkdir(parents=True, exist_ok=True)
            picture.image.save(base / picture.path)
    return list(find_images([str(base)]))


@pytest.fixture(scope="module")
def images(items: list[ImageItem], backbone: Any) -> LabelledFeatures:
    index = {each.name: row for row, each in enumerate(CLASSES)}
    (batch,) = encode_images(items, backbone, StreamSettings(64))
    labels = [index[str(item.label).replace("_", " ")] for item in items]
    return LabelledFeatures(
        batch.features.raw, np.array(labels), tuple(item.path for item in items)
    )


@pytest.fixture
def views(items: list[ImageItem], backbone: Any) -> ItemViews:
    return ItemViews(lambda: iter(items), backbone, StreamSettings(4))


@pytest.fixture(scope="module")
def local(items: list[ImageItem], backbone: Any) -> ImageFeatures:
    (batch,) = encode_images(items, backbone, StreamSettings(64), local=True)
    return batch.features


def tune(images: LabelledFeatures, encoder: Encoder, how: TuningRun, **settings: str) -> Fitted:
    return fit_from_images(
        "local-prompt", SIDE, images, encoder=encoder, settings=QUICK | settings, run=how, seed=3
    )


def test_training_lowers_the_loss_and_goes_through_a_folder(
    images: LabelledFeatures, plain: Encoder, views: ItemViews, local: ImageFeatures, tmp_path: Path
) -> None:
    reports: list[Any] = []
    folder = RunFolder(tmp_path / "run")
    fitted = tune(
        images,
        plain,
        TuningRun(folder, reports.append, views=views),
        epochs="20",
        clip="0.1",
    )
    assert len(reports) == 20 * 2
    assert set(reports[0].parts) == {"positive", "negative", "diversity"}
    assert reports[-1].loss < 0.85 * reports[0].loss
    assert reports[-1].parts["negative"] < 0.5 * reports[0].parts["negative"]
    learned = fitted.learned
    assert learned is not None
    assert learned.arrays["local_ctx"].shape == (3, 4, 64)
    assert learned.arrays["neg_ctx"].shape == (4, 4, 64)
    assert learned.about["nameless"] == ["neg_ctx"]
    assert fitted.templates == ("a photo of a {}.",)
    assert (tmp_path / "run" / "regions" / ABOUT_FILE).is_file()
    saved = saved_from(fitted, CLASSES, plain, {})
    save_detector(tmp_path / "d", saved)
    held = load_detector(tmp_path / "d")
    before, after = (registry.score(one.detector, local) for one in (saved, held))
    np.testing.assert_array_equal(before.score, after.score)
    assert (after.label == images.labels).all()
    folder.remove()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("recompute", ["false", "true"])
def test_a_stopped_run_gives_the_same_bytes(
    images: LabelledFeatures,
    plain: Encoder,
    views: ItemViews,
    tmp_path: Path,
    recompute: str,
) -> None:
    def stop(report: Any) -> None:
        if report.step == 3:  # in the middle of a batch's steps
            raise KeyboardInterrupt

    run = RunFolder(tmp_path / "run", resume=True)
    first = tune(images, plain, TuningRun(views=views), recompute=recompute)
    with pytest.raises(KeyboardInterrupt):
        tune(images, plain, TuningRun(run, stop, views=views), recompute=recompute)
    run.check()
    assert run.maps_path.exists() == (recompute == "false")
    again = tune(images, plain, TuningRun(run, views=views), recompute=recompute)
    assert first.learned is not None
    assert again.learned is not None
    for name, array in first.learned.arrays.items():
        assert array.tobytes() == again.learned.arrays[name].tobytes(), name


def test_a_store_that_was_left_unfinished_is_gone_on_with(
    images: LabelledFeatures, plain: Encoder, views: ItemViews, tmp_path: Path
) -> None:
    chosen = np.array([[0, 2], [1, 0], [2, 1], [0, 1], [1, 2], [2, 0]])
    folder, told = tmp_path / "run.run", []
    run = RunFolder(folder)
    make = ItemRegions(replace(views, advance=told.append), run.maps_path, told.append)
    whole = make(images, chosen, 5, recompute=False, kept=1)
    rows = np.arange(len(images))
    maps = whole.of(rows, (0, 1))
    assert isinstance(told[0], str)
    assert "regional maps of 6 images x 2 views take 197 kB in" in told[0]
    assert sum(one for one in told if isinstance(one, int)) == 12
    run.check()  # maps alone are no other run
    # Kept as if the second batch had been the last: the others are made again, the first are not.
    for name in ("maps.f16", ABOUT_FILE):
        assert (run.maps_path / name).exists()
    about = (run.maps_path / ABOUT_FILE).read_text()
    (run.maps_path / ABOUT_FILE).write_text(about.replace('"done": 3', '"done": 2'))
    assert about != (run.maps_path / ABOUT_FILE).read_text()
    told.clear()
    again = make(images, chosen, 5, recompute=False, kept=1)
    assert sum(one for one in told if isinstance(one, int)) == 4
    np.testing.assert_array_equal(maps, again.of(rows, (0, 1)))
    # Each is the map of its own view.
    settings = with_view(views.settings, View(2, 5, (64, 64)))
    (third,) = encode_images(views.found(images)[2:3], views.backbone, settings, local=True)
    assert third.features.local is not None
    np.testing.assert_allclose(maps[2, 0], unit(third.features.local)[0], atol=2e-3)
    np.testing.assert_allclose(np.linalg.norm(maps, axis=-1), 1, atol=1e-3)


def test_recomputed_maps_are_the_stored_ones(
    items: list[ImageItem], images: LabelledFeatures, views: ItemViews, tmp_path: Path
) -> None:
    chosen = np.array([[0, 2], [1, 0], [2, 1], [0, 1], [1, 2], [2, 0]])
    make = ItemRegions(views, tmp_path / "maps", lambda text: None)
    stored = make(images, chosen, 5, recompute=False, kept=1)
    encoder = ViewEncoder(items, chosen, 5, views.backbone, views.settings)
    calls = []

    class Counted(ViewEncoder):
        def batches(self, rows: Any, *, after: int = 0) -> Iterator[Any]:
            calls.append(rows.tolist())
            return super().batches(rows, after=after)

    counted = Counted(**vars(encoder))
    again = RecomputedMaps(counted, 64, kept=1)
    for rows in (np.array([4, 1]), np.array([4, 1]), np.array([0])):
        np.testing.assert_allclose(again.of(rows, (1,)), stored.of(rows, (1,)), atol=1e-3)
    assert calls == [[4, 1], [0]]


def combined(
    images: LabelledFeatures, plain: Encoder, views: ItemViews, method: str = "local-prompt"
) -> Any:
    settings = QUICK if method == "local-prompt" else {"epochs": "3", "context_length": "4"}
    fitted = fit_from_images(
        method,
        SIDE,
        images,
        encoder=plain,
        settings=settings,
        run=TuningRun(views=views),
        seed=3,
    )
    return saved_from(fitted, CLASSES, plain, {})


def test_other_global_prompts_and_a_bank_change_their_terms_alone(
    images: LabelledFeatures, plain: Encoder, views: ItemViews, local: ImageFeatures, tmp_path: Path
) -> None:
    own, prompts = (combined(images, plain, views, name) for name in ("local-prompt", "coop"))
    mixed = with_global_prompts(own, prompts, "p", option="--global-prompts")
    assert (mixed.templates, mixed.calibration) == ((), None)
    assert mixed.provenance["global_prompts"] == {"from": "p", "method": "mcm"}

    def mcm(detector: Detector) -> np.ndarray:
        return max_probability(local.unit @ detector.tensors["class_features"].T)

    one, other = (registry.score(each.detector, local).score for each in (own, mixed))
    np.testing.assert_allclose(one - mcm(own.detector), other - mcm(mixed.detector), atol=1e-6)
    assert not np.allclose(one, other)
    # The same classes in another order are the same class list.
    order = [2, 0, 1]
    tensors = {"class_features": prompts.detector.tensors["class_features"][order]}
    turned = replace(
        prompts.detector,
        tensors=tensors,
        class_names=tuple(prompts.detector.class_names[row] for row in order),
    )
    same = with_global_prompts(own, replace(prompts, detector=turned), "p", option="-g")
    np.testing.assert_array_equal(
        same.detector.tensors["class_features"], mixed.detector.tensors["class_features"]
    )

    words = tmp_path / "words.txt"
    words.write_text("bell\ntree\nhouse\nmoon\n")
    choice = NegativesChoice(str(words))
    banked = apply_detector(
        mixed, CLASSES, choice, plain, threshold=None, where="d", announce=lambda text: None
    )
    assert banked.detector.settings.neglabel == 1
    term = registry.score(banked.detector, local).score - other
    assert ((term > 0) & (term < 1)).all()
    save_detector(tmp_path / "d", banked)
    held = load_detector(tmp_path / "d")
    np.testing.assert_array_equal(
        registry.score(held.detector, local).score, registry.score(banked.detector, local).score
    )
    fresh = with_global_prompts(banked, own, "o", option="-g")
    later = registry.score(fresh.detector, local).score - one
    np.testing.assert_allclose(later, term, atol=1e-6)  # the bank keeps its own class features


def test_what_does_not_fit_is_one_sentence(
    images: LabelledFeatures, plain: Encoder, views: ItemViews
) -> None:
    own, prompts = (combined(images, plain, views, name) for name in ("local-prompt", "coop"))
    names = ("airplane", "anchor", "bell")
    other = replace(prompts, detector=replace(prompts.detector, class_names=names))
    with pytest.raises(UsageError, match=r"--global-prompts p: its prompts are of other classes "):
        with_global_prompts(own, other, "p", option="--global-prompts")
    with pytest.raises(UsageError, match=r"is for detectors of local-prompt, .* one is of mcm"):
        with_global_prompts(prompts, own, "p", option="--global-prompts")
    model = {**prompts.backbone, "weights": "0"}
    with pytest.raises(UsageError, match="was made for another model"):
        with_global_prompts(own, replace(prompts, backbone=model), "p", option="--global-prompts")
    bells = (ClassName.of("bell"), ClassName.of("tree"), ClassName.of("house"))
    for names_given in (bells, CLASSES):
        with pytest.raises(UsageError, match=r"class-specific|nothing to apply"):
            with_neglabel(
                own, names_given, NegativesChoice(), plain, "d", announce=lambda text: None
            )
    with pytest.raises(UsageError, match=r"needs the images themselves, .* give --train images$"):
        tune(images, plain, TuningRun())


def test_towers_without_regions_are_refused_before_anything_is_encoded(
    images: LabelledFeatures, plain: Encoder, backbone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert count_regions(backbone) == 64

    def encoded(*given: Any) -> Any:
        raise AssertionError("views were asked for")

    how = TuningRun(views=encoded)
    with monkeypatch.context() as patched:
        patched.setattr(backbone, "local_refusal", "this ViT pools by attention")
        with pytest.raises(UsageError, match="--model bundled: this ViT pools by attention"):
            tune(images, plain, how)
    monkeypatch.setattr("vlood.backbone.local.region_grid", lambda visual, size: (1, 1))
    with pytest.raises(UsageError, match="has a single region, the whole image"):
        tune(images, plain, how)


def test_images_smaller_than_a_region_are_told_of(items: list[ImageItem]) -> None:
    assert small_images(items, (8, 8)) is None
    told = small_images(items, (8, 80))
    assert told is not None
    assert told.startswith("6 training images are smaller than a region of the model, 80 x 8 pix")
    assert told.endswith("and 3 more): their regions show nothing of their own; use larger images")


def test_the_store_is_of_these_views(tmp_path: Path) -> None:
    first = MapStore(tmp_path, (2, 2, 4, 8), {"views": "a"}, instead="-")
    first.commit(1)
    assert MapStore(tmp_path, (2, 2, 4, 8), {"views": "b"}, instead="-").done == 0
