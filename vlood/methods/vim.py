"""ViM: the probe's evidence for all classes, less what the principal directions cannot explain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.errors import UsageError
from vlood.methods.contract import Detector, Method, MethodRecord, Scores, check_whole, setting
from vlood.methods.logits import free_energy, with_labels
from vlood.methods.probe_head import HEAD, HeadSettings, fit_head, head_rows, linear
from vlood.prompts.templates import ClassFeatures
from vlood.training.labelled import LabelledFeatures

RECORD = MethodRecord(
    name="vim",
    title="ViM",
    paper="ViM: Out-Of-Distribution with Virtual-logit Matching",
    year=2022,
    venue="CVPR",
    url="https://arxiv.org/abs/2203.10807",
    summary="log-sum-exp of a probe's logits less a virtual logit, the scaled residual",
    score_note=(
        "LSE(W f + b) - alpha |residual of f + pinv(W) b|, T = 1; the classifier is a linear probe "
        "on the frozen tower"
    ),
    needs=("classes", "images"),
    trains=True,
    licence="Apache-2.0 (pytorch-ood)",
    names_only=True,
)


_ROUNDING = 1e-5


@dataclass(frozen=True)
class VimSettings(HeadSettings):
    """Settings of ViM and of its residual."""

    method: ClassVar[str] = "vim"

    directions: int = setting(
        0,
        help="principal directions that are taken out; 0: half the width, at most half the images",
        unit="directions",
        source="the paper, section 5: 512 of 768 to 1000 of 2048",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self.method, "directions", self.directions, 0)


def fit(
    classes: ClassFeatures,
    settings: VimSettings,
    logit_scale: float,
    *,
    images: LabelledFeatures,
    seed: int = 0,
    device: str = "cpu",
) -> Detector:
    """Train the probe, find the principal directions, and scale the virtual logit to the others.

    Raises:
        UsageError: fewer than two classes, a class without images, or too many directions.
    """
    settings, tensors = residual_space(settings, classes, images, seed)
    rows = tensors.pop("rows")
    length = _length(rows, tensors).mean()
    if not length > 0:
        raise UsageError(
            "vim: the principal directions explain the training images whole; use fewer "
            "--set directions, or more images"
        )
    # Equation 7: the virtual logit is as large, on the average, as the largest of the others.
    alpha = linear(rows, tensors).max(axis=1).mean() / length
    tensors["alpha"] = np.array([alpha], np.float32)
    return Detector(RECORD.name, settings, classes.names, tensors, float(logit_scale))


def residual_space(
    settings: Any, classes: ClassFeatures, images: LabelledFeatures, seed: int
) -> tuple[Any, dict[str, NDArray[Any]]]:
    """Train the probe and find the directions that training images have least of.

    Returns:
        The settings as used, and arrays: the probe, its ``origin`` -pinv(W) b (section 4.2), the
        orthonormal ``residual`` directions [R, D] (eq. 5), and the training ``rows``.

    Raises:
        UsageError: fewer than two classes, a class without images, or too many directions.
    """
    head = fit_head(settings, classes.names, images, seed=seed)
    count, width = head.rows.shape
    directions = settings.directions or max(1, min(width, count) // 2)
    if directions >= width:
        raise UsageError(
            f"{settings.method}: directions is {directions} and embeddings are {width} wide; use "
            "fewer, for some must be left over"
        )
    weight = head.weight.astype(np.float64)
    # The rows of a softmax's weights sum to zero up to rounding, which must not be inverted.
    origin = (-np.linalg.pinv(weight, rcond=_ROUNDING) @ head.bias).astype(np.float32)
    shifted = head.rows.astype(np.float64) - origin
    _, vectors = np.linalg.eigh(shifted.T @ shifted / count)
    residual = np.ascontiguousarray(vectors[:, : width - directions].T, np.float32)
    tensors = {**head.tensors(), "origin": origin, "residual": residual, "rows": head.rows}
    return head.settings, tensors


def residual_length(detector: Detector, images: ImageFeatures) -> NDArray[np.float64]:
    """Return the length of what the principal directions leave of N images, [N]."""
    return _length(head_rows(detector, images), detector.tensors)


def _length(rows: NDArray[np.float32], tensors: Any) -> NDArray[np.float64]:
    shifted = rows.astype(np.float64) - tensors["origin"]
    return np.asarray(np.linalg.norm(shifted @ tensors["residual"].T.astype(np.float64), axis=1))


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images: the free energy less the virtual logit (eq. 8, up to a rising function)."""
    own = logits(detector, images)
    virtual = float(detector.tensors["alpha"][0]) * residual_length(detector, images)
    return with_labels(free_energy(own) - virtual, own, 1.0)


def logits(detector: Detector, images: ImageFeatures) -> NDArray[np.float64]:
    """Return the probe's logits, [N, K]."""
    return linear(head_rows(detector, images), detector.tensors)


METHOD = Method(
    RECORD,
    VimSettings,
    fit,
    score,
    arrays={**HEAD, "origin": "D", "residual": "R D", "alpha": "A"},
    logits=logits,
)
