"""Local-Prompt's settings, and what they mean for a tower and a class list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlood.errors import UsageError
from vlood.methods.context_training import OURS, RANDOM, check_init
from vlood.methods.contract import check_choice, check_positive, check_whole, setting
from vlood.methods.loop_fields import accumulate_field, clip_field, precision_field

if TYPE_CHECKING:
    from vlood.training.settings import LoopSettings

PRESETS = ("scaled", "local-prompt")
_NAME = "local-prompt"
_CODE = "the authors' code"
_SCRIPT = "its training script"
_DASSL = "Dassl, its trainer: the default"
# The authors' figures for ImageNet-1k at 224 pixels with 16 x 16 patches.
_THEIR_NEGATIVES, _THEIR_CLASSES = 300, 1000
_THEIR_K, _THEIR_REGIONS = 50, 196


@dataclass(frozen=True)
class LocalPromptSettings:
    """Settings of Local-Prompt; those of the score first."""

    top_k: int = setting(
        10,
        help="region-class pairs in the regional score, and regions in a class's evidence; all "
        "where there are fewer",
        unit="entries",
        source="its evaluation script, --topk 10",
    )
    temperature: float = setting(
        1.0, help="divides the cosines, global and local", unit="cosine", source="its code, --T 1"
    )
    neglabel: float = setting(
        0.0,
        help="weight of a NegLabel term beside the regional one, from --negatives; 0: none",
        unit="-",
        source=f"{OURS}, not in the paper",
    )
    preset: str = setting(
        "scaled",
        help="what 0 means for negative_prompts and train_top_k. scaled: the published figures in "
        "proportion to classes and regions; local-prompt: those of ImageNet-1k, 300 and 50",
        unit="-",
        source=f"{_SCRIPT} (local-prompt); {OURS} (scaled)",
    )
    negative_prompts: int = setting(
        0,
        help="M, prompts without a name; 0: by the preset; at most as many as there are regions "
        "to learn from",
        unit="prompts",
        source=f"{_SCRIPT}: 300 for 1000 classes",
    )
    train_top_k: int = setting(
        0,
        help="k in training, best regions of every prompt; 0: by the preset; all where there are "
        "fewer",
        unit="regions",
        source=f"{_SCRIPT}: 50 of 196 regions",
    )
    context_length: int = setting(16, help="context vectors a prompt", unit="vectors", source=_CODE)
    init: str = setting(
        RANDOM,
        help="of the classes' prompts. random: normal, standard deviation 0.02; or words, such as "
        '"a photo of a", whose number context_length then is',
        unit="-",
        source=_CODE,
    )
    views: int = setting(
        16, help="augmented views of each image", unit="views", source="the paper, Q = 16"
    )
    positive_views: int = setting(
        8,
        help="views most like their class, each a step of its own; the least similar one is the "
        "negative",
        unit="views",
        source=_CODE,
    )
    weight_negative: float = setting(
        5.0, help="lambda_neg, of the negative view's loss; 0: off", unit="-", source=_SCRIPT
    )
    weight_diversity: float = setting(
        0.5, help="lambda_reg, of the negative prompts' diversity; 0: off", unit="-", source=_SCRIPT
    )
    train_temperature: float = setting(
        1.0, help="divides the logits in training", unit="logit", source=f"{_CODE}, T = 1"
    )
    epochs: int = setting(30, help="passes over the images", unit="passes", source=_CODE)
    batch_size: int = setting(
        256, help="images a step, all where there are fewer", unit="images", source=_CODE
    )
    learning_rate: float = setting(
        0.002, help="after the warm-up, then by a cosine", unit="-", source=_CODE
    )
    warmup_epochs: int = setting(
        1, help="epochs at warmup_rate before", unit="epochs", source=_CODE
    )
    warmup_rate: float = setting(1e-5, help="learning rate of the warm-up", unit="-", source=_CODE)
    momentum: float = setting(0.9, help="of sgd", unit="-", source=_DASSL)
    weight_decay: float = setting(5e-4, help="L2 penalty", unit="-", source=_DASSL)
    clip: float = clip_field(_CODE)
    accumulate: int = accumulate_field(OURS)
    precision: str = precision_field(f"{_CODE}: fp16 with loss scaling")
    recompute: bool = setting(
        False,
        help="make regional maps anew in every epoch instead of keeping them on disk",
        unit="-",
        source=OURS,
    )

    def __post_init__(self) -> None:
        check_positive(_NAME, "temperature", self.temperature)
        check_choice(_NAME, "preset", self.preset, PRESETS)
        for name, least in (
            ("top_k", 1),
            ("negative_prompts", 0),
            ("train_top_k", 0),
            ("context_length", 1),
            ("views", 2),
            ("positive_views", 1),
            ("epochs", 1),
            ("batch_size", 1),
            ("warmup_epochs", 0),
        ):
            check_whole(_NAME, name, getattr(self, name), least)
        for name in ("neglabel", "weight_negative", "weight_diversity", "warmup_rate"):
            check_positive(_NAME, name, getattr(self, name), or_zero=True)
        check_positive(_NAME, "train_temperature", self.train_temperature)
        if self.positive_views >= self.views:
            raise UsageError(
                f"local-prompt: positive_views is {self.positive_views} and views is {self.views}; "
                "one view must be left for the negative: expected fewer"
            )
        check_init(_NAME, self.init)
        # What the loop takes is checked by its own settings, before anything is encoded.
        loop_settings(self)


def loop_settings(settings: LocalPromptSettings) -> LoopSettings:
    """Return the settings of the loop: the schedule is Dassl's, by epochs."""
    from vlood.training.schedules import Schedule
    from vlood.training.settings import LoopSettings

    return LoopSettings(
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        schedule=Schedule(warmup=settings.warmup_epochs, warmup_rate=settings.warmup_rate),
        accumulate=settings.accumulate,
        precision=settings.precision,
        clip=settings.clip,
    )


