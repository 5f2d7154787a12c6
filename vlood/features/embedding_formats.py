"""One reader a format of embeddings: the arrays and lists of a file under their common names.

Nothing here unpickles.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError

_ARRAYS = ("features", "ids", "labels", "names", "local", "logits", "logit_names")


Raw = dict[str, Any]


def _read_npy(path: Path) -> Raw:
    return {"features": load_npy(path)}


def _read_npz(path: Path) -> Raw:
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


def _read_safetensors(path: Path) -> Raw:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            present = set(file.keys())
            described = file.metadata() or {}
            wanted = [name for name in _ARRAYS if name in present]
            halves = [name for name in wanted if file.get_slice(name).get_dtype() == "BF16"]
            raw: Raw = {name: file.get_tensor(name) for name in wanted if name not in halves}
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    if halves:
        raw |= _brain_floats(path, halves)
    # The format has no text tensors: names travel as JSON lists in its metadata.
    for name in ("ids", "labels", "names", "logit_names"):
        if name not in raw and described.get(name, "").startswith("["):
            raw[name] = json.loads(described[name])
    return raw


def _read_parquet(path: Path) -> Raw:
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
    raw: Raw = {"features": _matrix_of_lists(path, column, pa)}
    if id_column is not None:
        raw["ids"] = table.column(id_column).to_pylist()
    if label_column is not None:
        raw["labels"] = table.column(label_column).to_pylist()
    return raw


READERS: dict[str, Callable[[Path], Raw]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".parquet": _read_parquet,
}


def load_npy(path: Path) -> NDArray[Any]:
    """Read one array, of whatever shape, such as [N, D].

    Raises:
        UsageError: the file is absent, damaged, no ``.npy``, or holds Python objects.
    """
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
        raise UsageError(f"{path}: cannot be read as .npy ({shortened(error)})") from error
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


def _brain_floats(path: Path, names: Sequence[str]) -> Raw:
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


def shortened(error: BaseException) -> str:
    """Return what an error says on one line, of 120 characters at most."""
    text = " ".join(str(error).split())
    return text if len(text) <= 120 else text[:119] + "…"
