"""LAPT's settings, and the two recipes that go by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlood.errors import UsageError
from vlood.methods.context_training import OURS, RANDOM, check_init
from vlood.methods.contract import check_choice, check_positive, check_whole, setting
from vlood.methods.loop_fields import accumulate_field, precision_field

if TYPE_CHECKING:
    from vlood.training.settings import LoopSettings

CONTEXTS = ("distribution-aware", "unified", "class-specific")
OBJECTIVES = ("classes", "merged", "binary")
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "lapt-paper": {},
    "lapt-released": {"weight_plain": 0.0, "weight_cross_distribution": 0.0},
}
"""The paper adds up three losses; the training that the authors released, and the checkpoint that
came of it, have the cross-modal one alone."""
_SUPPLEMENT = "the paper's supplement"
_CODE = "the authors' code"
_RELEASED = "the released checkpoint"


@dataclass(frozen=True)
class LaptSettings:
    """Settings of LAPT; as they are here, the paper's."""

    context_length: int = setting(
        4, help="context vectors on each side", unit="vectors", source=f"{_SUPPLEMENT}, {_RELEASED}"
    )
    contexts: str = setting(
        "distribution-aware",
        help="distribution-aware: one block of vectors for the classes and one for the negatives; "
        "unified: one for both; class-specific: one for each name",
        unit="-",
        source="the paper",
    )
    init: str = setting(
        RANDOM,
        help='random: normal, standard deviation 0.02; or words, such as "a photo of a", whose '
        "number of tokens is then the length",
        unit="-",
        source=_CODE,
    )
    train_negatives: int = setting(
        1000,
        help="negative labels in training, all of them at every step: those with images, then "
        "those of the bank that lie farthest from the classes",
        unit="labels",
        source=f"{_CODE}, M = 1000; 10000 in the test",
    )
    stand_ins: int = setting(
        1,
        help="texts that stand in for the images of a negative label that has none, each time in "
        "another template; 0: it has no examples",
        unit="texts",
        source=f"{OURS}: an extension of the paper, where every label has images",
    )
    weight_plain: float = setting(
        1.0, help="weight of the loss of images; 0: off", unit="-", source="the paper"
    )
    weight_cross_modal: float = setting(
        1.0,
        help="weight of the loss of images mixed with texts of their labels; 0: off",
        unit="-",
        source="the paper",
    )
    weight_cross_distribution: float = setting(
        1.0,
        help="weight of the loss of images mixed across the border; 0: off",
        unit="-",
        source="the paper",
    )
    mix_alpha: float = setting(
        1.0,
        help="shares of images in cross-modal mixes are Beta(alpha, alpha)",
        unit="-",
        source=f"{_SUPPLEMENT}, alpha of its eq. 10",
    )
    mix_alpha_cd: float = setting(
        0.3,
        help="shares of images in cross-distribution mixes are Beta(alpha, alpha)",
        unit="-",
        source=f"{_SUPPLEMENT}, beta of its eq. 12",
    )
    objective: str = setting(
        "classes",
        help="classes: among all classes and negatives; merged: all negatives are one; binary: "
        "class or negative",
        unit="-",
        source="the paper",
    )
    groups: int = setting(
        0,
        help="groups the negatives are split into for scoring; 0: groups of about 100, at most 100",
        unit="groups",
        source=f"{_CODE}: 100 of 10000",
    )
    epochs: int = setting(10, help="passes over the images", unit="passes", source=_CODE)
    batch_size: int = setting(32, help="images a step", unit="images", source=_CODE)
    learning_rate: float = setting(
        0.01, help="at the first step, then down a cosine by steps", unit="-", source=_CODE
    )
    momentum: float = setting(0.9, help="Nesterov's", unit="-", source=_CODE)
    weight_decay: float = setting(
        0.0, help="L2 penalty", unit="-", source=f"{_RELEASED}; the training script has 1e-5"
    )
    views: int = setting(
        0,
        help="augmented views of each image (random resized crop and flip), one drawn a step; 0: "
        "the whole image alone",
        unit="views",
        source=f"{OURS}; the authors' code makes a new one every epoch, and encodes it anew",
    )
    accumulate: int = accumulate_field(OURS)
    precision: str = precision_field(f"{_CODE}: fp16")

    def __post_init__(self) -> None:
        name = "lapt"
        check_choice(name, "contexts", self.contexts, CONTEXTS)
        check_choice(name, "objective", self.objective, OBJECTIVES)
        for whole in ("context_length", "train_negatives", "epochs", "batch_size"):
            check_whole(name, whole, getattr(self, whole), 1)
        for whole in ("groups", "views", "stand_ins"):
            check_whole(name, whole, getattr(self, whole), 0)
        check_init(name, self.init)
        for positive in ("mix_alpha", "mix_alpha_cd", "learning_rate"):
            check_positive(name, positive, getattr(self, positive))
        weights = ("weight_plain", "weight_cross_modal", "weight_cross_distribution")
        for each in (*weights, "momentum", "weight_decay"):
            check_positive(name, each, getattr(self, each), or_zero=True)
        if not any(getattr(self, each) for each in weights[:2]):
            # The third one alone has nothing to say of a batch with one side only.
            raise UsageError(
                "lapt: weight_plain and weight_cross_modal are both 0; give one of them a weight"
            )
        # What the loop takes is checked by its own settings, before anything is encoded.
        loop_settings(self)


def loop_settings(settings: LaptSettings) -> LoopSettings:
    """Return the settings of the loop: Nesterov's SGD, and a cosine by steps to almost nothing."""
    from vlood.training.schedules import Schedule
    from vlood.training.settings import LoopSettings

    return LoopSettings(
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.momentum > 0,
        weight_decay=settings.weight_decay,
        schedule=Schedule(per="step", warmup=0, floor=1e-8),
        accumulate=settings.accumulate,
        precision=settings.precision,
    )
