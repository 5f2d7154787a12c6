"""SynOOD: learn from made images that lie just outside the classes.

Every made image has the negative label it is most like (:func:`mine_labels`). Two stages, apart
from each other: a residual head on image embeddings, trained by classification among classes and
those labels, and the labels' own vectors, trained on the made images. What comes out is NegLabel on
moved images and tuned negatives. Li et al. 2025, "Synthesizing Near-Boundary OOD Samples for
Out-of-Distribution Detection". Their code for scoring is not public: that the two parts meet in
NegLabel's score is read from the paper's words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures, unit
from vlood.errors import UsageError
from vlood.methods import neglabel
from vlood.methods.contract import (
    Detector,
    Learned,
    Method,
    MethodRecord,
    Regional,
    Scores,
    TunedDetector,
)
from vlood.methods.neglabel import ID_MASS
from vlood.methods.regional import whole_range
from vlood.methods.rows import scored_rows, training_rows
from vlood.methods.synood_head import GAIN, SHAPES, project
from vlood.methods.synood_settings import SynoodSettings
from vlood.methods.synood_training import train_head, train_labels
from vlood.negatives.negative_features import NegativeFeatures
from vlood.prompts.templates import ClassFeatures
from vlood.training.labelled import LabelledFeatures, check_every_class

if TYPE_CHECKING:
    from vlood.training.looping import Looping

RECORD = MethodRecord(
    name="synood",
    title="SynOOD",
    paper="Synthesizing Near-Boundary OOD Samples for Out-of-Distribution Detection",
    year=2025,
    venue="ICCV",
    url="https://arxiv.org/abs/2507.10225",
    summary="NegLabel on images moved by a residual head, with tuned negative labels",
    score_note="mean over groups of sigmoid(LSE(s cos / T) - LSE(s cos- / T)) of "
    "v + g ReLU(LN(W v + b)), T = 1 on logits",
    needs=("classes", "negatives", "images"),
    trains=True,
    licence="Apache-2.0 (SynOOD)",
    template="the nice {}",
    negative_images=True,
    synthetic_images=True,
    loops=True,
)

LABELS = "negative-labels"
"""What is learned, as :class:`~vlood.methods.contract.Learned` names its kind."""

_SIMILARITIES_AT_ONCE = 1 << 23


def mine_labels(rows: NDArray[np.float32], negatives: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the most similar negative of each image, int64 [N].

    Args:
        rows: image embeddings [N, D].
        negatives: unit [M, D].

    Raises:
        UsageError: an embedding is not finite.
    """
    _check_finite(rows, "--synthetic")
    found = np.empty(len(rows), np.int64)
    at_once = max(1, _SIMILARITIES_AT_ONCE // max(1, len(negatives)))
    for start in range(0, len(rows), at_once):
        some = slice(start, start + at_once)
        found[some] = (unit(rows[some]) @ negatives.T).argmax(axis=1)
    return found


def fit(
    classes: ClassFeatures,
    settings: SynoodSettings,
    logit_scale: float,
    *,
    negatives: NegativeFeatures,
    images: LabelledFeatures,
    looping: Looping | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> TunedDetector:
    """Train the head and the labels' vectors, and put them into NegLabel.

    Args:
        classes: C classes with features.
        settings: its settings.
        logit_scale: factor on cosines, in training too.
        negatives: those that are scored with.
        images: embeddings of every class, and made ones: C + m is most like the negative m.
        looping: the run; None: one that is not kept.
        seed: of the head's start and the order of images.
        device: where torch trains.

    Raises:
        UsageError: a class without images, no made images, or fewer negatives than groups.
        VloodError: the loss is not finite.
    """
    from vlood.training.looping import Looping

    count = len(classes)
    made = images.labels >= count
    if not made.any():
        raise UsageError(
            "synood: there are no made images to learn from; give them with --synthetic IN, or "
            "label some of --train with names of negatives; `vlood collect --synthesize --inpaint` "
            "makes some"
        )
    neglabel.check_same_width(classes, negatives)
    _check_finite(images.raw, "--train")
    check_every_class(images.labels, classes.names, negatives=len(negatives))
    # Lengths are those of all images; made ones stand with the first class for that.
    together = replace(images, labels=np.where(made, 0, images.labels))
    rows, settings = training_rows(together, settings, classes.names)
    chosen, columns = np.unique(images.labels[made] - count, return_inverse=True)
    labels = images.labels.copy()
    labels[made] = count + columns
    texts = np.concatenate([classes.features, negatives.features[chosen]])
    where = (settings, logit_scale, looping or Looping())
    head, of_head = train_head(rows, labels, texts, *where, seed=seed, device=device)
    vectors, of_labels = train_labels(
        unit(rows[made]), columns, negatives.features[chosen], *where, seed=seed, device=device
    )
    names = [negatives.names[row] for row in chosen.tolist()]
    features = negatives.features.copy()
    features[chosen] = vectors
    base = neglabel.fit(
        classes,
        neglabel.NegLabelSettings(settings.groups, settings.remainder, settings.temperature),
        logit_scale,
        negatives=replace(negatives, features=features),
    )
    about = {
        "format": "synood",
        "labels": names,
        **of_head,
        **of_labels,
        "notes": _notes(names, columns, len(negatives), settings),
        "settings": asdict(settings),
    }
    return TunedDetector(
        RECORD.name,
        settings,
        classes.names,
        {**base.tensors, **head},
        base.logit_scale,
        base.negative_names,
        learned=Learned(LABELS, {"labels": vectors}, about),
    )


def _check_finite(rows: NDArray[np.float32], option: str) -> None:
    broken = int((~np.isfinite(rows).all(axis=1)).sum())
    if broken:
        raise UsageError(
            f"{option}: {broken} of {len(rows)} embeddings hold NaN or infinity; embed the images "
            "again, with --precision fp32"
        )


def _notes(
    names: Sequence[str], columns: NDArray[np.int64], negatives: int, settings: SynoodSettings
) -> list[str]:
    """Say how the made images spread over the negatives, and what could not be trained."""
    commonest = int(np.bincount(columns).argmax())
    share = float((columns == commonest).mean())
    said = [
        f"{len(columns):,} made images have {len(names):,} of {negatives:,} negative labels; the "
        f"commonest, {names[commonest]!r}, has {share:.0%}"
    ]
    if len(names) < 2 and settings.tuned != "head":
        said.append(
            "with a single label there is nothing to tell it from: its vector stays as it was; "
            "use more or more varied made images"
        )
    return said


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images: NegLabel of the moved images, in (0, 1)."""
    return neglabel.score(detector, moved(detector, images))


def moved(detector: Detector, images: ImageFeatures) -> ImageFeatures:
    """Return images as the head moves them.

    Raises:
        UsageError: embeddings of another width, or of length 1 where the head was trained on
            embeddings as the tower gives them.
    """
    width = detector.tensors["class_features"].shape[1]
    rows = scored_rows(detector.settings, images, width)
    return ImageFeatures(project(detector.tensors, rows))


def logits(detector: Detector, images: ImageFeatures) -> NDArray[np.float64]:
    """Return the logits of the moved images [N, K], which labels are made of."""
    cosines = moved(detector, images).unit @ detector.tensors["class_features"].T
    return np.asarray(cosines.astype(np.float64) * detector.logit_scale)


def regional(detector: Detector, regions: ImageFeatures) -> NDArray[np.float64]:
    """Return the grouped ID mass of each of n regions, [n], moved as if each were an image."""
    return score(detector, regions).score


def check(detector: Detector) -> None:
    """Refuse groups that do not share out the negatives, and a gain of several numbers.

    Raises:
        UsageError: naming what was expected.
    """
    neglabel.check(detector)
    if len(detector.tensors[GAIN]) != 1:
        raise UsageError("gain must be one number")


METHOD = Method(
    RECORD,
    SynoodSettings,
    fit,
    score,
    arrays={**neglabel.METHOD.arrays, **SHAPES},
    check=check,
    logits=logits,
    regional=Regional(regional, whole_range, ID_MASS),
)
