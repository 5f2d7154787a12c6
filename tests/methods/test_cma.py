"""CMA's run: what moves, what is kept, that it resumes, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.backbone.conftest import VIT, build, write_folder
from vlood.backbone.backbone import Backbone
from vlood.backbone.load import load_backbone
from vlood.detector.adapter_files import is_tuned_model, tuned_weights
from vlood.detector.folder import load_detector, save_detector
from vlood.detector.saved import SavedDetector
from vlood.errors import UsageError, VloodError
from vlood.images.augment import Augmentation
from vlood.methods import cma, registry
from vlood.methods.cma_run import ImageTextLoss
from vlood.methods.cma_settings import PRESETS, CMASettings
from vlood.methods.cma_towers import Towers
from vlood.methods.contract import TunedDetector, make_settings
from vlood.negatives.negative_features import NegativeFeatures, NegativeRow
from vlood.prompts.classes import ClassName
from vlood.prompts.templates import ClassFeatures
from vlood.training.checkpoints import RunFolder
from vlood.training.costs import CostProbe
from vlood.training.labelled import LabelledFeatures
from vlood.training.loop import StepReport
from vlood.training.steps import Loss
from vlood.training.tuning import Tuning

NAMES = ("dog", "cat", "red bus")
CLASSES = ClassFeatures(NAMES, np.zeros((3, 0), np.float32))
LABELS = np.repeat(np.arange(3), 5)
IMAGES = LabelledFeatures(np.ones((15, 24), np.float32), LABELS)
WORDS = ("harp", "stony", "tench")
NEGATIVES = NegativeFeatures.of(WORDS, np.eye(3, 24))
NEGATIVES = replace(NEGATIVES, rows=(NegativeRow("stony", "adj"),))
QUICK: dict[str, Any] = {"batch_size": 6, "epochs": 3, "rank": 2, "learning_rate": 0.01}


class Pictures:
    """A colour a class, with noise; a view of one is shifted."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []

    def of(
        self, rows: np.ndarray, number: int, seed: int, augmentation: Augmentation
    ) -> np.ndarray:
        found = []
        for row in rows.tolist():
            picture = np.random.default_rng(row).integers(0, 60, (32, 32, 3), np.uint8)
            picture[..., LABELS[row]] += 190
            shift = row + (0 if augmentation.is_none else 7 * (number + 1))
            found.append(np.roll(picture, shift, axis=1))
        return np.stack(found)

    def expect(self, rows: np.ndarray, number: int, seed: int, augmentation: Augmentation) -> None:
        self.asked.append(tuple(rows.tolist()))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = write_folder(tmp_path_factory.mktemp("tiny"), build(), VIT)
    return load_backbone(f"local-dir:{folder}", device="cpu", precision="fp32")


def fit(
    base: Backbone, tuning: dict[str, Any] | None = None, images: Any = IMAGES, **given: Any
) -> TunedDetector:
    circumstances = Tuning(
        base, NAMES, **{"pixels": Pictures(), "class_templates": ("the nice {}",), **(tuning or {})}
    )
    return cma.fit(
        CLASSES, CMASettings(**QUICK | given), 1.0, images=images, tuning=circumstances,
        negatives=NEGATIVES, seed=4,
    )  # fmt: skip


def test_it_learns_and_is_a_neglabel_detector_of_the_tuned_model(base: Backbone) -> None:
    reports: list[StepReport] = []
    before = {name: one.clone() for name, one in base.module.state_dict().items()}
    made = fit(base, {"on_step": reports.append}, tune="full", epochs=8, learning_rate=5e-4)
    losses = [one.loss for one in reports]
    assert len(losses) == 8 * 2
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    assert all(torch.equal(one, before[name]) for name, one in base.module.state_dict().items())
    assert made.method == "neglabel"
    assert made.backbone is not None
    assert made.backbone.digest != base.digest
    assert made.backbone.base_name == base.name
    assert made.logit_scale == made.backbone.logit_scale
    assert made.logit_scale != base.logit_scale
    texts = made.backbone.encode_texts([f"the nice {name}" for name in NAMES])
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    np.testing.assert_allclose(made.tensors["class_features"], texts, atol=1e-6)
    # Negatives are the same words in the templates of their kind, by the tuned tower.
    spoken = ["the nice harp", "This is a stony photo", "the nice tench"]
    words = made.backbone.encode_texts(spoken)
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    order = [WORDS.index(name) for name in made.negative_names]
    np.testing.assert_allclose(made.tensors["negative_features"], words[order], atol=1e-6)


