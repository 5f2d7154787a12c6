"""Tuned global prompts, and a NegLabel term, for a Local-Prompt detector that is there already.

The paper calls its local prompts extensible: whatever global prompts were tuned elsewhere (CoOp,
LoCoOp, LAPT) can stand beside them. They go into MCM and the class prediction, and nowhere else.
The NegLabel term is vlood's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from vlood.detector.saved import SavedDetector, check_backbone
from vlood.engines.mining import Encoder
from vlood.engines.negatives import Announce, NegativesChoice, find_negatives
from vlood.errors import UsageError
from vlood.methods.local_prompt_fit import with_bank
from vlood.negatives.prompting import Prompting
from vlood.prompts.classes import ClassName
from vlood.prompts.templates import ClassFeatures

METHOD = "local-prompt"
_SHOWN = 3


def with_global_prompts(
    saved: SavedDetector, prompts: SavedDetector, where: str, *, option: str
) -> SavedDetector:
    """Replace the global prompts of a Local-Prompt detector; its calibration goes.

    Args:
        saved: the detector.
        prompts: one whose class features were tuned, of the same classes and model.
        where: the folder of ``prompts``.
        option: what the user typed it behind.

    Raises:
        UsageError: the first is no Local-Prompt detector, or the second one's prompts do not fit.
    """
    if saved.detector.method != METHOD:
        raise UsageError(
            f"{option}: is for detectors of {METHOD}, which have prompts for regions beside the "
            f"global ones, and this one is of {saved.detector.method}; leave it out"
        )
    check_global_prompts(prompts, saved.detector.class_names, saved.backbone, f"{option} {where}")
    features = prompts.detector.tensors["class_features"]
    ours, its = saved.detector.class_names, prompts.detector.class_names
    rows = [its.index(name) for name in ours]
    tensors = {**saved.detector.tensors, "class_features": np.ascontiguousarray(features[rows])}
    told = {"from": where, "method": prompts.detector.method}
    return replace(
        saved,
        detector=replace(saved.detector, tensors=tensors),
        templates=(),
        calibration=None,
        threshold=None,
        figures=(),
        provenance={**saved.provenance, "global_prompts": told},
    )


def check_global_prompts(
    prompts: SavedDetector,
    classes: Sequence[str],
    identity: Mapping[str, str] | None,
    named: str,
) -> None:
    """Refuse a detector whose prompts cannot be the global ones of these classes.

    Args:
        prompts: the detector.
        classes: K names, in any order.
        identity: of the model they are for, or None where it is not known.
        named: what the user typed.

    Raises:
        UsageError: it has no prompts, or they are of other classes or another model.
    """
    features = prompts.detector.tensors.get("class_features")
    if features is None:
        raise UsageError(
            f"{named}: is of {prompts.detector.method}, which has no prompts; name a detector with "
            "tuned ones, such as `vlood tune coop` makes"
        )
    its = prompts.detector.class_names
    if sorted(classes) != sorted(its):
        raise UsageError(
            f"{named}: {_other_classes(classes, its)}; tune them for the same class list"
        )
    if identity is not None:
        check_backbone(prompts, identity, named)


def with_neglabel(
    saved: SavedDetector,
    classes: Sequence[ClassName],
    choice: NegativesChoice,
    encoder: Encoder,
    where: str,
    *,
    announce: Announce,
) -> SavedDetector:
    """Give a Local-Prompt detector a NegLabel term; its calibration goes.

    The weight is that of its settings, 1 where they have none.

    Raises:
        UsageError: other classes than its own, whose prompts nobody learned; or no negatives.
    """
    detector = saved.detector
    ours, asked = detector.class_names, tuple(each.name for each in classes)
    if ours != asked:
        raise UsageError(
            f"{where}: its local prompts are class-specific ({len(ours)} blocks, one a class), so "
            "they mean nothing for other names; tune it for them (its --negatives and "
            "--global-prompts alone can be changed)"
        )
    if not choice.named:
        raise UsageError(
            f"{where}: nothing to apply: its local prompts belong to its classes; give --negatives "
            "for a NegLabel term, or --global-prompts"
        )
    ids = ClassFeatures.of(ours, detector.tensors["class_features"])
    negatives = find_negatives(choice, classes, ids, encoder, Prompting(), announce=announce)
    settings = replace(detector.settings, neglabel=detector.settings.neglabel or 1.0)
    made = with_bank(replace(detector, settings=settings), ids, negatives)
    return replace(
        saved,
        detector=made,
        negatives=negatives.rows_of(made.negative_names),
        calibration=None,
        threshold=None,
        figures=(),
        provenance={**saved.provenance, "applied_from": where},
    )


def _other_classes(ours: Sequence[str], its: Sequence[str]) -> str:
    """Say how two class lists differ."""
    lacks = [name for name in ours if name not in set(its)][:_SHOWN]
    more = [name for name in its if name not in set(ours)][:_SHOWN]
    parts = [
        f"{what} {', '.join(names)}"
        for what, names in (("they lack", lacks), ("they also have", more))
        if names
    ]
    return f"its prompts are of other classes ({'; '.join(parts)})"
