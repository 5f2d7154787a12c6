"""COOkeD: the scores of its three members and of the mean of their probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import unit
from vlood.methods.cooked import mean_probability
from vlood.methods.logits import entropy, max_probability, probability_entropy, softmax

Arrays = Mapping[str, NDArray[Any]]
Params = Mapping[str, Any]


def cooked_scores(inputs: Arrays, params: Params) -> dict[str, NDArray[Any]]:
    cosines = unit(inputs["clip_features"]) @ inputs["prompt_features"].T
    outputs = ensemble_scores(inputs, 100.0 * cosines, "t100")
    scale = params["clip_logit_scale"]
    if int(scale) != 100:  # that repository then reports a second ensemble
        outputs.update(ensemble_scores(inputs, np.float32(scale) * cosines, "learned"))
    return outputs


def ensemble_scores(
    inputs: Arrays, clip: NDArray[np.float32], variant: str
) -> dict[str, NDArray[Any]]:
    members = {
        "classifier": inputs["logits_classifier"],
        "probe": inputs["logits_probe"],
        f"clip_{variant}": clip,
    }
    outputs: dict[str, NDArray[Any]] = {}
    for name, given in members.items():
        outputs[f"conf/msp_{name}"] = max_probability(given)
        outputs[f"conf/entropy_{name}"] = entropy(given)
        outputs[f"pred/pred_{name.removesuffix('_t100')}"] = given.argmax(axis=1)
    mean = mean_probability([softmax(given) for given in members.values()], [1, 1, 1])
    whole = f"avg_classifier+probe+clip_{variant}"
    outputs[f"probs/avg_{variant}"] = mean
    outputs[f"conf/msp_{whole}"] = mean.max(axis=1)
    outputs[f"conf/entropy_{whole}"] = probability_entropy(mean)
    outputs[f"pred/pred_{whole}"] = mean.argmax(axis=1)
    return outputs


FAMILIES = {"cooked_scores": cooked_scores}
NOT_OFFERED: dict[tuple[str, str], str] = {}
