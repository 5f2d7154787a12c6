"""Global, local and text features of CLIP towers given by their state dicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from vlood.backbone.local import encode_with_local, local_refusal
from vlood.backbone.text import CausalTextTower

Arrays = dict[str, np.ndarray]


def local_features(inputs: Arrays, params: dict[str, Any]) -> Arrays:
    model = build_clip(inputs, params)
    assert local_refusal(model.visual) is None
    tower = CausalTextTower.of(model)
    assert tower is not None
    with torch.inference_mode():
        features, patches, (rows, columns) = encode_with_local(
            model.visual, torch.from_numpy(inputs["image"])
        )
        texts = tower.encode_tokens(torch.from_numpy(inputs["tokens"]))
    return {
        "text_features": texts.numpy(),
        "global_features": features.numpy(),
        "local_features": patches.numpy(),
        "local_features_grid": patches.reshape(len(patches), rows, columns, -1).numpy(),
    }


def build_clip(inputs: Arrays, params: dict[str, Any]) -> Any:
    """Build the open_clip model that an OpenAI state dict (arrays ``sd/...``) belongs to."""
    from open_clip.model import CLIP

    vision = {
        "image_size": params["image_resolution"],
        "layers": params["vision_layers"],
        "width": params["vision_width"],
    }
    if params["vision_patch_size"] is not None:
        vision["patch_size"] = params["vision_patch_size"]
    text = {
        "context_length": params["context_length"],
        "vocab_size": params["vocab_size"],
        "width": params["transformer_width"],
        "heads": params["transformer_heads"],
        "layers": params["transformer_layers"],
    }
    model = CLIP(params["embed_dim"], vision, text, quick_gelu=True)
    state = {
        name.removeprefix("sd/"): torch.from_numpy(np.array(array))
        for name, array in inputs.items()
        if name.startswith("sd/")
    }
    model.load_state_dict(state)
    return model.eval()


_ALL_TOKENS = (
    "OpenOOD-VLM's own local features (last attention's outputs for all tokens) are another "
    "definition than the value path of GL-MCM, LoCoOp and Local-Prompt, which vlood follows"
)

FAMILIES: dict[str, Callable[[Arrays, dict[str, Any]], Arrays]] = {
    "clip_local_vit": local_features,
    "clip_local_rn": local_features,
}
NOT_OFFERED: dict[tuple[str, str], str] = {
    ("clip_local_vit", "openoodvlm_all_tokens"): _ALL_TOKENS,
    ("clip_local_rn", "openoodvlm_all_tokens"): _ALL_TOKENS,
}
