"""NegMine as NegLabel and as OpenOOD-VLM choose: closeness to the classes, then the selection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import unit
from vlood.negatives.closeness import closeness_to_classes
from vlood.negatives.index import build_index
from vlood.negatives.selection import select

Arrays = Mapping[str, NDArray[Any]]


def negmine(inputs: Arrays, params: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    nouns, adjectives = inputs["noun_features"], inputs["adj_features"]
    corpus = np.concatenate([nouns, adjectives])
    parts = ["noun"] * len(nouns) + ["adj"] * len(adjectives)

    positives = with_nearest(inputs["id_text_features"], corpus, params["pos_topk"])
    close = closeness_to_classes(
        corpus, positives, quantile=params["percentile"], block=params["emb_batchsize"]
    )
    neglabel = select(close.value, parts, keep=params["neg_topk_ratio"])

    close = closeness_to_classes(
        corpus,
        inputs["id_text_features"],
        quantile=params["openoodvlm_percentile"],
        rule="index",
    )
    openood = select(close.value, parts, size=params["openoodvlm_total_ood_num"])

    first_adjective = len(nouns)
    noun, adjective = neglabel.parts
    vlm_noun, vlm_adjective = openood.parts
    return {
        "neglabel_noun_index": noun.chosen,
        "neglabel_adj_index": adjective.chosen - first_adjective,
        "neglabel_text_features_neg": unit(corpus[neglabel.rows()]),
        "neglabel_text_features_pos": positives,
        "openoodvlm_noun_index": vlm_noun.chosen,
        "openoodvlm_adj_index": vlm_adjective.chosen - first_adjective,
        "openoodvlm_unselected_noun_index": vlm_noun.rest,
        "openoodvlm_unselected_adj_index": vlm_adjective.rest - first_adjective,
    }


def with_nearest(
    classes: NDArray[np.float32], corpus: NDArray[np.float32], top: int | None
) -> NDArray[np.float32]:
    """Append the corpus rows among the ``top`` nearest of some class, in the corpus's order."""
    if top is None:
        return unit(classes)
    _, near = build_index(corpus, "flat").search(classes, top)
    return unit(np.concatenate([classes, corpus[np.unique(near)]]))


FAMILIES = {"negmine": negmine}
NOT_OFFERED: dict[tuple[str, str], str] = {}
