"""Named rows of unit length: what class features and negative features are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError


def named_unit_rows(
    what: str, names: Sequence[str], features: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Scale raw features [N, D] to length 1, after checking that each has a name and a direction.

    Args:
        what: ``class`` or ``negative``; errors speak of "the ... embeddings".
        names: N names.
        features: [N, D].

    Raises:
        UsageError: not 2-D, another number of rows than names, or a row that is not finite or is
            all zeros.
    """
    if features.ndim != 2 or len(features) != len(names):
        raise UsageError(
            f"the {what} embeddings have shape {features.shape}; expected ({len(names)}, D): "
            f"one row for each of the {len(names)} {what} names"
        )
    raw = np.asarray(features, dtype=np.float64)
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    bad = ~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise UsageError(
            f"{int(bad.sum())} {what} embeddings are NaN, infinite or all zeros, the first is "
            f"{names[row]!r} (row {row}); encode them again"
        )
    return np.asarray(raw / lengths, np.float32)
