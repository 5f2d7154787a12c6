"""CMA's loss: images against the prompts of their classes, and both pulled across the modality gap.

Kim and Hwang 2025, "Enhanced OoD Detection through Cross-Modal Alignment of Multi-Modal
Representations". FLYP's symmetric cross-entropy of a batch, plus lambda times minus the
log-sum-exp of every row and column of its logits: the log-likelihood of images and texts under a
joint energy-based model. Lambda 0 is FLYP.

Every text of the batch need be encoded only once: a class that B images share is one row here, and
counts as often as it was drawn.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

WEIGHT = 0.001
"""Lambda of the paper's command; the code's own default is 0."""


class Evidence(NamedTuple):
    """Log-sum-exps of a batch's logits, and how far each positive is below them.

    Attributes:
        images: of each image over the batch's texts [B].
        texts: of each distinct text over the batch's images [U].
        image_loss: what image and own text lack to the image's [B], zero or more.
        text_loss: what they lack to the text's [B], zero or more.
        shares: share of the images that have each text [U]; sums to 1.
    """

    images: torch.Tensor
    texts: torch.Tensor
    image_loss: torch.Tensor
    text_loss: torch.Tensor
    shares: torch.Tensor


def evidence(
    images: torch.Tensor,
    texts: torch.Tensor,
    own: torch.Tensor,
    logit_scale: torch.Tensor | float,
    *,
    multi_positive: bool = False,
) -> Evidence:
    """Return the log-sum-exps that the loss is made of.

    Args:
        images: features [B, D], not normalised.
        texts: features of the distinct texts [U, D], not normalised.
        own: int [B], the text of each image; every text is some image's.
        logit_scale: factor on cosines, trained or not.
        multi_positive: count every text once, however many images share it.
    """
    logits = logit_scale * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    counts = torch.bincount(own, minlength=len(texts)).to(logits.dtype)
    # A text that n images share stands for n columns of the batch.
    copies = torch.zeros_like(counts) if multi_positive else counts.log()
    place = own[:, None]
    # Through log_softmax, for a saturated pair's loss is far smaller than what it is a difference
    # of.
    of_images = (logits + copies).log_softmax(dim=1).gather(1, place)[:, 0] - copies[own]
    of_texts = logits.log_softmax(dim=0).gather(1, place)[:, 0]
    positives = logits.gather(1, place)[:, 0]
    return Evidence(
        positives - of_images, logits.logsumexp(dim=0), -of_images, -of_texts, counts / len(own)
    )


def cma_loss(
    images: torch.Tensor,
    texts: torch.Tensor,
    own: torch.Tensor,
    logit_scale: torch.Tensor | float,
    *,
    weight: float = WEIGHT,
    multi_positive: bool = False,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return both cross-entropies' mean + lambda * alignment.

    It equals -mean positive + (1 - lambda) / 2 (mean LSE of rows + mean LSE of columns).

    As published, images of one class are each other's wrong answers: a batch of B texts with
    copies. With ``multi_positive``, vlood's own, they are not: an image chooses among distinct
    texts, and a text's right answers are all its images alike. Use it where a batch holds classes
    more than once, above all where there are few of them.

    Args:
        images: features [B, D], not normalised.
        texts: features of the distinct texts [U, D], not normalised.
        own: int [B], the text of each image; every text is some image's.
        logit_scale: factor on cosines, trained or not.
        weight: lambda.
        multi_positive: whether images of one class are right answers together.

    Returns:
        The loss, and its parts: ``image`` and ``text``, the two cross-entropies, and
        ``alignment``, what lambda weighs.
    """
    found = evidence(images, texts, own, logit_scale, multi_positive=multi_positive)
    image = found.image_loss.mean()
    if multi_positive:
        # Every text counts once, with the mean over its images.
        text = (found.text_loss / (found.shares[own] * len(own))).sum() / len(texts)
        column = found.texts.mean()
    else:
        text = found.text_loss.mean()
        column = (found.shares * found.texts).sum()
    alignment = -(found.images.mean() + column) / 2
    parts = {"image": image, "text": text, "alignment": alignment}
    return (image + text) / 2 + weight * alignment, parts
