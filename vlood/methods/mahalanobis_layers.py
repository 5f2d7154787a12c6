"""Mahalanobis over layers: the distances in every layer of the image tower, weighted and summed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures, unit
from vlood.errors import UsageError
from vlood.features.embeddings import read_embeddings
from vlood.methods.contract import (
    Detector,
    Method,
    MethodRecord,
    Scores,
    check_positive,
    setting,
)
from vlood.methods.logits import with_labels
from vlood.methods.mahalanobis import (
    MahalanobisSettings,
    class_moments,
    covariance,
    freedom,
    squared_distances,
)
from vlood.prompts.templates import ClassFeatures
from vlood.training.gaussians import FOLDS, Moments, fold_moments, turns, whitening, whole
from vlood.training.labelled import LabelledFeatures

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float64]

RECORD = MethodRecord(
    name="mahalanobis-layers",
    title="Mahalanobis over layers",
    paper=(
        "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial "
        "Attacks"
    ),
    year=2018,
    venue="NeurIPS",
    url="https://arxiv.org/abs/1807.03888",
    summary="weighted sum of minus the squared Mahalanobis distances in every layer of the tower",
    score_note=(
        "sum_l a_l M_l, M_l = -min (f_l - m)' S_l^-1 (f_l - m) standardised on images left out; "
        "kept: averaged features of all layers, one S a layer, a logistic regression (with --set "
        "outliers=FILE), a step of the pixels (--set step); not kept: without outliers all a_l are "
        "alike, S is shrunk, one step for the sum instead of one a layer, a fitted without the step"
    ),
    needs=("classes", "images", "layers"),
    trains=True,
    licence="none stated",
    names_only=True,
)


@dataclass(frozen=True)
class LayersSettings(MahalanobisSettings):
    """Settings of the distances in every layer."""

    method: ClassVar[str] = "mahalanobis-layers"

    outliers: str = setting(
        "",
        help="embeddings of images of other things by the same layers: model, which the weights of "
        "the layers are fitted with (a file or a store of `vlood embed`); none: equal weights",
        unit="-",
        source="the paper, section 2.2: validation samples",
    )
    step: float = setting(
        0.0,
        help="how far each pixel moves towards a higher score before an image is scored, of pixels "
        "from 0 to 1; images alone can be scored then, at three times the cost",
        unit="-",
        source="the paper, eq. 4: 0 to 0.01",
    )
    widths: str = setting(
        "",
        help="widths of the layers' embeddings with + between, written by training; needed where "
        "the training images are embeddings (`vlood show STORE` says them)",
        unit="-",
        source="of the model",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self.method, "step", self.step, or_zero=True)


def fit(
    classes: ClassFeatures,
    settings: LayersSettings,
    logit_scale: float,
    *,
    images: LabelledFeatures,
    layers: Sequence[int] = (),
    seed: int = 0,
    device: str = "cpu",
) -> Detector:
    """Estimate means and a covariance in every layer, and the weights of the layers.

    Layers are compared by scores of images left out of their own layer's estimate: those of
    training images would lie too near.

    Raises:
        UsageError: a class without images, one image a class, embeddings of one layer alone, or
            outliers that cannot be read or fit no better than chance.
    """
    widths = _widths(settings, layers, images.raw.shape[1])
    parts = split(images.raw, widths)
    fitted = [_layer(settings, classes, replace(images, raw=part)) for part in parts]
    settings = replace(
        settings, widths="+".join(map(str, widths)), length=fitted[-1].settings.length
    )
    known = np.stack([each.left_out for each in fitted], axis=1)
    centre, spread = known.mean(axis=0), np.maximum(known.std(axis=0), 1e-12)
    most = max(widths)
    tensors: dict[str, NDArray[Any]] = {
        "widths": np.array(widths, np.int64),
        "origin": np.concatenate([each.origin for each in fitted]).astype(np.float32),
        "means": np.concatenate([each.means for each in fitted], axis=1).astype(np.float32),
        "whitening": np.concatenate(
            [np.pad(each.white, ((0, 0), (0, most - len(each.white)))) for each in fitted]
        ).astype(np.float32),
        "centre": centre.astype(np.float32),
        "spread": spread.astype(np.float32),
        "weights": np.full(len(widths), 1 / len(widths), np.float32),
        "offset": np.zeros(1, np.float32),
        "shrinkages": np.array([each.settings.shrinkage for each in fitted], np.float32),
    }
    made = Detector(RECORD.name, settings, classes.names, tensors, float(logit_scale))
    if not settings.outliers:
        return made
    found = read_embeddings(Path(settings.outliers), expected_dim=sum(widths))
    others = layer_scores(made, np.asarray(found.features, np.float32))
    weights, offset = _weights((known - centre) / spread, (others - centre) / spread)
    own = {"weights": weights.astype(np.float32), "offset": np.array([offset], np.float32)}
    return replace(made, tensors={**tensors, **own})


@dataclass(frozen=True, eq=False)
class _Layer:
    """One layer: settings with its shrinkage, and minus the distances of images left out [N]."""

    settings: Any
    origin: Floats
    means: Floats
    white: Floats
    left_out: Floats


def _layer(settings: Any, classes: ClassFeatures, images: LabelledFeatures) -> _Layer:
    own, sums, origin = class_moments(settings, classes, images)
    rows = unit(images.raw) if own.embeddings == "unit" else images.raw
    count = len(classes.names)
    folds = min(FOLDS, max(2, int(np.bincount(images.labels, minlength=count).min())))
    parts = fold_moments(rows, images.labels, count, origin, folds)
    turn = turns(images.labels, count) % folds
    left_out = np.empty(len(rows))
    for fold, part in enumerate(parts):
        others = whole(parts).minus(part)
        white = _white(own, others)
        distances = squared_distances((rows[turn == fold] - origin) @ white, others.means() @ white)
        distances[:, others.counts == 0] = np.inf
        left_out[turn == fold] = -distances.min(axis=1)
    return _Layer(own, origin, sums.means(), _white(own, sums), left_out)


def _white(settings: Any, sums: Moments) -> Floats:
    return whitening(covariance(settings, sums.scatter() / freedom(sums)))


def _weights(known: Floats, strange: Floats) -> tuple[Floats, float]:
    """Return the weights and the offset of a logistic regression; both sides weigh the same."""
    from sklearn.linear_model import LogisticRegression

    rows = np.concatenate([known, strange])
    target = np.r_[np.ones(len(known)), np.zeros(len(strange))]
    fitted = LogisticRegression(class_weight="balanced", max_iter=1000).fit(rows, target)
    return np.asarray(fitted.coef_[0]), float(fitted.intercept_[0])


def split(rows: NDArray[Any], widths: Sequence[int]) -> list[NDArray[Any]]:
    """Return the embeddings [N, W] of each layer of joined ones [N, D]."""
    return np.split(rows, np.cumsum(widths)[:-1].tolist(), axis=1)


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images: the weighted sum over layers; labels are those of the last.

    Raises:
        UsageError: embeddings of another width, or, with a step, images that were not stepped.
    """
    own, rows = detector.tensors, images.raw
    if rows.shape[1] != len(own["origin"]):
        raise UsageError(
            f"the image embeddings are {rows.shape[1]} wide and {RECORD.name} was trained on "
            f"{len(own['origin'])}; both must come from one layers: model"
        )
    if detector.settings.step and len(rows):
        key = step_key(detector)
        if key not in images.stepped:
            raise UsageError(
                f"{RECORD.name}: step is {detector.settings.step:g}, which moves pixels, and these "
                "are embeddings; score images, or train with --set step=0"
            )
        rows = images.stepped[key]
    scores = layer_scores(detector, rows)
    standard = (scores - own["centre"]) / own["spread"]
    summed = standard @ own["weights"].astype(np.float64) + float(own["offset"][0])
    return with_labels(np.asarray(summed), logits(detector, images), 1.0)


