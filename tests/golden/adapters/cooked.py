"""COOkeD: the scores of its three members and of the mean of their probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from vlood.backbone.image_features import unit
from vlood.methods.linear_probe import ensemble
from vlood.methods.logits import entropy, max_probability, probability_entropy, softmax

Arrays = Mapping[str, NDArray[Any]]
Params = Mapping[str, Any]


def cooked_scores(inputs: Arrays, params: Params) -> dict[str, NDArray[Any]]:
    # 100, whatever the learned scale is: params["clip_logit_scale"] makes another ensemble.
    clip = 100.0 * (unit(inputs["clip_features"]) @ inputs["prompt_features"].T)
    members = {
        "classifier": inputs["logits_classifier"],
        "probe": inputs["logits_probe"],
        "clip_t100": clip,
    }
    outputs: dict[str, NDArray[Any]] = {}
    for name, given in members.items():
        outputs[f"conf/msp_{name}"] = max_probability(given)
        outputs[f"conf/entropy_{name}"] = entropy(given)
        outputs[f"pred/pred_{name.removesuffix('_t100')}"] = given.argmax(axis=1)
    mean = ensemble([softmax(given) for given in members.values()])
    outputs["probs/avg_t100"] = mean
    outputs["conf/msp_avg_classifier+probe+clip_t100"] = mean.max(axis=1)
    outputs["conf/entropy_avg_classifier+probe+clip_t100"] = probability_entropy(mean)
    outputs["pred/pred_avg_classifier+probe+clip_t100"] = mean.argmax(axis=1)
    return outputs


FAMILIES = {"cooked_scores": cooked_scores}
NOT_OFFERED: dict[tuple[str, str], str] = {}
