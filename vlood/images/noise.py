"""Pictures of pure noise: what a detector may take for out-of-distribution before it saw any."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NOISE_KINDS = ("gaussian", "uniform", "poisson", "gamma", "salt-and-pepper")
PICTURES_A_KIND = 3


def noise_pictures(side_height: int, side_width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Draw 15 pictures of noise, three of each of the five kinds of :data:`NOISE_KINDS`.

    Every value is drawn on its own: from the standard normal, the uniform, the Poisson (mean 5)
    and the gamma (shape 2) distribution, each stretched to the full range, and black or white with
    equal odds.

    The reference code of TANL feeds such noise to the image tower as values in [0, 1], without
    CLIP's normalisation. vlood's are pictures like any other and go through the model's own
    preprocessing.

    Args:
        side_height: rows H, in pixels.
        side_width: columns W, in pixels.
        seed: of the local generator.

    Returns:
        uint8 [15, H, W, 3].
    """
    draw = np.random.default_rng(seed)
    shape = (PICTURES_A_KIND, side_height, side_width, 3)
    kinds = (
        _stretched(draw.standard_normal(shape)),
        draw.random(shape),
        _stretched(draw.poisson(5.0, shape)),
        _stretched(draw.gamma(2.0, 1.0, shape)),
        draw.integers(0, 2, shape),
    )
    return np.concatenate([np.rint(255 * kind).astype(np.uint8) for kind in kinds])


def _stretched(values: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.float64]:
    low, high = values.min(), values.max()
    return np.asarray((values - low) / max(high - low, 1e-12), np.float64)