def logits(detector: Detector, images: ImageFeatures) -> Floats:
    """Return the log-densities of the classes in the last layer up to a constant, [N, K]."""
    return np.asarray(-_distances(detector, images.raw, len(detector.tensors["widths"]) - 1) / 2)


def layer_scores(detector: Detector, rows: NDArray[np.float32]) -> Floats:
    """Return minus the least squared distance in every layer, float64 [N, L]."""
    layers = range(len(detector.tensors["widths"]))
    return np.stack([-_distances(detector, rows, at).min(axis=1) for at in layers], axis=1)


def _distances(detector: Detector, rows: NDArray[np.float32], layer: int) -> Floats:
    own = detector.tensors
    ends = np.cumsum(own["widths"])
    here = slice(int(ends[layer] - own["widths"][layer]), int(ends[layer]))
    block = unit(rows[:, here]) if detector.settings.embeddings == "unit" else rows[:, here]
    white = own["whitening"][here, : own["widths"][layer]].astype(np.float64)
    shifted = block - own["origin"][here].astype(np.float64)
    return squared_distances(shifted @ white, own["means"][:, here].astype(np.float64) @ white)


def step_key(detector: Detector) -> str:
    """Return the key by which stepped embeddings are this detector's."""
    digest = blake2b(detector.tensors["means"].tobytes(), digest_size=8)
    digest.update(detector.tensors["weights"].tobytes())
    return f"{detector.settings.step:g} {digest.hexdigest()}"


