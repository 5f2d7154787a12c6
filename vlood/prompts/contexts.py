"""Learned context vectors, and the prompts they make with class names.

A prompt "[V] name." is the start-of-text token, L free vectors where words would be embedded, the
name, a full stop and the end-of-text token (CoOp: Zhou et al. 2022, section 3). Everything behind
the end of the longest prompt is cut off: a causal tower never looks there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

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


@dataclass(frozen=True, eq=False)
class PreparedPrompts:
    """Everything of prompts that does not depend on the values of their context vectors.

    Made once, for tokenising is slow, and filled at every step of a training. Token ids are kept
    rather than embeddings: looking one up costs what copying it would, and an id is 8 bytes.

    Attributes:
        tokens: int [n, len], token ids with places for the vectors, whose own ids mean nothing.
        is_context: bool [n, len], those places, L in each row.
        ends: int [n], the place of the end-of-text token.
        length: L.
    """

    tokens: torch.Tensor
    is_context: torch.Tensor
    ends: torch.Tensor
    length: int

    def __len__(self) -> int:
        return len(self.ends)

    def of(self, rows: torch.Tensor | slice) -> PreparedPrompts:
        """Return some of them, indices [m] or a slice, cut to the longest of those."""
        ends = self.ends[rows]
        stop = int(ends.max()) + 1
        return PreparedPrompts(
            self.tokens[rows, :stop], self.is_context[rows, :stop], ends, self.length
        )

    def to(self, device: str | torch.device) -> PreparedPrompts:
        """Return them on a device."""
        tokens, is_context, ends = self.tokens, self.is_context, self.ends
        return PreparedPrompts(
            tokens.to(device), is_context.to(device), ends.to(device), self.length
        )

    def fill(self, tower: CausalTextTower, contexts: torch.Tensor) -> torch.Tensor:
        """Put context vectors into their places; differentiable with respect to them.

        Args:
            tower: the one they were prepared for.
            contexts: [L, W], or [n, L, W] with a block for each prompt.

        Returns:
            Token embeddings [n, len, W] without positions.

        Raises:
            UsageError: contexts of another number, length or width.
        """
        self.check(tower, contexts)
        embedded = tower.embed(self.tokens)
        source = contexts.to(embedded.dtype).expand(len(self), self.length, -1)
        return embedded.masked_scatter(self.is_context[..., None], source)

    def check(self, tower: CausalTextTower, contexts: torch.Tensor) -> None:
        """Refuse contexts that do not fit.

        Raises:
            UsageError: they are of another number, length or width.
        """
        width = tower.module.token_embedding.weight.shape[1]
        if contexts.shape[-1] != width:
            raise UsageError(
                f"the context vectors are {contexts.shape[-1]} wide and the token embeddings of "
                f"the model {width}; use the model that they were learned with"
            )
        if contexts.shape[-2] != self.length:
            raise UsageError(
                f"there are {contexts.shape[-2]} context vectors a prompt, and the prompts have "
                f"places for {self.length}"
            )
        if contexts.ndim == 3 and len(contexts) != len(self):
            _refuse_count(len(contexts), len(self))


def prepare(
    tower: CausalTextTower,
    tokenizer: Any,
    names: Sequence[str],
    length: int,
    *,
    position: str = "end",
) -> PreparedPrompts:
    """Tokenise names once, with places for context vectors; on the CPU.

    The layouts are CoOp's: at the ``end`` the vectors come before the name, in ``front`` behind it,
    in the ``middle`` the first L // 2 before it and the others behind.

    Args:
        tower: a causal text tower.
        tokenizer: the model's, texts to token ids [n, at most context_length].
        names: n names, underscores for spaces; "" makes a prompt without a name.
        length: L, vectors a prompt.
        position: ``end``, ``middle`` or ``front``.

    Raises:
        UsageError: no names at all, or one that leaves no room for the vectors.
    """
    _check_position(position)
    texts = _plain(names)
    tokens = tokenizer([f"{text}." for text in texts])
    room = tokens.shape[1]
    ends = tower.ends(tokens) + length
    if int(ends.max()) >= room:
        _refuse_long(texts, ends, length, room)
    lengths = tower.ends(tokenizer(texts)) - 1
    before = {"end": length, "middle": length // 2, "front": 0}[position]

    # Spread the tokens to leave places for the vectors; what fills those meanwhile is replaced.
    places = torch.arange(int(ends.max()) + 1)[None]
    behind = 1 + before + lengths[:, None]
    is_first = (places >= 1) & (places < 1 + before)
    is_context = is_first | ((places >= behind) & (places < behind + length - before))
    passed = torch.where(places >= behind, length, torch.where(places > before, before, 0))
    spread = tokens.gather(1, (places - passed).clamp(min=0))
    return PreparedPrompts(spread, is_context, ends, length)


def assemble(
    tower: CausalTextTower,
    tokenizer: Any,
    contexts: torch.Tensor,
    names: Sequence[str] | None,
    *,
    position: str = "end",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Put context vectors and names together; differentiable with respect to the vectors.

    Args:
        tower: a causal text tower.
        tokenizer: the model's, texts to token ids [n, at most context_length].
        contexts: [L, W] or [n, L, W].
        names: n names, underscores for spaces; None for prompts without: one of shared contexts,
            else n.
        position: ``end``, ``middle`` or ``front``, as :func:`prepare` explains.

    Returns:
        What ``tower.encode_embedded`` takes: token embeddings [n, len, W] without positions, and
        the place of the end-of-text token in each row, int [n].

    Raises:
        UsageError: another number of names than blocks of contexts, none at all, contexts of
            another width than the tower's, or a name that leaves no room for them.
    """
    texts = _texts(contexts, names)
    prompts = prepare(tower, tokenizer, texts, contexts.shape[-2], position=position)
    prompts = prompts.to(contexts.device)
    return prompts.fill(tower, contexts), prompts.ends


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
    texts = _texts(vectors, names)
    prompts = prepare(
        tower, backbone.tokenizer, texts, contexts.length, position=contexts.position
    ).to(vectors.device)
    # Prompts of the same length lie together, so that little padding is encoded.
    order = prompts.ends.argsort(stable=True)

    def run(rows: slice) -> NDArray[np.float32]:
        some = prompts.of(order[rows])
        own = vectors if contexts.shared else vectors[order[rows]]
        return tower.encode_embedded(some.fill(tower, own), some.ends).float().cpu().numpy()

    with torch.inference_mode():
        encoded = np.concatenate(
            list(ShrinkingBatches("prompt", limit=max(1, chunk)).map(len(prompts), run))
        )
    features = np.empty_like(encoded)
    features[order.cpu().numpy()] = encoded
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
    texts = _plain(names)
    if not shared and len(contexts) != len(names):
        _refuse_count(len(contexts), len(names))
    return texts


def _plain(names: Sequence[str]) -> list[str]:
    """Return names with spaces for underscores."""
    if not names:
        raise UsageError("learned prompts need at least one name, and there is none")
    return [" ".join(name.replace("_", " ").split()) for name in names]


def _refuse_count(blocks: int, names: int) -> NoReturn:
    raise UsageError(
        f"there are {blocks} blocks of context vectors and {names} names; "
        "class-specific contexts fit the names they were learned for, in their order"
    )


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
