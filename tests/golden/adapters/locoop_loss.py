"""LoCoOp's training loss from global and local logits, with its gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray

from vlood.methods.locoop_loss import locoop_loss

Arrays = Mapping[str, NDArray[Any]]
Params = Mapping[str, Any]


def losses(inputs: Arrays, params: Params) -> dict[str, NDArray[Any]]:
    outputs: dict[str, NDArray[Any]] = {}
    label = torch.from_numpy(inputs["label"])
    for top_k in params["top_k"]:
        whole, local = (
            torch.from_numpy(inputs[name]).requires_grad_()
            for name in ("logits_global", "logits_local")
        )
        loss, parts = locoop_loss(whole, local, label, top_k=top_k, weight=params["lambda_value"])
        loss.backward()
        assert whole.grad is not None
        assert local.grad is not None
        found = {
            "loss": loss,
            "loss_id": parts["cross_entropy"],
            "loss_en": -parts["local_entropy"],
            "grad_global": whole.grad,
            "grad_local": local.grad,
        }
        outputs.update({f"{name}_k{top_k}": each.detach().numpy() for name, each in found.items()})
    return outputs


FAMILIES = {"locoop_loss": losses}
NOT_OFFERED: dict[tuple[str, str], str] = {}
