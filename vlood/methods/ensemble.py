"""Ensemble: several detectors as one, their scores brought to one scale and averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.errors import UsageError
from vlood.methods import registry
from vlood.methods.contract import (
    Detector,
    Method,
    MethodRecord,
    Regional,
    Scores,
    check_choice,
    setting,
)
from vlood.methods.logits import class_logits, softmax
from vlood.methods.regional import regional_of
from vlood.methods.score_levels import Curve, isotonic_curve, levels_at, platt_curve, rank_curve

RECORD = MethodRecord(
    name="ensemble",
    title="Ensemble",
    paper="On Combining Classifiers",
    year=1998,
    venue="TPAMI",
    url="https://doi.org/10.1109/34.667881",
    summary="mean of what several saved detectors say, each brought to one scale",
    score_note=(
        "weighted mean of the members' ranks among known images, or of calibrated probabilities; "
        "of the paper its sum rule, on scores instead of class probabilities"
    ),
    needs=("detectors",),
    trains=True,
    names_only=True,
)

COMBINE = ("rank", "probability")
FITS = ("ranks", "platt", "isotonic")
MADE_OF_DETECTORS = (
    "--method ensemble: combines saved detectors; make one with `vlood tune ensemble DIR... "
    "-o OUT`, then use --detector OUT"
)


@dataclass(frozen=True)
class EnsembleSettings:
    """How the members are combined."""

    combine: str = setting(
        "rank",
        help="rank: mean of the ranks among known images; probability: mean of fitted "
        "probabilities with OOD images, else the geometric mean of the ranks as p-values",
        unit="-",
        source="Kittler et al. 1998 (mean); Fisher 1932 (p-values)",
    )
    fit: str = setting(
        "auto",
        help="what brings scores to one scale: ranks, or with OOD images platt or isotonic; auto: "
        "platt for probability with OOD images, else ranks",
        unit="-",
        source="Platt 1999; Zadrozny and Elkan 2002",
    )

    def __post_init__(self) -> None:
        check_choice("ensemble", "combine", self.combine, COMBINE)
        check_choice("ensemble", "fit", self.fit, ("auto", *FITS))
        if self.combine == "rank" and self.fit in ("platt", "isotonic"):
            raise UsageError(
                f"ensemble: fit is {self.fit} and combine rank, which needs ranks; use "
                "--combine probability"
            )


def fit(*positional: Any, **given: Any) -> Detector:
    """Refuse: an ensemble is made of detectors, by :func:`combined`.

    Raises:
        UsageError: always.
    """
    raise UsageError(MADE_OF_DETECTORS)


def combined(
    members: Mapping[str, Detector],
    settings: EnsembleSettings,
    known: Sequence[NDArray[np.float64]],
    strange: Sequence[NDArray[np.float64]] | None = None,
    weights: Sequence[float] | None = None,
) -> Detector:
    """Make one detector of several.

    Args:
        members: by name, two or more, of the same classes in the same order.
        settings: how.
        known: scores of known images, an array [n] a member.
        strange: scores of OOD images, an array [m] a member, or None.
        weights: a number above zero a member; equal by default.

    Raises:
        UsageError: members that cannot be combined, or scores that no scale can be made of.
    """
    check_members(members)
    kind = _kind(settings, strange is not None)
    shares = np.ones(len(members)) if weights is None else np.asarray(weights, np.float64)
    if len(shares) != len(members) or not (np.isfinite(shares).all() and (shares > 0).all()):
        raise UsageError(
            f"--weights: give {len(members)} numbers above 0, one a detector, in their order"
        )
    curves = []
    for row, name in enumerate(members):
        try:
            curves.append(_curve(kind, known[row], None if strange is None else strange[row]))
        except UsageError as error:
            raise UsageError(f"{name}: {error}, so it cannot be combined; leave it out") from None
    length = max(len(each.points) for each in curves)
    padded = [each.padded(length) for each in curves]
    first = next(iter(members.values()))
    return Detector(
        RECORD.name,
        EnsembleSettings(settings.combine, kind),
        first.class_names,
        {
            "points": np.stack([each.points for each in padded]),
            "levels": np.stack([each.levels for each in padded]),
            "weights": (shares / shares.sum()).astype(np.float32),
        },
        first.logit_scale,
        members=dict(members),
    )


def check_members(members: Mapping[str, Detector]) -> None:
    """Refuse detectors that cannot be combined.

    Raises:
        UsageError: fewer than two, a test-time method, other classes or another width.
    """
    if len(members) < 2:
        raise UsageError("ensemble: needs two or more detectors; name their folders")
    (name, first), *others = members.items()
    for each, one in members.items():
        if registry.get(one.method).stream is not None:
            raise UsageError(
                f"{each}: the score of {one.method} depends on the images around it, and an "
                "ensemble's is of each image by itself; leave it out"
            )
    for other, one in others:
        if one.class_names != first.class_names:
            order = sorted(one.class_names) == sorted(first.class_names)
            what = "the same classes in another order" if order else "other classes"
            raise UsageError(
                f"{other}: has {what} than {name}; an ensemble has one class list, so tune all "
                "its members with the same --classes"
            )
        if registry.width(one) != registry.width(first):
            raise UsageError(
                f"{other}: takes embeddings {registry.width(one)} wide and {name} "
                f"{registry.width(first)}; both must come from one model"
            )


def member_scores(detector: Detector, images: ImageFeatures) -> dict[str, Scores]:
    """Return what each member says of N images, by its name."""
    return {name: registry.score(one, images) for name, one in detector.members.items()}


def member_levels(detector: Detector, scores: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the levels [E, N] in (0, 1) of the members' scores, an array [N] each."""
    own, kind = detector.tensors, detector.settings.fit
    found = [
        levels_at(kind, own["points"][row], own["levels"][row], values)
        for row, values in enumerate(scores)
    ]
    return np.stack(found)


