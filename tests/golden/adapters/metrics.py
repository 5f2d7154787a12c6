"""Family `metrics`: the same scores through vlood's metrics and the published code bases' ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.evaluation.metrics import aupr, auroc, ccr_at_fpr, fpr_at_tpr, id_accuracy
from vlood.evaluation.parity import cma_metrics, openood_fpr, pytorch_ood_metrics

Arrays = dict[str, NDArray[Any]]


def metrics(inputs: Mapping[str, NDArray[Any]], params: Mapping[str, Any]) -> Arrays:
    """Map confidence, label (-1 = OOD) and prediction [N] to the figures of eight code bases."""
    is_id = inputs["label"] != -1
    inlier, outlier = inputs["conf"][is_id], inputs["conf"][~is_id]
    predicted, true = inputs["pred"][is_id], inputs["label"][is_id]

    area = auroc(inlier, outlier)
    precision_in = aupr(inlier, outlier, positive="id")
    precision_out = aupr(inlier, outlier, positive="ood")
    linear_in = aupr(inlier, outlier, positive="id", mode="trapezoid")
    linear_out = aupr(inlier, outlier, positive="ood", mode="trapezoid")
    nearest = fpr_at_tpr(inlier, outlier, mode="nearest")
    interpolated = fpr_at_tpr(inlier, outlier, mode="interp")
    return {
        "openood": np.array(
            [
                openood_fpr(inlier, outlier, positive="ood").fpr,
                area,
                linear_in,
                linear_out,
                id_accuracy(predicted, true),
            ]
        ),
        "openood_fpr_recall": np.array(openood_fpr(inlier, outlier, positive="id")),
        "openood_ccr": np.array(
            [ccr_at_fpr(inlier, predicted == true, outlier, fpr) for fpr in (0.5, 0.1)]
        ),
        "pytorch_ood": np.array(pytorch_ood_metrics(inlier, outlier)),
        "mcm": np.array([area, precision_in, nearest]),
        "neglabel": np.array([area, precision_in, precision_out, nearest]),
        "clipn": np.array([area, interpolated]),
        "cma": np.array(cma_metrics(inlier, outlier)),
        "cooked": np.array([area, nearest]),
    }


FAMILIES: dict[str, Callable[[Mapping[str, NDArray[Any]], Mapping[str, Any]], Arrays]] = {
    "metrics": metrics
}

NOT_OFFERED: dict[tuple[str, str], str] = {}
