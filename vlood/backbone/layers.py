"""Embeddings of every layer of an image tower, side by side: ``--model layers:MODEL``.

Each image gets the mean over positions of what every block gives, then the tower's own embedding:
of a ViT the mean of its patch tokens after each block, of a ResNet the mean over the picture after
the stem and each stage (Lee et al. 2018 average feature maps in the same way). No text has such
embeddings.

With steps, pixels move once a little in the direction in which a detector's score grows, and the
embeddings of the moved pictures come too (Lee et al. 2018, eq. 4; Liang et al. 2018). Detectors
themselves never see pixels: they give the tower a score of its embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlood.backbone.backbone import Backbone
from vlood.backbone.image_features import ImageFeatures
from vlood.backbone.library import open_clip
from vlood.errors import UsageError

PREFIX = "layers:"


@dataclass(frozen=True)
class Step:
    """A step of the pixels before they are encoded.

    Attributes:
        size: of the step in every channel of every pixel, of pixels from 0 to 1.
        score: of joined embeddings [N, D], the sum over images; differentiable.
    """

    size: float
    score: Callable[[torch.Tensor], torch.Tensor]


class LayeredBackbone(Backbone):
    """A model whose image embeddings are those of all its layers, joined; it encodes no texts.

    Attributes:
        steps: by key; each makes ``ImageFeatures.stepped[key]``.
    """

    steps: Mapping[str, Step] = {}

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        refuse_layers(self.module.visual, self.name)
        self.local_refusal = (
            "layers: models give one embedding a layer and none of regions; leave layers: out, or "
            "use a method without local features"
        )

    @cached_property
    def layer_widths(self) -> tuple[int, ...]:
        """Width of each layer's embedding, the tower's own last; their sum is D."""
        height, width = self.preprocessing.size
        blank = torch.zeros(1, 3, height, width, dtype=self._dtype, device=self.device)
        with torch.inference_mode():
            return tuple(int(part.shape[1]) for part in layer_embeddings(self.module, blank))

    @cached_property
    def embed_dim(self) -> int:
        """Width D of the joined embeddings."""
        return sum(self.layer_widths)

    def identity(self) -> dict[str, str]:
        """Return what decides the embeddings; their widths are part of it."""
        found = super().identity()
        widths = "+".join(map(str, self.layer_widths))
        return {**found, "architecture": f"layers {widths} of {found['architecture']}"}

    def encode_pixels(self, pixels: NDArray[Any], *, local: bool = False) -> ImageFeatures:
        """Encode prepared pictures; raw is [N, D], the layers joined.

        Raises:
            UsageError: local features are asked for.
            VloodError: not even one picture fits in memory.
        """
        if local:
            raise UsageError(f"--model {self.name}: {self.local_refusal}")
        if len(pixels) == 0:
            return ImageFeatures(np.zeros((0, self.embed_dim), np.float32))

        def run(rows: slice) -> list[NDArray[np.float32]]:
            images = self.preprocessing.normalise(pixels[rows], self.device).to(self._dtype)
            with torch.no_grad():
                found = [self._joined(images)]
            found += [self._stepped(images, step) for step in self.steps.values()]
            return [each.float().cpu().numpy() for each in found]

        parts = list(self._images.map(len(pixels), run))
        raw, *stepped = (np.concatenate(each) for each in zip(*parts, strict=True))
        self._check_range(raw)
        return ImageFeatures(raw, stepped=dict(zip(self.steps, stepped, strict=True)))

    def encode_texts(self, texts: Any, **given: Any) -> NDArray[np.float32]:
        """Refuse: texts have no layers of images.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            f"--model {self.name}: gives the layers of images, and no text lies among them; leave "
            "layers: out, or use a method that learns from images alone, such as mahalanobis-layers"
        )

    def _joined(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat(layer_embeddings(self.module, images), dim=1)

    def _stepped(self, images: torch.Tensor, step: Step) -> torch.Tensor:
        with torch.enable_grad():
            moving = images.detach().clone().requires_grad_(True)
            (slope,) = torch.autograd.grad(step.score(self._joined(moving).float()), moving)
        std = torch.tensor(self.preprocessing.std or (1.0,), device=images.device)
        size = (step.size / std).to(images.dtype).view(1, -1, 1, 1)
        with torch.no_grad():
            return self._joined(images + size * slope.sign())


def layer_embeddings(module: Any, images: torch.Tensor) -> list[torch.Tensor]:
    """Return the embeddings [N, W] of each layer of normalised images [N, 3, H, W], the own last.

    ``refuse_layers`` must not refuse the tower.
    """
    visual = module.visual
    with _watched(visual) as seen:
        own = visual(images)
    return [*seen, own]


def refuse_layers(visual: Any, model: str) -> None:
    """Refuse a tower whose layers cannot be had.

    Raises:
        UsageError: it is neither a ViT nor a ResNet of open_clip's own.
    """
    known = (open_clip.modified_resnet.ModifiedResNet, open_clip.transformer.VisionTransformer)
    if not isinstance(visual, known):
        raise UsageError(
            f"--model {model}: the layers of a {type(visual).__name__} image tower are not known; "
            "use an OpenAI-style ViT or ResNet, or leave layers: out"
        )


@contextmanager
def _watched(visual: Any) -> Iterator[list[torch.Tensor]]:
    """Gather the pooled outputs of a tower's layers while it runs."""
    seen: list[torch.Tensor] = []
    is_resnet = hasattr(visual, "attnpool")
    if is_resnet:
        # The stem's last pooling is the first place that has run all of it.
        layers = [visual.avgpool, *(getattr(visual, f"layer{each}") for each in range(1, 5))]
        classes = 0
    else:
        layers = list(visual.transformer.resblocks)
        classes = 1
    batch_first = is_resnet or getattr(visual.transformer, "batch_first", True)

    def keep(_: Any, __: Any, output: Any) -> None:
        found = output[0] if isinstance(output, tuple) else output
        if is_resnet:
            seen.append(found.mean(dim=(2, 3)))
            return
        tokens = found if batch_first else found.transpose(0, 1)
        seen.append(tokens[:, classes:].mean(dim=1))

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
