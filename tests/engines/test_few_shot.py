"""Methods fitted from labelled images: gathered, drawn, fitted, saved, scored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlood.backbone.image_features import ImageFeatures
from vlood.detector.folder import load_detector, save_detector
from vlood.engines.applying import apply_detector
from vlood.engines.detectors import fit_all, fit_zero_shot
from vlood.engines.few_shot import check_learns, features_digest, fit_from_images
from vlood.engines.mining import Encoder
from vlood.engines.negatives import NegativesChoice
from vlood.engines.saved_detectors import calibrated, saved_from
from vlood.engines.scoring import score_embeddings
from vlood.engines.text_side import TextSide
from vlood.engines.training_images import (
    LabelledBatch,
    labelled_embeddings,
    stored_model,
    training_set,
)
from vlood.errors import UsageError
from vlood.features.embeddings import Embeddings
from vlood.methods import registry
from vlood.prompts.classes import ClassName
from vlood.prompts.templates import ClassFeatures
from vlood.training.labelled import LabelledFeatures

CLASSES = (ClassName.of("cat"), ClassName("n01", "wire fox"), ClassName.of("red_bus"))
SIDE = TextSide(CLASSES)


def rows(each: int = 12, seed: int = 0) -> Embeddings:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(3).normal(size=(3, 16)) * 3
    labels = np.tile(np.arange(3), each)
    features = (centres[labels] + rng.normal(size=(3 * each, 16)) * 0.5).astype(np.float32)
    named = [("cat", "wire fox", "red bus")[label] for label in labels]
    return Embeddings(features, [f"{seed}/{row}.png" for row in range(3 * each)], named)


def images(each: int = 12, seed: int = 0) -> LabelledFeatures:
    return training_set(labelled_embeddings(rows(each, seed)), CLASSES).images


def probe(given: LabelledFeatures, **options: Any) -> Any:
    return fit_from_images("linear-probe", SIDE, given, **options)


def test_labels_are_matched_as_data_sets_write_them() -> None:
    stored = rows(4)
    labels = list(stored.labels or [])
    labels[0], labels[1], labels[2] = "tree", "", "2"
    features = ImageFeatures(stored.features)
    batch = LabelledBatch(
        [*stored.ids, "broken.png"],
        [*(label or None for label in labels), "cat"],
        np.arange(12),
        features,
        {12: "is no image"},
    )
    found = training_set([batch], CLASSES)
    assert found.images.labels.tolist() == [2, 0, 1, 2, 0, 1, 2, 0, 1, 2]
    assert found.images.ids == tuple(stored.ids[2:])
    np.testing.assert_array_equal(found.images.raw, stored.features[2:])
    assert (dict(found.unmatched), found.unlabelled) == ({"tree": 1}, 1)
    assert found.unreadable == {"broken.png": "is no image"}
    assert found.left_out() == (
        "--train: 2 of 12 images left out: the labels of 1 are none of the classes (tree) and "
        "1 have no label"
    )
    assert training_set(labelled_embeddings(rows(2)), CLASSES).left_out() is None


def test_what_cannot_be_learned_from_is_one_sentence() -> None:
    def refused(labels: list[str] | None, classes: tuple[ClassName, ...] = CLASSES) -> str:
        stored = Embeddings(rows(1).features, ["a", "b", "c"], labels)
        with pytest.raises(UsageError) as caught:
            training_set(labelled_embeddings(stored), classes)
        return str(caught.value)

    assert "none of the 3 images has a label; put each class in a folder" in refused(None)
    assert "the images are labelled boat, tree, and --classes has cat" in refused(
        ["tree", "boat", ""]
    )
    assert "1 of 3 classes have no training image (red_bus)" in refused(["cat", "n01", "cat"])

    def unreadable() -> Iterator[LabelledBatch]:
        none = ImageFeatures(np.zeros((0, 4), np.float32))
        yield LabelledBatch(["a"], ["cat"], np.zeros(0, np.int64), none, {0: "is empty"})

    with pytest.raises(UsageError, match="none of the 1 images could be read"):
        training_set(unreadable(), CLASSES)
    with pytest.raises(UsageError, match="--train: no images"):
        training_set([], CLASSES)
    with pytest.raises(UsageError, match="have no local ones; store them with"):
        next(labelled_embeddings(rows(1), local=True))


def test_the_same_arguments_give_the_same_detector() -> None:
    given = images()
    first, second = probe(given, shots=4, seed=5), probe(given, shots=4, seed=5)
    other = probe(given, shots=4, seed=6)
    np.testing.assert_array_equal(
        first.detector.tensors["weight"], second.detector.tensors["weight"]
    )
    assert first.trained == second.trained
    assert first.trained.sampled != other.trained.sampled
    assert (first.trained.images, first.trained.shots, first.trained.seed) == (12, 4, 5)
    assert len(set(first.trained.sampled)) == 12
    assert set(probe(given, shots=2, seed=5).trained.sampled) < set(first.trained.sampled)
    whole = probe(given)
    assert (whole.trained.images, whole.trained.sampled, whole.templates) == (36, (), ())
    assert whole.trained.digest == features_digest(given) != first.trained.digest
    assert features_digest(given.rows(np.arange(36)[::-1])) == features_digest(given)
    by_setting = probe(given, settings={"solver": "sgd", "linear-probe.epochs": "3"})
    assert (by_setting.detector.settings.solver, by_setting.detector.settings.epochs) == ("sgd", 3)


def test_it_is_saved_and_scores_the_same(tmp_path: Path) -> None:
    fitted = probe(images(), shots=3, seed=1)
    save_detector(tmp_path / "probe", saved_from(fitted, CLASSES, None, {"seed": 1}))
    held = load_detector(tmp_path / "probe")
    assert held.detector.settings == fitted.detector.settings
    assert held.provenance["shots"] == 3
    assert held.provenance["sampled"] == list(fitted.trained.sampled)
    assert held.provenance["training_digest"] == fitted.trained.digest
    test = rows(20, seed=7)
    before = registry.score(fitted.detector, ImageFeatures(test.features))
    after = registry.score(held.detector, ImageFeatures(test.features))
    np.testing.assert_array_equal(before.score, after.score)
    assert (after.label == np.tile(np.arange(3), 20)).mean() > 0.95
    card = (tmp_path / "probe" / "README.md").read_text()
    assert "learned: its tensors" in card
    whole = saved_from(probe(images()), CLASSES, None, {})
    on_training = calibrated(whole, score_embeddings(rows(), [whole.detector]))
    assert on_training.calibration is not None
    assert on_training.calibration.data["digest"] == whole.provenance["training_digest"]


def test_a_long_list_is_short_on_the_card(tmp_path: Path) -> None:
    fitted = probe(images(), shots=12)
    save_detector(tmp_path / "probe", saved_from(fitted, CLASSES, None, {}))
    card = (tmp_path / "probe" / "README.md").read_text()
    assert '- sampled: ["0/0.png", "0/1.png", "0/2.png", ...], 36 in all' in card


def test_class_embeddings_name_the_classes(tmp_path: Path) -> None:
    np.save(tmp_path / "names.npy", np.eye(3, 5, dtype=np.float32))
    (tmp_path / "names.txt").write_text("x\ny\nz\n")
    side = TextSide(None, class_embeddings=(tmp_path / "names.npy",))
    assert side.names() == ("x", "y", "z")
    # Their width does not matter to a method that looks at names alone.
    fitted = fit_from_images("linear-probe", side, images(), shots=2)
    assert fitted.detector.class_names == ("x", "y", "z")
    with pytest.raises(UsageError, match="--classes: is missing"):
        TextSide(None).names()


def test_what_cannot_be_fitted_is_one_sentence(plain: Encoder) -> None:
    given = images()
    with pytest.raises(UsageError, match="--train: --method mcm learns nothing from images"):
        fit_from_images("mcm", SIDE, given)
    with pytest.raises(UsageError, match="--shots 13: not every class"):
        probe(given, shots=13)
    check_learns("linear-probe")
    needs = r"linear-probe: learns from labelled images; give them with --train"
    with pytest.raises(UsageError, match=needs):
        fit_all(["linear-probe"], SIDE, NegativesChoice(), None, {}, announce=print)
    with pytest.raises(UsageError, match=needs):
        fit_zero_shot(["linear-probe"], ClassFeatures.of(["a", "b"], np.eye(2)), 100.0)
    saved = saved_from(probe(given), CLASSES, None, {})
    with pytest.raises(UsageError, match="trained on images of its own classes and says nothing"):
        apply_detector(
            saved,
            CLASSES[:2],
            NegativesChoice(),
            plain,
            threshold=None,
            where="d",
            announce=lambda text: None,
        )


def test_methods_that_learn_and_those_that_do_not_are_fitted_together(plain: Encoder) -> None:
    width = plain.backbone.embed_dim
    rng = np.random.default_rng(0)
    given = LabelledFeatures(
        rng.normal(size=(30, width)).astype(np.float32), np.repeat(np.arange(3), 10)
    )
    mcm, learned = fit_all(
        ["mcm", "linear-probe"], SIDE, NegativesChoice(), plain, {}, announce=print, images=given
    )
    assert mcm.detector.tensors["class_features"].shape == (3, width)
    assert learned.detector.tensors["weight"].shape == (3, width)
    assert learned.templates == ()


def test_a_store_names_its_model() -> None:
    identity = dict.fromkeys(
        ("architecture", "config", "weights", "preprocessing", "precision", "open_clip"), "same"
    )
    one = rows(1)
    stored = Embeddings(one.features, one.ids, meta={"model": "bundled", **identity, "more": 1})
    assert stored_model([stored, stored]) == ("bundled", identity)
    assert stored_model([stored, one]) is None
    assert stored_model([one]) is None
    assert stored_model([]) is None


@pytest.mark.shared
def test_food_is_told_apart_as_well_as_was_measured(shared: Path) -> None:
    folder = shared / "embeddings" / "food10_vitb32"
    names = tuple(
        ClassName.of(line) for line in (folder / "class_names.txt").read_text().split("\n") if line
    )
    given = LabelledFeatures(
        np.load(folder / "train_features.npy").astype(np.float32),
        np.load(folder / "train_labels.npy").astype(np.int64),
    )
    test = ImageFeatures(np.load(folder / "test_features.npy").astype(np.float32))
    true = np.load(folder / "test_labels.npy")
    others = ImageFeatures(
        np.load(shared / "embeddings/cifar10_500_vitb32/features.npy").astype(np.float32)
    )

    def accuracy(shots: int | None, **settings: str) -> float:
        made = fit_from_images(
            "linear-probe", TextSide(names), given, shots=shots, settings=settings
        ).detector
        scores = registry.score(made, test)
        strange = registry.score(made, others)
        if shots is None:
            assert (scores.score > np.median(strange.score)).mean() > 0.99
        return float((scores.label == true).mean())

    assert accuracy(None) >= 0.975
    assert accuracy(None, solver="sgd") >= 0.975
    assert accuracy(16) >= 0.965
    assert accuracy(1) >= 0.7
