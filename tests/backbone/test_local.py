from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from vlood.backbone.local import encode_with_local, local_refusal, region_size


def images(side: int, count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def norm(x: np.ndarray, layer: Any) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + layer.eps)
    return scaled * layer.weight.numpy() + layer.bias.numpy()


def linear(x: np.ndarray, layer: Any) -> np.ndarray:
    return x @ layer.weight.numpy().T + layer.bias.numpy()


def value_path_in_numpy(visual: Any, hidden: np.ndarray) -> np.ndarray:
    """The formula of the specification, for GELU towers; ``hidden`` enters the last block."""
    from scipy.special import erf

    block = visual.transformer.resblocks[-1]
    width = hidden.shape[-1]
    gamma_1 = getattr(block.ls_1, "gamma", torch.ones(1)).numpy()
    gamma_2 = getattr(block.ls_2, "gamma", torch.ones(1)).numpy()
    value = norm(hidden, block.ln_1) @ block.attn.in_proj_weight[2 * width :].numpy().T
    value = value + block.attn.in_proj_bias[2 * width :].numpy()
    hidden = hidden + gamma_1 * linear(value, block.attn.out_proj)
    inner = linear(norm(hidden, block.ln_2), block.mlp.c_fc)
    inner = inner * 0.5 * (1 + erf(inner / np.sqrt(2)))
    hidden = hidden + gamma_2 * linear(inner, block.mlp.c_proj)
    return norm(hidden, visual.ln_post)[:, 1:] @ visual.proj.numpy()


@pytest.mark.parametrize(
    "vision",
    [
        {},
        {"ls_init_value": 0.2},
        {"pool_type": "avg"},
        {"final_ln_after_pool": True, "pool_type": "avg"},
        {"no_ln_pre": True, "image_size": [32, 16]},
    ],
    ids=str,
)
def test_vit_gives_the_value_path_beside_its_own_global_feature(
    make_model: Callable[..., Any], vision: dict[str, Any]
) -> None:
    visual = make_model(vision=vision).visual
    assert local_refusal(visual) is None
    batch = images(32)[..., : visual.image_size[1]]
    entering: list[torch.Tensor] = []
    last = visual.transformer.resblocks[-1]
    hook = last.register_forward_pre_hook(lambda _, args: entering.append(args[0]))
    with torch.inference_mode():
        features, patches, grid = encode_with_local(visual, batch)
        expected = visual(batch)
    hook.remove()
    torch.testing.assert_close(features, expected, atol=1e-6, rtol=1e-6)
    assert grid == (4, visual.image_size[1] // 8)
    assert patches.shape == (3, grid[0] * grid[1], 24)
    by_hand = value_path_in_numpy(visual, entering[0].double().numpy())
    np.testing.assert_allclose(patches.numpy(), by_hand, atol=2e-4, rtol=1e-4)


def test_one_pass_runs_every_block_once(make_model: Callable[..., Any]) -> None:
    visual = make_model().visual
    calls = [0] * 3
    for index, block in enumerate(visual.transformer.resblocks):

        def count(*_: Any, index: int = index) -> None:
            calls[index] += 1

        block.register_forward_pre_hook(count)
    encode_with_local(visual, images(32))
    assert calls == [1, 1, 1]


def test_a_vit_region_depends_on_other_regions_only_through_earlier_blocks(
    make_model: Callable[..., Any],
) -> None:
    visual = make_model(vision={"layers": 1}).visual
    changed = images(32)
    changed[:, :, :8, :8] += 1
    with torch.inference_mode():
        _, before, _ = encode_with_local(visual, images(32))
        _, after, _ = encode_with_local(visual, changed)
    assert torch.equal(before[:, 1:], after[:, 1:])
    assert not torch.allclose(before[:, 0], after[:, 0])


def test_resnet_gives_projected_values_without_positions(resnet: Any) -> None:
    visual = resnet.visual
    batch = images(64)
    with torch.inference_mode():
        features, patches, grid = encode_with_local(visual, batch)
        torch.testing.assert_close(features, visual(batch), atol=1e-6, rtol=1e-6)
        maps = visual.forward_intermediates(batch, indices=[4], intermediates_only=True)
    assert grid == (2, 2)
    grid_map = maps["image_intermediates"][0].numpy()
    tokens = grid_map.reshape(*grid_map.shape[:2], -1).transpose(0, 2, 1)
    by_hand = linear(linear(tokens, visual.attnpool.v_proj), visual.attnpool.c_proj)
    np.testing.assert_allclose(patches.numpy(), by_hand, atol=1e-5, rtol=1e-4)


def test_towers_without_a_value_path_are_refused(make_model: Callable[..., Any]) -> None:
    from open_clip.timm_model import TimmModel

    pooled = make_model(vision={"attentional_pool": True, "attn_pooler_heads": 4}).visual
    assert "pools by attention" in (local_refusal(pooled) or "")
    custom = make_model(vision={"qk_norm": True}).visual
    assert "not CLIP's" in (local_refusal(custom) or "")
    timm = TimmModel("vit_tiny_patch16_224", embed_dim=24, image_size=32, pretrained=False)
    assert "timm" in (local_refusal(timm) or "")
    assert (local_refusal(timm, without="do without") or "").endswith("or do without")
    assert "Identity" in (local_refusal(torch.nn.Identity()) or "")


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_a_region_stands_for_its_own_piece_of_the_picture(
    tower: str, make_model: Callable[..., Any], resnet: Any
) -> None:
    vision = {"image_size": [32, 48], "layers": 1}
    visual = resnet.visual if tower == "resnet" else make_model(vision=vision).visual
    height, width = (64, 64) if tower == "resnet" else (32, 48)
    rows, columns = region_size(visual)
    blank = torch.zeros(1, 3, height, width)
    grid = (height // rows, width // columns)
    with torch.inference_mode():
        _, before, found = encode_with_local(visual, blank)
        assert found == grid
        for row, column in np.ndindex(*grid):
            changed = blank.clone()
            # The middle of the region: a ResNet sees a little beyond its borders.
            top, left = row * rows + rows // 4, column * columns + columns // 4
            changed[:, :, top : top + rows // 2, left : left + columns // 2] = 1
            _, after, _ = encode_with_local(visual, changed)
            largest = int((after - before).norm(dim=2).argmax())
            assert divmod(largest, grid[1]) == (row, column)
