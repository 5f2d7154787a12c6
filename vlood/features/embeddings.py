"""Embeddings somebody made already, read from the common array formats.

Every format ends in the same checks: a matrix of finite, non-zero rows of the expected width.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ClassifierLogits
from vlood.errors import UsageError
from vlood.features.embedding_formats import READERS, load_npy, shortened
from vlood.features.row_names import check_count, optional_texts, read_names, texts

SUFFIXES = (".npy", ".npz", ".safetensors", ".parquet")
STORE_FILE = "store.json"
_CHECK_ROWS = 8192


class LocalRows(Protocol):
    """Local embeddings [N, R, D] that are read from disk a slice at a time."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of N images or texts, as they were stored (not normalised).

    ``features`` is float32 [N, D]; ``ids`` are paths or row numbers; ``labels`` class names (or
    their numbers, as text), "" for a row that has none; ``local`` float32 [N, R, D]; ``logits``
    what a closed-world classifier says of the same images.
    """

    features: NDArray[np.float32]
    ids: list[str]
    labels: list[str] | None = None
    local: NDArray[np.float32] | LocalRows | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    logits: ClassifierLogits | None = None

    def __len__(self) -> int:
        return len(self.features)


def looks_like_embeddings(path: Path) -> bool:
    """Tell by its name whether a path holds embeddings, not images; a folder, by its store file."""
    # `os.path.isdir` says no where `Path.is_dir` raises: a name too long, a folder that is shut.
    if os.path.isdir(path):  # noqa: PTH112
        return os.path.isfile(path / STORE_FILE)  # noqa: PTH113
    return path.suffix.lower() in SUFFIXES


def read_embeddings(path: Path, *, expected_dim: int | None = None) -> Embeddings:
    """Read embeddings from a file or from a folder made by `vlood embed`.

    Args:
        path: ``.npy`` [N, D]; ``.npz`` or ``.safetensors`` with ``features`` and perhaps ``ids``,
            ``labels`` (or ``names``), ``local``, and ``logits`` with ``logit_names``; ``.parquet``
            with an ``embedding`` column and perhaps ``id`` (or ``path``) and ``label``; a store's
            folder. A classifier's logits lie in the file or beside it, in ``X.logits.npy`` with
            the names of its columns in ``X.logits.txt``.
        expected_dim: the width they must have.

    Raises:
        UsageError: the path does not exist, cannot be read, or holds something else.

    """
    if not path.exists():
        raise UsageError(f"{path}: does not exist; name a file of embeddings")
    if path.is_dir():
        from vlood.features.store import EmbeddingStore

        embeddings = EmbeddingStore.open(path).embeddings()
    else:
        reader = READERS.get(path.suffix.lower())
        if reader is None or not path.is_file():
            raise UsageError(f"{path}: embeddings are read from {', '.join(SUFFIXES)}")
        try:
            raw = reader(path)
        except (OSError, ValueError, KeyError, EOFError, MemoryError) as error:
            kind = path.suffix.lower()
            raise UsageError(f"{path}: cannot be read as {kind} ({shortened(error)})") from error
        embeddings = _assembled(path, raw)
    beside = path.with_suffix(".logits.npy")
    if embeddings.logits is None and beside.is_file():
        logits = logits_from(beside, load_npy(beside), read_names(beside), len(embeddings.ids))
        embeddings = replace(embeddings, logits=logits)
    width = embeddings.features.shape[1]
    if expected_dim is not None and width != expected_dim:
        raise UsageError(
            f"{path}: rows have {width} numbers where {expected_dim} were expected; "
            "use embeddings from the same model"
        )
    return embeddings


def check_features(path: Path, array: NDArray[Any]) -> NDArray[np.float32]:
    """Return ``array`` as float32 [N, D], refusing what no score can be computed from.

    Raises:
        UsageError: not a matrix of numbers, no rows, or rows that are not finite or all zero.

    """
    if array.dtype.kind not in "fiu":
        raise UsageError(f"{path}: embeddings are numbers, not {array.dtype}")
    if array.ndim != 2:
        raise UsageError(
            f"{path}: embeddings have one row an image, [N, D], not {list(array.shape)}"
        )
    if 0 in array.shape:
        raise UsageError(f"{path}: holds no embeddings; the array is {list(array.shape)}")
    with np.errstate(over="ignore"):
        features = np.ascontiguousarray(array, dtype=np.float32)
    broken = _rows_where(features, lambda rows: ~np.isfinite(rows).all(axis=1))
    if len(broken):
        raise UsageError(
            f"{path}: {len(broken)} of {len(features)} rows hold NaN or infinite values, the first "
            f"is row {broken[0]}; remove them or embed those images again"
        )
    empty = _rows_where(features, lambda rows: ~rows.any(axis=1))
    if len(empty):
        raise UsageError(
            f"{path}: {len(empty)} of {len(features)} rows are all zero and have no direction, the "
            f"first is row {empty[0]}; remove them or embed those images again"
        )
    return features


def logits_from(
    path: Path, array: NDArray[Any], names: Sequence[str], count: int
) -> ClassifierLogits:
    """Return a classifier's logits after checking them.

    Raises:
        UsageError: they are no matrix of finite numbers [N, C] with N = ``count`` and C names.

    """
    values = np.asarray(array)
    if values.dtype.kind not in "fiu" or values.ndim != 2 or len(values) != count:
        raise UsageError(
            f"{path}: logits are numbers [N, C] with N = {count} images, not {values.dtype} "
            f"{list(values.shape)}"
        )
    if values.shape[1] != len(names):
        raise UsageError(
            f"{path}: {values.shape[1]} logits an image and {len(names)} names; name the class of "
            "each column, one a line"
        )
    made = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(made).all():
        raise UsageError(f"{path}: some logits are NaN or infinite; run the classifier again")
    return ClassifierLogits(made, tuple(names))


def _assembled(path: Path, raw: Mapping[str, Any]) -> Embeddings:
    if "features" not in raw:
        raise UsageError(f"{path}: has no array named features; name the embeddings so")
    features = check_features(path, raw["features"])
    count = len(features)
    ids = [str(row) for row in range(count)]
    if raw.get("ids") is not None:
        ids = texts(path, "ids", raw["ids"])
        check_count(path, ids, count, "ids")
    labels: list[str] | None = None
    named = raw["labels"] if raw.get("labels") is not None else raw.get("names")
    if named is not None:
        labels = [text or "" for text in optional_texts(path, "labels", named)]
        check_count(path, labels, count, "labels")
        labels = labels if any(labels) else None
    local = None
    if raw.get("local") is not None:
        local = np.asarray(raw["local"], dtype=np.float32)
        if local.ndim != 3 or len(local) != count:
            raise UsageError(
                f"{path}: local embeddings are [N, R, D] with N = {count}, not {list(local.shape)}"
            )
    logits = None
    if raw.get("logits") is not None:
        if raw.get("logit_names") is None:
            raise UsageError(
                f"{path}: has logits without logit_names; name the class of each column"
            )
        names = texts(path, "logit_names", raw["logit_names"])
        logits = logits_from(path, raw["logits"], names, count)
    return Embeddings(features, ids, labels, local, logits=logits)


def _rows_where(features: NDArray[np.float32], test: Any) -> NDArray[np.int64]:
    """Find rows block by block, without a mask as large as the matrix."""
    found = [
        np.flatnonzero(test(features[start : start + _CHECK_ROWS])) + start
        for start in range(0, len(features), _CHECK_ROWS)
    ]
    return np.concatenate(found)