def joined(settings: Any, weights: NDArray[np.float32], levels: NDArray[np.float64]) -> Any:
    """Return the mean [N] of levels [E, N]: of p-values the geometric one, else the arithmetic."""
    shares = weights.astype(np.float64)
    if by_p_values(settings):
        return np.exp(shares @ np.log(levels) / shares.sum())
    return shares @ levels / shares.sum()


def by_p_values(settings: Any) -> bool:
    """Say whether levels are joined as p-values."""
    return bool(settings.combine == "probability" and settings.fit == "ranks")


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images, in (0, 1); the label is that of the members' mean class probabilities."""
    said = member_scores(detector, images)
    levels = member_levels(detector, [each.score for each in said.values()])
    mean = probabilities(detector, images)
    label = mean.argmax(axis=1).astype(np.int64)
    found = np.asarray(joined(detector.settings, detector.tensors["weights"], levels), np.float64)
    return Scores(found, label, mean.max(axis=1))


def logits(detector: Detector, images: ImageFeatures) -> NDArray[np.float64]:
    """Return the log of the mean class probabilities, [N, K]."""
    return np.asarray(np.log(np.maximum(probabilities(detector, images), 1e-300)))


def probabilities(detector: Detector, images: ImageFeatures) -> NDArray[np.float64]:
    """Return the weighted mean of the members' class probabilities, [N, K]."""
    own = [softmax(class_logits(one, images)) for one in detector.members.values()]
    weights = detector.tensors["weights"].astype(np.float64)
    return np.asarray(np.average(np.stack(own), axis=0, weights=weights))


def check(detector: Detector) -> None:
    """Refuse a stored ensemble whose arrays are not those of its members.

    Raises:
        UsageError: naming what is wrong.
    """
    check_members(detector.members)
    own = detector.tensors
    if len(own["weights"]) != len(detector.members):
        raise UsageError("weights must be one a member")
    if not (own["weights"] > 0).all():
        raise UsageError("weights must be above zero")
    if detector.settings.fit not in FITS or own["points"].shape[1] < 2:
        raise UsageError("points must be those of a fitted scale")
    if (np.diff(own["points"]) < 0).any() or not (own["points"][:, 1] > own["points"][:, 0]).all():
        raise UsageError("points must ascend")
    inside = (own["levels"] > 0).all() and (own["levels"] < 1).all()
    if not inside or (np.diff(own["levels"]) < 0).any():
        raise UsageError("levels must lie between 0 and 1 and never fall")


def _kind(settings: EnsembleSettings, with_strange: bool) -> str:
    kind = settings.fit
    if kind == "auto":
        kind = "platt" if settings.combine == "probability" and with_strange else "ranks"
    if kind != "ranks" and not with_strange:
        raise UsageError(
            f"ensemble: fit is {kind}, which learns from OOD images and there are none; give "
            "them with --ood, or leave fit out"
        )
    if kind == "ranks" and with_strange:
        raise UsageError(
            "--ood: ranks are among known images alone; use --combine probability, or leave "
            "--ood out"
        )
    return kind


def _curve(kind: str, known: NDArray[np.float64], strange: NDArray[np.float64] | None) -> Curve:
    if kind == "ranks" or strange is None:
        return rank_curve(known)
    return {"platt": platt_curve, "isotonic": isotonic_curve}[kind](known, strange)


def _regions(detector: Detector, regions: ImageFeatures) -> NDArray[np.float64]:
    own = [regional_of(one).score(one, regions) for one in detector.members.values()]
    return np.asarray(np.average(own, axis=0, weights=detector.tensors["weights"]))


def _ends(detector: Detector) -> tuple[float, float]:
    own = [regional_of(one).ends(one) for one in detector.members.values()]
    low, high = np.average(own, axis=0, weights=detector.tensors["weights"]).tolist()
    return low, high


METHOD = Method(
    RECORD,
    EnsembleSettings,
    fit,
    score,
    arrays={"points": "E Q", "levels": "E Q", "weights": "E"},
    check=check,
    logits=logits,
    regional=Regional(_regions, _ends, "mean of what the members see in a region"),
)
