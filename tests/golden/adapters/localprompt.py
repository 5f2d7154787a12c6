"""Local-Prompt: scores from the logits of its test loop, where they are negated; losses; a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from vlood.methods import logits
from vlood.methods.local_prompt import local_evidence, regional_concept_match
from vlood.methods.local_prompt_loss import (
    LossWeights,
    chosen_regions,
    largest,
    local_prompt_loss,
    mass_of,
    negative_loss,
    positive_loss,
)
from vlood.training.view_ranking import ranked_views, view_similarities

Arrays = Mapping[str, NDArray[Any]]
Params = Mapping[str, Any]


def localprompt_score(inputs: Arrays, params: Params) -> dict[str, NDArray[Any]]:
    # The authors divide by a fixed 100, whatever the model's logit scale is.
    whole, local, negative = (
        inputs[name] / 100.0 for name in ("logits_global", "logits_local", "neg_logits_local")
    )
    T, top_k = params["T"], params["top_k"]
    mcm = logits.max_probability(whole / T)
    evidence = whole + local_evidence(local / T, top_k)
    return {
        "mcm": -mcm,
        "r_mcm": -(mcm + regional_concept_match(local / T, negative / T, top_k)),
        # A softmax over what are no logits but products already: the argmax is the same.
        "class_probs": logits.softmax(np.exp(evidence)),
        "correct": (evidence.argmax(axis=1) == inputs["label"]).astype(np.int64),
    }


def localprompt_loss(inputs: Arrays, params: Params) -> dict[str, NDArray[Any]]:
    names = ("output_local", "n2p_output_local", "neg_output_local", "p2n_output_local")
    given = {name: torch.from_numpy(inputs[name]).requires_grad_() for name in names}
    own, other, negative, classes = (each / params["T"] for each in given.values())
    top_k, label = params["top_k"], torch.from_numpy(inputs["label"])

    def of_label(one: torch.Tensor) -> torch.Tensor:
        return one.gather(2, label[:, None, None].expand(-1, one.shape[1], 1))[..., 0]

    def by_prompt(one: torch.Tensor) -> torch.Tensor:
        return one.permute(2, 0, 1)

    pull = positive_loss(
        mass_of(by_prompt(own), top_k),
        mass_of(by_prompt(other), top_k),
        largest(of_label(own), top_k).logsumexp(-1),
    )
    regions = chosen_regions(negative, of_label(classes), top_k)
    push = negative_loss(regions.logsumexp((1, 2)), mass_of(by_prompt(classes), top_k))
    (pull + push).backward()
    grads = {name: each.grad for name, each in given.items()}
    return {
        "loss_local": pull.detach().numpy(),
        "loss_local_neg": push.detach().numpy(),
        "grad_output_local": _array(grads["output_local"]),
        "grad_n2p": _array(grads["n2p_output_local"]),
        "grad_neg_output_local": _array(grads["neg_output_local"]),
        "grad_p2n": _array(grads["p2n_output_local"]),
    }


def localprompt_step(inputs: Arrays, params: Params) -> dict[str, NDArray[Any]]:
    positives = params["num_pos"]
    classes = F.normalize(torch.from_numpy(inputs["global_text_features"]), dim=-1).numpy()
    views = np.swapaxes(inputs["crop_features"], 0, 1)
    similar = view_similarities(views, inputs["label"], classes)
    chosen = ranked_views(similar, positives)
    outputs = {
        "similarity": similar.T,
        "max_list": chosen[:, :positives].T,
        # Their list of the least similar ones; only its first row is used there, and made here.
        "min_list": ranked_views(-similar, positives)[:, :positives].T,
    }
    assert np.array_equal(outputs["min_list"][0], chosen[:, -1])
    maps = F.normalize(torch.from_numpy(inputs["crop_local_features"]), dim=-1).swapaxes(0, 1)
    rows = torch.arange(len(maps))
    found: dict[str, list[Any]] = {}
    for step in range(positives):
        raw = [
            torch.from_numpy(inputs[name].copy()).requires_grad_()
            for name in ("local_text_features", "neg_text_features")
        ]
        loss, parts = local_prompt_loss(
            maps[rows, torch.from_numpy(chosen[:, step])],
            maps[rows, torch.from_numpy(chosen[:, -1])],
            torch.from_numpy(inputs["label"]),
            *(F.normalize(one, dim=-1) for one in raw),
            scale=params["logit_scale"],
            top_k=params["top_k"],
            weights=LossWeights(params["lambda_value"], params["div_value"], params["T"]),
            at_once=2 * maps.shape[0] * maps.shape[2],
        )
        loss.backward()
        told = {
            "loss": loss,
            "loss_local": parts["positive"],
            "loss_local_negative": parts["negative"],
            "loss_div": parts["diversity"],
            "grad_local_text": raw[0].grad,
            "grad_neg_text": raw[1].grad,
        }
        for name, value in told.items():
            found.setdefault(name, []).append(_array(value))
    outputs |= {name: np.stack(values) for name, values in found.items()}
    outputs["loss_div"] = outputs["loss_div"][0]
    return outputs


def _array(value: torch.Tensor | None) -> NDArray[Any]:
    assert value is not None
    return value.detach().numpy()


FAMILIES = {
    "localprompt_score": localprompt_score,
    "localprompt_loss": localprompt_loss,
    "localprompt_step": localprompt_step,
}
NOT_OFFERED: dict[tuple[str, str], str] = {}
