"""Training a small CLIP from scratch: the loss, the schedule, resuming, exporting."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from vlood.images import world
from vlood.training.contrastive import (
    ContrastiveSettings,
    Vocabulary,
    contrastive_loss,
    learning_rate,
    train,
)
from vlood.training.pictures import FolderPictures, WorldPictures

TINY = ContrastiveSettings(
    steps=4,
    batch_size=6,
    warmup=2,
    checkpoint_every=2,
    embed_dim=16,
    vision={"image_size": 64, "patch_size": 32, "width": 32, "layers": 1, "head_width": 16},
    text={"width": 16, "heads": 2, "layers": 1},
)


class StoppedError(Exception):
    pass


def test_the_loss_is_the_mean_of_two_cross_entropies() -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.nn.functional.normalize(torch.randn(5, 8, generator=rng), dim=1)
    texts = torch.nn.functional.normalize(torch.randn(7, 8, generator=rng), dim=1)
    logits = (math.exp(1.5) * images @ texts.T).double().numpy()

    def cross_entropy(rows: np.ndarray) -> float:
        shifted = rows - rows.max(1, keepdims=True)
        log = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        return float(-np.diag(log).mean())

    expected = (cross_entropy(logits) + cross_entropy(logits[:, :5].T)) / 2
    loss = contrastive_loss(images, texts, torch.tensor(1.5))
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_equal_features_give_the_logarithm_of_the_batch() -> None:
    same = torch.ones(6, 4) / 2
    assert float(contrastive_loss(same, same, torch.tensor(2.0))) == pytest.approx(math.log(6))


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    settings = ContrastiveSettings(steps=100, warmup=10, learning_rate=1.0)
    rates = [learning_rate(step, settings) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] < 0.001


def test_compact_tokens_keep_their_order_so_the_end_stays_largest() -> None:
    vocabulary = Vocabulary.of(["a photo of a red umbrella.", "anchor"])
    tokens = vocabulary.encode(["anchor", "a red umbrella."])
    assert tokens.shape[0] == 2
    assert tokens.argmax(1).tolist() == [2, 5]
    assert int(tokens.max()) == len(vocabulary.kept) - 1


def test_every_caption_of_the_world_is_in_its_vocabulary() -> None:
    pictures = WorldPictures()
    vocabulary = Vocabulary.of(pictures.words())
    import open_clip

    tokenizer = open_clip.SimpleTokenizer()
    for step in range(5):
        batch = pictures.batch(32, 0, step)
        tokens = torch.unique(tokenizer([*batch.captions, *batch.absent]))
        assert set(tokens.tolist()) <= set(vocabulary.kept)


def test_a_batch_depends_on_nothing_but_seed_and_step() -> None:
    one, two = WorldPictures().batch(8, 1, 5), WorldPictures().batch(8, 1, 5)
    assert np.array_equal(one.images, two.images)
    assert one.captions == two.captions
    assert one.images.shape == (8, world.SIZE, world.SIZE, 3)
    assert len(one.absent) == len(world.vocabulary()) - 8
    assert len(set(one.captions)) == 8


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole = train(WorldPictures(), TINY, tmp_path / "whole")

    def stop(step: int, loss: float) -> None:
        if step == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(WorldPictures(), TINY, tmp_path / "stopped", on_step=stop)
    resumed = train(WorldPictures(), TINY, tmp_path / "stopped")
    name = "open_clip_model.safetensors"
    assert (whole / name).read_bytes() == (resumed / name).read_bytes()
    with pytest.raises(ValueError, match="other settings"):
        train(WorldPictures(), replace(TINY, seed=1), tmp_path / "stopped")


@pytest.mark.slow
def test_any_class_folders_train_a_model_open_clip_loads(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("red_fox", "grey_owl", "frog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(2):
            pixels = rng.integers(0, 255, (50, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    losses: list[float] = []
    folder = train(
        FolderPictures(tmp_path / "data"),
        TINY,
        tmp_path / "run",
        on_step=lambda step, loss: losses.append(loss),
    )
    assert len(losses) == TINY.steps
    assert all(math.isfinite(loss) for loss in losses)
    config = json.loads((folder / "open_clip_config.json").read_text())
    assert "patch_dropout" not in config["model_cfg"]["vision_cfg"]
    weights = load_file(folder / "open_clip_model.safetensors")
    assert weights["token_embedding.weight"].shape == (49408, 16)

    import open_clip

    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    assert model.encode_image(torch.zeros(1, 3, 64, 64)).shape == (1, 16)


def test_one_class_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "only").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "only" / "a.png")
    with pytest.raises(ValueError, match="at least two class folders"):
        FolderPictures(tmp_path)
