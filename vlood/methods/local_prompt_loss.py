"""Local-Prompt's three losses, in log-sum-exp form: nothing overflows, and memory stays bounded.

Zeng et al. 2025, "Local-Prompt: Extensible Local Prompts for Few-Shot Out-of-Distribution
Detection". Regions of the views that look most like their class pull that class's prompt; regions
of the view that looks least like it pull the negative prompts, which are kept apart from each
other. The authors' code subtracts one element that is not the largest and exponentiates; this is
the same function without its overflow.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

LAMBDA_NEG = 5.0
"""Weight of the negative view's loss, in the authors' script."""
LAMBDA_REG = 0.5
"""Weight of the diversity of negative prompts, in the authors' script."""
# Numbers of regional logits that lie in memory at once; a graph keeps only the k best of each.
LOGITS_AT_ONCE = 1 << 23


@dataclass(frozen=True)
class LossWeights:
    """What the parts weigh, and what divides the logits.

    Attributes:
        negative: lambda_neg.
        diversity: lambda_reg.
        temperature: T.
    """

    negative: float = LAMBDA_NEG
    diversity: float = LAMBDA_REG
    temperature: float = 1.0


def local_prompt_loss(
    positive: torch.Tensor,
    negative: torch.Tensor,
    labels: torch.Tensor,
    local: torch.Tensor,
    nameless: torch.Tensor,
    *,
    scale: float,
    top_k: int,
    weights: LossWeights | None = None,
    at_once: int = LOGITS_AT_ONCE,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return L_pos + lambda_neg L_neg + lambda_reg L_reg, and the three by name.

    Args:
        positive: unit regional features of the views most like their class [B, R, D].
        negative: of the views least like it [B, R, D].
        labels: int64 [B].
        local: unit features of the classes' local prompts [C, D].
        nameless: unit features of the negative local prompts [M, D].
        scale: the logit scale.
        top_k: k, regions of each prompt; all where there are fewer.
        weights: of the parts.
        at_once: logits in memory at once; prompts are taken in chunks of so many.
    """
    weights = weights or LossWeights()
    sharp = scale / weights.temperature
    own = local[labels]
    pull = positive_loss(
        best_mass(positive, local, top_k, sharp, at_once),
        best_mass(positive, nameless, top_k, sharp, at_once),
        largest(own_logits(positive, own, sharp), top_k).logsumexp(-1),
    )
    likeness = own_logits(negative, own, sharp)
    regions = chosen_regions(negative, likeness.detach(), top_k)
    push = negative_loss(
        all_mass(regions, nameless, sharp, at_once),
        best_mass(negative, local, top_k, sharp, at_once),
    )
    spread = diversity(nameless)
    total = pull + weights.negative * push + weights.diversity * spread
    return total, {"positive": pull, "negative": push, "diversity": spread}


def positive_loss(
    classes: torch.Tensor, negatives: torch.Tensor, own: torch.Tensor
) -> torch.Tensor:
    """Return L_pos: how little of the best regions' evidence is for the true class.

    Args:
        classes: log-sum-exp over the k best regions of every class [B].
        negatives: the same over every negative prompt [B].
        own: the same of the true class alone [B].
    """
    return (torch.logaddexp(classes, negatives) - own).mean()


def negative_loss(negatives: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Return L_neg: how little of the negative view's evidence is for the negative prompts.

    Args:
        negatives: log-sum-exp over the chosen regions and all negative prompts [B].
        classes: over the k best regions of every class [B].
    """
    return F.softplus(classes - negatives).mean()


def diversity(nameless: torch.Tensor) -> torch.Tensor:
    """Return L_reg, the sum of all cosines of M negative prompts over M (M - 1).

    A prompt's cosine with itself is among them, as in the authors' code: a constant 1 / (M - 1). A
    single prompt has nothing to be kept apart from: 0.

    Args:
        nameless: unit rows [M, D].
    """
    count = len(nameless)
    # The sum over all pairs of products is the product of the sums.
    return nameless.sum(0).square().sum() / (count * max(1, count - 1)) * float(count > 1)


def own_logits(regions: torch.Tensor, own: torch.Tensor, sharp: float) -> torch.Tensor:
    """Return the logits of regions [B, R, D] with one prompt each [B, D]: [B, R]."""
    return torch.einsum("brd,bd->br", regions, own) * sharp


def largest(logits: torch.Tensor, top_k: int) -> torch.Tensor:
    """Return the k largest of [..., L] in any order, [..., k]; all where there are fewer."""
    if top_k >= logits.shape[-1]:
        return logits
    return logits.topk(top_k, dim=-1, sorted=False).values


def chosen_regions(regions: torch.Tensor, likeness: torch.Tensor, top_k: int) -> torch.Tensor:
    """Return the k regions [B, k, D] of largest likeness [B, R]; all where there are fewer."""
    if top_k >= likeness.shape[-1]:
        return regions
    rows = likeness.topk(top_k, dim=-1, sorted=False).indices
    return regions.gather(1, rows[..., None].expand(-1, -1, regions.shape[-1]))


def best_mass(
    regions: torch.Tensor, prompts: torch.Tensor, top_k: int, sharp: float, at_once: int
) -> torch.Tensor:
    """Return the log-sum-exp over every prompt's k best regions, [B].

    Logits [B, n, R] of n prompts at once are made and forgotten: what backward needs of them are
    the k best and where they are.

    Args:
        regions: [B, R, D].
        prompts: [C, D].
        top_k: k.
        sharp: logit scale over temperature.
        at_once: logits in memory at once.
    """
    return _mass(regions, prompts, sharp, at_once, top_k)


def all_mass(
    regions: torch.Tensor, prompts: torch.Tensor, sharp: float, at_once: int
) -> torch.Tensor:
    """Return the log-sum-exp over all of B images' regions [B, R, D] and prompts [M, D], [B]."""
    return _mass(regions, prompts, sharp, at_once, regions.shape[1])


def _mass(
    regions: torch.Tensor, prompts: torch.Tensor, sharp: float, at_once: int, top_k: int
) -> torch.Tensor:
    count, of_each, width = regions.shape
    rows = max(1, at_once // max(1, count * of_each))
    parts = []
    for some in torch.split(prompts, rows):
        # One product of two matrices, regions last so that the k best lie together.
        logits = some @ regions.reshape(-1, width).T * sharp
        parts.append(mass_of(logits.reshape(len(some), count, of_each), top_k))
    return torch.stack(parts).logsumexp(0)


def mass_of(logits: torch.Tensor, top_k: int) -> torch.Tensor:
    """Return the log-sum-exp over every prompt's k best regions of logits [n, B, R], [B]."""
    return largest(logits, top_k).logsumexp(dim=(0, 2))
