"""Combine saved detectors into one, on the scores that its members give to known images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood import __version__
from vlood.detector.calibration import set_digest
from vlood.detector.member_folders import is_folder_name
from vlood.detector.saved import SavedDetector, check_backbone
from vlood.engines.scoring import ScoredBatch
from vlood.errors import UsageError
from vlood.methods.ensemble import EnsembleSettings, check_members, combined


@dataclass(frozen=True, eq=False)
class MemberScores:
    """What each of E detectors says of n images.

    Attributes:
        scores: an array [n] each.
        digest: of the images, however they are ordered.
        unreadable: how many others could not be read.
    """

    scores: list[NDArray[np.float64]]
    digest: str
    unreadable: int = 0

    def __len__(self) -> int:
        return len(self.scores[0])


def member_scores_of(batches: Iterable[ScoredBatch], members: int, option: str) -> MemberScores:
    """Gather the scores of batches; every image was encoded once for all members.

    Raises:
        UsageError: no image could be read.
    """
    parts: list[list[NDArray[np.float64]]] = [[np.zeros(0)] for _ in range(members)]
    contents: list[bytes] = []
    unreadable = 0
    for batch in batches:
        for part, one in zip(parts, batch.scores, strict=True):
            part.append(one.score)
        contents += [blake2b(row.tobytes(), digest_size=16).digest() for row in batch.features.raw]
        unreadable += len(batch.errors)
    if not contents:
        raise UsageError(f"{option}: none of the images could be read")
    return MemberScores([np.concatenate(each) for each in parts], set_digest(contents), unreadable)


def check_combinable(members: Mapping[str, SavedDetector]) -> None:
    """Refuse saved detectors that cannot be combined, before anything is encoded.

    Raises:
        UsageError: fewer than two, a test-time method, other classes, another model, one that tuned
            the model's own weights, or one with a classifier beside the model.
    """
    for name, one in members.items():
        if not is_folder_name(name):
            raise UsageError(f"{name!r}: is no name for a member's folder; rename the folder")
        if one.learned is not None and one.learned.kind == "weights":
            raise UsageError(
                f"{name}: tuned the model's own weights, so its embeddings are its own, and an "
                "ensemble encodes each image once for all members; leave it out"
            )
        if one.classifier is not None:
            raise UsageError(
                f"{name}: sees images with a classifier beside the model, and an ensemble encodes "
                "each image once, with the model alone; leave it out"
            )
    check_members({name: one.detector for name, one in members.items()})
    with_model = {name: one for name, one in members.items() if one.backbone is not None}
    for name, one in list(with_model.items())[1:]:
        first = next(iter(with_model.values()))
        assert first.backbone is not None
        check_backbone(one, first.backbone, name)


def calibration_scores(members: Mapping[str, SavedDetector]) -> list[NDArray[np.float64]]:
    """Return the scores of known images that each member was calibrated with.

    Raises:
        UsageError: a member is not calibrated.
    """
    found = []
    for name, one in members.items():
        if one.calibration is None:
            raise UsageError(
                f"{name}: is not calibrated, and ranks are among known images' scores; give such "
                f"images with --id, or run `vlood calibrate` on it first"
            )
        found.append(one.calibration.scores)
    return found


def ensemble_of(
    members: Mapping[str, SavedDetector],
    settings: EnsembleSettings,
    *,
    weights: Sequence[float] | None = None,
    known: MemberScores | None = None,
    strange: MemberScores | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> SavedDetector:
    """Combine saved detectors.

    Args:
        members: by name.
        settings: how.
        weights: a number above zero a member; equal by default.
        known: what they say of known images; None: their calibrations' scores.
        strange: what they say of OOD images, or None.
        provenance: command, seed, inputs.

    Raises:
        UsageError: as :func:`check_combinable`; or scores that no scale can be made of.
    """
    check_combinable(members)
    if strange is not None and known is None:
        raise UsageError("--ood: needs --id too, the known images to tell them from")
    scores = calibration_scores(members) if known is None else known.scores
    detector = combined(
        {name: one.detector for name, one in members.items()},
        settings,
        scores,
        None if strange is None else strange.scores,
        weights,
    )
    first = next(iter(members.values()))
    model = next((one for one in members.values() if one.backbone is not None), first)
    facts: dict[str, Any] = {"scaled_on": "the members' calibrations"}
    if known is not None:
        facts = {"scaled_on": len(known), "training_digest": known.digest}
    if strange is not None:
        facts["ood_images"] = len(strange)
    return SavedDetector(
        detector=detector,
        classes=first.classes,
        backbone=model.backbone,
        model_name=model.model_name,
        provenance={"vlood": __version__, **(provenance or {}), **facts},
        members=dict(members),
    )


def names_of(folders: Sequence[Path]) -> list[str]:
    """Return the members' names, those of their folders.

    Raises:
        UsageError: two are alike.
    """
    names = [folder.resolve().name for folder in folders]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"ensemble: two folders are named {twice}; rename one to combine them")
    return names
