"""A tuned CLIP as what differs from its base: a PEFT adapter, or the changes of some tensors.

LoRA (Hu et al. 2021) goes through PEFT, where it truly reaches open_clip's layers: the two linear
layers of each block's MLP, the convolutions of a ResNet's blocks, and the projection that makes an
attention's queries, keys and values. That one is no layer but a bare parameter, which PEFT adapts
by name (``target_parameters``). An attention's output projection is read as a tensor by torch's own
attention, past any adapter on it, and so is a ResNet's attention pool: adapters there learn
nothing, and are refused.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vlood.backbone.backbone import Backbone
from vlood.backbone.peft_adapters import ADAPTER_NAME, draw_start, injected, plain_config
from vlood.backbone.tuned_folder import ADAPTER_SHAPE, TunedWeights
from vlood.backbone.weights import weights_digest
from vlood.errors import UsageError

TUNED = ("full", "lora", "projection", "visual", "text")
MLP = r"(?:visual\.)?transformer\.resblocks\.\d+\.mlp\.c_(?:fc|proj)"
CONVOLUTIONS = r"visual\.layer\d\.\d+\.conv[123]"
ATTENTION = "attn.in_proj_weight"


def trainable_names(module: Any, tuned: str) -> list[str]:
    """Return the parameters of an open_clip model that a kind of tuning changes, not LoRA.

    ``full`` is everything, the logit scale too, as published; ``projection`` the last linear map of
    each tower; ``visual`` and ``text`` one tower whole.

    Raises:
        UsageError: the model has none of these.
    """
    names = [name for name, one in module.named_parameters() if one.is_floating_point()]
    if tuned == "visual":
        names = [name for name in names if name.startswith("visual.")]
    elif tuned == "text":
        names = [name for name in names if not name.startswith(("visual.", "logit_"))]
    elif tuned == "projection":
        names = [name for name in names if re.fullmatch(_PROJECTIONS, name)]
    if not names:
        raise UsageError(f"tune={tuned}: the model has no such parameters; use tune=full")
    return names


_PROJECTIONS = (
    r"visual\.(?:proj|attnpool\.c_proj\.(?:weight|bias))|(?:text\.)?text_projection(?:\.weight)?"
)


@dataclass(frozen=True)
class LoraSettings:
    """How an adapter is made.

    Attributes:
        rank: of each change.
        alpha: changes are scaled by alpha / rank, or by alpha / sqrt(rank) with ``rslora``.
        dropout: of what goes into a change, in training.
        targets: ``auto``, ``mlp`` (and convolutions), ``attention``, or names of layers, a regular
            expression as PEFT takes it.
        dora: weight-decomposed (Liu et al. 2024).
        rslora: rank-stabilised (Kalajdzievski 2023).
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: str = "auto"
    dora: bool = False
    rslora: bool = False


def add_adapter(module: Any, lora: LoraSettings, random: np.random.Generator) -> Any:
    """Put an adapter on an open_clip model, in place; return PEFT's model around it.

    Nothing changes at first: one of each pair of matrices is zero. The other is drawn by ``random``
    as PEFT does it, uniformly.

    Raises:
        UsageError: the targets match nothing, or PEFT cannot do this to them.
    """
    module.requires_grad_(False)
    layers, parameters = _targets(module, lora)
    adapted = _inject(
        module,
        {
            "r": lora.rank,
            "lora_alpha": lora.alpha,
            "lora_dropout": lora.dropout,
            "use_dora": lora.dora,
            "use_rslora": lora.rslora,
            "target_modules": layers,
            "target_parameters": parameters,
        },
    )
    draw_start(module.named_parameters(), random)
    return adapted


def _targets(module: Any, lora: LoraSettings) -> tuple[str | None, list[str] | None]:
    """Return the layers as a regular expression, and the bare parameters, of an adapter."""
    layers = [name for name, _ in module.named_modules()]
    attention = any(name.endswith(ATTENTION) for name, _ in module.named_parameters())
    plain = lora.dropout == 0 and not lora.dora
    if lora.targets == "attention" and not plain:
        raise UsageError(
            "targets=attention: PEFT does neither dropout nor DoRA on the bare parameter of an "
            "attention; use targets=mlp, or dropout=0 and dora=false"
        )
    if lora.targets == "attention":
        if not attention:
            raise UsageError("targets=attention: the model has no such parameters; use targets=mlp")
        return None, [ATTENTION]
    wanted = f"{MLP}|{CONVOLUTIONS}" if lora.targets in ("auto", "mlp") else lora.targets
    try:
        matched = [name for name in layers if re.fullmatch(wanted, name)]
    except re.error as error:
        raise UsageError(
            f"targets={lora.targets}: is no regular expression ({error}); name layers such as "
            r"'.*\.mlp\.c_fc'"
        ) from error
    if not matched:
        shown = next((name for name in layers if re.fullmatch(MLP, name)), layers[-1])
        raise UsageError(
            f"targets={lora.targets}: matches no layer of the model; use auto, mlp, attention, or "
            f"a regular expression of names such as {shown}"
        )
    both = lora.targets == "auto" and attention and plain
    return wanted, [ATTENTION] if both else None


