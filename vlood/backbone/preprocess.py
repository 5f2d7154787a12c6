"""The model's own preprocessing, split where threads end and the device begins.

open_clip's transform resizes and crops a PIL image, then makes a normalised float tensor of it.
The first half runs per image in the decoding threads and leaves small uint8 pictures; the second
runs on a whole batch on the model's device. Together they give the transform's values bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vlood.errors import ImageError

MAX_RESIZED_PIXELS = 2**27
"""A long strip scaled to the model's short side may not outgrow this (400 MB of RGB)."""


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of one model.

    Attributes:
        steps: the transform's steps on a PIL image; the whole transform when ``split`` is False.
        split: whether the transform has the known shape. If not, ``prepare`` runs all of it.
        size: height and width of the model's input.
        mean: mean of each channel in [0, 1], for ``split``.
        std: standard deviation of each channel, for ``split``.
        description: stable text of all that decides the values.
    """

    steps: tuple[Callable[[Any], Any], ...]
    split: bool
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    description: str

    @classmethod
    def of_transform(cls, transform: Any, size: int | Sequence[int]) -> Preprocessing:
        """Split an open_clip ``preprocess_val`` transform of a model with input ``size``."""
        from torchvision.transforms import Normalize, ToTensor

        height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[-1]))
        steps = list(getattr(transform, "transforms", []))
        told = [_tell(step) for step in steps[:-2]]
        if len(steps) < 2 or None in told:
            known = False
        else:
            known = isinstance(steps[-2], ToTensor) and isinstance(steps[-1], Normalize)
        if not known:
            text = f"whole transform {' '.join(repr(transform).split())}"
            return cls((transform,), False, (height, width), (), (), text)
        mean = tuple(float(value) for value in steps[-1].mean)
        std = tuple(float(value) for value in steps[-1].std)
        told += [f"mean {_join(mean)}", f"std {_join(std)}"]
        text = "; ".join(part for part in told if part)
        return cls(tuple(steps[:-2]), True, (height, width), mean, std, text)

    @property
    def draft_side(self) -> int | None:
        """Smallest short side, in pixels, that a DCT-scaled JPEG may have; None: do not scale."""
        return max(self.size) if self.split else None

    def describe(self) -> str:
        """Return the text that keys and saved detectors record."""
        return self.description

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """Resize and crop one RGB image: uint8 [H, W, 3] (float32 [3, H, W] if not ``split``).

        Raises:
            ImageError: the image is so long and thin that resizing it would not fit in memory.
        """
        picture: Any = image
        for step in self.steps:
            _refuse_long_strip(step, picture)
            picture = step(picture)
        if not self.split:
            return np.asarray(picture, dtype=np.float32)
        return np.array(picture, dtype=np.uint8)

    def normalise(self, pixels: NDArray[Any], device: str = "cpu") -> torch.Tensor:
        """Turn prepared pictures [N, H, W, 3] into the model's input, float32 [N, 3, H, W]."""
        batch = torch.from_numpy(np.ascontiguousarray(pixels)).to(device)
        if not self.split:
            return batch
        batch = batch.permute(0, 3, 1, 2).contiguous().float()
        # Divided by a tensor: a GPU turns division by a number into multiplication.
        batch = batch.div_(torch.tensor(255.0, device=device))
        mean = torch.tensor(self.mean, device=device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=device).view(1, -1, 1, 1)
        return batch.sub_(mean).div_(std)


def _refuse_long_strip(step: Any, image: Image.Image) -> None:
    """Refuse an image whose long side would explode, or whose short side vanish, by resizing."""
    from torchvision.transforms import Resize

    from vlood.backbone.library import open_clip

    width, height = image.size
    if type(step) is Resize and isinstance(step.size, int):
        scale = step.size / min(width, height)
    elif type(step) is open_clip.transform.ResizeKeepRatio:
        rows, columns = step.size
        ratios = (height / rows, width / columns)
        scale = 1 / (max(ratios) * step.longest + min(ratios) * (1 - step.longest))
    else:
        return
    if width * height * scale**2 > MAX_RESIZED_PIXELS or min(width, height) * scale < 0.5:
        raise ImageError(
            f"{width}x{height} pixels is too long and thin: resized for the model it would be "
            f"{width * scale:.0f}x{height * scale:.0f}; crop it first"
        )


def _tell(step: Any) -> str | None:
    """Describe one step on a PIL image, or None when it is not one that open_clip makes."""
    from torchvision.transforms import CenterCrop, Resize

    from vlood.backbone.library import open_clip

    kind = type(step)
    if kind is Resize and step.max_size is None:
        return f"resize {_join(step.size)} {step.interpolation.value}"
    keeps_ratio = kind is open_clip.transform.ResizeKeepRatio
    if keeps_ratio and step.random_scale_prob == step.random_aspect_prob == 0:
        how = getattr(step.interpolation, "value", step.interpolation)
        return f"resize keeping ratio {_join(step.size)} longest={step.longest:g} {how}"
    if kind is CenterCrop:
        return f"centre crop {_join(step.size)}"
    if kind is open_clip.transform.CenterCropOrPad:
        return f"centre crop or pad {_join(step.size)} fill={step.fill}"
    if kind is open_clip.transform.MaybeConvertMode and step.mode == "RGB":
        return "rgb"
    return None


def _join(values: Any) -> str:
    return str(values) if isinstance(values, int) else ",".join(str(value) for value in values)