def torch_score(detector: Detector, device: str) -> Any:
    """Return the sum of the scores as a function of joined embeddings [N, D], differentiable."""
    import torch

    arrays = {name: torch.from_numpy(array).to(device) for name, array in detector.tensors.items()}
    widths = [int(each) for each in detector.tensors["widths"]]
    by_length = detector.settings.embeddings == "unit"

    def summed(rows: torch.Tensor) -> torch.Tensor:
        total, start = rows.new_zeros(()), 0
        for layer, width in enumerate(widths):
            here = slice(start, start + width)
            block = rows[:, here]
            if by_length:
                block = block / torch.linalg.vector_norm(block, dim=1, keepdim=True).clamp(1e-12)
            white = arrays["whitening"][here, :width]
            placed = (block - arrays["origin"][here]) @ white
            centres = arrays["means"][:, here] @ white
            nearest = torch.cdist(placed, centres).square().amin(dim=1)
            total = total - (arrays["weights"][layer] / arrays["spread"][layer]) * nearest.sum()
            start += width
        return total

    return summed


def check(detector: Detector) -> None:
    """Refuse widths that are not those of the arrays.

    Raises:
        UsageError: naming what is wrong.
    """
    widths, own = detector.tensors["widths"], detector.tensors
    if (widths < 1).any() or int(widths.sum()) != len(own["origin"]):
        raise UsageError("widths must add up to that of the embeddings")
    if int(widths.max()) != own["whitening"].shape[1]:
        raise UsageError("whitening must be as wide as the widest layer")
    if not (own["spread"] > 0).all():
        raise UsageError("spread must be above zero")


def _widths(settings: LayersSettings, layers: Sequence[int], width: int) -> list[int]:
    found = list(layers)
    if not found:
        try:
            found = [int(part) for part in settings.widths.split("+")] if settings.widths else []
        except ValueError:
            found = [-1]
        if not found:
            raise UsageError(
                "mahalanobis-layers: needs the embeddings of every layer; use --model "
                "layers:MODEL with images, or give embeddings made by one with --set widths=W+W+..."
            )
    if min(found) < 1 or sum(found) != width:
        raise UsageError(
            f"mahalanobis-layers: widths is {settings.widths or '+'.join(map(str, found))}; "
            f"expected numbers with + between that add up to {width}, the embeddings' width"
        )
    return found


METHOD = Method(
    RECORD,
    LayersSettings,
    fit,
    score,
    arrays={
        "widths": "L int",
        "origin": "D",
        "means": "K D",
        "whitening": "D W",
        **dict.fromkeys(("centre", "spread", "weights", "shrinkages"), "L"),
        "offset": "O",
    },
    check=check,
    logits=logits,
)