@dataclass(frozen=True)
class Sizes:
    """What k and M are for a tower and a training set.

    Attributes:
        top_k: k in training.
        negatives: M.
        notes: sentences on what was asked for and cannot be.
    """

    top_k: int
    negatives: int
    notes: tuple[str, ...] = ()


def sizes_of(settings: LocalPromptSettings, *, regions: int, classes: int, images: int) -> Sizes:
    """Return k and M, no more than there are regions.

    Args:
        settings: with 0 for what the preset is to say.
        regions: of an image.
        classes: C.
        images: training images; each has one negative view of k regions.

    Raises:
        UsageError: the tower has a single region.
    """
    check_regions(regions)
    scaled = settings.preset == "scaled"
    published_k = max(1, round(regions * _THEIR_K / _THEIR_REGIONS)) if scaled else _THEIR_K
    published_m = default_negatives(classes) if scaled else _THEIR_NEGATIVES
    notes = []
    asked = settings.train_top_k or published_k
    top_k = min(asked, regions)
    if top_k < asked:
        notes.append(f"train_top_k is {asked} and the model has {regions} regions: {top_k} is used")
    if settings.top_k > regions:
        notes.append(
            f"top_k is {settings.top_k} and the model has {regions} regions: all are used for a "
            "class's evidence"
        )
    wanted = settings.negative_prompts or published_m
    negatives = min(wanted, images * top_k)
    if negatives < wanted:
        notes.append(
            f"negative_prompts is {wanted} and there are {negatives} regions to learn them from "
            f"({top_k} of each image): {negatives} is used"
        )
    return Sizes(top_k, negatives, tuple(f"local-prompt: {note}" for note in notes))


def check_regions(regions: int) -> None:
    """Refuse a tower with a single region.

    Raises:
        UsageError: naming what to use instead.
    """
    if regions < 2:
        raise UsageError(
            "local-prompt: the model has a single region, the whole image, and nothing to tell "
            "apart in it; use a model with a finer grid, or --method coop"
        )


def default_negatives(classes: int) -> int:
    """Return M for so many classes: 300 for ImageNet's 1,000, in proportion, at least 4."""
    return max(4, round(classes * _THEIR_NEGATIVES / _THEIR_CLASSES))
