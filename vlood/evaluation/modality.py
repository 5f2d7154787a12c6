"""How far apart images and texts lie on the hypersphere: gap, alignment, uniformity.

The quantities of the CMA paper's Table 4 (Kim and Hwang, CVPR 2025), as Oh et al. 2023 define them
("Geodesic Multi-Modal Mixup for Robust Fine-Tuning"), whose baseline that table compares with; the
paper's own figures have not been reproduced. The gap is that of Liang et al. 2022, "Mind the Gap".
u are unit image embeddings, v those of K class texts, y the class of an image:

- modality gap: ``|mean u - mean v|``, from 0 (same centre) to 2
- alignment: ``E[min over k != y of |u - v_k|^2 - |u - v_y|^2]``, higher = an image's own text is
  nearer than any other
- uniformity: ``-log E[exp(-2 |u - v_k|^2)]`` over images and classes, lower = modalities nearer
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError

_COSINES_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class ModalityFigures:
    """What is measured on N images, of which L have a label, and K classes.

    Attributes:
        images: N.
        labelled: L.
        classes: K.
        modality_gap: distance of the two centres.
        uniformity: of images and texts across modalities.
        alignment: mean lead of an image's own text, in squared distance; None without labels or
            with one class.
        matched_cosine: mean cosine of an image with its own text, or None without labels.
        unmatched_cosine: mean cosine with the other texts, or None likewise or with one class.
        id_accuracy: share of labelled images that are nearest to their own text, or None.
    """

    images: int
    labelled: int
    classes: int
    modality_gap: float
    uniformity: float
    alignment: float | None
    matched_cosine: float | None
    unmatched_cosine: float | None
    id_accuracy: float | None


def modality_figures(
    images: NDArray[np.floating], texts: NDArray[np.floating], labels: NDArray[np.int64]
) -> ModalityFigures:
    """Measure embeddings.

    Args:
        images: [N, D], of any length but zero.
        texts: of the classes [K, D].
        labels: int64 [N], indices of classes; -1 where the class is not known.

    Raises:
        UsageError: there is nothing on a side, widths differ, or a row is zero or not finite.
    """
    seen, said = _unit(images, "image"), _unit(texts, "class")
    if seen.shape[1] != said.shape[1]:
        raise UsageError(
            f"the image embeddings are {seen.shape[1]} wide and those of the classes "
            f"{said.shape[1]}; both must come from one model"
        )
    known = labels >= 0
    count, total, weights = len(said), 0.0, 0.0
    own = np.empty(len(seen))
    best = np.full(len(seen), -np.inf)
    at_once = max(1, _COSINES_AT_ONCE // count)
    for start in range(0, len(seen), at_once):
        some = slice(start, start + at_once)
        cosines = seen[some] @ said.T
        total += float(cosines.sum())
        # Unit vectors: the squared distance is 2 - 2 cos.
        weights += float(np.exp(-2 * (2 - 2 * cosines)).sum())
        rows = np.arange(len(cosines))
        place = np.maximum(labels[some], 0)
        own[some] = cosines[rows, place]
        if count > 1:
            cosines[rows, place] = -np.inf
            best[some] = cosines.max(axis=1)
    several = count > 1 and bool(known.any())
    return ModalityFigures(
        images=len(seen),
        labelled=int(known.sum()),
        classes=count,
        modality_gap=float(np.linalg.norm(seen.mean(axis=0) - said.mean(axis=0))),
        uniformity=float(-np.log(weights / (len(seen) * count))),
        alignment=float(2 * (own[known] - best[known]).mean()) if several else None,
        matched_cosine=float(own[known].mean()) if known.any() else None,
        unmatched_cosine=_unmatched(seen[known], said, own[known]) if several else None,
        id_accuracy=float((own[known] > best[known]).mean()) if several else None,
    )


def _unmatched(
    images: NDArray[np.float64], texts: NDArray[np.float64], own: NDArray[np.float64]
) -> float:
    """Return the mean cosine with the texts of other classes: of sums, so that none is kept."""
    everything = float((images.sum(axis=0) @ texts.sum(axis=0)).item())
    return (everything - float(own.sum())) / (len(images) * (len(texts) - 1))


def _unit(rows: NDArray[np.floating], what: str) -> NDArray[np.float64]:
    found = np.asarray(rows, np.float64)
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    broken = int((~(np.isfinite(lengths) & (lengths > 0))).sum())
    if not len(found) or broken:
        wrong = f"{broken} of {len(found)} {what} embeddings are zero, NaN or infinite"
        raise UsageError(wrong if len(found) else f"there are no {what} embeddings to measure")
    return np.asarray(found / lengths)


def gap_plane(
    images: NDArray[np.floating], texts: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lay both sides into a plane that shows the gap.

    The first axis runs along the difference of the two centres, with their middle at 0, so that
    what is seen along it is the gap itself; the second along what varies most beside it.

    Returns:
        Images [N, 2] and texts [K, 2].
    """
    seen, said = _unit(images, "image"), _unit(texts, "class")
    apart = said.mean(axis=0) - seen.mean(axis=0)
    length = float(np.linalg.norm(apart))
    first = apart / length if length > 1e-9 else np.eye(seen.shape[1])[0]
    middle = (said.mean(axis=0) + seen.mean(axis=0)) / 2
    sides = [side - middle for side in (seen, said)]
    beside = [side - np.outer(side @ first, first) for side in sides]
    # Each side about its own centre, so that the gap is not found twice.
    spread = np.concatenate([one - one.mean(axis=0) for one in beside])
    second = np.linalg.svd(spread, full_matrices=False)[2][0]
    # The sign of a singular vector is arbitrary.
    second = second * (np.sign(second[np.abs(second).argmax()]) or 1.0)
    plane = np.stack([first, second], axis=1)
    return np.asarray(sides[0] @ plane), np.asarray(sides[1] @ plane)
