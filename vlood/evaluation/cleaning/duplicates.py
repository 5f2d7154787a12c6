"""Which images are copies: of the same bytes, or of the same picture.

The nearest neighbours of the embeddings and of the pictures themselves, shrunk to 8 x 8 pixels, are
the candidates (FAISS); the pictures at 16 x 16 pixels decide. An embedding alone cannot: two good
photographs of one class are as close as a picture and its crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlood.negatives.index import build_index

SIDE = 16
NEIGHBOURS = 20
CANDIDATE_COSINE = 0.7
# Pictures that agree while their embeddings do not are alike by chance: a blue sky, a white wall.
_LEAST_COSINE = 0.5
# How much less alike at 8 x 8 pixels a picture may be than it has to be at 16 x 16.
_SLACK = 0.05
_PLAIN = 1.0
_QUERIES = 4096
_PAIRS = 65_536
# As in SSIM: they keep dark and plain pictures from being compared by their noise.
_LIGHT, _STRUCTURE = 6.5, 58.5


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of rows that are copies of each other.

    Attributes:
        rows: int64 [m, 2], the smaller row first.
        similarity: float64 [m]; 1 for the same bytes.
    """

    rows: NDArray[np.int64]
    similarity: NDArray[np.float64]


def same_content(digests: Sequence[bytes]) -> NDArray[np.int64]:
    """Return for N images the first row with the same bytes [N]: its own where none came."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(digest, row) for row, digest in enumerate(digests)], np.int64)


def candidate_pairs(
    features: NDArray[np.float32],
    *,
    neighbours: int = NEIGHBOURS,
    cosine: float = CANDIDATE_COSINE,
) -> Pairs:
    """Return the pairs of unit rows [N, D] that may be copies, with their cosines.

    They are each row's nearest neighbours with at least this cosine, so their number grows with N
    and not with its square.
    """
    return _neighbours(features, features[None], neighbours, cosine)


def picture_candidates(
    pictures: NDArray[np.uint8],
    features: NDArray[np.float32],
    at_least: float,
    *,
    neighbours: int = NEIGHBOURS,
) -> Pairs:
    """Return the pairs of small pictures [N, 16, 16, 3] that may be as similar as ``at_least``.

    They are the nearest of each picture and of its mirror image at 8 x 8 pixels, unless their
    unit embeddings [N, D] are far apart. Plain pictures are left out: they have no structure.
    """
    small = pictures.reshape(len(pictures), SIDE // 2, 2, SIDE // 2, 2, 3).mean(axis=(2, 4))
    small -= small.mean(axis=(1, 2), keepdims=True)
    usable = np.flatnonzero(np.sqrt((small**2).mean(axis=(1, 2, 3))) > _PLAIN)
    if len(usable) < 2:
        return Pairs(np.zeros((0, 2), np.int64), np.zeros(0))
    views = np.stack([small[usable], small[usable, :, ::-1]]).reshape(2, len(usable), -1)
    views = (views / np.linalg.norm(views, axis=2, keepdims=True)).astype(np.float32)
    found = _neighbours(views[0], views, neighbours, at_least - _SLACK)
    rows = usable[found.rows]
    cosines = np.einsum("md,md->m", features[rows[:, 0]], features[rows[:, 1]])
    near = cosines >= _LEAST_COSINE
    return Pairs(rows[near], found.similarity[near])


def join(first: Pairs, second: Pairs) -> Pairs:
    """Return the pairs of both, each once."""
    rows, place = np.unique(np.concatenate([first.rows, second.rows]), axis=0, return_index=True)
    return Pairs(rows, np.concatenate([first.similarity, second.similarity])[place])


def _neighbours(
    rows: NDArray[np.float32], views: NDArray[np.float32], neighbours: int, cosine: float
) -> Pairs:
    """Return the pairs of rows [N, D] near to each other in any view [v, N, D] of them."""
    index = build_index(rows)
    wanted = min(neighbours + 1, len(rows))
    pairs, similarity = [], []
    for view in views:
        for start in range(0, len(view), _QUERIES):
            block = view[start : start + _QUERIES]
            cosines, found = index.search(block, wanted)
            query = np.broadcast_to(np.arange(start, start + len(block))[:, None], found.shape)
            near = (cosines >= cosine) & (found >= 0) & (found != query)
            pairs.append(np.stack([query[near], found[near]], axis=1))
            similarity.append(cosines[near])
    ordered = np.sort(np.concatenate(pairs), axis=1)
    unique, first = np.unique(ordered, axis=0, return_index=True)
    return Pairs(unique.astype(np.int64), np.concatenate(similarity)[first].astype(np.float64))


def small_picture(image: Image.Image) -> NDArray[np.uint8]:
    """Shrink an RGB picture to [16, 16, 3], whatever its proportions."""
    small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, np.uint8)


def picture_similarity(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return how alike m pairs of small pictures [m, 16, 16, 3] are, as they are or mirrored.

    The product of the luminance and the structure terms of SSIM (Wang et al. 2004), over the whole
    picture: at most 1, and 1 for equal pictures. Unlike SSIM's contrast term, neither minds a
    change of contrast.
    """
    ones = first.astype(np.float64)
    others = second.astype(np.float64)
    light, other_light = ones.mean(axis=(1, 2)), others.mean(axis=(1, 2))
    ones -= light[:, None, None]
    others -= other_light[:, None, None]
    luminance = (2 * (light * other_light).sum(axis=1) + _LIGHT) / (
        (light**2).sum(axis=1) + (other_light**2).sum(axis=1) + _LIGHT
    )
    pixels = ones[0].size if len(ones) else 1
    lengths = np.sqrt((ones**2).sum(axis=(1, 2, 3)) * (others**2).sum(axis=(1, 2, 3)))
    shared = np.maximum(
        (ones * others).sum(axis=(1, 2, 3)), (ones[:, :, ::-1] * others).sum(axis=(1, 2, 3))
    )
    structure = (shared + _STRUCTURE * pixels) / (lengths + _STRUCTURE * pixels)
    return np.asarray(luminance * structure)


def alike(
    pairs: Pairs, pictures: NDArray[np.uint8], readable: NDArray[np.bool_], at_least: float
) -> Pairs:
    """Keep the pairs whose small pictures [N, 16, 16, 3] are so similar.

    ``readable`` [N] says which pictures there are; the others are like nothing.
    """
    there = pairs.rows[readable[pairs.rows].all(axis=1)]
    similarity = np.zeros(len(there))
    for start in range(0, len(there), _PAIRS):
        first, second = there[start : start + _PAIRS].T
        similarity[start : start + _PAIRS] = picture_similarity(pictures[first], pictures[second])
    kept = similarity >= at_least
    return Pairs(there[kept], similarity[kept])


def join_pairs(pairs: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return for each of N rows the smallest row of its group: pairs [m, 2] join rows to groups."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(pairs), np.int8)
    graph = coo_matrix((ones, (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, group = connected_components(graph, directed=False)
    smallest = np.full(int(group.max(initial=-1)) + 1, count, np.int64)
    np.minimum.at(smallest, group, np.arange(count))
    return np.asarray(smallest[group], np.int64)
