"""A model as a folder in open_clip's own layout, which ``--model local-dir:FOLDER`` takes."""

from __future__ import annotations

import json
from pathlib import Path

from vlood.backbone.backbone import Backbone
from vlood.errors import UsageError

_PREPROCESSING = ("size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color")


def write_open_clip(backbone: Backbone, folder: Path) -> int:
    """Write a model's configuration and weights, in single precision, into a folder that exists.

    Returns:
        How many tensors were written.

    Raises:
        UsageError: the model's configuration is not known.
    """
    from safetensors.torch import save_file

    if not backbone.config:
        raise UsageError(
            f"--format open-clip: the configuration of {backbone.name} is not known; load it by "
            "its name first"
        )
    state = backbone.module.state_dict()
    # Copies: a safetensors file refuses tensors that share memory.
    tensors = {name: one.detach().float().cpu().clone().contiguous() for name, one in state.items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    own = dict(backbone.module.visual.preprocess_cfg)
    preprocessing = {name: own[name] for name in _PREPROCESSING if name in own}
    text = json.dumps({"model_cfg": backbone.config, "preprocess_cfg": preprocessing}, indent=1)
    (folder / "open_clip_config.json").write_text(text + "\n", encoding="utf-8")
    return len(tensors)
