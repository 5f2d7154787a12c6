"""Adapters and changed tensors: what they reach, what they refuse, and that they are PEFT's own."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlood.backbone.backbone import Backbone
from vlood.backbone.load import load_backbone
from vlood.backbone.open_clip_folder import write_open_clip
from vlood.backbone.text import CausalTextTower
from vlood.backbone.tuned_folder import (
    TunedWeights,
    check_base,
    describe_base,
    read_tuned,
    write_tuned,
)
from vlood.backbone.tuned_weights import (
    LoraSettings,
    add_adapter,
    check_gradients,
    merged_digest,
    trainable_names,
    trained_weights,
    tuned_backbone,
)
from vlood.errors import UsageError

WAYS = (
    LoraSettings(rank=2),
    LoraSettings(rank=2, targets="mlp", dropout=0.1, dora=True, rslora=True),
    LoraSettings(rank=2, targets=r".*\.mlp\.c_fc|visual\.layer1\.0\.conv2"),
)


@pytest.fixture(scope="module", params=["vit_folder", "resnet_folder"])
def base(request: Any) -> Backbone:
    folder = request.getfixturevalue(request.param)
    return load_backbone(f"local-dir:{folder}", device="cpu", precision="fp32")


def random() -> np.random.Generator:
    return np.random.default_rng(3)


def features(module: Any, base: Backbone) -> torch.Tensor:
    """Return unit features of both towers."""
    height, width = base.preprocessing.size
    pixels = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    tower = CausalTextTower.of(module)
    assert tower is not None
    both = [
        module.encode_image(pixels, normalize=False),
        tower.encode_tokens(base.tokenizer(["a photo", "a drawing of a dog"])),
    ]
    return torch.cat([torch.nn.functional.normalize(one, dim=-1) for one in both])


def adapted(base: Backbone, lora: LoraSettings) -> tuple[Any, Any, list[str]]:
    """Return a copy with an adapter that changes something."""
    module = copy.deepcopy(base.module).eval()
    peft = add_adapter(module, lora, random())
    names = [name for name, one in module.named_parameters() if one.requires_grad]
    with torch.no_grad():
        for name, one in module.named_parameters():
            if ".lora_B." in name:
                one.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    return module.eval(), peft, names


def loss_of(module: Any, base: Backbone) -> Any:
    towards = torch.randn(4, 24, generator=torch.Generator().manual_seed(2))
    return lambda: (features(module, base) * towards).sum()


@pytest.mark.parametrize("lora", WAYS, ids=["auto", "dora", "named"])
def test_every_tensor_of_an_adapter_gets_a_gradient(base: Backbone, lora: LoraSettings) -> None:
    module, _, names = adapted(base, lora)
    assert len(names) >= 4
    grads = torch.autograd.grad(
        loss_of(module, base)(), [dict(module.named_parameters())[name] for name in names]
    )
    assert all(bool(one.ne(0).any()) for one in grads)


def test_an_adapter_changes_nothing_at_first_and_the_check_leaves_it_so(base: Backbone) -> None:
    module = copy.deepcopy(base.module).eval()
    add_adapter(module, LoraSettings(), random())
    names = [name for name, one in module.named_parameters() if one.requires_grad]
    assert check_gradients(module, names, loss_of(module, base), random()) == []
    torch.testing.assert_close(features(module, base), features(base.module, base))
    again = copy.deepcopy(base.module).eval()
    torch.manual_seed(99)
    before = torch.get_rng_state()
    add_adapter(again, LoraSettings(), random())
    assert torch.equal(before, torch.get_rng_state())
    for name, one in module.named_parameters():
        assert torch.equal(one, dict(again.named_parameters())[name]), name


@pytest.mark.parametrize("lora", WAYS, ids=["auto", "dora", "named"])
def test_merged_is_unmerged_and_loads_with_peft_alone(
    base: Backbone, lora: LoraSettings, tmp_path: Path
) -> None:
    from peft import PeftModel

    module, peft, names = adapted(base, lora)
    weights = trained_weights(module, peft, {}, names)
    expected = features(module, base)
    assert (expected - features(base.module, base)).abs().max() > 1e-2
    tuned = tuned_backbone(base, weights, "tuned")
    torch.testing.assert_close(features(tuned.module, tuned), expected, rtol=0, atol=1e-5)
    write_tuned(tmp_path, weights, describe_base(base, merged_digest(tuned)))
    alone = PeftModel.from_pretrained(copy.deepcopy(base.module), str(tmp_path)).eval()
    torch.testing.assert_close(features(alone.base_model.model, base), expected, rtol=0, atol=1e-5)
    again, about = read_tuned(tmp_path)
    assert again.digest(base.digest) == weights.digest(base.digest) == tuned.digest
    assert tuned.digest != base.digest
    assert about["name"] == base.name
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "LORA"


def test_what_is_tuned_is_what_is_named(base: Backbone) -> None:
    every = {name for name, _ in base.module.named_parameters()}
    assert set(trainable_names(base.module, "full")) == every
    visual = set(trainable_names(base.module, "visual"))
    text = set(trainable_names(base.module, "text"))
    assert visual | text | {"logit_scale"} == every
    assert not visual & text
    last = set(trainable_names(base.module, "projection"))
    assert "text_projection" in last
    assert any(name.startswith("visual.") for name in last)
    assert len(last) <= 3


def test_deltas_are_added_and_reach_the_digest(base: Backbone, tmp_path: Path) -> None:
    shape = tuple(base.module.text_projection.shape)
    weights = TunedWeights(deltas={"text_projection": np.full(shape, 0.5, np.float32)})
    tuned = tuned_backbone(base, weights, "tuned")
    torch.testing.assert_close(
        tuned.module.text_projection, base.module.text_projection + 0.5, rtol=0, atol=0
    )
    write_tuned(tmp_path, weights, describe_base(base, "x"))
    assert read_tuned(tmp_path)[0].digest(base.digest) == tuned.digest
    other = TunedWeights(deltas={"text_projection": np.full(shape, 0.4, np.float32)})
    assert other.digest(base.digest) != tuned.digest
    wrong = TunedWeights(deltas={"text_projection": np.zeros((1, 1), np.float32)})
    with pytest.raises(UsageError, match="do not fit this model"):
        tuned_backbone(base, wrong, "tuned")


def test_targets_that_match_nothing_or_learn_nothing_are_refused(base: Backbone) -> None:
    module = copy.deepcopy(base.module).eval()
    with pytest.raises(UsageError, match="targets=zebra: matches no layer"):
        add_adapter(module, LoraSettings(targets="zebra"), random())
    with pytest.raises(UsageError, match="no regular expression"):
        add_adapter(module, LoraSettings(targets="("), random())
    with pytest.raises(UsageError, match="neither dropout nor DoRA"):
        add_adapter(module, LoraSettings(targets="attention", dropout=0.1), random())
    # torch's attention reads the weights of its output projection past any layer around it.
    add_adapter(module, LoraSettings(targets=r".*attn\.out_proj"), random())
    names = [name for name, one in module.named_parameters() if one.requires_grad]
    assert names
    assert check_gradients(module, names, loss_of(module, base), random()) == names


def test_an_adapter_of_another_model_and_a_merged_base_are_refused(
    vit_folder: Path, resnet_folder: Path, tmp_path: Path
) -> None:
    base = load_backbone(f"local-dir:{vit_folder}", device="cpu", precision="fp32")
    other = load_backbone(f"local-dir:{resnet_folder}", device="cpu", precision="fp32")
    module, peft, names = adapted(base, LoraSettings(rank=2))
    weights = trained_weights(module, peft, {}, names)
    tuned = tuned_backbone(base, weights, "tuned")
    about = describe_base(base, merged_digest(tuned))
    folder = tmp_path / "adapter"
    folder.mkdir()
    write_tuned(folder, weights, about)
    with pytest.raises(UsageError, match="tuned on another model"):
        check_base(other.identity(), about, "--model tuned:x")
    with pytest.raises(UsageError, match="do not fit this model"):
        tuned_backbone(other, weights, "tuned")
    merged = tmp_path / "merged"
    merged.mkdir()
    write_open_clip(tuned, merged)
    loaded = load_backbone(f"tuned:{tmp_path}", device="cpu", precision="fp32")
    assert loaded.digest == tuned.digest
    assert loaded.base_name == base.name
    assert (
        load_backbone(
            f"tuned:{folder}@local-dir:{vit_folder}", device="cpu", precision="fp32"
        ).digest
        == tuned.digest
    )
    alone = load_backbone(f"local-dir:{merged}", device="cpu", precision="fp32")
    torch.testing.assert_close(features(alone.module, alone), features(tuned.module, tuned))
    assert alone.preprocessing.describe() == base.preprocessing.describe()
    with pytest.raises(UsageError, match="built in already"):
        load_backbone(f"tuned:{tmp_path}@local-dir:{merged}", device="cpu", precision="fp32")
    with pytest.raises(UsageError, match="no tuned model in this folder"):
        load_backbone(f"tuned:{merged}", device="cpu")
