"""LoCoOp's loss: cross-entropy on images, and high entropy on regions that are not of their class.

Miyai et al. 2023, "LoCoOp: Few-Shot Out-of-Distribution Detection via Prompt Learning". A region
whose label is not among its K most likely classes shows background, so to speak: an OOD example
that comes free with every ID image. The prompts are to be undecided about it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from vlood.errors import UsageError

WEIGHT = 0.25
"""Lambda of the paper and its code."""
TOP_K_SHARE = 0.2
"""K = 200 of ImageNet's 1,000 classes, as a share of the classes."""
# Inside the logarithm of the entropy, in the authors' code; it is felt in the fifth digit.
_EPSILON = 1e-5


def default_top_k(classes: int) -> int:
    """Return K for so many classes: a fifth of them, at least 1 (200 for ImageNet's 1,000)."""
    return max(1, math.floor(TOP_K_SHARE * classes + 0.5))


def check_top_k(top_k: int, classes: int) -> None:
    """Refuse a K with which no region can be irrelevant; the loss would be plain cross-entropy.

    Raises:
        UsageError: naming it, and what would do.
    """
    if not 1 <= top_k < classes:
        raise UsageError(
            f"locoop: top_k is {top_k} and there are {classes} classes; expected 1 or more and "
            f"less than there are classes, such as {default_top_k(classes)}"
        )


def locoop_loss(
    whole: torch.Tensor,
    local: torch.Tensor,
    labels: torch.Tensor,
    *,
    top_k: int,
    weight: float = WEIGHT,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return cross-entropy + weight * (-mean entropy of the regions that are not of their class).

    The entropy is a mean over all such regions of the batch, not over images; where there are none
    the term is zero.

    Args:
        whole: scaled logits of images [B, K].
        local: scaled logits of their regions [B, R, K].
        labels: int [B].
        top_k: how many of a region's likeliest classes are taken for what it shows.
        weight: lambda.

    Returns:
        The loss, and its parts by name: ``cross_entropy``, ``local_entropy`` (of the regions, in
        nats, positive) and ``irrelevant`` (the share of regions that are not of their class).
    """
    chosen = irrelevant_regions(local, labels, top_k)
    own = F.cross_entropy(whole, labels)
    entropy = mean_entropy(local[chosen])
    parts = {
        "cross_entropy": own,
        "local_entropy": entropy,
        "irrelevant": chosen.to(local.dtype).mean(),
    }
    return own - weight * entropy, parts


def irrelevant_regions(local: torch.Tensor, labels: torch.Tensor, top_k: int) -> torch.Tensor:
    """Say which regions have K classes or more that are likelier than the label, bool [B, R].

    Args:
        local: logits of regions [B, R, K].
        labels: int [B].
        top_k: K.
    """
    # The rank of the label instead of a list of the K best: no sorting, and ties keep the region
    # with its class, where a list breaks them at random.
    with torch.no_grad():
        at = labels[:, None, None].expand(-1, local.shape[1], 1)
        better = local > local.gather(2, at)
        return better.sum(dim=2) >= top_k


def mean_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Return the mean over rows of the entropy of softmax(logits) in nats; 0 where no rows are.

    It is -sum p log(p + 1e-5), as in the authors' code.

    Args:
        logits: [n, K].
    """
    if not len(logits):
        return logits.sum()  # zero, and part of the graph
    probabilities = logits.softmax(dim=1)
    return -(probabilities * torch.log(probabilities + _EPSILON)).sum(dim=1).mean()
