"""Learned prompts encoded a few at a time, with exact gradients and little memory.

Training context vectors through a text tower keeps the activations of every prompt, gigabytes of
them with 2,000 prompts. Here the prompts are first encoded without a graph. When the gradient of
the loss arrives at the text features, each chunk is encoded once more, with a graph, and passes its
share on to the contexts. The result is the same, memory is that of one chunk, and the price is one
more forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from vlood.backbone.batches import ShrinkingBatches
from vlood.backbone.text import CausalTextTower
from vlood.prompts.contexts import PreparedPrompts

CHUNK = 128


class PromptEncoder:
    """Encode prepared prompts with whatever their context vectors are now; call it at every step.

    The model must be frozen: the gradient goes to the contexts alone. Where memory does not suffice
    for a chunk, chunks are halved, for good.

    Args:
        tower: a causal text tower.
        prompts: from :func:`~vlood.prompts.contexts.prepare`, on the model's device.
        chunk: most prompts in the model at once. All together where there are no more than that:
            then nothing is encoded twice.
    """

    def __init__(
        self, tower: CausalTextTower, prompts: PreparedPrompts, *, chunk: int = CHUNK
    ) -> None:
        self._tower = tower
        # Prompts of the same length lie together, so that little padding is encoded.
        self._order = prompts.ends.argsort(stable=True)
        self._back = self._order.argsort()
        self._prompts = prompts.of(self._order)
        self._batches = ShrinkingBatches("prompt", limit=max(1, chunk))

    def __call__(self, contexts: torch.Tensor) -> torch.Tensor:
        """Return text features [n, D] in the prompts' order, not normalised; differentiable.

        Args:
            contexts: [L, W], shared by all prompts, or [n, L, W].

        Raises:
            UsageError: contexts of another number, length or width than the prompts'.
            VloodError: memory runs out with a single prompt.
        """
        self._prompts.check(self._tower, contexts)
        ordered = contexts if contexts.ndim == 2 else contexts[self._order]
        limit = self._batches.limit
        if limit is not None and len(self._prompts) <= limit:
            features = self._encode(slice(None), ordered)
        else:
            features = _EncodedTwice.apply(ordered, self._map, self._encode)
        return features[self._back]

    def _encode(self, rows: slice, contexts: torch.Tensor) -> torch.Tensor:
        """Encode some prompts in the order of their lengths, with the contexts of just those."""
        some = self._prompts.of(rows)
        return self._tower.encode_embedded(some.fill(self._tower, contexts), some.ends)

    def _map(self, run: Callable[[slice], Any]) -> list[Any]:
        return list(self._batches.map(len(self._prompts), run))


class _EncodedTwice(torch.autograd.Function):
    """Encode in chunks without a graph; make the graph of a chunk when its gradient is asked for.

    Under autocast both passes compute in its precision: autograd's own threads know nothing of it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        contexts: torch.Tensor,
        in_chunks: Callable[[Callable[[slice], Any]], list[Any]],
        encode: Callable[[slice, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        kind = contexts.device.type
        ctx.autocast = {
            "device_type": kind,
            "enabled": torch.is_autocast_enabled(kind),
            "dtype": torch.get_autocast_dtype(kind),
        }
        ctx.in_chunks, ctx.encode = in_chunks, encode
        ctx.save_for_backward(contexts)
        return torch.cat(in_chunks(lambda rows: encode(rows, _own(contexts, rows))))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (contexts,) = ctx.saved_tensors

        def passed_on(rows: slice) -> torch.Tensor:
            with torch.enable_grad(), torch.autocast(**ctx.autocast):
                leaf = _own(contexts, rows).detach().requires_grad_()
                features = ctx.encode(rows, leaf)
            (found,) = torch.autograd.grad(features, leaf, gradient[rows])
            return found

        parts = ctx.in_chunks(passed_on)
        whole = torch.cat(parts) if contexts.ndim == 3 else torch.stack(parts).sum(dim=0)
        return whole, None, None


def _own(contexts: torch.Tensor, rows: slice) -> torch.Tensor:
    """Return the contexts of some prompts: all of them where they are shared."""
    return contexts if contexts.ndim == 2 else contexts[rows]
