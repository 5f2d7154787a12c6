"""Texts to embeddings, exactly, at the cost of their own length.

A causal text tower that is read at the end-of-text token never looks at what follows it, so the
padding to 77 tokens can be cut off without changing a value. Towers that do look (bidirectional
ones, those read at the last position) run at full length.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlood.backbone.batches import ShrinkingBatches

_LOG = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CausalTextTower:
    """A causal text tower read at its end-of-text token. All methods can be differentiated.

    Attributes:
        module: what holds the layers: open_clip's ``CLIP`` itself or a ``TextTransformer``.
        pool: ``argmax`` (end of text is the largest id) or ``eos``.
        eos_id: id of the end-of-text token, for ``eos``.
    """

    module: Any
    pool: str
    eos_id: int | None

    @classmethod
    def of(cls, model: Any) -> CausalTextTower | None:
        """Return the tower of an open_clip model, or None when its texts cannot be cut."""
        text = getattr(model, "text", None)
        module = model if text is None else text
        pool = getattr(module, "text_pool_type" if text is None else "pool_type", None)
        eos_id = getattr(module, "text_eos_id" if text is None else "eos_id", None)
        causal = getattr(module, "attn_mask", None) is not None
        plain = getattr(module, "cls_emb", None) is None and hasattr(module, "token_embedding")
        if causal and plain and pool in ("argmax", "eos"):
            return cls(module, str(pool), eos_id)
        return None

    def ends(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the position of the end-of-text token in each row of ids [N, L]: int [N]."""
        if self.pool == "eos":
            return tokens.eq(self.eos_id or 0).int().argmax(1)
        return tokens.argmax(1)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Look up the embeddings of token ids [N, L]: [N, L, W], without positions."""
        return self.module.token_embedding(tokens)  # type: ignore[no-any-return]

    def encode_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """Encode token ids [N, L] to text features [N, D], not normalised."""
        ends = self.ends(tokens)
        longest = int(ends.max()) + 1
        return self.encode_embedded(self.embed(tokens[:, :longest]), ends)

    def encode_embedded(self, embedded: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """Encode token embeddings to text features [N, D], not normalised.

        Args:
            embedded: [N, L, W] without positions; L at least ``ends.max() + 1``.
            ends: position of the end-of-text token in each row, int [N].
        """
        module = self.module
        dtype = module.transformer.get_cast_dtype()
        length = embedded.shape[1]
        hidden = embedded.to(dtype) + module.positional_embedding[:length].to(dtype)
        hidden = module.transformer(hidden, attn_mask=module.attn_mask[:length, :length])
        # The norm works on each token by itself: only the one that is read needs it.
        pooled = module.ln_final(hidden[torch.arange(len(hidden), device=hidden.device), ends])
        projection = module.text_projection
        if projection is None:
            return pooled  # type: ignore[no-any-return]
        if isinstance(projection, torch.nn.Module):
            return projection(pooled)  # type: ignore[no-any-return]
        return pooled @ projection  # type: ignore[no-any-return]


def encode_texts(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    device: str,
    batch_tokens: int,
    batches: ShrinkingBatches | None = None,
    on_progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Encode texts with an open_clip model: float32 [N, D] in their order, not normalised.

    Texts are sorted by length and run in batches of at most ``batch_tokens`` tokens, each cut to
    its longest text; ``on_progress(done, total)`` is called after each batch. Texts longer than the
    model's context are cut as open_clip cuts them, with one warning.
    """
    if not texts:
        return np.zeros((0, _width(model, tokenizer, device)), np.float32)
    tokens = tokenizer(list(texts))
    _warn_of_cut_texts(tokenizer, texts, tokens.shape[1])
    tower = CausalTextTower.of(model)
    if tower is None:
        lengths = np.full(len(texts), tokens.shape[1])
    else:
        lengths = tower.ends(tokens).numpy() + 1
    order = np.argsort(lengths, kind="stable")
    batches = batches or ShrinkingBatches("text")
    features: NDArray[np.float32] | None = None
    done = 0
    with torch.inference_mode():
        for bucket in _buckets(lengths[order], batch_tokens):
            members = order[bucket]

            def run(rows: slice, members: NDArray[np.intp] = members) -> NDArray[np.float32]:
                some = tokens[torch.from_numpy(members[rows])].to(device)
                if tower is None:
                    encoded = model.encode_text(some, normalize=False)
                else:
                    encoded = tower.encode_tokens(some)
                return encoded.float().cpu().numpy()  # type: ignore[no-any-return]

            encoded = np.concatenate(list(batches.map(len(members), run)))
            if features is None:
                features = np.empty((len(texts), encoded.shape[1]), np.float32)
            features[members] = encoded
            done += len(members)
            if on_progress is not None:
                on_progress(done, len(texts))
    assert features is not None
    return features


def _buckets(lengths: NDArray[Any], batch_tokens: int) -> list[slice]:
    """Split ascending lengths [N] into slices of at most ``batch_tokens`` tokens each."""
    buckets, start = [], 0
    while start < len(lengths):
        stop = start + 1
        while stop < len(lengths) and (stop + 1 - start) * lengths[stop] <= batch_tokens:
            stop += 1
        buckets.append(slice(start, stop))
        start = stop
    return buckets


def _width(model: Any, tokenizer: Any, device: str) -> int:
    with torch.inference_mode():
        return int(model.encode_text(tokenizer([""]).to(device), normalize=False).shape[1])


def _warn_of_cut_texts(tokenizer: Any, texts: Sequence[str], context_length: int) -> None:
    # A text never has more tokens than bytes, so most texts need no second look.
    long = [text for text in texts if len(text.encode(errors="replace")) > context_length - 2]
    cut = [text for text in long if _token_count(tokenizer, text) > context_length]
    if cut:
        _LOG.warning(
            "%d of %d texts are longer than the model's %d tokens and were cut, for example %r",
            len(cut),
            len(texts),
            context_length,
            cut[0][:60],
        )


def _token_count(tokenizer: Any, text: str) -> int:
    """Count the tokens of a text with the start and end tokens that its tokenizer adds."""
    if hasattr(tokenizer, "encode"):
        return len(tokenizer.encode(text)) + 2
    inner = getattr(tokenizer, "tokenizer", None)
    return 0 if inner is None else len(inner(text)["input_ids"])
