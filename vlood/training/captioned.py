"""Images with captions, as CLIPN's training reads them: embeddings and the words of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError
from vlood.training.labelled import LabelledFeatures


@dataclass(frozen=True, eq=False)
class CaptionedFeatures(LabelledFeatures):
    """Embeddings of N images and a caption of each; ``labels`` are alike where captions are.

    Attributes:
        captions: N texts.
    """

    captions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.captions) != len(self.labels):
            raise UsageError(f"captions: {len(self.captions)} for {len(self.labels)} images")

    @classmethod
    def of(
        cls, raw: NDArray[np.float32], captions: Sequence[str], ids: Sequence[str] = ()
    ) -> CaptionedFeatures:
        """Pair embeddings [N, D] with their captions."""
        numbers: dict[str, int] = {}
        labels = [numbers.setdefault(text, len(numbers)) for text in captions]
        return cls(raw, np.array(labels, np.int64), tuple(ids), captions=tuple(captions))

    def rows(self, chosen: NDArray[np.int64]) -> CaptionedFeatures:
        """Return the images of these rows [n], in this order, with their captions."""
        return CaptionedFeatures.of(
            self.raw[chosen],
            [self.captions[row] for row in chosen.tolist()],
            [self.ids[row] for row in chosen.tolist()] if self.ids else (),
        )
