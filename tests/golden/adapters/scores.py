"""MCM, MSP, max-logit, energy, entropy and GL-MCM.

Repositories that return outlier scores (lower = more in-distribution) get vlood's score negated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.methods import gen, gl_mcm, logits, registry
from vlood.methods.contract import make_settings
from vlood.prompts.templates import ClassFeatures

Arrays = Mapping[str, NDArray[Any]]
Params = Mapping[str, Any]


def score(
    method: str,
    image: NDArray[Any],
    text: NDArray[Any],
    local: NDArray[Any] | None = None,
    **settings: float,
) -> NDArray[np.float64]:
    """Score as a user's run does, at a logit scale of 1: these repositories' logits are cosines."""
    classes = ClassFeatures.of([str(index) for index in range(len(text))], text)
    chosen = registry.get(method)
    detector = chosen.fit(classes, make_settings(chosen, settings), 1.0)
    return chosen.score(detector, ImageFeatures(image, local)).score


def mcm_scores(inputs: Arrays, params: Params) -> Arrays:
    image, text, T = inputs["image_features"], inputs["text_features"], params["T"]
    return {
        "MCM": -score("mcm", image, text, temperature=T),
        "max_logit": -score("max-logit", image, text),
        "energy": -score("energy", image, text, temperature=T),
        # The one score of this repository that is not negated: lower entropy = more ID.
        "entropy": -score("entropy", image, text, temperature=T),
    }


def logit_scores(inputs: Arrays, params: Params) -> Arrays:
    given, T = inputs["logits"], params["T"]
    msp = logits.max_probability(given)
    largest = given.max(axis=1)
    return {
        "openood_msp": msp,
        "openood_pred": given.argmax(axis=1),
        "openood_mls": largest,
        "openood_gen": -gen.generalised_entropy(
            logits.softmax(given), params["gamma"], params["M"]
        ),
        "openood_ebo": logits.free_energy(given, T),
        "openoodvlm_mcm": logits.max_probability(given / T),
        "pytorchood_msp": -logits.max_probability(given / T),
        "pytorchood_energy": -logits.free_energy(given, T),
        "pytorchood_maxlogit": -largest,
        "pytorchood_entropy": logits.entropy(given),
        "clipn_msp": msp,
        "clipn_maxlogit": largest,
        "clipn_energy": logits.free_energy(given),
        # Scaled logits scaled once more, as that repository's hand-crafted variant does.
        "clipn_handcrafted_energy": logits.free_energy(100.0 * given - 100.0),
    }


def glmcm_scores(inputs: Arrays, params: Params) -> Arrays:
    image, text, T = inputs["global_features"], inputs["text_features"], params["T"]
    rows, height, width, dim = inputs["local_features"].shape
    local = inputs["local_features"].reshape(rows, height * width, dim)
    weight = params["lambda_local"]
    classes = ClassFeatures.of([str(index) for index in range(len(text))], text)
    # LoCoOp divides by a fixed 100, whatever the model's logit scale is.
    global_logits = inputs["locoop_logits_global"] / 100.0 / T
    local_logits = inputs["locoop_logits_local"] / 100.0 / T
    locoop_mcm = logits.max_probability(global_logits)
    return {
        "MCM": -score("mcm", image, text, temperature=T),
        "L_MCM": -gl_mcm.local_concept_match(local, classes.features, T),
        "GL_MCM": -score("gl-mcm", image, text, local, temperature=T, lambda_local=weight),
        "locoop_mcm": -locoop_mcm,
        "locoop_glmcm": -(locoop_mcm + gl_mcm.best_region(local_logits)),
    }


FAMILIES = {
    "mcm_scores": mcm_scores,
    "logit_scores": logit_scores,
    "glmcm_scores": glmcm_scores,
}
NOT_OFFERED = {
    (
        "mcm_scores",
        "var",
    ): "the variance over classes is an ablation of the MCM repository, no method",
}
