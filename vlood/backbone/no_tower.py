"""The "no" text tower while it is trained: a copy of the "yes" tower with a pool of added prompts.

Each prompt of the pool is as long as a text and is *added* to its embedded tokens. In training
every text draws one of them, or their mean; the mean is what is used afterwards (CLIPN: Wang et al.
2023, its released code).
"""

from __future__ import annotations

from typing import Any

import torch

from vlood.backbone.no_text import PROMPTS, TextSide, no_name
from vlood.backbone.text import CausalTextTower

POOL = 16


class NoTextTower(torch.nn.Module):
    """A trainable copy of a causal text tower, in single precision, on the tower's device.

    At first it says what the tower says: the prompts are zero.

    Args:
        tower: the "yes" text tower; it stays as it is.
        prompts: P, prompts in the pool; 0 for the hand-crafted variant, which has none.

    Attributes:
        side: the copy's layers.
        prompt_no: the pool [P, context_length, W], or None.
        adapted: PEFT's model around ``side``, where an adapter was added.
    """

    def __init__(self, tower: CausalTextTower, *, prompts: int = POOL) -> None:
        super().__init__()
        self.side = TextSide(tower).float().train().requires_grad_()
        self._pool, self._eos_id = tower.pool, tower.eos_id
        self.adapted: Any = None
        self.prompt_no: torch.nn.Parameter | None = None
        if prompts:
            positions = self.side.positional_embedding
            self.prompt_no = torch.nn.Parameter(positions.new_zeros(prompts, *positions.shape))

    @property
    def tower(self) -> CausalTextTower:
        """Return the copy as a tower that knows nothing of prompts."""
        return CausalTextTower(self.side, self._pool, self._eos_id)

    def forward(self, tokens: torch.Tensor, drawn: torch.Tensor | None = None) -> torch.Tensor:
        """Encode token ids [n, L] to "no" features [n, D], not normalised; differentiable.

        Args:
            tokens: of the texts.
            drawn: int [n], the prompt that each text gets, P for the mean of all; None: the mean.
        """
        tower = self.tower
        ends = tower.ends(tokens)
        longest = int(ends.max()) + 1
        embedded = tower.embed(tokens[:, :longest])
        if self.prompt_no is not None:
            embedded = embedded + self._prompts(drawn, longest)
        return tower.encode_embedded(embedded, ends)

    def _prompts(self, drawn: torch.Tensor | None, length: int) -> torch.Tensor:
        """Return what is added to each text [n, length, W], or to all alike [length, W]."""
        assert self.prompt_no is not None
        pool = self.prompt_no[:, :length]
        if drawn is None:
            return pool.mean(dim=0)
        count = len(pool)
        # A product, because gathering would scatter its gradient in an order of its own.
        shares = torch.cat([torch.eye(count), torch.full((1, count), 1 / count)]).to(pool)
        return (shares[drawn] @ pool.reshape(count, -1)).view(-1, *pool.shape[1:])

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """Return what is trained, under the names of a published checkpoint."""
        found = {
            no_name(name): parameter
            for name, parameter in self.side.named_parameters()
            if parameter.requires_grad
        }
        if self.prompt_no is not None and self.prompt_no.requires_grad:
            found[PROMPTS] = self.prompt_no
        return found

    def state(self) -> dict[str, torch.Tensor]:
        """Return all tensors under the names of a published checkpoint, as ``no_text_tower`` reads.

        Not of a tower with an adapter: :func:`vlood.backbone.no_adapter.merged_state` is.
        """
        found = {no_name(name): each for name, each in self.side.state_dict().items()}
        if self.prompt_no is not None:
            found[PROMPTS] = self.prompt_no.detach()
        return found
