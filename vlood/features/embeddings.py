"""Embeddings somebody made already, read from the common array formats.

Every reader ends in the same checks: a matrix of finite, non-zero rows of the expected width.
Nothing here unpickles.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ClassifierLogits
from vlood.errors import UsageError

SUFFIXES = (".npy", ".npz", ".safetensors", ".parquet")
STORE_FILE = "store.json"
_NAME_FILES = ("names.txt", "class_names.txt")
_ARRAYS = ("features", "ids", "labels", "names", "local", "logits", "logit_names")
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
        reader = _READERS.get(path.suffix.lower())
        if reader is None or not path.is_file():
            raise UsageError(f"{path}: embeddings are read from {', '.join(SUFFIXES)}")
        try:
            raw = reader(path)
        except (OSError, ValueError, KeyError, EOFError, MemoryError) as error:
            kind = path.suffix.lower()
            raise UsageError(f"{path}: cannot be read as {kind} ({_short(error)})") from error
        embeddings = _assembled(path, raw)
    beside = path.with_suffix(".logits.npy")
    if embeddings.logits is None and beside.is_file():
        logits = logits_from(beside, _load_npy(beside), read_names(beside), len(embeddings.ids))
        embeddings = replace(embeddings, logits=logits)
    width = embeddings.features.shape[1]
    if expected_dim is not None and width != expected_dim:
        raise UsageError(
            f"{path}: rows have {width} numbers where {expected_dim} were expected; "
            "use embeddings from the same model"
        )
    return embeddings


def read_labels(path: Path, *, count: int | None = None) -> list[str]:
    """Read one label a row: a ``.npy`` of numbers or names, or a ``.txt`` with one a line.

    Raises:
        UsageError: the file is absent, not a list of labels, or not ``count`` long.

    """
    if path.suffix.lower() == ".npy":
        labels = _texts(path, "labels", _load_npy(path))
    else:
        labels = [line.strip() for line in _lines(path)]
    _check_count(path, labels, count, "labels")
    return labels


def read_names(path: Path, *, count: int | None = None) -> list[str]:
    """Read the names of class embeddings: a ``.txt``, or the one beside the embeddings' file.

    Beside ``X.npy`` that is ``X.txt``, ``names.txt`` or ``class_names.txt``. One name a line; what
    follows a tab is left out, as are blank lines.

    Raises:
        UsageError: no such file, or not ``count`` names.

    """
    if path.suffix.lower() == ".txt":
        found = path
    else:
        beside = [path.with_suffix(".txt"), *(path.with_name(name) for name in _NAME_FILES)]
        present = [candidate for candidate in beside if candidate.is_file()]
        if not present:
            raise UsageError(
                f"{path}: has no names; put one name a line in {path.with_suffix('.txt').name} "
                "beside it"
            )
        found = present[0]
    names = [line.split("\t")[0].strip() for line in _lines(found) if line.strip()]
    _check_count(found, names, count, "names")
    return names


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


# One reader a format: the arrays and lists of the file under their common names.

_Raw = dict[str, Any]


def _read_npy(path: Path) -> _Raw:
    return {"features": _load_npy(path)}


def _read_npz(path: Path) -> _Raw:
    import zipfile
    import zlib

    if not zipfile.is_zipfile(path):
        raise ValueError("it is damaged or no archive of arrays")
    try:
        with np.load(path, allow_pickle=False) as archive:
            present = [name for name in _ARRAYS if name in archive.files]
            return {name: _no_objects(path, archive, name) for name in present}
    except (zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(str(error)) from error


def _read_safetensors(path: Path) -> _Raw:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            present = set(file.keys())
            described = file.metadata() or {}
            wanted = [name for name in _ARRAYS if name in present]
            halves = [name for name in wanted if file.get_slice(name).get_dtype() == "BF16"]
            raw: _Raw = {name: file.get_tensor(name) for name in wanted if name not in halves}
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    if halves:
        raw |= _brain_floats(path, halves)
    # The format has no text tensors: names travel as JSON lists in its metadata.
    for name in ("ids", "labels", "names", "logit_names"):
        if name not in raw and described.get(name, "").startswith("["):
            raw[name] = json.loads(described[name])
    return raw


def _read_parquet(path: Path) -> _Raw:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        present = set(file.schema_arrow.names)
        if "embedding" not in present:
            others = ", ".join(sorted(present)) or "none"
            raise UsageError(f"{path}: has no column named embedding, only {others}")
        id_column = next((name for name in ("id", "path") if name in present), None)
        label_column = "label" if "label" in present else None
        columns = [name for name in ("embedding", id_column, label_column) if name is not None]
        table = file.read(columns=columns)
    column = table.column("embedding").combine_chunks()
    raw: _Raw = {"features": _matrix_of_lists(path, column, pa)}
    if id_column is not None:
        raw["ids"] = table.column(id_column).to_pylist()
    if label_column is not None:
        raw["labels"] = table.column(label_column).to_pylist()
    return raw


_READERS: dict[str, Callable[[Path], _Raw]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".parquet": _read_parquet,
}


def _assembled(path: Path, raw: Mapping[str, Any]) -> Embeddings:
    if "features" not in raw:
        raise UsageError(f"{path}: has no array named features; name the embeddings so")
    features = check_features(path, raw["features"])
    count = len(features)
    ids = [str(row) for row in range(count)]
    if raw.get("ids") is not None:
        ids = _texts(path, "ids", raw["ids"])
        _check_count(path, ids, count, "ids")
    labels: list[str] | None = None
    named = raw["labels"] if raw.get("labels") is not None else raw.get("names")
    if named is not None:
        labels = [text or "" for text in _optional_texts(path, "labels", named)]
        _check_count(path, labels, count, "labels")
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
        names = _texts(path, "logit_names", raw["logit_names"])
        logits = logits_from(path, raw["logits"], names, count)
    return Embeddings(features, ids, labels, local, logits=logits)


def _load_npy(path: Path) -> NDArray[Any]:
    if not path.is_file():
        raise UsageError(f"{path}: does not exist; name a .npy file")
    try:
        with open(path, "rb") as stream:
            if stream.read(6) != b"\x93NUMPY":
                raise UsageError(f"{path}: is not a .npy file; save it with numpy.save")
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        if "allow_pickle" in str(error):
            raise UsageError(_objects_message(path)) from error
        raise UsageError(f"{path}: cannot be read as .npy ({_short(error)})") from error
    return array


def _no_objects(path: Path, archive: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    try:
        return archive[name]
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise UsageError(_objects_message(path, name)) from error
        raise


def _objects_message(path: Path, name: str = "the array") -> str:
    return (
        f"{path}: {name} holds Python objects, which are not read because they can run code; save "
        "plain numbers or text"
    )


def _brain_floats(path: Path, names: Sequence[str]) -> _Raw:
    """Read bfloat16 tensors, which NumPy does not know."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name).float().numpy() for name in names}


