"""CLIPN's "no" tower in training: what moves, what does not, and what comes out of it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.backbone.conftest import VIT, build, write_folder
from vlood.backbone.backbone import Backbone
from vlood.backbone.image_features import ImageFeatures
from vlood.backbone.load import load_backbone
from vlood.backbone.no_text import TextSide, encode_no_texts
from vlood.backbone.text import CausalTextTower
from vlood.detector.adapter_files import has_adapter, read_adapter, write_adapter
from vlood.errors import UsageError
from vlood.methods import clipn
from vlood.methods.clipn_settings import CLIPNSettings
from vlood.methods.clipn_training import (
    Objective,
    compiled_no_features,
    no_state,
    starting_tower,
    texts_of,
)
from vlood.methods.contract import Learned, TunedDetector
from vlood.prompts.classes import ClassName
from vlood.prompts.templates import ClassFeatures, class_features, read_no_templates
from vlood.training.captioned import CaptionedFeatures
from vlood.training.checkpoints import RunFolder
from vlood.training.draws import ShuffledRows
from vlood.training.labelled import LabelledFeatures
from vlood.training.loop import StepReport
from vlood.training.tuning import Tuning, unwatched

N, D = 24, 24
WORDS = ("dog", "tench", "red bus", "harp", "old wooden house by the sea", "cat")
CAPTIONS = tuple(f"{'a photo of ' * (row % 3)}{WORDS[row % 6]} {row // 12}" for row in range(N))
RAW = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
IMAGES = CaptionedFeatures.of(RAW, CAPTIONS)
NAMES = ("dog", "cat", "red bus")
CLASSES = ClassFeatures(NAMES, np.zeros((3, 0), np.float32))
QUICK = {"batch_size": 8, "epochs": 2, "prompts": 4, "rank": 2, "learning_rate": 0.002}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = write_folder(tmp_path_factory.mktemp("tiny"), build(), VIT)
    return load_backbone(f"local-dir:{folder}", device="cpu", precision="fp32")


def fit(
    backbone: Backbone,
    images: LabelledFeatures = IMAGES,
    *,
    run: RunFolder | None = None,
    on_step: Any = unwatched,
    **values: Any,
) -> TunedDetector:
    settings = CLIPNSettings(**{**QUICK, **values})
    tuning = Tuning(backbone, NAMES, run, on_step=on_step)
    return clipn.fit(CLASSES, settings, 20.0, captions=images, tuning=tuning, seed=3)


def losses_of(backbone: Backbone, **values: Any) -> tuple[list[dict[str, float]], TunedDetector]:
    told: list[dict[str, float]] = []

    def watch(report: StepReport) -> None:
        told.append({"loss": report.loss, **report.parts})

    return told, fit(backbone, on_step=watch, **values)


def test_it_starts_at_the_known_values_and_learns(backbone: Backbone) -> None:
    told, made = losses_of(backbone, epochs=8)
    assert told[0]["yes"] == pytest.approx(math.log(2), abs=1e-4)
    assert told[0]["no"] == pytest.approx(math.log(2), abs=1e-4)
    assert told[0]["tso"] == pytest.approx(1.99, abs=1e-3)
    assert told[0]["loss"] == pytest.approx((2 * math.log(2) + 1.99) / 2, abs=1e-3)
    assert np.mean([one["loss"] for one in told[-6:]]) < told[0]["loss"] - 0.1
    assert len(told) == 24
    assert made.learned is not None
    assert made.learned.about["steps"] == 24
    paper, _ = losses_of(backbone, preset="clipn-paper")
    assert paper[0]["loss"] == pytest.approx(2 * math.log(2) + 1.99, abs=1e-3)


def test_a_copy_without_training_says_a_half(backbone: Backbone) -> None:
    tower, _ = starting_tower(backbone.text_tower, CLIPNSettings(prompts=4), 0)
    classes = [ClassName.of(name) for name in NAMES]
    yes = class_features(backbone.encode_texts, classes, ["a {}."]).features
    no = class_features(
        lambda texts: encode_no_texts(backbone, tower.state(), texts), classes, ["a {}."]
    ).features
    np.testing.assert_allclose(no, yes, atol=1e-6)
    for rule in clipn.CLIPNSettings.__dataclass_fields__ and ("atd", "ctw"):
        settings = CLIPNSettings(rule=rule)
        tensors = {"class_features": yes, "no_features": no}
        detector = clipn.Detector("clipn", settings, NAMES, tensors, 20.0)
        scores = clipn.score(detector, ImageFeatures(RAW)).score
        np.testing.assert_allclose(scores, 0.5, atol=1e-4)


@pytest.mark.parametrize("way", ["full", "lora", "prompts"])
def test_what_is_trained_gets_gradients_and_nothing_else_moves(
    backbone: Backbone, way: str
) -> None:
    settings = CLIPNSettings(**QUICK, no_train=way)
    tower, adapter = starting_tower(backbone.text_tower, settings, 0)
    before = {name: each.clone() for name, each in backbone.module.state_dict().items()}
    assert (adapter is not None) == (way == "lora")
    trainable = tower.trainable()
    assert "prompt_no" in trainable
    kinds = {"full": 30, "prompts": 1, "lora": 1 + 2 * 3 * 2}
    assert len(trainable) == kinds[way]
    tokens = backbone.tokenizer(list(CAPTIONS))
    with torch.no_grad():
        expected = backbone.text_tower.encode_tokens(tokens)
        torch.testing.assert_close(tower(tokens), expected, rtol=1e-4, atol=1e-4)
        # One half of an adapter is zero at first, and hides the gradient of the other.
        for name, parameter in trainable.items():
            if "lora_B" in name:
                parameter.normal_(0, 0.02, generator=torch.Generator().manual_seed(0))
    drawn = torch.arange(N) % 5
    F.normalize(tower(tokens, drawn), dim=1).square()[:, ::3].sum().backward()
    for name, parameter in trainable.items():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name
    frozen = [each for each in tower.parameters() if not each.requires_grad]
    assert all(each.grad is None for each in frozen)
    for name, each in backbone.module.state_dict().items():
        torch.testing.assert_close(each, before[name], rtol=0, atol=0)


def test_prompts_behind_the_end_of_a_text_get_no_gradient(backbone: Backbone) -> None:
    tower, _ = starting_tower(backbone.text_tower, CLIPNSettings(no_train="prompts"), 0)
    tokens = backbone.tokenizer(["a dog", "a red bus at sea"])
    tower(tokens, torch.tensor([0, 1])).sum().backward()
    assert tower.prompt_no is not None
    gradient = tower.prompt_no.grad
    ends = backbone.text_tower.ends(tokens).tolist()
    assert gradient is not None
    for prompt, end in enumerate(ends):
        assert float(gradient[prompt, : end + 1].abs().max()) > 0
        assert float(gradient[prompt, end + 1 :].abs().max()) == 0
    assert float(gradient[2:].abs().max()) == 0


@pytest.mark.parametrize("values", [{}, {"variant": "hand-crafted"}, {"no_train": "lora"}])
def test_chunks_give_the_same_steps(backbone: Backbone, values: dict[str, Any]) -> None:
    whole, first = losses_of(backbone, **values)
    parts, second = losses_of(backbone, chunk=3, **values)
    for one, other in zip(whole, parts, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4)
    np.testing.assert_allclose(
        first.tensors["no_features"], second.tensors["no_features"], atol=5e-3
    )


@pytest.mark.parametrize("way", ["full", "lora"])
def test_a_killed_run_goes_on_to_the_same_tower(
    backbone: Backbone, tmp_path: Path, way: str
) -> None:
    def kill(report: StepReport) -> None:
        if report.step == 3:
            raise KeyboardInterrupt

    whole = fit(backbone, run=RunFolder(tmp_path / "whole"), no_train=way)
    folder = RunFolder(tmp_path / "killed", resume=True)
    with pytest.raises(KeyboardInterrupt):
        fit(backbone, run=folder, on_step=kill, no_train=way)
    again = fit(backbone, run=folder, no_train=way)
    assert whole.learned is not None
    assert again.learned is not None
    assert set(whole.learned.arrays) == set(again.learned.arrays)
    for name, array in whole.learned.arrays.items():
        np.testing.assert_array_equal(array, again.learned.arrays[name])
    for name, array in whole.tensors.items():
        np.testing.assert_array_equal(array, again.tensors[name])


def test_cached_features_train_as_all_towers_every_step_do() -> None:
    """20 steps beside a loop that encodes anew, on all 77 positions, with the whole batch."""
    backbone = load_backbone("bundled", device="cpu", precision="fp32")
    settings = CLIPNSettings(batch_size=8, epochs=7, chunk=3)
    pixels = torch.randn(N, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        raw = backbone.module.encode_image(pixels).numpy()
    images = CaptionedFeatures.of(raw, CAPTIONS)
    told: list[float] = []
    tuning = Tuning(backbone, NAMES, on_step=lambda report: told.append(report.loss))
    clipn.fit(CLASSES, settings, 20.0, captions=images, tuning=tuning, seed=3)
    texts = texts_of(images, NAMES, settings, 3)
    tokens = backbone.tokenizer(list(texts.no))
    tower, _ = starting_tower(backbone.text_tower, settings, 3)
    order = ShuffledRows(N, 8, 3)
    draws = Objective(tower, raw, texts, raw, tokens, order, settings, 20.0, 3)
    named = tower.trainable().values()
    optimizer = torch.optim.AdamW(
        [
            {"params": [one for one in named if one.ndim >= 2], "weight_decay": 0.2},
            {"params": [one for one in named if one.ndim < 2], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
        eps=1e-6,
    )
    side, module, loop = tower.side, backbone.module, settings.loop(N)
    lengths = (backbone.text_tower.ends(tokens) + 1).numpy()
    for step in range(20):
        for group in optimizer.param_groups:
            group["lr"] = loop.schedule.rate(3e-4, step, 3, 7)
        rows = order.batch(*divmod(step, 3))
        rows = rows[np.argsort(lengths[texts.index[rows, 0]], kind="stable")]
        chosen, prompts = draws._draws(rows, step)
        some = tokens[torch.from_numpy(chosen)]
        seen = F.normalize(module.encode_image(pixels[torch.from_numpy(rows)]), dim=-1)
        said = F.normalize(module.encode_text(some), dim=-1)
        pool = torch.cat([tower.prompt_no, tower.prompt_no.mean(dim=0, keepdim=True)])
        hidden = side.token_embedding(some) + side.positional_embedding
        hidden = side.transformer(hidden + pool[torch.from_numpy(prompts)], side.attn_mask)
        hidden = side.ln_final(hidden)[torch.arange(8), some.argmax(1)] @ side.text_projection
        no = F.normalize(hidden, dim=-1)
        pair = torch.stack([20 * seen @ said.T, 20 * seen @ no.T]).log_softmax(dim=0)
        own = torch.eye(8, dtype=torch.bool)
        apart = torch.sqrt(2 - 2 * (said * no).sum(dim=1) + 1e-4)
        loss = (-pair[0][own].mean() - pair[1][~own].mean() + (2 - apart).mean()) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert told[step] == pytest.approx(float(loss.detach()), abs=1e-4), step
    assert told[19] < told[0] - 0.05


@pytest.mark.parametrize(
    "values",
    [{}, {"no_train": "lora"}, {"no_train": "prompts"}, {"variant": "hand-crafted"}],
    ids=["full", "lora", "prompts", "hand-crafted"],
)
def test_what_is_kept_compiles_to_what_scores(
    backbone: Backbone, values: dict[str, Any], tmp_path: Path
) -> None:
    made = fit(backbone, **values)
    learned = made.learned
    assert learned is not None
    assert learned.kind == "no-text"
    pairs = read_no_templates()
    templates = tuple(positive for positive, _ in pairs)
    assert learned.about["templates"] == list(templates)
    classes = [ClassName.of(name) for name in NAMES]
    if has_adapter(learned):
        write_adapter(tmp_path / "adapter", learned)
        held = read_adapter(tmp_path / "adapter", "here")
        learned = replace(learned, arrays={**learned.arrays, **held})
    again = compiled_no_features(learned, backbone, classes, templates)
    np.testing.assert_array_equal(made.tensors["no_features"], again)
    yes = class_features(backbone.encode_texts, classes, templates).features
    np.testing.assert_allclose(made.tensors["class_features"], yes, atol=1e-6)
    kinds = {array.dtype for array in learned.arrays.values()}
    assert kinds == {np.dtype(np.float32 if "no_train" in values else np.float16)}
    if values.get("variant") == "hand-crafted":
        assert learned.about["no_templates"] == [negation for _, negation in pairs]
        assert "prompt_no" not in learned.arrays


def test_an_adapter_is_one_that_peft_reads(backbone: Backbone, tmp_path: Path) -> None:
    from peft import PeftModel

    learned = fit(backbone, no_train="lora").learned
    assert learned is not None
    write_adapter(tmp_path / "adapter", learned)
    tower = backbone.text_tower
    side = TextSide(tower).float()
    read = PeftModel.from_pretrained(side, str(tmp_path / "adapter"))
    plain = CausalTextTower(side, tower.pool, tower.eos_id)
    alone = {name: each for name, each in learned.arrays.items() if name != "prompt_no"}
    state = no_state(Learned("no-text", alone, learned.about), backbone)
    texts = ["a dog", "the harp"]
    with torch.no_grad():
        theirs = plain.encode_tokens(backbone.tokenizer(texts)).numpy()
    assert read is not None
    np.testing.assert_allclose(encode_no_texts(backbone, state, texts), theirs, atol=1e-5)
    unchanged = backbone.encode_texts(texts)
    assert np.abs(theirs - unchanged).max() > 1e-3


def test_texts_of_captions_and_of_labels() -> None:
    settings = CLIPNSettings()
    plain = texts_of(IMAGES, (), settings, 0)
    assert plain.yes == plain.no
    assert [plain.yes[row] for row in plain.index[:, 0]] == list(CAPTIONS)
    assert not plain.by_template
    pairs = read_no_templates()
    labelled = LabelledFeatures(RAW, np.arange(N) % 3)
    made = texts_of(labelled, NAMES, settings, 0)
    assert made.by_template
    assert made.index.shape == (N, len(pairs))
    assert made.yes[made.index[4, 0]] == pairs[0][0].replace("{}", "cat")
    assert made.yes == made.no
    assert len(made.yes) == 3 * len(pairs)
    crafted = texts_of(IMAGES, (), CLIPNSettings(variant="hand-crafted", pairs=3), 0)
    assert crafted.index.shape == (N, 3)
    by_positive = dict(pairs)
    for column in range(3):
        row = crafted.index[5, column]
        template = next(one for one in by_positive if crafted.yes[row] == one.format(CAPTIONS[5]))
        assert crafted.no[row] == by_positive[template].format(CAPTIONS[5])


def test_classes_share_no_blame_where_captions_come_from_labels(backbone: Backbone) -> None:
    labelled = LabelledFeatures(RAW, np.arange(N) % 3)
    told: dict[str, list[float]] = {"auto": [], "keep": []}
    for same, held in told.items():
        fit(backbone, labelled, same=same, on_step=lambda report, h=held: h.append(report.loss))
    assert told["auto"][0] == pytest.approx(told["keep"][0], abs=1e-3)
    assert told["auto"][-1] < told["keep"][-1]


def test_what_cannot_be_trained_is_refused(backbone: Backbone) -> None:
    with pytest.raises(UsageError, match="1 image with a caption"):
        fit(backbone, IMAGES.rows(np.array([0])))
    tuning = Tuning(backbone, NAMES, templates=("a {}.",))
    settings = CLIPNSettings(**QUICK, variant="hand-crafted")
    with pytest.raises(UsageError, match="templates in pairs"):
        clipn.fit(CLASSES, settings, 20.0, captions=IMAGES, tuning=tuning)
    one = ClassFeatures(("dog",), np.zeros((1, 0), np.float32))
    with pytest.raises(UsageError, match=r"ATD weighs classes.*--set rule=ctw"):
        clipn.fit(one, CLIPNSettings(), 20.0, captions=IMAGES, tuning=Tuning(backbone, ("dog",)))
    learned = fit(backbone, no_train="lora").learned
    assert learned is not None
    wrong = {**learned.arrays, "prompt_no": np.zeros((4, 5, 32), np.float32)}
    with pytest.raises(UsageError, match="prompt_no has shape"):
        no_state(Learned("no-text", wrong, learned.about), backbone)
    lacking = {name: each for name, each in learned.arrays.items() if "c_fc" not in name}
    with pytest.raises(UsageError, match="adapter of the"):
        no_state(Learned("no-text", lacking, learned.about), backbone)