@pytest.mark.parametrize("tune", ["lora", "full", "projection", "visual", "text"])
def test_a_detector_folder_loads_its_tuned_towers(
    base: Backbone, tune: str, tmp_path: Path
) -> None:
    made = fit(base, tune=tune, epochs=1, learning_rate=0.001, augment="none")
    assert made.backbone is not None
    assert made.learned is not None
    saved = SavedDetector(
        made.compiled(), tuple(map(ClassName.of, NAMES)), ("the nice {}",),
        backbone=made.backbone.identity(), model_name=base.name, learned=made.learned,
        negatives=NEGATIVES.rows_of(made.negative_names),
    )  # fmt: skip
    save_detector(tmp_path / "one", saved)
    (tmp_path / "one").rename(tmp_path / "two")
    loaded = load_detector(tmp_path / "two")
    assert loaded.base_model == base.name
    assert loaded.model_name == f"tuned:{tmp_path / 'two'}"
    tuned = load_backbone(loaded.model_name, device="cpu", precision="fp32")
    assert tuned.identity() == made.backbone.identity()
    pixels = Pictures().of(np.arange(4), 0, 0, Augmentation())
    np.testing.assert_array_equal(
        tuned.encode_pixels(pixels).raw, made.backbone.encode_pixels(pixels).raw
    )
    changed = (tmp_path / "two" / "adapter" / "adapter_config.json").is_file()
    assert changed == (tune == "lora")
    same_images = np.array_equal(tuned.encode_pixels(pixels).raw, base.encode_pixels(pixels).raw)
    assert same_images == (tune == "text")
    # Written again, as calibrating does, it is the same.
    save_detector(tmp_path / "three", loaded)
    again = load_detector(tmp_path / "three")
    assert again.base_model == base.name
    assert tuned_weights(again.learned).digest(base.digest) == tuned.digest  # type: ignore[arg-type]
    assert is_tuned_model(again.learned)


def test_any_chunk_gives_the_same_step(base: Backbone) -> None:
    reports: dict[int, list[StepReport]] = {}
    for chunk in (6, 4, 1):
        reports[chunk] = []
        fit(base, {"on_step": reports[chunk].append}, chunk=chunk, tune="full", epochs=1,
            learning_rate=1e-3)  # fmt: skip
    for chunk in (4, 1):
        for one, other in zip(reports[6], reports[chunk], strict=True):
            assert one.loss == pytest.approx(other.loss, rel=1e-4)
            assert one.parts == pytest.approx(other.parts, rel=1e-4)


def test_the_first_part_of_a_step_is_encoded_once(
    base: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, bool]] = []
    encode = Towers.encode_pictures

    def watched(towers: Towers, pictures: np.ndarray) -> torch.Tensor:
        seen.append((len(pictures), torch.is_grad_enabled()))
        return encode(towers, pictures)

    monkeypatch.setattr(Towers, "encode_pictures", watched)
    fit(base, batch_size=6, chunk=2, epochs=1, tune="projection", augment="none")
    step = [(2, False), (2, False), (2, True), (2, True), (2, True)]
    assert seen[: len(step)] == step
    assert len(seen) % len(step) == 0


