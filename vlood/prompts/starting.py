"""Where the training of context vectors starts: random numbers, or the embeddings of words."""

from __future__ import annotations

from typing import Any

import torch

from vlood.backbone.text import CausalTextTower
from vlood.errors import UsageError

INIT_STD = 0.02
"""Standard deviation of random context vectors, as in CoOp's code and all that build on it."""


def random_contexts(
    length: int, width: int, *, blocks: int | None = None, generator: torch.Generator
) -> torch.Tensor:
    """Draw context vectors from N(0, 0.02^2), float32 on the CPU.

    They are drawn there whatever the device, so that a seed means the same everywhere.

    Args:
        length: L, vectors a prompt.
        width: W, of token embeddings.
        blocks: n, for vectors of their own for each prompt; None: shared ones.
        generator: on the CPU; drawing twice gives two different sets.

    Returns:
        [L, W], or [n, L, W].
    """
    shape = (length, width) if blocks is None else (blocks, length, width)
    return torch.empty(shape).normal_(0.0, INIT_STD, generator=generator)


def word_contexts(
    tower: CausalTextTower,
    tokenizer: Any,
    words: str,
    *,
    length: int | None = None,
    blocks: int | None = None,
) -> torch.Tensor:
    """Take the token embeddings of words as context vectors, float32 on the CPU.

    A prompt with them is encoded like its text, until training moves them.

    Args:
        tower: a causal text tower.
        tokenizer: the model's, texts to token ids.
        words: such as "a photo of a"; underscores stand for spaces.
        length: L, where it was asked for; None: as many as the words have tokens.
        blocks: n, for a copy for each prompt; None: shared ones.

    Returns:
        [L, W], or [n, L, W].

    Raises:
        UsageError: the words have no tokens, more than fit into a text, or not L.
    """
    plain = " ".join(words.replace("_", " ").split())
    # A tokenizer cuts what is too long without a word: count in a text that shows its end.
    tokens = tokenizer([plain])
    count, room = int(tower.ends(tokens)[0]) - 1, tokens.shape[1] - 2
    if count < 1:
        raise UsageError(f"the words {words!r} for context vectors are none; give at least one")
    if count >= room:
        raise UsageError(
            f"the words {plain[:40]!r}... for context vectors have {count} tokens or more and "
            f"leave no room for a name in the model's {tokens.shape[1]}; give fewer words"
        )
    if length is not None and count != length:
        raise UsageError(
            f"the words {plain!r} for context vectors have {count} tokens, and there are {length} "
            f"vectors; set their number to {count}, or give other words"
        )
    with torch.no_grad():
        device = tower.module.token_embedding.weight.device
        vectors = tower.embed(tokens[0, 1 : 1 + count].to(device)).detach().float().cpu()
    # A copy: the rows of a half-precision table convert into one, those of another do not.
    return vectors.clone() if blocks is None else vectors.repeat(blocks, 1, 1)
