"""What one pass of the image tower gives. NumPy only, so that scores need no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class ClassifierLogits:
    """What a closed-world classifier says of N images.

    Attributes:
        values: logits before any softmax, float32 [N, C].
        names: the classes of the C columns, in their order.
    """

    values: NDArray[np.float32]
    names: tuple[str, ...]

    def rows(self, chosen: Any) -> ClassifierLogits:
        """Return the rows of a slice or of numbers."""
        return ClassifierLogits(np.asarray(self.values[chosen], np.float32), self.names)


@dataclass(frozen=True)
class ImageFeatures:
    """Embeddings of N images.

    Attributes:
        raw: global embeddings, float32 [N, D], as the tower gives them (not normalised).
        local: patch embeddings, float32 [N, R, D] in row-major order of ``local_grid``, not
            normalised, or None when they were not asked for.
        local_grid: rows and columns of the R regions, or None.
        logits: of a closed-world classifier beside the model, or None.
        stepped: global embeddings [N, D] after a step of the pixels, by the key of who asked.
    """

    raw: NDArray[np.float32]
    local: NDArray[np.float32] | None = None
    local_grid: tuple[int, int] | None = None
    logits: ClassifierLogits | None = None
    stepped: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.raw)

    @property
    def unit(self) -> NDArray[np.float32]:
        """Global embeddings of length one, float32 [N, D]."""
        return unit(self.raw)

    @property
    def unit_local(self) -> NDArray[np.float32] | None:
        """Patch embeddings of length one, float32 [N, R, D], or None."""
        return None if self.local is None else unit(self.local)


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors [..., D] scaled to length one; zero vectors stay zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.float32(1e-12)), dtype=np.float32)
