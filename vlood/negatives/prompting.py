"""How classes and candidates are put into words before a model encodes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import unit
from vlood.prompts.templates import fill

NOUN_TEMPLATE = "the nice {}"
ADJECTIVE_TEMPLATE = "This is a {} photo"

EncodeTexts = Callable[[list[str]], NDArray[np.float32]]


@dataclass(frozen=True)
class Prompting:
    """The templates of mining; with several, the unit features of a word are averaged.

    Attributes:
        classes: of the ID classes.
        nouns: of nouns, and of words of unknown kind.
        adjectives: of adjectives.
    """

    classes: tuple[str, ...] = (NOUN_TEMPLATE,)
    nouns: tuple[str, ...] = (NOUN_TEMPLATE,)
    adjectives: tuple[str, ...] = (ADJECTIVE_TEMPLATE,)

    def of_part(self, part: str) -> tuple[str, ...]:
        """Return the templates of a part of speech."""
        return self.adjectives if part == "adj" else self.nouns


class TextRows:
    """The embeddings of words, encoded when they are asked for: nothing grows with their number.

    Indexing with a slice or with row numbers gives unit rows, float32 [n, D].
    """

    def __init__(
        self,
        terms: Sequence[str],
        templates: Sequence[tuple[str, ...]],
        encode: EncodeTexts,
    ) -> None:
        self._terms = terms
        self._templates = templates
        self._encode = encode

    def __len__(self) -> int:
        return len(self._terms)

    def __getitem__(self, rows: slice | NDArray[np.integer]) -> NDArray[np.float32]:
        chosen = range(len(self))[rows] if isinstance(rows, slice) else rows.tolist()
        counts = [len(self._templates[row]) for row in chosen]
        texts = [
            fill(template, self._terms[row]) for row in chosen for template in self._templates[row]
        ]
        features = unit(self._encode(texts))
        if not counts or max(counts) == 1:
            return features
        starts = np.cumsum([0, *counts[:-1]])
        return unit(np.add.reduceat(features, starts, axis=0))