def _matrix_of_lists(path: Path, column: Any, pa: Any) -> NDArray[Any]:
    """Turn an Arrow column of equally long lists into [N, D] without a Python object a number."""
    if not (
        pa.types.is_list(column.type)
        or pa.types.is_large_list(column.type)
        or pa.types.is_fixed_size_list(column.type)
    ):
        raise UsageError(f"{path}: the column embedding holds {column.type}, not lists of numbers")
    if column.null_count:
        raise UsageError(f"{path}: {column.null_count} rows of the column embedding are empty")
    lengths = np.unique(column.value_lengths().to_numpy(zero_copy_only=False))
    if len(lengths) > 1:
        raise UsageError(
            f"{path}: the column embedding holds rows of {lengths[0]} to {lengths[-1]} numbers; "
            "all must be equally long"
        )
    values = column.flatten()
    if values.null_count:
        raise UsageError(f"{path}: {values.null_count} numbers of the column embedding are empty")
    flat: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    width = int(lengths[0]) if len(lengths) else 0
    return flat.reshape(len(column), width)


def _texts(path: Path, what: str, values: Any) -> list[str]:
    texts = _optional_texts(path, what, values)
    missing = [row for row, text in enumerate(texts) if text is None]
    if missing:
        raise UsageError(f"{path}: {len(missing)} {what} are empty, the first in row {missing[0]}")
    return [text for text in texts if text is not None]


def _optional_texts(path: Path, what: str, values: Any) -> list[str | None]:
    if isinstance(values, np.ndarray):
        if values.ndim != 1 or values.dtype.kind not in "iuSUf":
            raise UsageError(
                f"{path}: {what} are one number or name a row, not {values.dtype} "
                f"{list(values.shape)}"
            )
        values = values.tolist()
    return [_text(path, what, value) for value in values]


def _text(path: Path, what: str, value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, float):
        if not value.is_integer():
            raise UsageError(f"{path}: {what} are whole numbers or names, not {value}")
        return str(int(value))
    return str(value)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check the name") from error


def _check_count(path: Path, values: Sequence[Any], count: int | None, what: str) -> None:
    if count is not None and len(values) != count:
        raise UsageError(f"{path}: holds {len(values)} {what} for {count} embeddings")


def _rows_where(features: NDArray[np.float32], test: Any) -> NDArray[np.int64]:
    """Find rows block by block, without a mask as large as the matrix."""
    found = [
        np.flatnonzero(test(features[start : start + _CHECK_ROWS])) + start
        for start in range(0, len(features), _CHECK_ROWS)
    ]
    return np.concatenate(found)


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 120 else text[:119] + "…"
