"""Local (patch) features by the value path of the last block, in one pass with the global one.

The path of GL-MCM (Miyai et al., 2025), LoCoOp (2023) and Local-Prompt (Zeng et al., 2025): a
region's feature is what the last block would give if the region attended to itself alone.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

# The stem halves the picture twice, and each of layers 2, 3 and 4 once.
_RESNET_STEP = 32
_WITHOUT = "a method without local features"


def local_refusal(visual: Any, *, without: str = _WITHOUT) -> str | None:
    """Return why an open_clip image tower has no local features, in a sentence, or None.

    Args:
        visual: the tower.
        without: what the user can do instead of using another tower, for the end of the sentence.
    """
    from vlood.backbone.library import open_clip

    ask = f"use an OpenAI-style ViT or ResNet, or {without}"
    if isinstance(visual, open_clip.modified_resnet.ModifiedResNet):
        if isinstance(visual.attnpool, open_clip.modified_resnet.AttentionPool2d):
            return None
        return f"this ResNet has lost its attention pooling and with it the value path; {ask}"
    if isinstance(visual, open_clip.timm_model.TimmModel):
        return f"timm image towers have no value path to local features; {ask}"
    if not isinstance(visual, open_clip.transformer.VisionTransformer):
        return f"a {type(visual).__name__} image tower has no value path to local features; {ask}"
    if visual.attn_pool is not None:
        return f"this ViT pools by attention (as CoCa does): no value path to local features; {ask}"
    if visual.pool_type not in ("tok", "avg"):
        return f"this ViT does not pool its tokens: no value path to local features; {ask}"
    block = visual.transformer.resblocks[-1]
    usual = open_clip.transformer.ResidualAttentionBlock
    if type(block) is not usual or not visual.transformer.batch_first:
        return f"the blocks of this ViT are not CLIP's: no value path to local features; {ask}"
    return None


def region_size(visual: Any) -> tuple[int, int]:
    """Return height and width in pixels of the piece of the input that a region stands for.

    Regions tile the input from its upper left corner. A ViT's region is one patch; a ResNet's is
    the step of its last stage, though it has seen more around it.
    """
    if hasattr(visual, "attnpool"):
        return _RESNET_STEP, _RESNET_STEP
    height, width = visual.patch_size
    return int(height), int(width)


def region_grid(visual: Any, size: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of the regions of an input of this height and width.

    Nothing is computed; ``local_refusal`` must be None.
    """
    if hasattr(visual, "attnpool"):
        return size[0] // _RESNET_STEP, size[1] // _RESNET_STEP
    rows, columns = visual.grid_size
    return int(rows), int(columns)


def encode_with_local(
    visual: Any, images: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int]]:
    """Encode images [N, 3, H, W] to global features [N, D], local ones [N, R, D] and their grid.

    Neither is normalised; regions are in row-major order. ``local_refusal`` must be None.
    """
    if hasattr(visual, "attnpool"):
        return _resnet(visual, images)
    return _vit(visual, images)


def _vit(visual: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int]]:
    hidden = visual._embeds(images)
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        hidden = block(hidden)
    pooled, _ = visual._pool(last(hidden))
    patches = visual.ln_post(_value_path(last, hidden[:, 1:]))
    if visual.proj is not None:
        pooled, patches = pooled @ visual.proj, patches @ visual.proj
    rows, columns = visual.grid_size
    return pooled, patches, (int(rows), int(columns))


def _value_path(block: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Run a block with every token attending to itself: [N, R, W] to [N, R, W].

    Reads the packed weights instead of calling the attention, whose class differs between releases.
    """
    attention = block.attn
    width = hidden.shape[-1]
    bias = attention.in_proj_bias
    value = F.linear(
        block.ln_1(hidden),
        attention.in_proj_weight[2 * width :],
        None if bias is None else bias[2 * width :],
    )
    value = F.linear(value, attention.out_proj.weight, attention.out_proj.bias)
    hidden = hidden + block.ls_1(value)
    return hidden + block.ls_2(block.mlp(block.ln_2(hidden)))  # type: ignore[no-any-return]


def _resnet(
    visual: Any, images: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int]]:
    grid = visual.stem(images)
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        grid = layer(grid)
    pool = visual.attnpool
    regions = pool.c_proj(pool.v_proj(grid.flatten(2).transpose(1, 2)))
    return pool(grid), regions, (int(grid.shape[2]), int(grid.shape[3]))