@pytest.mark.parametrize(
    "given",
    [{}, {"tune": "full", "chunk": 4, "learning_rate": 1e-3}, {"targets": "mlp", "dropout": 0.3}],
    ids=["lora", "full in parts", "dropout"],
)
def test_a_stopped_run_goes_on_to_the_same_bytes(
    base: Backbone, given: dict[str, Any], tmp_path: Path
) -> None:
    whole = fit(base, {"run": RunFolder(tmp_path / "a")}, **given)

    def stop(report: StepReport) -> None:
        if report.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(base, {"run": RunFolder(tmp_path / "b"), "on_step": stop}, **given)
    resumed: list[int] = []
    rest = fit(
        base,
        {
            "run": RunFolder(tmp_path / "b", resume=True),
            "on_step": lambda report: resumed.append(report.step),
        },
        **given,
    )
    assert resumed == [4, 5, 6]
    assert whole.learned is not None
    assert rest.learned is not None
    assert set(whole.learned.arrays) == set(rest.learned.arrays)
    for name, array in whole.learned.arrays.items():
        np.testing.assert_array_equal(array, rest.learned.arrays[name])
    torch.manual_seed(7)
    state = torch.get_rng_state()
    fit(base, epochs=1, **{"targets": "mlp", "dropout": 0.3})
    assert torch.equal(state, torch.get_rng_state())


def test_training_stops_on_images_kept_aside(base: Backbone) -> None:
    reports: list[StepReport] = []
    made = fit(base, {"on_step": reports.append}, patience=1, watch="accuracy", epochs=40,
               held_out=0.4, augmented=0.5)  # fmt: skip
    assert len(reports) < 40
    assert made.learned is not None
    assert 0 <= made.learned.about["held_out"] <= 1


def test_a_loss_that_is_no_number_names_its_step(
    base: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ImageTextLoss.of

    def spoilt(self: ImageTextLoss, inputs: Any) -> Loss:
        found = own(self, inputs)
        return Loss(found.total * (float("nan") if inputs.step == 2 else 1.0), found.parts)

    monkeypatch.setattr(ImageTextLoss, "of", spoilt)
    with pytest.raises(VloodError, match="loss of step 3 of 6 is not a finite number"):
        fit(base)


def test_memory_that_does_not_hold_a_chunk_is_said(
    base: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Loss:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(ImageTextLoss, "_of", full)
    with pytest.raises(VloodError, match=r"6 images at once do not fit.*chunk=3"):
        fit(base)


def test_what_it_cannot_be_trained_with_is_refused(base: Backbone, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one class alone"):
        cma.check_training(CMASettings(), 1)
    with pytest.raises(UsageError, match="these are embeddings"):
        fit(base, {"pixels": None})
    with pytest.raises(UsageError, match="targets=zebra: matches no layer"):
        fit(base, targets="zebra")
    with pytest.raises(
        UsageError,
        match=r"targets=.*: 24 of 24 trained tensors get no gradient|"
        r"targets=.* trained tensors get no gradient",
    ):
        fit(base, targets=r".*attn\.out_proj")
    tuned = base.replaced(name="tuned:x", digest="0", module=base.module)
    with pytest.raises(UsageError, match="is a tuned model already"):
        fit(tuned)
    for wrong, said in (
        ({"tune": "all"}, "tune is 'all'"),
        ({"lambda_value": 1.0}, "below 1"),
        ({"template": "no slot"}, "write {}"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"dropout": 1.0}, "dropout is 1"),
    ):
        with pytest.raises(UsageError, match=said):
            CMASettings(**wrong)


def test_measuring_needs_no_images_and_changes_nothing(base: Backbone) -> None:
    probe = CostProbe()
    fit(base, {"pixels": None, "probe": probe})
    assert probe.cost is not None
    assert probe.cost.steps == 6


def test_published_recipes_are_presets() -> None:
    method = registry.get("cma")
    paper = make_settings(method, {"preset": "cma-paper"})
    assert (paper.tune, paper.batch_size, paper.epochs, paper.groups) == ("full", 512, 10, 1)
    loop = paper.loop(1_281_167, 150_000_000)
    steps = 1_281_167 // 512
    rates = [loop.schedule.rate(loop.learning_rate, at, steps, 10) for at in (0, 250, 500)]
    assert rates == pytest.approx([0, 5e-6, 1e-5])
    assert (loop.weight_decay, loop.betas, loop.eps, loop.decay_dims) == (
        0.1,
        (0.9, 0.999),
        1e-8,
        0,
    )
    assert not paper.multi_positive(512, 12)
    assert make_settings(method, {"preset": "flyp-paper"}).lambda_value == 0
    assert PRESETS["cma-paper"]["template"] == "a photo of a {}"
    auto = CMASettings()
    assert auto.multi_positive(64, 12)
    assert not auto.multi_positive(64, 100)
