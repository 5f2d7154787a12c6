"""Embeddings of every layer, and pictures moved by a score's slope."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlood.backbone.layers import LayeredBackbone, Step, layer_embeddings, refuse_layers
from vlood.backbone.load import load_backbone
from vlood.errors import UsageError


def images(side: int) -> torch.Tensor:
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_a_vit_gives_the_mean_patch_token_after_each_block(vit: Any) -> None:
    batch = images(32)
    with torch.no_grad():
        found = layer_embeddings(vit, batch)
        hidden = vit.visual._embeds(batch)
        for number, block in enumerate(vit.visual.transformer.resblocks):
            hidden = block(hidden)
            torch.testing.assert_close(found[number], hidden[:, 1:].mean(dim=1))
        torch.testing.assert_close(found[-1], vit.encode_image(batch))
    assert len(found) == 4


def test_a_resnet_gives_the_mean_of_each_stage(resnet: Any) -> None:
    batch, visual = images(64), resnet.visual
    with torch.no_grad():
        found = layer_embeddings(resnet, batch)
        grid = visual.stem(batch)
        torch.testing.assert_close(found[0], grid.mean(dim=(2, 3)))
        for number in range(1, 5):
            grid = getattr(visual, f"layer{number}")(grid)
            torch.testing.assert_close(found[number], grid.mean(dim=(2, 3)))
    assert len(found) == 6
    # Nothing is left behind in the tower.
    assert not visual.layer1._forward_hooks


def test_another_tower_is_refused() -> None:
    with pytest.raises(UsageError, match="layers of a Linear image tower are not known"):
        refuse_layers(torch.nn.Linear(2, 2), "layers:other")


@pytest.fixture(scope="module")
def layered(vit_folder: Path) -> LayeredBackbone:
    found = load_backbone(f"layers:local-dir:{vit_folder}", device="cpu")
    assert isinstance(found, LayeredBackbone)
    return found


def pictures(count: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)


def test_layers_are_joined_and_named_in_the_identity(
    layered: LayeredBackbone, vit_folder: Path
) -> None:
    plain = load_backbone(f"local-dir:{vit_folder}", device="cpu")
    found = layered.encode_pixels(pictures())
    assert found.raw.shape == (5, layered.embed_dim)
    assert layered.layer_widths == (64, 64, 64, 24)
    np.testing.assert_allclose(found.raw[:, -24:], plain.encode_pixels(pictures()).raw, rtol=1e-5)
    assert layered.identity()["architecture"].startswith("layers 64+64+64+24 of ")
    assert layered.identity()["weights"] == plain.identity()["weights"]
    assert layered.encode_pixels(pictures()[:0]).raw.shape == (0, 216)
    with pytest.raises(UsageError, match="no text lies among them"):
        layered.encode_texts(["a photo"])
    with pytest.raises(UsageError, match="none of regions"):
        layered.encode_pixels(pictures(), local=True)


def test_a_step_moves_pixels_towards_a_higher_score(layered: LayeredBackbone) -> None:
    from copy import copy

    direction = torch.randn(216, generator=torch.Generator().manual_seed(2))
    moved = copy(layered)
    moved.steps = {"own": Step(0.001, lambda rows: (rows @ direction).sum())}
    found = moved.encode_pixels(pictures())
    before, after = found.raw @ direction.numpy(), found.stepped["own"] @ direction.numpy()
    assert (after > before).all()
    # The pictures as they are come unchanged, and the model was not touched.
    np.testing.assert_array_equal(found.raw, layered.encode_pixels(pictures()).raw)
    assert not layered.encode_pixels(pictures()).stepped


def test_a_step_is_eps_in_every_channel_of_pixels_from_0_to_1(
    layered: LayeredBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    joined = layered._joined

    def watch(batch: torch.Tensor) -> torch.Tensor:
        seen.append(batch.detach())
        return joined(batch)

    monkeypatch.setattr(layered, "_joined", watch)
    monkeypatch.setattr(layered, "steps", {"own": Step(0.01, torch.Tensor.sum)})
    layered.encode_pixels(pictures(2))
    std = torch.tensor(layered.preprocessing.std).view(1, 3, 1, 1)
    moved = ((seen[2] - seen[0]) * std).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.01), atol=1e-6, rtol=0)
