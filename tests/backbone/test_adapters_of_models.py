"""LoRA by its defaults on a trained ViT and a trained ResNet: it is alive, small, and exact."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from vlood.backbone.backbone import Backbone
from vlood.backbone.load import load_backbone
from vlood.backbone.tuned_folder import describe_base, write_tuned
from vlood.backbone.tuned_weights import (
    LoraSettings,
    add_adapter,
    merged_digest,
    trained_weights,
    tuned_backbone,
)


def unit_features(module: torch.nn.Module, base: Backbone) -> torch.Tensor:
    """Return unit features of two pictures and two texts [4, D]."""
    height, width = base.preprocessing.size
    pixels = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    tokens = base.tokenizer(["a photo of a bell", "a drawing of a dog"])
    both = [module.encode_image(pixels), module.encode_text(tokens)]
    return torch.nn.functional.normalize(torch.cat(both), dim=-1)


def check_adapter(base: Backbone, folder: Path) -> None:
    module = copy.deepcopy(base.module).eval()
    peft = add_adapter(module, LoraSettings(), np.random.default_rng(3))
    trained = {name: one for name, one in module.named_parameters() if one.requires_grad}
    with torch.no_grad():
        for name, one in trained.items():
            if ".lora_B." in name:
                one.normal_(0, 0.05, generator=torch.Generator().manual_seed(len(name)))
    features = unit_features(module, base)
    towards = torch.randn(features.shape, generator=torch.Generator().manual_seed(2))
    gradients = torch.autograd.grad((features * towards).sum(), list(trained.values()))
    dead = [name for name, one in zip(trained, gradients, strict=True) if not one.any()]
    assert not dead

    weights = trained_weights(module, peft, {}, list(trained))
    tuned = tuned_backbone(base, weights, "tuned")
    with torch.no_grad():
        before, merged = unit_features(base.module, base), unit_features(tuned.module, tuned)
        assert (features - before).abs().max() > 1e-2
        torch.testing.assert_close(merged, features.detach(), rtol=0, atol=1e-5)
        write_tuned(folder, weights, describe_base(base, merged_digest(tuned)))
        alone = PeftModel.from_pretrained(copy.deepcopy(base.module), str(folder)).eval()
        again = unit_features(alone.base_model.model, base)
        torch.testing.assert_close(again, features.detach(), rtol=0, atol=1e-5)

    size = (folder / "adapter_model.safetensors").stat().st_size
    whole = sum(one.numel() * one.element_size() for one in base.module.state_dict().values())
    assert size <= 0.05 * whole


def test_the_bundled_vit(tmp_path: Path) -> None:
    check_adapter(load_backbone("bundled", device="cpu", precision="fp32"), tmp_path)


@pytest.mark.shared
def test_a_resnet_of_photographs(shared: Path, tmp_path: Path) -> None:
    folder = shared / "models" / "photo-tiny"
    check_adapter(load_backbone(f"local-dir:{folder}", device="cpu", precision="fp32"), tmp_path)
