"""A detector with everything needed to use it elsewhere: what it is made for, of and from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vlood.detector.classifier import RecordedClassifier
from vlood.errors import UsageError
from vlood.methods import registry
from vlood.methods.contract import Detector, Learned
from vlood.negatives.negative_features import NegativeRow
from vlood.prompts.classes import ClassName

if TYPE_CHECKING:
    from vlood.detector.calibration import Calibration

__all__ = ["Learned", "SavedDetector", "check_backbone", "check_class_list"]

# What of a model's identity must be the same for its embeddings to mean the same; precision and
# library versions change the last digits only.
_SAME_MODEL = ("architecture", "config", "weights", "preprocessing")
_SHOWN = 3


@dataclass(frozen=True, eq=False)
class SavedDetector:
    """A detector and its circumstances, as a folder holds them.

    Attributes:
        detector: the arrays and settings that score.
        classes: the K classes, names and prompt names.
        templates: the class templates; none where contexts or files gave the class features.
        backbone: identity of the model, or None where only embeddings were at hand.
        model_name: what ``--model`` takes, or None.
        negatives: what is known of the negatives, in the order of ``detector.negative_names``.
        calibration: its threshold and p-values, or None.
        threshold: one set by hand, that goes before the calibration's, or None.
        learned: what was trained, or None.
        figures: how good it was, rows of an evaluation; JSON-able.
        provenance: command, seed, versions, digests of the data; JSON-able.
        classifier: the closed-world classifier whose logits it reads, or None.
        training_log: CSV with a row a step of training, without times, or None.
        members: the detectors that an ensemble combines, by name, in their order.
    """

    detector: Detector
    classes: tuple[ClassName, ...]
    templates: tuple[str, ...] = ()
    backbone: Mapping[str, str] | None = None
    model_name: str | None = None
    negatives: tuple[NegativeRow, ...] = ()
    calibration: Calibration | None = None
    threshold: float | None = None
    learned: Learned | None = None
    figures: Sequence[Mapping[str, Any]] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    training_log: str | None = None
    classifier: RecordedClassifier | None = None
    members: Mapping[str, SavedDetector] = field(default_factory=dict)

    @property
    def base_model(self) -> str | None:
        """Return what ``--model`` takes; of a tuned model, which lies in its folder, the base."""
        base = None if self.learned is None else self.learned.about.get("base")
        return self.model_name if base is None else str(base["name"])

    @property
    def width(self) -> int:
        """Return the width of the embeddings it scores."""
        return registry.width(self.detector)


def check_backbone(saved: SavedDetector, identity: Mapping[str, str], where: str) -> None:
    """Refuse a model whose embeddings are not those the detector was made for.

    Raises:
        UsageError: naming what differs and what to do.
    """
    if saved.backbone is None:
        return
    differing = [name for name in _SAME_MODEL if saved.backbone.get(name) != identity.get(name)]
    if differing:
        raise UsageError(
            f"{where}: was made for another model ({saved.model_name or 'unnamed'}; "
            f"{', '.join(differing)} differ); leave --model out to use its own, or make it again "
            "with this one"
        )


def check_class_list(saved: SavedDetector, classes: Sequence[ClassName], where: str) -> None:
    """Refuse a class list that is not the detector's, in its order.

    Raises:
        UsageError: naming classes that differ and what to do.
    """
    ours, its = [each.name for each in classes], [each.name for each in saved.classes]
    if ours == its:
        return
    if sorted(ours) == sorted(its):
        raise UsageError(
            f"{where}: has the same classes in another order; leave --classes out to use its own"
        )
    new = [name for name in ours if name not in set(its)][:_SHOWN]
    gone = [name for name in its if name not in set(ours)][:_SHOWN]
    parts = [
        f"{what} {', '.join(names)}"
        for what, names in (("it does not know", new), ("it also knows", gone))
        if names
    ]
    raise UsageError(
        f"{where}: was made for other classes ({'; '.join(parts)}); leave --classes out to use its "
        "own, or make it again: `vlood apply` re-applies shared prompts to other classes"
    )
