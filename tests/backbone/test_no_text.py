"""CLIPN's "no" encoder: a copied one with zero prompts is the "yes" encoder."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import open_clip
import pytest
import torch

from vlood.backbone.backbone import Backbone
from vlood.backbone.no_text import encode_no_texts, no_text_tower
from vlood.backbone.text import CausalTextTower
from vlood.errors import UsageError

from .conftest import build

TEXTS = ["a photo of a dog.", "", "the nice cat", "a winding road through the mountains", "tench"]
TEXT_SIDE = ("token_embedding", "positional_embedding", "transformer", "ln_final")
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    model = build()
    return cast(
        Backbone,
        SimpleNamespace(
            name="tiny",
            module=model,
            text_tower=CausalTextTower.of(model),
            tokenizer=open_clip.SimpleTokenizer(context_length=77),
            device="cpu",
            embed_dim=24,
        ),
    )


def no_state(model: Any, **more: torch.Tensor) -> State:
    """A CLIPN state whose "no" half is the text side of a model; it has a "yes" half, too."""
    state: State = {}
    for name, tensor in model.state_dict().items():
        head, dot, rest = name.partition(".")
        if head in (*TEXT_SIDE, "text_projection"):
            state[f"{head}_no{dot}{rest}"] = tensor.clone()
        state[name] = torch.full_like(tensor, torch.nan)
    return {**state, **more}


def full_length(model: Any, prompt: torch.Tensor, backbone: Backbone) -> torch.Tensor:
    """The encoder as it is defined: all 77 positions, the prompt added to what is embedded."""
    tokens = backbone.tokenizer(TEXTS)
    hidden = model.token_embedding(tokens) + model.positional_embedding + prompt
    hidden = model.ln_final(model.transformer(hidden, attn_mask=model.attn_mask))
    return hidden[torch.arange(len(tokens)), tokens.argmax(dim=1)] @ model.text_projection


def test_a_copy_with_zero_prompts_is_the_yes_encoder(backbone: Backbone) -> None:
    assert backbone.text_tower is not None
    state = no_state(backbone.module, prompt_no=torch.zeros(16, 77, 32))
    tokens = backbone.tokenizer(TEXTS)
    copied = no_text_tower(backbone.text_tower, state)
    torch.testing.assert_close(
        copied.encode_tokens(tokens), backbone.text_tower.encode_tokens(tokens), rtol=0, atol=0
    )


def test_prompts_are_added_as_their_mean_at_every_position(backbone: Backbone) -> None:
    other = build(seed=7)
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randn(16, 77, 32, generator=generator)
    state = no_state(other, prompt_no=prompts)
    before = {name: tensor.clone() for name, tensor in backbone.module.state_dict().items()}
    found = encode_no_texts(backbone, state, TEXTS, batch_tokens=20)
    expected = full_length(other, prompts.mean(dim=0), backbone).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    assert found.dtype == np.float32
    assert np.abs(found - full_length(other, torch.zeros(77, 32), backbone).numpy()).max() > 0.01
    # The "yes" tower and the state stay as they are.
    for name, tensor in backbone.module.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    again = encode_no_texts(backbone, state, TEXTS)
    np.testing.assert_allclose(again, found, rtol=0, atol=1e-5)


def test_the_hand_crafted_variant_has_no_prompts(backbone: Backbone) -> None:
    other = build(seed=7)
    found = encode_no_texts(backbone, no_state(other), TEXTS)
    expected = full_length(other, torch.zeros(77, 32), backbone).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_a_separate_text_tower_takes_a_state_too(backbone: Backbone) -> None:
    tower = CausalTextTower.of(build(custom_text=True, seed=3))
    assert tower is not None
    assert backbone.text_tower is not None
    tokens = backbone.tokenizer(TEXTS)
    copied = no_text_tower(tower, no_state(backbone.module))
    torch.testing.assert_close(
        copied.encode_tokens(tokens), backbone.text_tower.encode_tokens(tokens), rtol=0, atol=1e-6
    )


def test_no_texts_give_no_rows(backbone: Backbone) -> None:
    assert encode_no_texts(backbone, no_state(backbone.module), []).shape == (0, 24)


def without(state: State, name: str) -> State:
    return {each: tensor for each, tensor in state.items() if each != name}


def test_a_state_that_does_not_fit_is_refused(backbone: Backbone) -> None:
    tower, whole = backbone.text_tower, no_state(backbone.module)
    assert tower is not None
    missing = without(whole, "transformer_no.resblocks.1.mlp.c_fc.bias")
    with pytest.raises(UsageError, match=r"lacks transformer_no\.resblocks\.1\.mlp\.c_fc\.bias"):
        no_text_tower(tower, missing)
    with pytest.raises(UsageError, match=r"lacks ln_final_no\.bias \(.*checkpoint"):
        no_text_tower(tower, {})
    with pytest.raises(UsageError, match=r"unknown adapter_no\.weight \(1 such"):
        no_text_tower(tower, {**whole, "adapter_no.weight": torch.zeros(1)})
    with pytest.raises(UsageError, match=r"token_embedding_no\.weight has shape \(5, 32\)"):
        no_text_tower(tower, {**whole, "token_embedding_no.weight": torch.zeros(5, 32)})
    for shape in ((77, 32), (16, 76, 32), (0, 77, 32), ()):
        with pytest.raises(UsageError, match=r"prompt_no has shape .*expected \(\d+, 77, 32\)"):
            no_text_tower(tower, {**whole, "prompt_no": torch.zeros(shape)})


def test_a_tower_that_is_not_causal_is_refused() -> None:
    backbone = cast(Backbone, SimpleNamespace(name="siglip", text_tower=None))
    with pytest.raises(UsageError, match="--model siglip: its text tower is not a causal one"):
        encode_no_texts(backbone, {}, TEXTS)
