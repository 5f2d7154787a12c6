"""CLIPN: its scores, the fusion of templates and its text encoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures, unit
from vlood.backbone.no_text import no_text_tower
from vlood.backbone.no_tower import NoTextTower
from vlood.backbone.text import CausalTextTower
from vlood.evaluation.metrics import auroc, fpr_at_tpr
from vlood.methods import logits, registry
from vlood.methods.clipn_loss import losses, opposite_by_cosine
from vlood.methods.contract import Detector, make_settings
from vlood.prompts.classes import ClassName
from vlood.prompts.templates import class_features

Arrays = Mapping[str, NDArray[Any]]
Params = Mapping[str, Any]


def clipn_scores(inputs: Arrays, params: Params) -> dict[str, NDArray[Any]]:
    yes, no = unit(inputs["fc_yes"]), unit(inputs["fc_no"])
    names = tuple(str(row) for row in range(len(yes)))
    tensors = {"class_features": yes, "no_features": no}
    method, scale = registry.get("clipn"), float(params["scale"])

    def by_rule(rule: str, images: ImageFeatures) -> NDArray[np.float64]:
        settings = make_settings(method, {"rule": rule, "logit_scale": scale})
        return method.score(Detector("clipn", settings, names, tensors, scale), images).score

    outputs: dict[str, NDArray[Any]] = {}
    for side in ("id", "ood"):
        images = ImageFeatures(inputs[f"image_features_{side}"])
        yes_logits = (images.unit @ yes.T) * np.float32(scale)
        scores = {
            "MSP": logits.max_probability(yes_logits),
            "MaxLogit": yes_logits.max(axis=1),
            "Energy": logits.free_energy(yes_logits),
            "CTW": by_rule("ctw", images),
            "ATD": by_rule("atd", images),
        }
        for name, each in scores.items():
            outputs[f"{name}_{side}"] = outputs[f"handcrafted_{name}_{side}"] = each
        # Scaled logits scaled once more, as the hand-crafted variant's code does.
        twice = logits.free_energy(100.0 * yes_logits.astype(np.float64) - 100.0)
        outputs[f"handcrafted_Energy_{side}"] = twice
        outputs[f"logits_yes_{side}"] = yes_logits
        outputs[f"logits_no_{side}"] = (images.unit @ no.T) * np.float32(scale)
    for name in ("MSP", "MaxLogit", "Energy", "CTW", "ATD"):
        own, other = outputs[f"{name}_id"], outputs[f"{name}_ood"]
        outputs[f"{name}_auroc_fpr95"] = np.array(
            [auroc(own, other), fpr_at_tpr(own, other, mode="interp")]
        )
    right = outputs["logits_yes_id"].argmax(axis=1) == inputs["label_id"]
    outputs["accuracy"] = np.array(right.mean())
    return outputs


def clipn_template_fusion(inputs: Arrays, params: Params) -> dict[str, NDArray[Any]]:
    def fused(features: NDArray[Any]) -> NDArray[np.float32]:
        """Fuse as a user's class features are: each text is known by its template and class."""
        templates = [f"{row} {{}}" for row in range(len(features))]
        classes = [ClassName.of(str(column)) for column in range(features.shape[1])]

        def encode(texts: list[str]) -> NDArray[np.float32]:
            return np.stack([features[tuple(map(int, text.split()))] for text in texts])

        return class_features(encode, classes, templates).features

    return {"fc_yes": fused(inputs["text_yes"]), "fc_no": fused(inputs["text_no"])}


@torch.inference_mode()
def clipn_text(inputs: Arrays, params: Params) -> dict[str, NDArray[Any]]:
    from open_clip.model import CLIP

    text = {name: params[name] for name in ("context_length", "vocab_size", "width", "heads")}
    model = CLIP(
        params["embed_dim"],
        params["vision"],
        {**text, "layers": params["layers"]},
        quick_gelu=params["quick_gelu"],
    )
    state = {
        name.removeprefix("sd/"): torch.from_numpy(array)
        for name, array in inputs.items()
        if name.startswith("sd/")
    }
    plain = {name: each for name, each in state.items() if "_no" not in name.split(".")[0]}
    model.load_state_dict(plain)
    model.eval()
    yes = CausalTextTower.of(model)
    assert yes is not None
    tokens = torch.from_numpy(inputs["tokens"])

    # In training each text draws one of the prompts, or their mean.
    training = NoTextTower(yes, prompts=len(state["prompt_no"]))
    for name, parameter in training.trainable().items():
        parameter.copy_(state[name])
    drawn = torch.from_numpy(inputs["train_prompt_index"])

    found = {
        "text_yes": yes.encode_tokens(tokens),
        "text_no_eval": no_text_tower(yes, state).encode_tokens(tokens),
        "text_no_train": training(tokens, drawn),
        "forward_image": model.encode_image(torch.from_numpy(inputs["image"])),
    }
    outputs = {name: each.numpy() for name, each in found.items()}
    for name, source in (
        ("forward_image", "forward_image"),
        ("forward_text", "text_yes"),
        ("forward_text_no", "text_no_eval"),
    ):
        outputs[name] = unit(outputs[source])
    return outputs


def clipn_loss(inputs: Arrays, params: Params) -> dict[str, NDArray[Any]]:
    tensors = {
        name: torch.from_numpy(np.asarray(inputs[name], np.float64)).requires_grad_()
        for name in ("image_features", "text_features", "text_features_no")
    }
    scale = torch.tensor(float(params["logit_scale"]), dtype=torch.float64, requires_grad=True)
    parts = losses(*tensors.values(), scale)
    total = parts.total()
    total.backward()
    found = {
        "loss_bin_yes": parts.yes,
        "loss_bin_no": parts.no,
        "loss_tso": parts.tso,
        "loss_tso_cosine": opposite_by_cosine(
            tensors["text_features"], tensors["text_features_no"]
        ),
        "total": total,
        "grad_image": tensors["image_features"].grad,
        "grad_text": tensors["text_features"].grad,
        "grad_text_no": tensors["text_features_no"].grad,
        "grad_scale": scale.grad,
    }
    return {name: np.asarray(each.detach()) for name, each in found.items() if each is not None}


FAMILIES = {
    "clipn_loss": clipn_loss,
    "clipn_scores": clipn_scores,
    "clipn_template_fusion": clipn_template_fusion,
    "clipn_text": clipn_text,
}
NOT_OFFERED: dict[tuple[str, str], str] = {}
