"""LAPT's prompts: what is trained, and what it compiles to.

Two blocks of context vectors, one before class names and one before negative labels, are all that
is learned. Compiled they are a NegLabel detector: because the second block is shared, it serves
any negatives, so a training with 1,000 scores with 10,000. Zhang et al. 2024, "LAPT: Label-driven
Automated Prompt Tuning for OOD Detection with Vision-Language Models".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import unit
from vlood.errors import UsageError
from vlood.methods import neglabel
from vlood.methods.context_training import RANDOM
from vlood.methods.contract import Detector
from vlood.methods.lapt_settings import LaptSettings
from vlood.negatives.negative_features import NegativeFeatures, NegativeRow
from vlood.negatives.selection import select
from vlood.prompts.templates import ClassFeatures, fill

if TYPE_CHECKING:
    import torch

    from vlood.backbone.backbone import Backbone
    from vlood.backbone.text import CausalTextTower

CLASSES, NEGATIVES = "ctx", "negative_ctx"
# Embeddings of texts are asked for in pieces, as elsewhere, to need little memory.
_TEXTS_AT_ONCE = 1 << 14


def starting_contexts(
    settings: LaptSettings,
    tower: CausalTextTower,
    tokenizer: Any,
    classes: int,
    negatives: int,
    generator: torch.Generator,
) -> dict[str, torch.Tensor]:
    """Return the vectors that training starts from, by name: drawn, or those of words.

    Args:
        settings: with the length, whose contexts they are and what they start from.
        tower: the model's text tower.
        tokenizer: the model's.
        classes: C.
        negatives: M, those of the training.
        generator: local, on the CPU.

    Returns:
        ``ctx`` and, unless both sides share it (``unified``), ``negative_ctx``: float32 [L, W], or
        [n, L, W] where they are ``class-specific``.

    Raises:
        UsageError: the words of ``init`` have no tokens, or leave no room for a name.
    """
    from vlood.prompts.starting import random_contexts, word_contexts

    sides = {CLASSES: classes, NEGATIVES: negatives}
    if settings.contexts == "unified":
        del sides[NEGATIVES]
    own = settings.contexts == "class-specific"
    blocks = {name: count if own else None for name, count in sides.items()}
    if settings.init != RANDOM:
        return {
            name: word_contexts(tower, tokenizer, settings.init, blocks=count)
            for name, count in blocks.items()
        }
    width = int(tower.module.token_embedding.weight.shape[1])
    return {
        name: random_contexts(settings.context_length, width, blocks=count, generator=generator)
        for name, count in blocks.items()
    }


class PromptSides:
    """The prompts of the classes and of the training's negatives, encoded at every step.

    Args:
        tower: the model's text tower, frozen.
        tokenizer: the model's.
        classes: C prompt names.
        negatives: M negative labels.
        length: L, context vectors a prompt.
        chunk: most prompts in the model at once.

    Raises:
        UsageError: no names, or one that leaves no room for the vectors.
    """

    def __init__(
        self,
        tower: CausalTextTower,
        tokenizer: Any,
        classes: Sequence[str],
        negatives: Sequence[str],
        length: int,
        *,
        chunk: int | None = None,
    ) -> None:
        from vlood.prompts.chunked import CHUNK, PromptEncoder
        from vlood.prompts.contexts import prepare

        device = tower.module.token_embedding.weight.device
        self._encoders = [
            PromptEncoder(
                tower, prepare(tower, tokenizer, names, length).to(device), chunk=chunk or CHUNK
            )
            for names in (classes, negatives)
        ]

    def __call__(self, tensors: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return unit text features float32 [C, D] and [M, D]; differentiable.

        Args:
            tensors: ``ctx`` and, unless both sides share it, ``negative_ctx``.
        """
        import torch.nn.functional as F

        classes, negatives = self._encoders
        sides = (
            classes(tensors[CLASSES]),
            negatives(tensors.get(NEGATIVES, tensors[CLASSES])),
        )
        first, second = (F.normalize(each.float(), dim=-1) for each in sides)
        return first, second


def training_negatives(
    rows: Sequence[NegativeRow], count: int, pictured: Collection[int] = ()
) -> NDArray[np.int64]:
    """Return which negatives of a bank take part in training [n], in the bank's order.

    Those with images come first, then those that mining so many would have chosen: of each part of
    speech, in proportion, the farthest from the classes. Where closeness is not known of all, the
    bank's order is taken for it.

    Args:
        rows: what the bank knows of each.
        count: how many; all where the bank has no more.
        pictured: rows that there are images of.

    Raises:
        UsageError: the bank is empty.
    """
    if not rows:
        raise UsageError("lapt needs negative labels, and there are none; give --negatives")
    known = [row.closeness for row in rows if row.closeness is not None]
    complete = len(known) == len(rows)
    closeness = np.array(known) if complete else np.arange(len(rows), dtype=np.float64)
    parts = np.array([row.part_of_speech for row in rows])
    first = np.array(sorted(pictured), np.int64)
    rest = np.setdiff1d(np.arange(len(rows)), first)
    chosen: list[int] = []
    for some in (first, rest):
        wanted = min(count - len(chosen), len(some))
        if wanted > 0:
            found = select(closeness[some], parts[some].tolist(), size=wanted)
            chosen += some[found.rows()].tolist()
    return np.array(sorted(chosen), np.int64)


def text_bank(
    encode_texts: Callable[[list[str]], NDArray[np.float32]],
    names: Sequence[str],
    templates: Sequence[str],
) -> NDArray[np.float32]:
    """Encode every name in every template: unit rows float32 [n, T, D], not averaged.

    Args:
        encode_texts: n texts to raw features [n, D].
        names: classes, then negative labels.
        templates: T, each with ``{}``; LAPT's are the library's ``tip``.
    """
    at_once = max(1, _TEXTS_AT_ONCE // len(templates))
    parts = []
    for start in range(0, len(names), at_once):
        piece = names[start : start + at_once]
        texts = [fill(each, name.replace("_", " ")) for name in piece for each in templates]
        parts.append(unit(encode_texts(texts)).reshape(len(piece), len(templates), -1))
    return np.concatenate(parts)


def compiled_from(
    backbone: Backbone,
    vectors: Mapping[str, NDArray[np.float32]],
    classes: Sequence[str],
    prompts: Sequence[str],
    negatives: NegativeFeatures,
    settings: LaptSettings,
    logit_scale: float,
) -> Detector:
    """Encode the learned prompts and return the NegLabel detector they make.

    Args:
        backbone: the model they were learned with.
        vectors: the learned ones by name.
        classes: C names.
        prompts: their names in prompts.
        negatives: all of the bank's, whose words and groups are taken; class-specific contexts fit
            the ones they were trained with alone.
        settings: of the training and the score.
        logit_scale: factor on cosines.

    Raises:
        UsageError: a name that leaves no room for the vectors, contexts that do not fit the names,
            or fewer negatives than groups.
    """
    from vlood.prompts.contexts import Contexts, encode_prompts

    own = vectors.get(NEGATIVES, vectors[CLASSES])
    features = encode_prompts(backbone, Contexts(vectors[CLASSES]), prompts)
    rows = encode_prompts(backbone, Contexts(own), negatives.names)
    side = NegativeFeatures.of(negatives.names, rows, negatives.permutation)
    # The bank's templates are not what these rows were encoded with.
    side = replace(side, rows=tuple(replace(row, template="") for row in negatives.rows))
    return neglabel.fit(
        ClassFeatures.of(classes, features),
        neglabel.NegLabelSettings(groups=settings.groups),
        logit_scale,
        negatives=side,
    )
