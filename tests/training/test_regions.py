"""Teaching a small CLIP's regions: the loss, what is held, resuming."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from vlood.training.contrastive import ContrastiveSettings, train
from vlood.training.pictures import WorldPictures
from vlood.training.regions import RegionSettings, region_loss, teach_regions

SMALL = ContrastiveSettings(
    steps=1,
    batch_size=4,
    embed_dim=16,
    vision={"image_size": 64, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16},
    text={"width": 16, "heads": 2, "layers": 1},
)
SHORT = RegionSettings(steps=4, batch_size=4, warmup=1, checkpoint_every=2, best=3, worst=2)


def _unit(*shape: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_the_loss_agrees_with_a_plain_one() -> None:
    regions, texts, scale = _unit(3, 5, 8, seed=0), _unit(4, 8, seed=1), 7.0
    total, likeness = 0.0, np.zeros((3, 4))
    for image in range(3):
        for text in range(4):
            ordered = sorted((float(r @ texts[text]) for r in regions[image]), reverse=True)
            likeness[image, text] = np.mean(ordered[:3])
            if image == text:
                edge = scale * (SHORT.bound - likeness[image, text])
            else:
                edge = scale * (np.mean(ordered[:2]) - SHORT.bound)
            total += SHORT.weight_bound * math.log1p(math.exp(edge)) / 3

    def cross_entropy(rows: np.ndarray) -> float:
        return float(-np.diag(rows - np.log(np.exp(rows).sum(1, keepdims=True))).mean())

    total += cross_entropy(scale * likeness) / 2 + cross_entropy(scale * likeness[:, :3].T) / 2
    assert float(region_loss(regions, texts, scale, SHORT)) == pytest.approx(total, rel=1e-5)


def test_a_picture_of_fewer_regions_than_asked_for_counts_them_all() -> None:
    regions, texts = _unit(3, 2, 8, seed=0), _unit(4, 8, seed=1)
    few, all_of_them = replace(SHORT, best=6, worst=5), replace(SHORT, best=2, worst=2)
    found = region_loss(regions, texts, 7.0, few)
    assert float(found) == float(region_loss(regions, texts, 7.0, all_of_them))
    assert float(found) != float(region_loss(regions, texts, 7.0, replace(SHORT, best=1, worst=1)))


def test_only_the_image_tower_is_taught_and_a_stopped_run_goes_on(tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(step: int, _: float) -> None:
        if step == 2:
            raise StoppedError

    start = train(WorldPictures(), SMALL, tmp_path / "first")
    straight = teach_regions(start, WorldPictures(), SHORT, tmp_path / "straight")
    with pytest.raises(StoppedError):
        teach_regions(start, WorldPictures(), SHORT, tmp_path / "halted", on_step=stop)
    halted = teach_regions(start, WorldPictures(), SHORT, tmp_path / "halted")
    before, once, twice = (
        load_file(folder / "open_clip_model.safetensors") for folder in (start, straight, halted)
    )
    assert all(torch.equal(once[name], twice[name]) for name in once)
    changed = {name for name in before if not torch.equal(before[name], once[name])}
    assert changed
    assert all(name.startswith("visual.") for name in changed)
    with pytest.raises(ValueError, match="other settings"):
        teach_regions(start, WorldPictures(), replace(SHORT, hold=1.0), tmp_path / "halted")
