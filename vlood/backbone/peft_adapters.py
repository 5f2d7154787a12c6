"""What every LoRA adapter here shares, made by PEFT (Hu et al. 2021)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

ADAPTER_NAME = "default"


def injected(module: Any, config: Any) -> Any:
    """Put an adapter on a module, in place; return PEFT's model around it.

    Args:
        module: whose own tensors are frozen.
        config: PEFT's, of the adapter.

    Raises:
        ValueError: PEFT cannot put it there; or NotImplementedError, TypeError.
    """
    from peft import get_peft_model

    # PEFT draws its matrices by the global generator, which is nobody's here.
    with torch.random.fork_rng(devices=[]):
        return get_peft_model(module, config, adapter_name=ADAPTER_NAME)


def draw_start(
    parameters: Iterable[tuple[str, torch.nn.Parameter]], random: np.random.Generator
) -> None:
    """Draw the first matrix of each pair as PEFT does it, uniformly; the other is zero.

    Args:
        parameters: of the adapted module, by name; in the order in which they are drawn.
        random: local.
    """
    for name, parameter in parameters:
        if ".lora_A." in name:
            # kaiming_uniform with a = sqrt(5)
            bound = 1 / float(np.sqrt(np.prod(parameter.shape[1:])))
            drawn = random.uniform(-bound, bound, tuple(parameter.shape)).astype(np.float32)
            parameter.data.copy_(torch.from_numpy(drawn))


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return an adapter's configuration as JSON can hold it."""
    plain: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, (set, frozenset)):
            value = sorted(value)
        plain[name] = getattr(value, "value", value)
    return plain
