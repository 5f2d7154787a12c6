"""How a classifier sees an image: its size, and its normalisation, which is never guessed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from vlood.backbone.preprocess import Preprocessing
from vlood.errors import UsageError

INTERPOLATIONS = ("bilinear", "bicubic")
MEANS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    # As COOkeD's own classifiers of CIFAR-100 were trained.
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Normalisations by name, on channels in [0, 1]."""

OPTION = "--classifier-set"
SETTINGS = ("size", "resize", "interpolation", "normalisation", "mean", "std", "classes")
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class ClassifierInput:
    """What a classifier is shown of an image.

    Attributes:
        size: height and width.
        resize: short side before the centre crop of ``size``; 0: the whole image, squashed.
        interpolation: ``bilinear`` or ``bicubic``.
        mean: of each channel in [0, 1].
        std: of each channel.
    """

    size: tuple[int, int]
    resize: int
    interpolation: str
    mean: Triple
    std: Triple

    def described(self) -> dict[str, Any]:
        """Return it as JSON-able fields."""
        return {
            "size": list(self.size),
            "resize": self.resize,
            "interpolation": self.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def preprocessing(self) -> Preprocessing:
        """Return the steps on an image."""
        from torchvision import transforms as tv

        kind = tv.InterpolationMode(self.interpolation)
        steps: list[Any] = [tv.Resize(list(self.size), interpolation=kind)]
        if self.resize:
            steps = [tv.Resize(self.resize, interpolation=kind), tv.CenterCrop(self.size)]
        whole = tv.Compose([*steps, tv.ToTensor(), tv.Normalize(self.mean, self.std)])
        return Preprocessing.of_transform(whole, self.size)


@dataclass(frozen=True)
class InputChoice:
    """What is said of a classifier's input: any field may be open.

    Attributes:
        size: height and width.
        resize: short side before the centre crop; 0: squash.
        interpolation: ``bilinear`` or ``bicubic``.
        mean: of each channel in [0, 1].
        std: of each channel.
    """

    size: tuple[int, int] | None = None
    resize: int | None = None
    interpolation: str | None = None
    mean: Triple | None = None
    std: Triple | None = None

    @classmethod
    def of(cls, values: Mapping[str, str]) -> InputChoice:
        """Read values as typed after ``--classifier-set``; ``classes`` is left to others.

        Raises:
            UsageError: an unknown name, or a value of the wrong kind.
        """
        unknown = next((name for name in values if name not in SETTINGS), None)
        if unknown is not None:
            raise UsageError(f"{OPTION} {unknown}: is no setting; they are {', '.join(SETTINGS)}")
        found: dict[str, Any] = {}
        if "normalisation" in values:
            name = values["normalisation"]
            if name not in MEANS:
                raise UsageError(
                    f"{OPTION} normalisation={name}: expected one of {', '.join(MEANS)}, or mean= "
                    "and std= with three numbers each"
                )
            found["mean"], found["std"] = MEANS[name]
        for name in ("mean", "std"):
            if name in values:
                found[name] = _triple(name, values[name])
        if "size" in values:
            found["size"] = _size(values["size"])
        if "resize" in values:
            text = values["resize"]
            found["resize"] = 0 if text == "squash" else _whole("resize", text)
        if "interpolation" in values:
            if values["interpolation"] not in INTERPOLATIONS:
                raise UsageError(
                    f"{OPTION} interpolation={values['interpolation']}: expected "
                    f"{' or '.join(INTERPOLATIONS)}"
                )
            found["interpolation"] = values["interpolation"]
        return cls(**found)

    @classmethod
    def of_input(cls, known: ClassifierInput) -> InputChoice:
        """Say all that is known."""
        return cls(known.size, known.resize, known.interpolation, known.mean, known.std)

    def over(self, stated: InputChoice) -> InputChoice:
        """Return what is stated, with what is said here in its place.

        Another size takes the stated short side with it.
        """
        said = {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if getattr(self, each.name) is not None
        }
        if "size" in said and said["size"] != stated.size:
            said.setdefault("resize", None)
        return replace(stated, **said)

    def settled(self, where: str) -> ClassifierInput:
        """Return the input, or refuse what is still open.

        Where nothing is said, the short side is resized to the size bilinearly, as COOkeD's
        evaluation does it.

        Raises:
            UsageError: the normalisation or the size is not known.
        """
        if self.mean is None or self.std is None:
            raise UsageError(
                f"{where}: missing normalisation: nothing states the mean and deviation that these "
                f"weights were trained with; give {OPTION} normalisation={'|'.join(MEANS)}, or "
                f"{OPTION} mean=R,G,B and {OPTION} std=R,G,B"
            )
        if self.size is None:
            raise UsageError(
                f"{where}: nothing states the size of its input; give {OPTION} size=N, such as 224"
            )
        square = self.size[0] == self.size[1]
        resize = self.resize if self.resize is not None else self.size[0] if square else 0
        if resize and resize < max(self.size):
            raise UsageError(
                f"{where}: resize={resize} is smaller than the size {max(self.size)}; the centre "
                "crop would have borders"
            )
        return ClassifierInput(
            self.size, resize, self.interpolation or "bilinear", self.mean, self.std
        )


def _triple(name: str, text: str) -> Triple:
    parts = text.split(",")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    least = 0.0 if name == "mean" else 1e-6
    good = len(numbers) == 3 and all(math.isfinite(one) and least <= one <= 1 for one in numbers)
    if not good:
        raise UsageError(
            f"{OPTION} {name}={text}: expected three numbers for channels from 0 to 1, such as "
            f"{name}=0.485,0.456,0.406"
        )
    return (numbers[0], numbers[1], numbers[2])


def _size(text: str) -> tuple[int, int]:
    height, cross, width = text.partition("x")
    first = _whole("size", height)
    return (first, _whole("size", width) if cross else first)


def _whole(name: str, text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 4096:
        raise UsageError(f"{OPTION} {name}={text}: expected a whole number of pixels, such as 224")
    return int(text)
