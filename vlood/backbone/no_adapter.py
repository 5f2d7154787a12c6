"""A LoRA adapter on the "no" text tower, made by PEFT (Hu et al. 2021).

It changes the two layers of each block's MLP, and the projection that makes an attention's queries,
keys and values. That one is no layer but a bare parameter, which PEFT adapts by name
(``target_parameters``). Naming the attention itself would not do: PEFT 0.21 then adds the change of
its output projection twice, and its gradient once.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from vlood.backbone.no_text import PROMPTS, no_name, plain_name
from vlood.backbone.no_tower import NoTextTower
from vlood.backbone.peft_adapters import ADAPTER_NAME, draw_start, injected, plain_config
from vlood.errors import UsageError

LAYERS = ["c_fc", "c_proj"]
PARAMETERS = ["attn.in_proj_weight"]
_PREFIX = "base_model.model."


def add_adapter(
    tower: NoTextTower, *, rank: int, alpha: float, random: np.random.Generator
) -> dict[str, Any]:
    """Put an adapter on a tower, in place; return its configuration, JSON-able.

    Nothing changes at first: one of each pair of matrices is zero. The other is drawn by ``random``
    as PEFT does it, uniformly.

    Args:
        tower: whose own tensors are frozen.
        rank: of the change of each matrix.
        alpha: the change is scaled by alpha / rank.
        random: local.
    """
    from peft import LoraConfig

    config = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=LAYERS, target_parameters=PARAMETERS
    )
    tower.adapted = injected(tower.side, config)
    draw_start(tower.side.named_parameters(), random)
    return plain_config(config.to_dict())


def with_adapter(
    tower: NoTextTower, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> NoTextTower:
    """Put a kept adapter on a tower, in place, and return it.

    Args:
        tower: the same copy that it was trained on.
        config: from ``add_adapter``.
        tensors: by PEFT's own names.

    Raises:
        UsageError: the adapter is not one of this tower.
    """
    from peft import LoraConfig

    tower.side.requires_grad_(False)
    try:
        known = {name: config[name] for name in ("r", "lora_alpha")}
        targets = {name: config[name] for name in ("target_modules", "target_parameters")}
        tower.adapted = injected(tower.side, LoraConfig(**known, **targets))
        with torch.no_grad():
            for name, parameter in tower.trainable().items():
                own = peft_name(name)
                if own is not None:
                    parameter.copy_(tensors[own])
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise UsageError(
            f'the adapter of the "no" tower does not fit this model ({error}); use the model that '
            "it was trained on"
        ) from error
    return tower


def merged_state(tower: NoTextTower) -> dict[str, torch.Tensor]:
    """Return all tensors of a tower with its adapter built in, as ``NoTextTower.state`` does."""
    merged = copy.deepcopy(tower.adapted).merge_and_unload()
    found = {no_name(name): each for name, each in merged.state_dict().items()}
    if tower.prompt_no is not None:
        found[PROMPTS] = tower.prompt_no.detach()
    return found


def peft_name(name: str) -> str | None:
    """Return what PEFT's own files call a trained tensor; None for one that is not an adapter's.

    Args:
        name: of ``NoTextTower.trainable``.
    """
    plain = plain_name(name)
    if plain is None or f".{ADAPTER_NAME}." not in plain:
        return None
    return _PREFIX + plain.replace(f".{ADAPTER_NAME}.", ".")
