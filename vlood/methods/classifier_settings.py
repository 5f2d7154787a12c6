"""Settings of training a closed-world classifier: the standard recipe, every number named."""

from __future__ import annotations

from dataclasses import dataclass

from vlood.backbone.classifier.input import MEANS
from vlood.errors import UsageError
from vlood.methods.contract import (
    check_choice,
    check_positive,
    check_share,
    check_whole,
    setting,
)
from vlood.training.schedules import Schedule
from vlood.training.settings import PRECISIONS, LoopSettings

NAME = "classifier"
OURS = "vlood"
COOKED = "COOkeD's published classifiers"
_RATES = {"sgd": (0.1, 0.01), "adamw": (1e-3, 1e-4)}


@dataclass(frozen=True)
class ClassifierSettings:
    """How a classifier is built and trained."""

    arch: str = setting(
        "resnet18",
        help="an architecture of timm; ARCH.TAG says which published weights --init holds",
        unit="-",
        source=COOKED,
    )
    size: int = setting(224, help="side of the network's input", unit="pixels", source=COOKED)
    epochs: int = setting(100, help="passes over the images", unit="passes", source=COOKED)
    batch_size: int = setting(128, help="images a step", unit="images", source="OpenOOD's recipe")
    optimizer: str = setting("sgd", help="sgd (Nesterov) or adamw", unit="-", source="OpenOOD")
    learning_rate: float = setting(
        0.0,
        help="at the cosine's height; 0: sgd 0.1 from scratch and 0.01 with --init, adamw 0.001 "
        "and 0.0001",
        unit="-",
        source=COOKED,
    )
    momentum: float = setting(0.9, help="of sgd", unit="-", source="OpenOOD's recipe")
    weight_decay: float = setting(
        5e-4, help="of weights; biases and norms do not decay", unit="-", source="OpenOOD's recipe"
    )
    warmup: int = setting(
        0, help="epochs of a linear warm-up before the cosine", unit="epochs", source=OURS
    )
    label_smoothing: float = setting(
        0.0, help="share of each label that is spread over all classes", unit="share", source=OURS
    )
    smallest_crop: float = setting(
        0.08,
        help="smallest share of an image that a random resized crop shows; 1: whole images",
        unit="share",
        source="GoogLeNet 2015, torchvision's reference training",
    )
    flip: bool = setting(True, help="mirror every other view", unit="-", source="torchvision's")
    colour: float = setting(
        0.0,
        help="most that brightness, contrast and saturation are changed, as a share",
        unit="share",
        source="torchvision's ColorJitter; off in its reference training",
    )
    interpolation: str = setting(
        "bilinear", help="bilinear or bicubic", unit="-", source="COOkeD's evaluation"
    )
    normalisation: str = setting(
        "auto",
        help="imagenet, clip, cifar100, half or none; auto: imagenet from scratch, and what is "
        "stated of the weights of --init",
        unit="-",
        source=OURS,
    )
    held_out: float = setting(
        0.1,
        help="share of each class that is kept aside to measure accuracy; 0: train on all",
        unit="share",
        source=OURS,
    )
    patience: int = setting(
        0,
        help="epochs without a better held-out loss before the run stops with the best weights; "
        "0: all epochs, and the last weights",
        unit="epochs",
        source="COOkeD takes the last epoch",
    )
    clip: float = setting(0.0, help="longest gradient; 0: any", unit="-", source=OURS)
    accumulate: int = setting(
        1, help="parts that a step goes through the network in", unit="parts", source=OURS
    )
    precision: str = setting(
        "auto", help="fp32, bf16, fp16; auto: bf16 on a GPU that has it", unit="-", source=OURS
    )

    def __post_init__(self) -> None:
        check_choice(NAME, "optimizer", self.optimizer, tuple(_RATES))
        check_choice(NAME, "precision", self.precision, PRECISIONS)
        check_choice(NAME, "interpolation", self.interpolation, ("bilinear", "bicubic"))
        check_choice(NAME, "normalisation", self.normalisation, ("auto", *MEANS))
        for name, least in (("size", 8), ("epochs", 1), ("batch_size", 2), ("warmup", 0)):
            check_whole(NAME, name, getattr(self, name), least)
        for name in ("patience", "accumulate"):
            check_whole(NAME, name, getattr(self, name), 0 if name == "patience" else 1)
        for name in ("label_smoothing", "held_out", "colour", "smallest_crop"):
            check_share(NAME, name, getattr(self, name))
        for name in ("learning_rate", "weight_decay", "clip"):
            check_positive(NAME, name, getattr(self, name), or_zero=True)
        check_positive(NAME, "smallest_crop", self.smallest_crop)
        if self.label_smoothing == 1 or self.held_out > 0.9:
            raise UsageError(
                f"{NAME}: label_smoothing is {self.label_smoothing} and held_out {self.held_out}; "
                "expected less than 1, and at most 0.9"
            )
        if self.patience and not self.held_out:
            raise UsageError(f"{NAME}: patience needs images kept aside; set held_out above 0")
        if self.warmup >= self.epochs:
            raise UsageError(f"{NAME}: warmup is {self.warmup} of {self.epochs} epochs; set less")

    def loop(self, *, from_weights: bool, per_epoch: int) -> LoopSettings:
        """Return the loop's settings; ``from_weights`` says whether the network was trained."""
        rate = self.learning_rate or _RATES[self.optimizer][int(from_weights)]
        return LoopSettings(
            epochs=self.epochs,
            learning_rate=rate,
            optimizer=self.optimizer,
            momentum=self.momentum,
            nesterov=self.momentum > 0,
            weight_decay=self.weight_decay,
            decay_dims=2,
            schedule=Schedule(
                per="step",
                warmup=self.warmup * per_epoch,
                warmup_shape="linear",
                warmup_rate=rate / 100,
                over="rest",
            ),
            accumulate=self.accumulate,
            precision=self.precision,
            clip=self.clip,
            patience=self.patience,
        )
