"""NegLabel, grouped and plain, and CMA's score, which is the plain one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.evaluation.parity import cma_metrics
from vlood.methods import registry
from vlood.methods.contract import Scores, make_settings
from vlood.methods.neglabel import group_sizes, id_mass
from vlood.negatives.negative_features import NegativeFeatures
from vlood.prompts.templates import ClassFeatures

Arrays = Mapping[str, NDArray[Any]]
Params = Mapping[str, Any]

RAW_SUM = (
    "with one group that repository returns the sum of the ID logits without a softmax, a slip of "
    "its code; vlood's one group is the plain score of the paper"
)
NOT_OFFERED = {("neglabel_score", "g1/neglabel_conf"): RAW_SUM}


def scores(
    images: NDArray[Any],
    classes: NDArray[Any],
    negatives: NDArray[Any],
    scale: float,
    permutation: NDArray[Any] | None,
    **settings: Any,
) -> Scores:
    """Score as a user's run does."""
    method = registry.get("neglabel")
    count = len(negatives)
    order = np.arange(count) if permutation is None else permutation
    rest = np.setdiff1d(np.arange(count), order)
    detector = method.fit(
        ClassFeatures.of([f"class {row}" for row in range(len(classes))], classes),
        make_settings(method, settings),
        scale,
        negatives=NegativeFeatures.of(
            [f"negative {row}" for row in range(count)], negatives, np.concatenate([order, rest])
        ),
    )
    return method.score(detector, ImageFeatures(images))


def neglabel_score(inputs: Arrays, params: Params) -> Arrays:
    outputs: dict[str, NDArray[Any]] = {}

    def run(name: str, case: Params, images: NDArray[Any], text: NDArray[Any], ids: int) -> None:
        found = scores(
            images,
            text[:ids],
            text[ids:],
            case["logit_scale"],
            inputs.get(f"{name}/perm") if case["random_permute"] else None,
            groups=case["group_num"],
            remainder="drop",
        )
        outputs[f"{name}/conf"], outputs[f"{name}/pred"] = found.score, found.label

    for name, case in params["settings"].items():
        run(name, case, inputs["image_features"], inputs["text_features"], params["id_classes"])
        if case["group_num"] > 1:
            outputs[f"{name}/neglabel_conf"] = outputs[f"{name}/conf"]
    for name, case in params["dev"].items():
        text = inputs[f"{name}/text_features"]
        run(name, case, inputs[f"{name}/image_features"], text, case["n_id"])
    for name, case in params["small"].items():
        positive, negative = inputs[f"{name}/pos_sim"], inputs[f"{name}/neg_sim"]
        groups = case["ngroup"]
        kept = negative[:, : negative.shape[1] - negative.shape[1] % groups]
        if case["random_permute"]:
            kept = kept[:, inputs[f"{name}/perm"]]
        sizes = group_sizes(kept.shape[1], groups)
        outputs[f"{name}/score"] = id_mass(positive, kept, sizes)
    return outputs


def cma_score(inputs: Arrays, params: Params) -> Arrays:
    outputs: dict[str, NDArray[Any]] = {}
    classes = ClassFeatures.of(
        [str(row) for row in range(len(inputs["text_features"]))], inputs["text_features"]
    )
    mcm = registry.get("mcm")
    for name in ("id", "iNaturalist", "SUN", "Places", "Textures"):
        images = inputs[f"image_features_{name}"]
        outputs[f"neglabel_{name}"] = scores(
            images,
            inputs["text_features"],
            inputs["negative_text_features"],
            1 / params["scale"],
            None,
            groups=1,
        ).score
        detector = mcm.fit(classes, mcm.settings(), 1.0)
        outputs[f"mcm_{name}"] = mcm.score(detector, ImageFeatures(images)).score
        if name != "id":
            outputs[f"metrics_{name}"] = np.array(
                cma_metrics(outputs["neglabel_id"], outputs[f"neglabel_{name}"])
            )
    return outputs


FAMILIES = {"neglabel_score": neglabel_score, "cma_score": cma_score}