def check_gradients(
    module: Any, names: list[str], loss: Callable[[], torch.Tensor], random: np.random.Generator
) -> list[str]:
    """Return the trained tensors that the features do not depend on, before anything is trained.

    Args:
        module: the model.
        names: of the trained parameters.
        loss: gives a scalar of the features of both towers.
        random: for what stands in the place of an adapter's zeros meanwhile.
    """
    parameters = dict(module.named_parameters())
    zeros = [n for n in names if ".lora_B." in n and not bool(parameters[n].any())]
    with torch.no_grad():
        for name in zeros:
            drawn = random.normal(0, 0.02, tuple(parameters[name].shape)).astype(np.float32)
            parameters[name].copy_(torch.from_numpy(drawn))
    total = loss()
    found: tuple[torch.Tensor | None, ...] = (None,) * len(names)
    if total.requires_grad:
        wanted = [parameters[name] for name in names]
        found = torch.autograd.grad(total, wanted, allow_unused=True)
    with torch.no_grad():
        for name in zeros:
            parameters[name].zero_()
    return [
        name
        for name, one in zip(names, found, strict=True)
        if one is None or (".lora_" in name and not bool(one.ne(0).any()))
    ]


def trained_weights(
    module: Any, adapted: Any, base: Mapping[str, torch.Tensor], names: list[str]
) -> TunedWeights:
    """Return what was trained, as differences from the base.

    Args:
        module: the trained model.
        adapted: PEFT's model around it, or None.
        base: the parameters before, by name, where there is no adapter.
        names: of the trained parameters.
    """
    if adapted is not None:
        from peft import get_peft_model_state_dict

        state = get_peft_model_state_dict(adapted)
        arrays = {name: one.detach().cpu().float().numpy().copy() for name, one in state.items()}
        config = plain_config(adapted.peft_config[ADAPTER_NAME].to_dict())
        return TunedWeights(arrays, {**config, "inference_mode": True})
    after = dict(module.named_parameters())
    return TunedWeights(
        deltas={
            name: (after[name].detach().float().cpu() - base[name].float().cpu()).numpy()
            for name in names
        }
    )


def merged_state(module: Any, weights: TunedWeights) -> dict[str, torch.Tensor]:
    """Return the tensors of a model with the tuned weights built in, in single precision.

    Args:
        module: the base; it stays as it is.
        weights: tuned on it.

    Raises:
        UsageError: they do not fit.
    """
    plain = copy.deepcopy(module).float()
    if weights.config is not None:
        plain = with_adapter(plain, weights).merge_and_unload()
    state: dict[str, torch.Tensor] = {
        name: one.detach() for name, one in plain.state_dict().items()
    }
    for name, delta in weights.deltas.items():
        if name not in state or tuple(state[name].shape) != delta.shape:
            raise _of_another_model(f"{name} is none of its tensors")
        added = torch.from_numpy(np.asarray(delta, np.float32)).to(state[name].device)
        state[name] = state[name] + added
    return state


def with_adapter(module: Any, weights: TunedWeights) -> Any:
    """Put a kept adapter on an open_clip model, in place; return PEFT's model around it.

    Raises:
        UsageError: the adapter is not one of this model.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    assert weights.config is not None
    module.requires_grad_(False)
    try:
        adapted = _inject(module, {name: weights.config[name] for name in ADAPTER_SHAPE})
        expected = get_peft_model_state_dict(adapted)
        if set(expected) != set(weights.adapter):
            raise _of_another_model(sorted(set(expected) ^ set(weights.adapter))[0])
        tensors = {
            name: torch.from_numpy(np.asarray(one, np.float32))
            for name, one in weights.adapter.items()
        }
        set_peft_model_state_dict(adapted, tensors)
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise _of_another_model(str(error).splitlines()[0]) from error
    return adapted


def tuned_backbone(base: Backbone, weights: TunedWeights, name: str) -> Backbone:
    """Return a backbone with tuned weights built in, in the precision of its base.

    Args:
        base: what they were tuned on; it stays as it is.
        weights: the tuned ones.
        name: of the new one, as ``--model`` takes it.

    Raises:
        UsageError: they do not fit.
    """
    state = merged_state(base.module, weights)
    module = copy.deepcopy(base.module)
    with torch.no_grad():
        for key, tensor in module.state_dict().items():
            tensor.copy_(state[key])
    return base.replaced(name=name, digest=weights.digest(base.digest), module=module)


def merged_digest(backbone: Backbone) -> str:
    """Return the digest that a tuned model would have as a file of its own, in single precision."""
    state = backbone.module.state_dict()
    return weights_digest({name: one.detach().float().cpu() for name, one in state.items()})


def _inject(module: Any, known: Mapping[str, Any]) -> Any:
    import warnings

    from peft import LoraConfig

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return injected(module, LoraConfig(**known))
        except (ValueError, NotImplementedError, TypeError) as error:
            raise UsageError(
                f"tune=lora: PEFT cannot put this adapter on the model "
                f"({str(error).splitlines()[0][:160]}); use other targets"
            ) from error


def _of_another_model(what: str) -> UsageError:
    return UsageError(
        f"the tuned weights do not fit this model ({what}); use the model they were tuned on"
    )
