"""Local-Prompt's scores, from the logits of its test loop; its code returns them negated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.methods import logits
from vlood.methods.local_prompt import local_evidence, regional_concept_match

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


FAMILIES = {"localprompt_score": localprompt_score}
NOT_OFFERED: dict[tuple[str, str], str] = {}
