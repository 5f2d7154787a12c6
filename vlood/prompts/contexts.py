"""Learned context vectors, and the prompts they make with class names.

A prompt "[V] name." is the start-of-text token, L free vectors where words would be embedded, the
name, a full stop and the end-of-text token (CoOp: Zhou et al. 2022, section 3). Everything behind
the end of the longest prompt is cut off: a causal tower never looks there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlood.backbone.backbone import Backbone
from vlood.backbone.batches import ShrinkingBatches
from vlood.backbone.text import CausalTextTower
from vlood.errors import UsageError

POSITIONS = ("end", "middle", "front")
# Distances from this many numbers to a vocabulary of 49,408 words take a tenth of a gigabyte.
_DISTANCES_AT_ONCE = 1 << 25


@dataclass(frozen=True, eq=False)
class Contexts:
    """Learned context vectors.

    Attributes:
        vectors: float32 [L, W], shared by all prompts, or [n, L, W], those of each prompt.
        position: where the name stands: at the ``end``, in the ``middle`` or in ``front``.
        names: whether the prompts have names ("[V] name.") or none ("[V] .").
    """

    vectors: NDArray[np.float32]
    position: str = "end"
    names: bool = True

    def __post_init__(self) -> None:
        shape = self.vectors.shape
        if len(shape) not in (2, 3) or 0 in shape:
            raise UsageError(
                f"the context vectors have shape {shape}; expected (L, W), shared by all names, or "
                "(n, L, W), one block a name"
            )
        if self.vectors.dtype != np.float32 or not np.isfinite(self.vectors).all():
            raise UsageError(
                f"the context vectors {shape} must be finite numbers in single precision; "
                "train or import them again"
            )
        _check_position(self.position)

    @property
    def shared(self) -> bool:
        """Whether one block of vectors serves all prompts."""
        return self.vectors.ndim == 2

    @property
    def length(self) -> int:
        """How many vectors L a prompt has."""
        return int(self.vectors.shape[-2])

    @property
    def width(self) -> int:
        """Width W of token embeddings."""
        return int(self.vectors.shape[-1])


def prompt_tower(backbone: Backbone) -> CausalTextTower:
    """Return the text tower that learned prompts go through.

    Raises:
        UsageError: the model has none that is causal and read at its end-of-text token.
    """
    if backbone.text_tower is None:
        raise UsageError(
            f"--model {backbone.name}: its text tower is not a causal one read at the end of the "
            "text, which learned prompts need; use a CLIP model such as ViT-B-16:openai"
        )
    return backbone.text_tower


def assemble(
    tower: CausalTextTower,
    tokenizer: Any,
    contexts: torch.Tensor,
    names: Sequence[str] | None,
    *,
    position: str = "end",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Put context vectors and names together; differentiable with respect to the vectors.

    The layouts are CoOp's: at the ``end`` the vectors come before the name, in ``front`` behind it,
    in the ``middle`` the first L // 2 before it and the others behind.

    Args:
        tower: a causal text tower.
        tokenizer: the model's, texts to token ids [n, at most context_length].
        contexts: [L, W] or [n, L, W].
        names: n names, underscores for spaces; None for prompts without: one of shared contexts,
            else n.
        position: ``end``, ``middle`` or ``front``.

    Returns:
        What ``tower.encode_embedded`` takes: token embeddings [n, len, W] without positions, and
        the place of the end-of-text token in each row, int [n].

    Raises:
        UsageError: another number of names than blocks of contexts, none at all, contexts of
            another width than the tower's, or a name that leaves no room for them.
    """
    _check_position(position)
    texts = _texts(contexts, names)
    device = contexts.device
    tokens = tokenizer([f"{text}." for text in texts])
    length, room = contexts.shape[-2], tokens.shape[1]
    ends = tower.ends(tokens) + length
    if int(ends.max()) >= room:
        _refuse_long(texts, ends, length, room)
    lengths = tower.ends(tokenizer(list(texts))) - 1
    before = {"end": length, "middle": length // 2, "front": 0}[position]

    # Spread the tokens to leave places for the vectors; what fills those meanwhile is replaced.
    places = torch.arange(int(ends.max()) + 1)[None]
    behind = 1 + before + lengths[:, None]
    is_first = (places >= 1) & (places < 1 + before)
    is_context = is_first | ((places >= behind) & (places < behind + length - before))
    passed = torch.where(places >= behind, length, torch.where(places > before, before, 0))
    spread = tokens.gather(1, (places - passed).clamp(min=0))
    embedded = tower.embed(spread.to(device))
    if embedded.shape[-1] != contexts.shape[-1]:
        raise UsageError(
            f"the context vectors are {contexts.shape[-1]} wide and the token embeddings of the "
            f"model {embedded.shape[-1]}; use the model that they were learned with"
        )
    source = contexts.to(embedded.dtype).expand(len(texts), length, -1)
    return embedded.masked_scatter(is_context[..., None].to(device), source), ends.to(device)


def encode_prompts(
    backbone: Backbone, contexts: Contexts, names: Sequence[str] | None, *, chunk: int = 256
) -> NDArray[np.float32]:
    """Encode learned prompts: float32 [n, D] in the order of their names, not normalised.

    Args:
        backbone: the model they were learned with.
        contexts: the vectors.
        names: n names; None where the contexts take none.
        chunk: most prompts in the model at once.

    Raises:
        UsageError: as ``assemble``; names for contexts that take none, or none for those that do;
            or a model without a causal text tower.
    """
    tower = prompt_tower(backbone)
    if contexts.names == (names is None):
        taken = "take names" if contexts.names else "make prompts without names"
        given = "none were given" if names is None else f"{len(names)} were given"
        raise UsageError(f"the contexts {taken}, but {given}")
    vectors = torch.from_numpy(contexts.vectors).to(backbone.device)
    # Prompts of about the same length lie together, so that little padding is encoded.
    texts = _texts(vectors, names)
    order = np.array(sorted(range(len(texts)), key=lambda row: len(texts[row])))

    def run(rows: slice) -> NDArray[np.float32]:
        members = order[rows]
        some = vectors if contexts.shared else vectors[torch.from_numpy(members).to(vectors.device)]
        own = None if names is None else [names[row] for row in members]
        embedded, ends = assemble(tower, backbone.tokenizer, some, own, position=contexts.position)
        return tower.encode_embedded(embedded, ends).float().cpu().numpy()

    with torch.inference_mode():
        encoded = np.concatenate(
            list(ShrinkingBatches("prompt", limit=max(1, chunk)).map(len(order), run))
        )
    features = np.empty_like(encoded)
    features[order] = encoded
    return features


def nearest_words(
    backbone: Backbone, contexts: Contexts, count: int
) -> list[list[tuple[str, float]]]:
    """Return the words nearest to each context vector, to give a notion of what was learned.

    Args:
        backbone: the model they were learned with.
        contexts: the vectors.
        count: words a vector.

    Returns:
        For each of the L vectors (n L, block after block, where they are not shared) the entries of
        the vocabulary with their Euclidean distances in token-embedding space, nearest first.

    Raises:
        UsageError: vectors of another width, or a model without a causal text tower.
    """
    tower = prompt_tower(backbone)
    vectors = torch.from_numpy(contexts.vectors).to(backbone.device).flatten(0, -2)
    vocabulary = tower.module.token_embedding.weight.detach().float()
    if vocabulary.shape[1] != contexts.width:
        raise UsageError(
            f"the context vectors are {contexts.width} wide and the token embeddings of "
            f"{backbone.name} {vocabulary.shape[1]}; use the model that they were learned with"
        )
    count = min(count, len(vocabulary))
    at_once = max(1, _DISTANCES_AT_ONCE // len(vocabulary))
    words: list[list[tuple[str, float]]] = []
    for some in torch.split(vectors, at_once):
        near = torch.cdist(some, vocabulary).topk(count, largest=False).indices
        # Distances by way of inner products have few digits near zero: take them anew, and sort.
        distances = (some[:, None] - vocabulary[near]).norm(dim=-1)
        distances, order = distances.sort(dim=1, stable=True)
        rows = zip(near.gather(1, order).tolist(), distances.tolist(), strict=True)
        for row, row_distances in rows:
            named = (_word(backbone.tokenizer, each) for each in row)
            words.append(list(zip(named, row_distances, strict=True)))
    return words


def _texts(contexts: torch.Tensor, names: Sequence[str] | None) -> list[str]:
    """Return the words of each prompt: the names, or nothing."""
    shared = contexts.ndim == 2
    if names is None:
        return [""] if shared else [""] * len(contexts)
    if not names:
        raise UsageError("learned prompts need at least one name, and there is none")
    if not shared and len(contexts) != len(names):
        raise UsageError(
            f"there are {len(contexts)} blocks of context vectors and {len(names)} names; "
            "class-specific contexts fit the names they were learned for, in their order"
        )
    return [" ".join(name.replace("_", " ").split()) for name in names]


def _refuse_long(texts: Sequence[str], ends: torch.Tensor, length: int, room: int) -> None:
    longest = int(ends.argmax())
    raise UsageError(
        f"the name {texts[longest]!r} has {int(ends[longest]) - length - 2} tokens or more, but "
        f"{length} context vectors leave room for {room - length - 3} of the model's {room}; give "
        "a shorter prompt name"
    )


def _check_position(position: str) -> None:
    if position not in POSITIONS:
        raise UsageError(f"the position of the name is {position!r}; expected end, middle or front")


def _word(tokenizer: Any, token: int) -> str:
    """Return an entry of the vocabulary as text."""
    decode = getattr(tokenizer, "decode", None) or tokenizer.tokenizer.decode
    try:
        return str(decode([token])).strip()
    except (KeyError, IndexError):  # an embedding table may be padded beyond its tokenizer
        return f"<{token}>"
