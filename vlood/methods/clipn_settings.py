"""Settings of CLIPN: how it scores, and how its "no" tower is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlood.errors import UsageError
from vlood.methods.contract import check_choice, check_positive, check_whole, setting
from vlood.methods.loop_fields import clip_field, precision_field

if TYPE_CHECKING:
    from vlood.training.settings import LoopSettings

RULES = ("atd", "ctw")
COMPARES = ("shrunk", "raw")
TRAINED = ("full", "lora", "prompts")
VARIANTS = ("learned", "hand-crafted")
SAME = ("auto", "keep", "leave-out")
_CODE = "its code"
_OURS = "vlood's own"


@dataclass(frozen=True)
class Preset:
    """A recipe of training.

    Attributes:
        epochs: passes over the captions; 0: as many as make ``steps``.
        steps: where ``epochs`` is 0.
        batch_size: captions a step, each against the images of all.
        learning_rate: at the start.
        weight: factor on the sum of the losses.
        average: whether the mean of the prompts is drawn like one of them.
    """

    epochs: int
    steps: int
    batch_size: int
    learning_rate: float
    weight: float
    average: bool


PRESETS = {
    "clipn-released": Preset(10, 0, 2048, 3e-4, 0.5, True),
    "clipn-paper": Preset(10, 0, 2048, 3e-4, 1.0, False),
    "small": Preset(0, 500, 256, 3e-4, 0.5, True),
}


@dataclass(frozen=True)
class CLIPNSettings:
    """Settings of CLIPN."""

    rule: str = setting(
        "atd",
        help="atd: agreeing to differ, over all classes; ctw: competing to win, the likeliest one",
        unit="-",
        source="the paper: ATD is the better of its two",
    )
    atd_compare: str = setting(
        "shrunk",
        help="what the probability of none of the classes must exceed where there is no "
        "threshold: shrunk (q p, which sum to one with it) or raw (p)",
        unit="-",
        source="ours: the paper can be read both ways, and its code decides by thresholds",
    )
    logit_scale: float = setting(
        0.0,
        help="factor on the cosines of both encoders; 0: the model's own",
        unit="1",
        source="its code: 100, which is its model's",
    )
    preset: str = setting(
        "clipn-released",
        help="recipe of training: clipn-released (10 epochs of 2048 captions, the mean prompt "
        "drawn too), clipn-paper (the loss without its factor 0.5, no mean prompt) or small "
        "(500 steps of 256, for some thousand captions)",
        unit="-",
        source=_CODE,
    )
    no_train: str = setting(
        "full",
        help='what of the "no" tower is trained: full, lora (an adapter, with the prompts) or '
        "prompts",
        unit="-",
        source=f"{_CODE}: full",
    )
    variant: str = setting(
        "learned",
        help='learned: prompts are added to the texts of the "no" tower; hand-crafted: it is '
        "given a negated template",
        unit="-",
        source="the paper: learned",
    )
    no_templates: str = setting(
        "basic",
        help="pairs of a template and its negation: a name in prompts/no or a file; what images "
        "with labels are captioned by, and what hand-crafted is trained with",
        unit="-",
        source=_OURS,
    )
    pairs: int = setting(
        4,
        help="hand-crafted: pairs drawn for each caption, of which every step draws one",
        unit="pairs",
        source=f"{_OURS}; its code draws a new pair every epoch, and encodes it anew",
    )
    same: str = setting(
        "auto",
        help='captions that fit another image too, for they are the same: keep them as a "no" of '
        "it, leave-out, or auto: leave-out where captions are made from labels",
        unit="-",
        source=f"{_CODE}: keep",
    )
    prompts: int = setting(16, help="prompts in the pool", unit="prompts", source=_CODE)
    rank: int = setting(8, help="lora: rank", unit="-", source=_OURS)
    alpha: float = setting(16.0, help="lora: its factor is alpha / rank", unit="-", source=_OURS)
    epochs: int = setting(0, help="passes over the captions; 0: the preset's", unit="passes",
        source=f"{_CODE}: 10")  # fmt: skip
    batch_size: int = setting(
        0, help="captions a step; 0: the preset's", unit="captions", source=f"{_CODE}: 2048"
    )
    learning_rate: float = setting(
        0.0,
        help="at the start, then by a cosine to 0 every step; 0: the preset's",
        unit="-",
        source=f"{_CODE}: 3e-4",
    )
    weight_decay: float = setting(
        0.2, help="of tensors with two dimensions or more", unit="-", source=_CODE
    )
    chunk: int = setting(
        256,
        help="captions in the tower at once; any number gives the same step",
        unit="captions",
        source=_OURS,
    )
    clip: float = clip_field(_CODE)
    precision: str = precision_field(f"{_CODE}: fp16")

    def __post_init__(self) -> None:
        for name, choices in (
            ("rule", RULES),
            ("atd_compare", COMPARES),
            ("preset", tuple(PRESETS)),
            ("no_train", TRAINED),
            ("variant", VARIANTS),
            ("same", SAME),
        ):
            check_choice("clipn", name, getattr(self, name), choices)
        check_positive("clipn", "logit_scale", self.logit_scale, or_zero=True)
        for name, least in (
            ("pairs", 1),
            ("prompts", 1),
            ("rank", 1),
            ("epochs", 0),
            ("batch_size", 0),
            ("chunk", 1),
        ):
            check_whole("clipn", name, getattr(self, name), least)
        check_positive("clipn", "alpha", self.alpha)
        check_positive("clipn", "learning_rate", self.learning_rate, or_zero=True)
        if self.no_train == "prompts" and self.variant == "hand-crafted":
            raise UsageError(
                "clipn: no_train is prompts, and the hand-crafted variant has none; use "
                "no_train=full or lora"
            )

    @property
    def recipe(self) -> Preset:
        """Return the preset."""
        return PRESETS[self.preset]

    def batch_of(self, captions: int) -> int:
        """Return how many captions a step has, of so many in all."""
        return max(1, min(self.batch_size or self.recipe.batch_size, captions))

    def loop(self, captions: int) -> LoopSettings:
        """Return the settings of the loop: AdamW, and a cosine by steps without a warm-up."""
        from vlood.training.schedules import Schedule
        from vlood.training.settings import LoopSettings

        recipe, batch = self.recipe, self.batch_of(captions)
        per_epoch = max(1, captions // batch)
        return LoopSettings(
            epochs=self.epochs or recipe.epochs or -(-recipe.steps // per_epoch),
            learning_rate=self.learning_rate or recipe.learning_rate,
            optimizer="adamw",
            weight_decay=self.weight_decay,
            decay_dims=2,
            betas=(0.9, 0.98),
            eps=1e-6,
            schedule=Schedule(per="step"),
            accumulate=-(-batch // self.chunk),
            precision=self.precision,
            clip=self.clip,
        )
