"""CLIPN's "no" text encoder: a second text tower with weights of its own.

Its prompts are added to the embedded tokens, position by position, rather than put between them;
scoring adds their mean (CLIPN: Wang et al. 2023; its code, which differs from the paper's wording).
What is added to every text at a position is a positional embedding, so the tower that results is
like any other.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from vlood.backbone.backbone import CPU_BATCH_TOKENS, GPU_BATCH_TOKENS, Backbone
from vlood.backbone.text import CausalTextTower, Progress, encode_texts
from vlood.errors import UsageError

PROMPTS = "prompt_no"
_SUFFIX = "_no"


class TextSide(torch.nn.Module):
    """A copy of a text tower's layers, under the names that open_clip's CLIP has for them."""

    def __init__(self, tower: CausalTextTower) -> None:
        super().__init__()
        source = tower.module
        self.token_embedding = copy.deepcopy(source.token_embedding)
        self.transformer = copy.deepcopy(source.transformer)
        self.ln_final = copy.deepcopy(source.ln_final)
        self.positional_embedding = torch.nn.Parameter(source.positional_embedding.detach().clone())
        self.text_projection = copy.deepcopy(source.text_projection)
        self.register_buffer("attn_mask", source.attn_mask, persistent=False)
        self.text_pool_type, self.text_eos_id = tower.pool, tower.eos_id


def no_text_tower(tower: CausalTextTower, state: Mapping[str, torch.Tensor]) -> CausalTextTower:
    """Build the "no" tower of a CLIPN state, frozen; the mean of its prompts is built in.

    Args:
        tower: the "yes" text tower, whose structure it shares; it stays as it is.
        state: holds ``token_embedding_no.weight``, ``positional_embedding_no``,
            ``transformer_no.*``, ``ln_final_no.*``, ``text_projection_no``, and, where prompts were
            learned, ``prompt_no`` [P, context_length, W]. Names without ``_no`` are passed over.

    Raises:
        UsageError: a tensor is missing, unknown or of another shape than the tower's.
    """
    side = TextSide(tower)
    weights = {
        plain: tensor for name, tensor in state.items() if (plain := plain_name(name)) is not None
    }
    expected = {name: tensor.shape for name, tensor in side.state_dict().items()}
    _check_names(set(expected), set(weights))
    for name, shape in expected.items():
        _check_shape(no_name(name), weights[name], shape)
    side.load_state_dict(weights)
    prompts = state.get(PROMPTS)
    if prompts is not None:
        positions = side.positional_embedding.data
        count = max((1, *prompts.shape[:1]))
        _check_shape(PROMPTS, prompts, torch.Size((count, *positions.shape)))
        positions += prompts.to(positions).mean(dim=0)
    side.eval().requires_grad_(False)
    return CausalTextTower(side, tower.pool, tower.eos_id)


def encode_no_texts(
    backbone: Backbone,
    state: Mapping[str, torch.Tensor],
    texts: Sequence[str],
    *,
    batch_tokens: int | None = None,
    on_progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Encode texts with the "no" encoder: float32 [N, D] in their order, not normalised.

    Args:
        backbone: the CLIP model that CLIPN was trained on.
        state: as ``no_text_tower`` takes it.
        texts: any number.
        batch_tokens: most tokens in a batch; the default suits the device.
        on_progress: called with (texts done, all texts) after each batch.

    Raises:
        UsageError: the state does not fit, or the model's text tower is not causal.
    """
    if backbone.text_tower is None:
        raise UsageError(
            f"--model {backbone.name}: its text tower is not a causal one read at the end of the "
            "text, as CLIPN's is; use the CLIP model that CLIPN was trained on"
        )
    tower = no_text_tower(backbone.text_tower, state)
    if not texts:
        return np.zeros((0, backbone.embed_dim), np.float32)
    default = CPU_BATCH_TOKENS if backbone.device == "cpu" else GPU_BATCH_TOKENS
    return encode_texts(
        tower.module,
        backbone.tokenizer,
        texts,
        device=backbone.device,
        batch_tokens=batch_tokens or default,
        on_progress=on_progress,
    )


def plain_name(name: str) -> str | None:
    """Return what a tensor of the "no" half is called in a CLIP model; None for the others."""
    head, dot, rest = name.partition(".")
    if not head.endswith(_SUFFIX) or name == PROMPTS:
        return None
    return head.removesuffix(_SUFFIX) + dot + rest


def no_name(plain: str) -> str:
    """Return what CLIPN calls the "no" half's tensor of a CLIP model's name."""
    head, dot, rest = plain.partition(".")
    return head + _SUFFIX + dot + rest


def _check_names(expected: set[str], given: set[str]) -> None:
    for what, names in (("lacks", expected - given), ("has unknown", given - expected)):
        if names:
            raise UsageError(
                f'CLIPN\'s "no" text encoder {what} {no_name(min(names))} ({len(names)} such '
                "tensors); use a complete checkpoint and the model it was trained on"
            )


def _check_shape(name: str, tensor: torch.Tensor, expected: torch.Size) -> None:
    if tensor.shape != expected:
        raise UsageError(
            f'CLIPN\'s "no" text encoder: {name} has shape {tuple(tensor.shape)}, expected '
            f"{tuple(expected)}; use the model that it was trained on"
        )
