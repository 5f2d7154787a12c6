"""CLIPN's losses: the "no" of a caption holds of every image but its own, and means the opposite.

ITBO (image-text binary-opposite) is a two-way choice between a caption and its "no" for each pair
of an image and a caption; TSO (text semantic-opposite) keeps a caption and its "no" apart. Both are
written with softplus, which neither overflows nor takes the logarithm of zero. Wang et al. 2023,
"CLIPN for Zero-Shot OOD Detection: Teaching CLIP to Say No".

Images and captions are constants in CLIPN's training, so each term belongs to one caption, whose
"no" alone is learned. The loss of a batch is therefore the mean over captions of a loss against all
the batch's images, and some captions at a time give exactly the gradient of all of them at once:
what gradient caching does elsewhere with a second forward pass takes none here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

# Keeps the square root's gradient finite where a "no" is its caption, as it is at the beginning.
_TSO_EPS = 1e-4


class Parts(NamedTuple):
    """The parts of the loss, each a mean over captions: scalars."""

    yes: torch.Tensor
    no: torch.Tensor
    tso: torch.Tensor

    def total(self, weight: float = 0.5) -> torch.Tensor:
        """Return their sum times ``weight``: 0.5 in the released code, 1 in the paper."""
        return weight * (self.yes + self.no + self.tso)


def losses(
    images: torch.Tensor,
    texts: torch.Tensor,
    no: torch.Tensor,
    scale: float | torch.Tensor,
    *,
    own: torch.Tensor | None = None,
    left_out: torch.Tensor | None = None,
    pairs: int | None = None,
) -> Parts:
    """Return the loss of some captions against all images of their batch.

    Args:
        images: unit features of the batch's images [N, D].
        texts: unit features of n of its captions [n, D].
        no: unit features of their "no" [n, D]; the gradient's only way where the others are frozen.
        scale: factor on cosines.
        own: int [n], the row of each caption's image; None: row by row, with n = N.
        left_out: bool [N, n], pairs that say nothing (the caption fits the image though it is not
            its own); the own pairs need not be among them.
        pairs: how many pairs of another image the whole batch has, ``left_out`` subtracted; None:
            N (N - 1).
    """
    count = len(images)
    own = torch.arange(len(texts), device=texts.device) if own is None else own
    margin = scale * (images @ texts.T) - scale * (images @ no.T)
    columns = torch.arange(len(texts), device=texts.device)
    right = F.softplus(-margin[own, columns]).mean()
    others = torch.ones_like(margin, dtype=torch.bool)
    others[own, columns] = False
    if left_out is not None:
        others &= ~left_out
    pairs = count * (count - 1) if pairs is None else pairs
    wrong = torch.where(others, F.softplus(margin), 0.0).sum()
    # The share of these captions in the batch, so that parts join to the batch's mean.
    wrong = wrong * (count / (max(1, pairs) * len(texts)))
    return Parts(right, wrong, opposite(texts, no))


def opposite(texts: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
    """Return TSO, in [0, 2]: two less the distance between captions and their "no", on average.

    Args:
        texts: unit features [n, D].
        no: unit features [n, D].
    """
    cosines = (texts * no).sum(dim=1)
    return (2 - torch.sqrt(2 - 2 * cosines + _TSO_EPS)).mean()


def opposite_by_cosine(texts: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
    """Return the variant of TSO that the released code holds and does not use, in [0, 2]."""
    return (1 + (texts * no).sum(dim=1)).mean()
