"""A step of CMA: images and the distinct prompts of their classes through both towers, at once.

The published step encodes a prompt for every image of the batch, at the model's full context. Here
every distinct prompt goes through the text tower once, cut to the longest of them, which gives the
same loss. A batch that does not fit into memory goes through in parts: features first, then the
loss and its gradient on them, then every part again with that gradient (Gao et al. 2021, "Scaling
Deep Contrastive Learning Batch Size under Memory Limited Setup"). The step is that of the whole
batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from vlood.methods.cma_loss import WEIGHT, cma_loss

Encode = Callable[[torch.Tensor], torch.Tensor]
"""Inputs of a tower [n, ...] to its features [n, D], not normalised; differentiable."""


class UniqueTexts(NamedTuple):
    """The distinct texts of a batch.

    Attributes:
        texts: int64 [U], which texts, ascending.
        own: int64 [B], the place of each image's text among them.
    """

    texts: NDArray[np.int64]
    own: NDArray[np.int64]

    @classmethod
    def of(cls, texts: NDArray[np.int64]) -> UniqueTexts:
        """Find the distinct ones among the texts of images [B]."""
        found, own = np.unique(texts, return_inverse=True)
        return cls(found.astype(np.int64), own.reshape(-1).astype(np.int64))


class Objective(NamedTuple):
    """What is minimised.

    Attributes:
        weight: lambda; 0 is FLYP.
        multi_positive: whether images of one class are right answers together.
    """

    weight: float = WEIGHT
    multi_positive: bool = False

    def __call__(
        self,
        images: torch.Tensor,
        texts: torch.Tensor,
        own: torch.Tensor,
        logit_scale: torch.Tensor | float,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss of features and its parts, in single precision whatever they are in."""
        with torch.autocast(images.device.type, enabled=False):
            return cma_loss(
                images.float(),
                texts.float(),
                own,
                logit_scale,
                weight=self.weight,
                multi_positive=self.multi_positive,
            )


def fused_step(
    encode_images: Encode,
    encode_texts: Encode,
    pixels: torch.Tensor,
    tokens: torch.Tensor,
    own: torch.Tensor,
    logit_scale: torch.Tensor | float,
    objective: Objective,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the loss of a batch, every distinct text encoded once.

    Args:
        encode_images: the image tower.
        encode_texts: the text tower; give it tokens cut to their longest text.
        pixels: B images.
        tokens: of the U distinct texts [U, L].
        own: int64 [B], the text of each image.
        logit_scale: factor on cosines.
        objective: the loss.

    Returns:
        The loss and its parts.
    """
    return objective(encode_images(pixels), encode_texts(tokens), own, logit_scale)


def plain_step(
    encode_images: Encode,
    encode_texts: Encode,
    pixels: torch.Tensor,
    tokens: torch.Tensor,
    logit_scale: torch.Tensor,
    *,
    weight: float = WEIGHT,
) -> torch.Tensor:
    """Return the loss as it is published: a prompt of its own for every image, at full length.

    ``fused_step`` gives the same number; this is what it is compared with.

    Args:
        encode_images: the image tower.
        encode_texts: the text tower.
        pixels: B images.
        tokens: of B prompts [B, 77], one an image.
        logit_scale: factor on cosines.
        weight: lambda.
    """
    images = torch.nn.functional.normalize(encode_images(pixels).float(), dim=-1)
    texts = torch.nn.functional.normalize(encode_texts(tokens).float(), dim=-1)
    logits = logit_scale * images @ texts.T
    diagonal = torch.arange(len(logits), device=logits.device)
    total = logits.new_zeros(())
    for one in (logits, logits.T):
        entropy = torch.nn.functional.cross_entropy(one, diagonal)
        total = total + (entropy - weight * one.logsumexp(dim=1).mean()) / 2
    return total


@dataclass(frozen=True, eq=False)
class FeatureGradients:
    """The loss of a whole batch, and its gradient on what the loss is made of.

    Attributes:
        loss: of the batch.
        parts: of the loss.
        images: [B, D].
        texts: [U, D].
        log_scale: of the logarithm of the logit scale, or None where it is not trained.
    """

    loss: torch.Tensor
    parts: Mapping[str, torch.Tensor]
    images: torch.Tensor
    texts: torch.Tensor
    log_scale: torch.Tensor | None


def feature_gradients(
    images: torch.Tensor,
    texts: torch.Tensor,
    own: torch.Tensor,
    log_scale: torch.Tensor,
    objective: Objective,
) -> FeatureGradients:
    """Return the loss of features that know nothing of their towers, and its gradients.

    Args:
        images: features [B, D], not normalised.
        texts: features [U, D], not normalised.
        own: int64 [B], the text of each image.
        log_scale: logarithm of the factor on cosines, trained or not.
        objective: the loss.
    """
    leaves = [images.detach().float().requires_grad_(), texts.detach().float().requires_grad_()]
    scale = log_scale.detach().float().requires_grad_()
    with torch.enable_grad():
        loss, parts = objective(leaves[0], leaves[1], own, scale.exp())
        found = torch.autograd.grad(loss, [*leaves, scale])
    return FeatureGradients(
        loss.detach(),
        {name: value.detach() for name, value in parts.items()},
        found[0],
        found[1],
        found[2] if log_scale.requires_grad else None,
    )


def cached_part(
    gradients: FeatureGradients,
    images: torch.Tensor | None,
    texts: torch.Tensor | None,
    image_rows: slice,
    text_rows: slice,
    log_scale: torch.Tensor,
    share: float,
) -> torch.Tensor:
    """Return a part's term, whose gradient is what the whole batch's loss has there.

    Terms of all parts, each times its share of the batch's images, add up to the loss in value and
    to its gradient.

    Args:
        gradients: of the batch.
        images: this part's features [n, D], through the tower once more, or None.
        texts: this part's distinct texts [m, D], or None.
        image_rows: where the images are in the batch.
        text_rows: where the texts are among the distinct ones.
        log_scale: logarithm of the factor on cosines.
        share: of the batch's images that this part has; above zero.
    """
    terms: list[torch.Tensor] = []
    for features, kept, rows in (
        (images, gradients.images, image_rows),
        (texts, gradients.texts, text_rows),
    ):
        if features is not None:
            terms.append((features.float() * kept[rows]).sum() / share)
    if gradients.log_scale is not None:
        terms.append(log_scale * gradients.log_scale)
    total: Any = sum(terms)
    value: torch.Tensor = gradients.loss + (total - total.detach())
    return value


def text_span(texts: int, images: int, rows: slice) -> slice:
    """Return which of U texts go with a part's images [rows] of B, so that parts are alike.

    Every text goes with exactly one part of a batch that is cut without gaps.
    """

    def place(image: int) -> int:
        return -(-image * texts // images)

    return slice(place(rows.start), place(rows.stop))
