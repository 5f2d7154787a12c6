"""LAPT's mixing and training losses, with the draws of the cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlood.methods.lapt_loss import Mixing, lapt_loss, merged_cross_entropy, mix
from vlood.methods.lapt_settings import PRESETS, LaptSettings

Arrays = Mapping[str, NDArray[Any]]
Params = Mapping[str, Any]

UNUSED = "an ablation of the authors' code that no recipe of theirs uses"
NOT_OFFERED = {
    ("lapt_mixing", "geomix_wccm/mixed"): UNUSED,
    ("lapt_train", "wccm_entropy/loss"): UNUSED,
    ("lapt_train", "wccm_entropy/grad_text_features"): UNUSED,
    ("lapt_oodmerge_loss", "entropy"): UNUSED,
}


def mixing(inputs: Arrays, params: Params) -> dict[str, NDArray[Any]]:
    images, labels = torch.from_numpy(inputs["image_features"]), inputs["label"]
    tables = inputs["text_table_id"], inputs["text_table_neg"]
    template = inputs["wccm/template_index"]
    texts = np.stack(
        [
            tables[label >= 1000][label % 1000, each]
            for label, each in zip(labels.tolist(), template.tolist(), strict=True)
        ]
    )
    mixed = mix(images, torch.from_numpy(texts), float(inputs["wccm/lam"]))
    outputs: dict[str, NDArray[Any]] = {"wccm/mixed": mixed.numpy()}
    for name in ("cross_dis", "manimix"):
        partner = inputs[f"{name}/index"]
        mixed = mix(images, images[torch.from_numpy(partner)], float(inputs[f"{name}/lam"]))
        outputs[f"{name}/mixed"] = mixed.numpy()
        outputs[f"{name}/label_a"], outputs[f"{name}/label_b"] = labels, labels[partner]
    return outputs


def training(inputs: Arrays, params: Params) -> dict[str, NDArray[Any]]:
    count, total = params["id_classes"], params["id_classes"] + params["n_neg"]
    images, labels = (torch.from_numpy(inputs[name]) for name in ("image_features", "label"))
    bank = torch.zeros(total, params["templates"], images.shape[1])
    bank[torch.from_numpy(inputs["used_classes"])] = torch.from_numpy(inputs["text_table_used"])
    released = LaptSettings(**PRESETS["lapt-released"])
    weight_cm, weight_cd = params["loss_weights"][:2]
    outputs: dict[str, NDArray[Any]] = {}
    for name, changed in {
        "wccm_multice": {},
        "wccm_cd_multice": {"weight_cross_distribution": weight_cd},
        "wccm_binaryce": {"objective": "binary"},
    }.items():
        text = torch.from_numpy(inputs["text_features"]).requires_grad_()
        drawn = Mixing(
            float(inputs[f"{name}/lam"]),
            inputs[f"{name}/template_index"],
            float(inputs.get(f"{name}/lam_cd", np.float64(1))),
            inputs.get(f"{name}/index_cd"),
        )
        loss, _ = lapt_loss(
            images,
            labels,
            text[:count],
            text[count:],
            bank,
            drawn,
            replace(released, weight_cross_modal=weight_cm, **changed),
            logit_scale=params["logit_scale"],
        )
        loss.backward()
        assert text.grad is not None
        outputs[f"{name}/loss"] = loss.detach().numpy()
        outputs[f"{name}/grad_text_features"] = text.grad.numpy()
    return outputs


def merged(inputs: Arrays, params: Params) -> dict[str, NDArray[Any]]:
    logits = torch.from_numpy(inputs["logits"]).requires_grad_()
    loss = merged_cross_entropy(logits, torch.from_numpy(inputs["soft_labels"]), params["C"])
    loss.backward()
    assert logits.grad is not None
    return {"loss": loss.detach().numpy(), "grad_logits": logits.grad.numpy()}


FAMILIES = {"lapt_mixing": mixing, "lapt_train": training, "lapt_oodmerge_loss": merged}
