"""Settings of CMA, its baseline FLYP, and the published recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlood.errors import UsageError
from vlood.images.augment import Augmentation
from vlood.methods.contract import (
    check_choice,
    check_positive,
    check_share,
    check_whole,
    setting,
)
from vlood.methods.loop_fields import clip_field, precision_field

if TYPE_CHECKING:
    from vlood.backbone.tuned_weights import LoraSettings
    from vlood.training.settings import LoopSettings

# Lambda of the paper's command, as in ``cma_loss``, which brings torch in.
WEIGHT = 0.001
TUNED = ("full", "lora", "projection", "visual", "text")
SCORES = ("neglabel", "mcm")
MINED = ("original", "tuned")
POSITIVES = ("auto", "one", "all")
AUGMENTS = {
    "none": Augmentation(),
    "crop": Augmentation((0.9, 1.0)),
    "strong": Augmentation((0.5, 1.0), mirror=True),
}
WATCHES = ("loss", "accuracy")
_CODE = "its code"
_OURS = "vlood's own"
# Above so many trained numbers a state is written less often: it is three times as large.
_MANY, _SELDOM, _OFTEN = 20_000_000, 120.0, 10.0

_PUBLISHED = {
    "tune": "full",
    "epochs": 10,
    "batch_size": 512,
    "learning_rate": 1e-5,
    "weight_decay": 0.1,
    "warmup": 500,
    "positives": "one",
    "augment": "crop",
    "template": "a photo of a {}",
    "groups": 1,
}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "cma-paper": {**_PUBLISHED, "lambda_value": WEIGHT},
    "flyp-paper": {**_PUBLISHED, "lambda_value": 0.0},
    "flyp": {"lambda_value": 0.0},
}


@dataclass(frozen=True)
class CMASettings:
    """Settings of CMA."""

    score: str = setting(
        "neglabel",
        help="what scores with the tuned towers: neglabel or mcm",
        unit="-",
        source="the paper: CMA + NegLabel is its best",
    )
    tune: str = setting(
        "lora",
        help="what is tuned: lora (an adapter on both towers), full (everything, the logit scale "
        "too), projection (the last linear map of each tower), visual or text (one tower)",
        unit="-",
        source=f"{_OURS}; {_CODE}: full",
    )
    lambda_value: float = setting(
        WEIGHT,
        help="lambda, what the pull across the modality gap weighs; 0: FLYP",
        unit="-",
        source="its command; the code's own default is 0",
    )
    positives: str = setting(
        "auto",
        help="images of a class that a batch holds with an image: one (they are wrong answers, as "
        "published), all (right ones), or auto: all where a batch is larger than the class list",
        unit="-",
        source=f"{_OURS}; {_CODE}: one",
    )
    template: str = setting(
        "",
        help="of the prompts in training; empty: those of scoring, one drawn a step",
        unit="-",
        source=f"{_OURS}; {_CODE}: a photo of a {{}} in training, The nice {{}} in scoring",
    )
    mined_by: str = setting(
        "original",
        help="which text tower chooses the negatives, original or tuned; the tuned one encodes "
        "them",
        unit="-",
        source=f"{_CODE}: a list that was mined before",
    )
    groups: int = setting(
        0, help="neglabel: groups of negatives; 1: none; 0: of about 100", unit="groups",
        source=f"{_CODE}: none",
    )  # fmt: skip
    epochs: int = setting(10, help="passes over the images", unit="passes", source=_CODE)
    batch_size: int = setting(
        64, help="images a step", unit="images", source=f"{_OURS}; {_CODE}: 512"
    )
    chunk: int = setting(
        64,
        help="images in the towers at once; any number gives the same step",
        unit="images",
        source=_OURS,
    )
    learning_rate: float = setting(
        0.0,
        help="after the warm-up, then by a cosine to 0 every step; 0: 3e-4 of lora and projection, "
        "else 1e-5",
        unit="-",
        source=f"{_OURS}; {_CODE}: 1e-5 of full",
    )
    warmup: int = setting(
        0, help="steps of a linear warm-up from 0; 0: a tenth of all", unit="steps",
        source=f"{_OURS}; {_CODE}: 500",
    )  # fmt: skip
    weight_decay: float = setting(
        0.1, help="decoupled, of everything trained", unit="-", source=_CODE
    )
    clip: float = clip_field(_CODE)
    precision: str = precision_field(f"{_CODE}: fp32")
    augment: str = setting(
        "crop",
        help="how training images are shown: none (whole), crop (a random part, 90 % or more) or "
        "strong (50 % or more, mirrored half of the time)",
        unit="-",
        source=f"{_CODE}: crop",
    )
    augmented: float = setting(
        1.0, help="share of a step's images that are shown so; the others whole", unit="share",
        source=_OURS,
    )  # fmt: skip
    patience: int = setting(
        0,
        help="epochs without a better result on training images kept aside before training stops "
        "and the best is taken; 0: train to the end",
        unit="epochs",
        source=f"{_CODE}: to the end",
    )
    held_out: float = setting(
        0.2, help="patience: share of each class's images kept aside", unit="share", source=_OURS
    )
    watch: str = setting(
        "loss", help="patience: what must get better, loss or accuracy", unit="-", source=_OURS
    )
    rank: int = setting(8, help="lora: rank", unit="-", source=_OURS)
    alpha: float = setting(16.0, help="lora: its factor is alpha / rank", unit="-", source=_OURS)
    dropout: float = setting(
        0.0,
        help="lora: share left out of what goes into a change; not of an attention's",
        unit="share",
        source=_OURS,
    )
    targets: str = setting(
        "auto",
        help="lora: auto (all that PEFT reaches), mlp (with a ResNet's convolutions), attention, "
        "or a regular expression of layers' names",
        unit="-",
        source=_OURS,
    )
    dora: bool = setting(
        False, help="lora: weight-decomposed (DoRA); not of an attention's", unit="-", source=_OURS
    )
    rslora: bool = setting(
        False, help="lora: the factor is alpha / sqrt(rank)", unit="-", source=_OURS
    )

    def __post_init__(self) -> None:
        for name, choices in (
            ("score", SCORES),
            ("tune", TUNED),
            ("positives", POSITIVES),
            ("mined_by", MINED),
            ("augment", tuple(AUGMENTS)),
            ("watch", WATCHES),
        ):
            check_choice("cma", name, getattr(self, name), choices)
        for name, least in (
            ("groups", 0),
            ("epochs", 1),
            ("batch_size", 2),
            ("chunk", 1),
            ("warmup", 0),
            ("rank", 1),
            ("patience", 0),
        ):
            check_whole("cma", name, getattr(self, name), least)
        for name in ("lambda_value", "learning_rate"):
            check_positive("cma", name, getattr(self, name), or_zero=True)
        check_positive("cma", "alpha", self.alpha)
        for name in ("augmented", "held_out", "dropout"):
            check_share("cma", name, getattr(self, name))
        if self.dropout == 1:
            raise UsageError("cma: dropout is 1; expected a number from 0 to below 1")
        if self.lambda_value >= 1:
            raise UsageError(
                f"cma: lambda_value is {self.lambda_value}; from 1 on every text is pulled to "
                "every image: use a number below 1, such as 0.001"
            )
        if self.template and "{}" not in self.template:
            raise UsageError(
                f"cma: template is {self.template!r}; write {{}} where the class name goes"
            )
        self.loop(1, 1)

    @property
    def neglabel(self) -> int:
        """Say whether negatives are scored with: 1 or 0."""
        return int(self.score == "neglabel")

    def batch_of(self, images: int) -> int:
        """Return how many images a step has, of so many in all."""
        return max(1, min(self.batch_size, images))

    def multi_positive(self, batch: int, classes: int) -> bool:
        """Say whether images of one class are right answers together."""
        return self.positives == "all" or (self.positives == "auto" and batch > classes)

    @property
    def augmentation(self) -> Augmentation:
        """Return how training images are shown."""
        return AUGMENTS[self.augment]

    def lora(self) -> LoraSettings:
        """Return how an adapter is made."""
        from vlood.backbone.tuned_weights import LoraSettings

        return LoraSettings(
            self.rank, self.alpha, self.dropout, self.targets, self.dora, self.rslora
        )

    def loop(self, images: int, trained: int) -> LoopSettings:
        """Return the settings of the loop: AdamW, a linear warm-up, then a cosine to zero.

        Args:
            images: training images.
            trained: numbers that are trained.
        """
        from vlood.training.schedules import Schedule
        from vlood.training.settings import LoopSettings

        batch = self.batch_of(images)
        steps = self.epochs * max(1, -(-images // batch))
        # A run that is shorter than the published warm-up has one of its own.
        warmup = min(self.warmup or steps // 10, steps // 2)
        rate = self.learning_rate or (3e-4 if self.tune in ("lora", "projection") else 1e-5)
        return LoopSettings(
            epochs=self.epochs,
            learning_rate=rate,
            optimizer="adamw",
            weight_decay=self.weight_decay,
            eps=1e-8,
            schedule=Schedule(
                per="step", warmup=warmup, warmup_shape="linear", warmup_rate=0, over="rest"
            ),
            accumulate=-(-batch // self.chunk),
            precision=self.precision,
            clip=self.clip,
            patience=self.patience,
            checkpoint_seconds=_SELDOM if trained > _MANY else _OFTEN,
        )
