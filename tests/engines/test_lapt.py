"""LAPT by the engine, on the bundled model: from images of classes and negatives to a detector."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlood.backbone.image_features import ImageFeatures
from vlood.detector.export.coop import write_coop
from vlood.detector.folder import load_detector, save_detector
from vlood.detector.importing.checkpoint import read_checkpoint
from vlood.detector.importing.lapt import import_lapt
from vlood.detector.importing.target import Target
from vlood.engines.applying import apply_detector
from vlood.engines.detectors import training_negatives
from vlood.engines.few_shot import fit_from_images
from vlood.engines.fitted import Fitted
from vlood.engines.method_needs import needs_training
from vlood.engines.mining import Encoder, mine_words
from vlood.engines.negatives import NegativesChoice
from vlood.engines.saved_detectors import saved_from
from vlood.engines.text_side import TextSide
from vlood.engines.training_images import LabelledBatch, training_set
from vlood.engines.tuning import TuningRun
from vlood.errors import UsageError
from vlood.methods import registry
from vlood.negatives.bank import NegativeBank
from vlood.negatives.corpora import read_corpus
from vlood.negatives.mining import MiningSettings
from vlood.negatives.prompting import Prompting
from vlood.prompts.classes import ClassName
from vlood.prompts.contexts import Contexts, encode_prompts
from vlood.training.checkpoints import RunFolder
from vlood.training.labelled import LabelledFeatures

CLASSES = tuple(map(ClassName.of, ("anchor", "gear", "heart")))
SIDE = TextSide(CLASSES)
QUICK = {"epochs": "3", "batch_size": "8"}
PICTURED = 4


@pytest.fixture(scope="module")
def bank(plain: Encoder) -> NegativeBank:
    settings = MiningSettings(size=12)
    return mine_words(read_corpus("bundled"), CLASSES, Prompting(), settings, plain)


@pytest.fixture(scope="module")
def images(plain: Encoder, bank: NegativeBank) -> LabelledFeatures:
    """Return texts that play images: four of each class and of a third of the negatives."""
    names = [*(each.name for each in CLASSES), *bank.terms[:PICTURED]]
    looks = ("a red {}", "a blurry photo of a {}", "a large {} on a blue background", "the {}")
    raw = plain.encode([look.format(name) for name in names for look in looks])
    labels = np.repeat(np.arange(len(names)), len(looks))
    return LabelledFeatures(raw, labels, tuple(map(str, range(len(labels)))))


@pytest.fixture(scope="module")
def negatives(bank: NegativeBank) -> NegativesChoice:
    return NegativesChoice(found=bank.negative_features())


def tune(
    images: LabelledFeatures, encoder: Encoder, negatives: NegativesChoice, **options: Any
) -> Fitted:
    settings = QUICK | options.pop("settings", {})
    return fit_from_images(
        "lapt", SIDE, images, encoder=encoder, negatives=negatives, settings=settings, **options
    )


def test_what_is_learned_scores_is_kept_and_serves_other_names(
    images: LabelledFeatures, plain: Encoder, negatives: NegativesChoice, tmp_path: Path
) -> None:
    reports = []
    fitted = tune(images, plain, negatives, run=TuningRun(on_step=reports.append))
    detector, learned = fitted.detector, fitted.learned
    assert learned is not None
    assert (detector.method, fitted.templates) == ("neglabel", ())
    # 28 images and the texts of 8 labels without any, 8 a step.
    assert (len(reports), learned.about["steps"]) == (3 * 5, 15)
    assert set(reports[0].parts) >= {"plain", "cross_modal"}
    assert learned.about["notes"] == [
        "8 of 12 negative labels in training have no images; their texts stand in for them, an "
        "extension of LAPT"
    ]
    assert {name: array.shape for name, array in learned.arrays.items()} == {
        "ctx": (4, 64),
        "negative_ctx": (4, 64),
    }
    for names, tensor, vectors in (
        (tuple(each.prompt for each in CLASSES), "class_features", "ctx"),
        (detector.negative_names, "negative_features", "negative_ctx"),
    ):
        again = encode_prompts(plain.backbone, Contexts(learned.arrays[vectors]), names)
        again /= np.linalg.norm(again, axis=1, keepdims=True)
        np.testing.assert_allclose(detector.tensors[tensor], again, atol=1e-5)
    scores = registry.score(detector, ImageFeatures(images.raw)).score
    known = images.labels < len(CLASSES)
    assert scores[known].min() > scores[~known].max()

    save_detector(tmp_path / "d", saved_from(fitted, CLASSES, plain, {}))
    held = load_detector(tmp_path / "d")
    assert [row.term for row in held.negatives] == list(detector.negative_names)
    other = (ClassName.of("umbrella"), ClassName.of("snowman"))
    applied = apply_detector(
        held, other, negatives, plain, threshold=None, where="d", announce=print
    ).detector
    assert applied.class_names == ("umbrella", "snowman")
    np.testing.assert_allclose(
        applied.tensors["negative_features"], detector.tensors["negative_features"], atol=1e-6
    )


def test_what_goes_out_in_the_published_layout_comes_back_the_same(
    images: LabelledFeatures,
    plain: Encoder,
    negatives: NegativesChoice,
    bank: NegativeBank,
    tmp_path: Path,
) -> None:
    fitted = tune(images, plain, negatives)
    told = write_coop(saved_from(fitted, CLASSES, plain, {}), plain.backbone, tmp_path / "out")
    assert (told["epoch"], told["left_out"]) == (3, [])
    file = tmp_path / "out" / "prompt_learner" / "model.pth.tar-3"
    back = import_lapt(
        read_checkpoint(file), Target(CLASSES, lambda: plain.backbone), bank
    ).saved.detector
    assert back.negative_names == fitted.detector.negative_names
    for name, tensor in fitted.detector.tensors.items():
        np.testing.assert_allclose(back.tensors[name], tensor, atol=1e-6)


def test_a_stopped_run_goes_on_to_the_same_bytes(
    images: LabelledFeatures, plain: Encoder, negatives: NegativesChoice, tmp_path: Path
) -> None:
    first = tune(images, plain, negatives, seed=4).learned
    assert first is not None

    def stop(report: Any) -> None:
        if report.step == 7:
            raise KeyboardInterrupt

    run = RunFolder(tmp_path / "run", resume=True)
    with pytest.raises(KeyboardInterrupt):
        tune(images, plain, negatives, seed=4, run=TuningRun(run, stop))
    fewer = replace(negatives.found, names=negatives.found.names[::-1])
    with pytest.raises(UsageError, match=r"was started with something else \(negatives differ\)"):
        tune(images, plain, replace(negatives, found=fewer), seed=4, run=TuningRun(run))
    again = tune(images, plain, negatives, seed=4, run=TuningRun(run)).learned
    other = tune(images, plain, negatives, seed=5).learned
    assert again is not None
    assert other is not None
    for name, array in first.arrays.items():
        assert array.tobytes() == again.arrays[name].tobytes()
        assert not np.array_equal(array, other.arrays[name])


@pytest.mark.parametrize(
    ("settings", "trained", "notes"),
    [
        ({"contexts": "unified", "preset": "lapt-released"}, 12, "8 of 12 negative labels"),
        ({"contexts": "class-specific", "train_negatives": "6"}, 6, "2 of 6 negative labels"),
        ({"train_negatives": "3", "objective": "merged"}, 3, "4 of 28 training images show"),
        ({"stand_ins": "0", "init": "the nice", "accumulate": "2"}, 12, ""),
        ({"stand_ins": "2", "precision": "bf16", "objective": "binary"}, 12, "8 of 12 negative"),
    ],
)
def test_every_way_to_train(
    images: LabelledFeatures,
    plain: Encoder,
    negatives: NegativesChoice,
    settings: dict[str, str],
    trained: int,
    notes: str,
) -> None:
    fitted = tune(images, plain, negatives, settings=settings)
    assert fitted.learned is not None
    about, arrays = fitted.learned.about, fitted.learned.arrays
    assert about["train_negatives"] == trained
    assert "".join(about["notes"]).startswith(notes)
    assert bool(about["notes"]) == bool(notes)
    specific = settings.get("contexts") == "class-specific"
    assert arrays["negative_ctx"].shape[:-2] == ((trained,) if specific else ())
    assert len(fitted.detector.negative_names) == (trained if specific else 12)
    same = np.array_equal(arrays["ctx"], arrays["negative_ctx"])
    assert same == (settings.get("contexts") == "unified")
    scores = registry.score(fitted.detector, ImageFeatures(images.raw)).score
    known = images.labels < len(CLASSES)
    assert scores[known].mean() > scores[~known].mean() + 0.2


def test_the_negatives_of_the_images_train_first(
    images: LabelledFeatures, plain: Encoder, bank: NegativeBank
) -> None:
    far = bank.only(np.arange(len(bank))[::-1].copy()).negative_features()
    choice = NegativesChoice(found=far)
    moved = replace(images, labels=images.labels.copy())
    moved.labels[-1] = len(CLASSES) + 11
    fitted = tune(moved, plain, choice, settings={"train_negatives": str(PICTURED + 1)})
    assert fitted.learned is not None
    assert fitted.learned.about["pictured_negatives"] == PICTURED + 1
    assert fitted.learned.about["notes"] == []


def test_images_are_labelled_with_classes_first_then_with_negatives(
    images: LabelledFeatures, plain: Encoder, bank: NegativeBank
) -> None:
    batch = LabelledBatch(
        list("abcde"),
        ["gear", bank.terms[1].replace(" ", "_"), "anchor", "no such thing", "heart"],
        np.arange(5),
        ImageFeatures(images.raw[:5]),
        {},
    )
    found = training_set([batch], CLASSES, ["heart", *bank.terms])
    assert found.images.labels.tolist() == [1, 3 + 2, 0, 2]
    assert dict(found.unmatched) == {"no such thing": 1}
    alone = training_set([batch], CLASSES)
    assert alone.images.labels.tolist() == [1, 0, 2]

    # Only a method that learns from them has its negatives looked for.
    choice = NegativesChoice("nowhere")
    assert training_negatives("coop", SIDE, choice, plain, announce=print) is choice
    with pytest.raises(UsageError, match="--negatives nowhere: does not exist"):
        training_negatives("lapt", SIDE, choice, plain, announce=print)
    assert "vlood collect" in needs_training("lapt")
    assert "vlood collect" not in needs_training("coop")
    mined = training_negatives("lapt", SIDE, NegativesChoice(), plain, announce=print)
    assert mined.found is not None
    assert len(mined.found) > 100


def test_few_shots_are_of_each_class_and_of_negatives_as_far_as_there_are(
    images: LabelledFeatures, plain: Encoder, negatives: NegativesChoice
) -> None:
    some = images.rows(np.arange(len(images) - 3))  # the last negative has one image
    fitted = tune(some, plain, negatives, shots=2, seed=1)
    assert fitted.trained is not None
    assert fitted.trained.images == 3 * 2 + 3 * 2 + 1
    missing = images.rows(np.flatnonzero(images.labels != 1))
    with pytest.raises(UsageError, match=r"1 of 3 classes have no training image \(gear\)"):
        tune(missing, plain, negatives)
