"""LAPT's losses: images and their mixes against the prompts of classes and negative labels.

Zhang et al. 2024, "LAPT: Label-driven Automated Prompt Tuning for OOD Detection with
Vision-Language Models". Classes have one set of context vectors and negative labels another. An
image, its mix with a text of its own label (cross-modal), and its mix with an image from the other
side (cross-distribution) are each classified among all C + M prompts.

What is drawn is drawn by :func:`draw_mixing`; the losses are pure functions of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from vlood.methods.lapt_settings import LaptSettings

# The authors' code keeps merged probabilities within [1e-6, 1 - 1e-6].
_LOG_LEAST, _LOG_MOST = float(np.log(1e-6)), float(np.log1p(-1e-6))


@dataclass(frozen=True, eq=False)
class Mixing:
    """What chance decides in a step.

    Attributes:
        cross_modal: share of the image in its mix with a text; one for the whole batch.
        template: int64 [B], which template's text each image is mixed with.
        cross_distribution: share of the image in its mix with another image.
        partner: int64 [B], the image it is mixed with, from the other side; None where the batch
            has one side only.
    """

    cross_modal: float
    template: NDArray[np.int64]
    cross_distribution: float
    partner: NDArray[np.int64] | None


def draw_mixing(
    labels: NDArray[np.int64],
    classes: int,
    templates: int,
    settings: LaptSettings,
    random: np.random.Generator,
) -> Mixing:
    """Draw shares, templates and partners.

    The shares are Beta(alpha, alpha) of their own alphas, one a batch each. Each image of a class
    is paired with an image of a negative label, drawn with replacement, and the other way round.
    As many numbers are drawn whatever the batch holds and whichever losses are on.

    Args:
        labels: int64 [B]: classes first, negative labels from C on.
        classes: C.
        templates: in the bank of texts.
        settings: with the alphas.
        random: a local generator.
    """
    alpha, alpha_cd = settings.mix_alpha, settings.mix_alpha_cd
    share = float(random.beta(alpha, alpha))
    template = random.integers(templates, size=len(labels))
    share_cd = float(random.beta(alpha_cd, alpha_cd))
    places = random.random(len(labels))
    partner = None
    inside, outside = np.flatnonzero(labels < classes), np.flatnonzero(labels >= classes)
    if len(inside) and len(outside):
        partner = np.where(labels < classes, _pick(outside, places), _pick(inside, places))
    return Mixing(share, template, share_cd, partner)


def _pick(rows: NDArray[np.int64], places: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the rows at places in [0, 1)."""
    return np.asarray(rows[(places * len(rows)).astype(np.int64)])


def lapt_loss(
    images: torch.Tensor,
    labels: torch.Tensor,
    class_text: torch.Tensor,
    negative_text: torch.Tensor,
    bank: torch.Tensor,
    mixing: Mixing,
    settings: LaptSettings,
    *,
    logit_scale: float,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the weighted sum of the three losses, and those with a weight by name.

    Args:
        images: unit features [B, D].
        labels: int [B]: classes first, negative labels from C on.
        class_text: unit features of the classes' prompts [C, D]; differentiable.
        negative_text: of the negative labels' [M, D]; differentiable.
        bank: unit features of frozen texts [C + M, T, D], by label and template, not averaged.
        mixing: what was drawn.
        settings: with the weights and the objective.
        logit_scale: factor on cosines.

    Returns:
        The loss, and its parts: ``plain``, ``cross_modal`` and ``cross_distribution``. The last one
        is left out of a batch that has one side only: there is nothing to mix.
    """
    prompts = torch.cat([class_text, negative_text])
    count = len(class_text)

    def loss(features: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return classification_loss(
            logit_scale * features @ prompts.T, target, count, settings.objective
        )

    total, parts = images.new_zeros(()), {}
    if settings.weight_plain:
        parts["plain"] = loss(images, labels)
        total = total + settings.weight_plain * parts["plain"]
    if settings.weight_cross_modal:
        texts = bank[labels, torch.from_numpy(mixing.template).to(labels.device)]
        parts["cross_modal"] = loss(mix(images, texts, mixing.cross_modal), labels)
        total = total + settings.weight_cross_modal * parts["cross_modal"]
    if settings.weight_cross_distribution and mixing.partner is not None:
        partner = torch.from_numpy(mixing.partner).to(labels.device)
        share = mixing.cross_distribution
        mixed = mix(images, images[partner], share)
        # Cross-entropy is linear in its target: that of a mixed one is the mix of two.
        parts["cross_distribution"] = share * loss(mixed, labels) + (1 - share) * loss(
            mixed, labels[partner]
        )
        total = total + settings.weight_cross_distribution * parts["cross_distribution"]
    return total, parts


def mix(first: torch.Tensor, second: torch.Tensor, share: float) -> torch.Tensor:
    """Return unit rows in the direction of share * first + (1 - share) * second, [B, D]."""
    return F.normalize(share * first + (1 - share) * second, dim=-1)


def classification_loss(
    logits: torch.Tensor, labels: torch.Tensor, classes: int, objective: str = "classes"
) -> torch.Tensor:
    """Return the mean loss of images among the prompts.

    Args:
        logits: scaled [B, C + M].
        labels: int [B].
        classes: C.
        objective: ``classes``: cross-entropy over all C + M, as published; ``merged``: over C + 1,
            all negative labels being one; ``binary``: class or negative label, nothing else. The
            latter two are in the authors' code too.
    """
    if objective == "classes":
        return F.cross_entropy(logits, labels)
    if objective == "merged":
        outside = F.one_hot(labels.clamp(max=classes), classes + 1)
        return merged_cross_entropy(logits, outside.to(logits.dtype), classes)
    return F.binary_cross_entropy_with_logits(
        evidence_margin(logits, classes), (labels < classes).to(logits.dtype)
    )


def merged_cross_entropy(logits: torch.Tensor, target: torch.Tensor, classes: int) -> torch.Tensor:
    """Return the mean cross-entropy with all negative labels merged into one class.

    Args:
        logits: [B, C + M].
        target: weights of C classes and the merged one [B, C + 1].
        classes: C.
    """
    outside = logits[:, classes:].logsumexp(dim=1, keepdim=True)
    merged = torch.cat([logits[:, :classes], outside], dim=1).log_softmax(dim=1)
    return -(target * merged.clamp(_LOG_LEAST, _LOG_MOST)).sum(dim=1).mean()


def evidence_margin(logits: torch.Tensor, classes: int) -> torch.Tensor:
    """Return LSE over the classes - LSE over the negative labels, [B].

    Its logistic function is the softmax mass on the classes: NegLabel's score in one group.
    """
    return logits[:, :classes].logsumexp(dim=1) - logits[:, classes:].logsumexp(dim=1)
