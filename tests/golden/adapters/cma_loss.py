"""CMA's training loss from image and text features, with its gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray

from vlood.methods.cma_loss import cma_loss, evidence

Arrays = Mapping[str, NDArray[Any]]
Params = Mapping[str, Any]


def losses(inputs: Arrays, params: Params) -> dict[str, NDArray[Any]]:
    outputs: dict[str, NDArray[Any]] = {}
    for weight in params["lams"]:
        images, texts = (
            torch.from_numpy(inputs[name]).requires_grad_()
            for name in ("image_features", "text_features")
        )
        own = torch.arange(len(images))
        loss, parts = cma_loss(images, texts, own, params["logit_scale"], weight=weight)
        loss.backward()
        assert images.grad is not None
        assert texts.grad is not None
        sums = evidence(images, texts, own, params["logit_scale"])
        found = {
            "total_loss": loss,
            "image_loss": parts["image"],
            "text_loss": parts["text"],
            "lse_text": sums.texts,
            "lse_image": sums.images,
            "grad_image_features": images.grad,
            "grad_text_features": texts.grad,
        }
        for name, each in found.items():
            outputs[f"lam{weight:g}/{name}"] = each.detach().numpy()
    return outputs


FAMILIES = {"cma_loss": losses}
NOT_OFFERED: dict[tuple[str, str], str] = {}
