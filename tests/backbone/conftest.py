"""Tiny random open_clip models, built once a session."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

VIT = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 3, "head_width": 16}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}


def build(
    vision: dict[str, Any] | None = None,
    text: dict[str, Any] | None = None,
    *,
    custom_text: bool = False,
    seed: int = 0,
    **kwargs: Any,
) -> Any:
    """Build a random model whose attention and norms are far from the identity."""
    import torch
    from open_clip.model import CLIP, CustomTextCLIP

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        kind = CustomTextCLIP if custom_text else CLIP
        model = kind(24, {**VIT, **(vision or {})}, {**TEXT, **(text or {})}, **kwargs)
        for name, parameter in model.named_parameters():
            if "ln_" in name or "bn" in name or name.endswith(("bias", "gamma")):
                torch.nn.init.normal_(parameter, mean=0.5, std=0.5)
            elif name.endswith(("positional_embedding", "text_projection")):
                torch.nn.init.normal_(parameter, std=0.3)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def vit() -> Any:
    return build()


@pytest.fixture(scope="session")
def resnet() -> Any:
    import torch
    from open_clip.model import CLIP

    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = CLIP(24, RESNET, TEXT)
        for name, parameter in model.named_parameters():
            if "bn" in name:
                torch.nn.init.normal_(parameter, mean=1.0, std=0.2)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    import open_clip

    return open_clip.SimpleTokenizer(context_length=77)


def write_folder(
    folder: Path,
    model: Any,
    vision: dict[str, Any],
    preprocess: dict[str, Any] | None = None,
    text: dict[str, Any] = TEXT,
) -> Path:
    """Write a model in open_clip's folder layout."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(model.state_dict()), folder / "open_clip_model.safetensors")
    config = {
        "model_cfg": {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3, **(preprocess or {})},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def vit_folder(vit: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("vit"), vit, VIT)


@pytest.fixture(scope="session")
def resnet_folder(resnet: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("resnet"), resnet, RESNET)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    return build
