"""AdaNeg and TANL, which go through a stream batch by batch, and TANL's building blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.methods import adaneg as adaneg_method
from vlood.methods import registry
from vlood.methods import tanl as tanl_method
from vlood.methods.adaneg_settings import COMBINE
from vlood.methods.contract import Detector, Scores, State, make_settings
from vlood.negatives.negative_features import NegativeFeatures
from vlood.prompts.templates import ClassFeatures

Arrays = Mapping[str, NDArray[Any]]
Params = Mapping[str, Any]

WEIGHTED = "weights by activation are an abandoned analysis; the released method does not use them"
NOT_OFFERED = {
    ("tanl_parts", "score_weight_inner"): WEIGHTED,
    ("tanl_parts", "score_weight_outer"): WEIGHTED,
}


def names(rows: NDArray[Any]) -> list[str]:
    return [str(row) for row in range(len(rows))]


def run(detector: Detector, images: NDArray[Any], params: Params) -> Iterator[tuple[Scores, State]]:
    """Go through the stream as a user's run does; yield the scores of and the state after each."""
    stream = registry.get(detector.method).stream
    assert stream is not None
    state = stream.start(detector)
    size = params["batch_size"]
    for begin in range(0, len(images), size):
        scores, state = stream.step(detector, ImageFeatures(images[begin : begin + size]), state)
        yield scores, state


def adaneg(inputs: Arrays, params: Params) -> Arrays:
    text, ids = inputs["text_features"], params["id_classes"]
    negatives = text[ids:]
    order = inputs.get("perm", np.arange(len(negatives)))
    rest = np.setdiff1d(np.arange(len(negatives)), order)
    outputs: dict[str, NDArray[Any]] = {}
    for combine in COMBINE:
        settings = {
            "groups": params["group_num"],
            "threshold": params["thres"],
            "gap": params["gap"],
            "adaptive_gap": params["class_name"] == "TTAPromptPostprocessor",
            "memory_length": params["memleng"],
            "sample_adaptive": params["samada"],
            "beta": int(params["beta"]),
            "lambda_text": params["lambdaval"],
            "combine": combine,
        }
        detector = adaneg_method.fit(
            ClassFeatures.of(names(text[:ids]), text[:ids]),
            make_settings(adaneg_method.METHOD, settings),
            params["logit_scale"],
            negatives=NegativeFeatures.of(
                names(negatives), negatives, np.concatenate([order, rest])
            ),
        )
        batches = list(run(detector, inputs["image_features"], params))
        outputs[f"{combine}/conf"] = np.concatenate([scores.score for scores, _ in batches])
        outputs[f"{combine}/pred"] = np.concatenate([scores.label for scores, _ in batches])
        outputs |= whole_memory(text, batches[-1][1], params["memleng"])
    return outputs


def whole_memory(text: NDArray[Any], state: State, length: int) -> Arrays:
    """Lay the touched rows out among all of them, with the text and the slot that stays empty."""
    touched = state["touched"]
    features = np.zeros((len(text), 1 + length, text.shape[1]), np.float32)
    entropies = np.zeros(features.shape[:2], np.float32)
    fill = np.ones(len(text), np.int64)
    features[:, 0] = text
    features[touched, 1:length] = state["images"]
    entropies[touched, 1:length] = state["entropies"]
    fill[touched] += state["filled"]
    arrays = {"feat_memory": features, "entropy_memory": entropies, "fill": fill}
    window = state["window"]
    if len(window):
        decided_id = int(window.sum())
        arrays["estimated_counts"] = np.array([decided_id, len(window) - decided_id])
    return arrays


def tanl(inputs: Arrays, params: Params) -> Arrays:
    text, ids = inputs["text_features_all"], params["id_classes"]
    settings = {
        "active": params["beta"],
        "alpha": params["alpha"],
        "gamma": params["gamma"],
        "gap": params["gap"],
        "queue_length": params["memleng"],
        "cosine_activations": params["cossim"],
    }
    detector = tanl_method.fit(
        ClassFeatures.of(names(text[:ids]), text[:ids]),
        make_settings(tanl_method.METHOD, settings),
        params["logit_scale"],
        negatives=NegativeFeatures.of(names(text[ids:]), text[ids:]),
        noise=inputs["noise_features"],
    )
    orders = {"class_order": inputs["perm_pos"], "noise_order": inputs["perm_neg"]}
    detector = replace(detector, tensors={**detector.tensors, **orders})
    batches = list(run(detector, inputs["image_features"], params))
    last = batches[-1][1]
    return {
        "conf": np.concatenate([scores.score for scores, _ in batches]),
        "pred": np.concatenate([scores.label for scores, _ in batches]),
        "threshold": np.array([state["threshold"] for _, state in batches]),
        "queue_lengths": np.array(
            [[len(state["pos_queue"]), len(state["neg_queue"])] for _, state in batches]
        ),
        "score_history": last["history"],
        "activation_pos": last["pos_queue"],
        "activation_neg": last["neg_queue"],
    }


def tanl_parts(inputs: Arrays, params: Params) -> Arrays:
    logits, ids = inputs["logits"], params["C"]
    positive, negative = logits[:, :ids], logits[:, ids:]
    outputs: dict[str, NDArray[Any]] = {
        f"score_step{step}": tanl_method.activation_aware_score(positive, negative, step)
        for step in params["steps"]
    }
    for name, scores in inputs.items():
        if name.startswith("thr_scores_"):
            found = tanl_method.best_threshold(scores)
            outputs[name.replace("thr_scores", "threshold")] = np.array(found)
    return outputs


FAMILIES = {"adaneg": adaneg, "tanl": tanl, "tanl_parts": tanl_parts}
