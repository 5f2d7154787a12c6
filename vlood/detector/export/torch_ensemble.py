"""An ensemble's levels and their mean in torch, for graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from vlood.methods.ensemble import by_p_values
from vlood.methods.score_levels import tail_width

if TYPE_CHECKING:
    from vlood.methods.contract import Detector


class Level(nn.Module):
    """The level of one member's scores."""

    points: Tensor
    levels: Tensor

    def __init__(self, detector: Detector, row: int) -> None:
        super().__init__()
        points, first = np.unique(detector.tensors["points"][row], return_index=True)
        levels = detector.tensors["levels"][row][first]
        at, level = points.astype(np.float64), levels.astype(np.float64)
        self._kind = detector.settings.fit
        self._width = tail_width(at, level) if self._kind == "ranks" else 1.0
        self.register_buffer("points", torch.from_numpy(at))
        self.register_buffer("levels", torch.from_numpy(level))

    def forward(self, score: Tensor) -> Tensor:
        """Return the levels [N] of scores [N], both in double precision."""
        at, level = self.points, self.levels
        if self._kind == "platt":
            low, high = level[:2].logit()
            found: Tensor = (low + (high - low) * (score - at[0]) / (at[1] - at[0])).sigmoid()
            return found
        share = ((score[:, None] - at[:-1]) / (at[1:] - at[:-1])).clamp(0, 1)
        found = level[0] + (share * (level[1:] - level[:-1])).sum(1)
        if self._kind == "ranks":
            below = level[0] / (1 + (at[0] - score).clamp(min=0) / self._width)
            above = 1 - (1 - level[-1]) / (1 + (score - at[-1]).clamp(min=0) / self._width)
            found = torch.where(score < at[0], below, torch.where(score > at[-1], above, found))
        return found


class EnsembleForm(nn.Module):
    """Members, each a module that gives scores and logits, as one."""

    weights: Tensor

    def __init__(self, detector: Detector, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.curves = nn.ModuleList(Level(detector, row) for row in range(len(members)))
        weights = detector.tensors["weights"].astype(np.float64)
        self.register_buffer("weights", torch.from_numpy(weights / weights.sum()))
        self._by_p_values = by_p_values(detector.settings)

    def forward(self, features: Tensor, local: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores [N] and the log of the mean class probabilities [N, K]."""
        said = [member(features, local) for member in self.members]
        levels = torch.stack(
            [curve(score.double()) for curve, (score, _) in zip(self.curves, said, strict=True)], 1
        )
        # Of p-values the geometric mean, else the arithmetic one.
        summed = (levels.log() if self._by_p_values else levels) @ self.weights
        score = summed.exp() if self._by_p_values else summed
        shares = torch.stack([logits.double().softmax(1) for _, logits in said], 2) @ self.weights
        return score, shares.clamp(min=1e-300).log()
