"""The finished sets of a report: one Parquet file a set, a column pair a detector.

``path``, ``label``, ``digest``, ``nearest`` and ``similarity`` say what an image is;
``score:NAME`` and ``predicted:NAME`` what a detector says of it. A test-time method has different
scores of the ID images beside each OOD set: ``score:NAME@OOD``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlood.engines.evaluating.collecting import Judged
from vlood.engines.evaluating.sets import SetImages
from vlood.engines.printable import path_cell
from vlood.errors import UsageError
from vlood.features.atomic import write_atomically
from vlood.images.shifts import parse_shift

_ABOUT = b"vlood_set"


def set_file(folder: Path, name: str) -> Path:
    """Return where a set's scores lie below a report's folder."""
    return folder / "scores" / f"{file_part(name)}.parquet"


def partial_file(folder: Path, name: str) -> Path:
    """Return where a set's finished batches lie until it is finished."""
    return folder / "scores" / f"{file_part(name)}.partial.jsonl"


def file_part(name: str) -> str:
    """Return a set's or detector's name as part of a file's name; different ones stay different."""
    plain = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
    if plain == name and len(name) <= 80 and not name.startswith("."):
        return plain
    from hashlib import blake2b

    digest = blake2b(name.encode("utf-8", "backslashreplace"), digest_size=4).hexdigest()
    return f"{plain.lstrip('.')[:80]}-{digest}"


def write_set(path: Path, images: SetImages, columns: Mapping[str, Judged]) -> None:
    """Write a finished set, whole or not at all.

    Raises:
        OSError: the place cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    about = {
        "name": images.name,
        "group": images.group,
        "shift": None if images.shift is None else str(images.shift),
        "unreadable": {path_cell(path): why for path, why in images.unreadable.items()},
    }
    data: dict[str, Any] = {
        "path": pa.array([path_cell(path) for path in images.paths], pa.string()),
        "label": pa.array(list(images.labels), pa.string()),
        "digest": pa.array(list(images.digests), pa.string()),
    }
    if images.nearest is not None:
        words = [[word for word, _ in each] for each in images.nearest]
        cosines = [[cosine for _, cosine in each] for each in images.nearest]
        data["nearest"] = pa.array(words, pa.list_(pa.string()))
        data["similarity"] = pa.array(cosines, pa.list_(pa.float64()))
    for name, judged in columns.items():
        data[f"score:{name}"] = pa.array(judged.scores)
        data[f"predicted:{name}"] = pa.array(judged.predicted)
    table = pa.table(data).replace_schema_metadata({_ABOUT: json.dumps(about)})
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue().to_pybytes())


def column_names(path: Path) -> set[str]:
    """Return the detectors a finished set holds; none where there is no such file.

    Raises:
        UsageError: the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.exists():
        return set()
    try:
        names = pq.read_schema(path).names
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path) from error
    return {name.removeprefix("score:") for name in names if name.startswith("score:")}


def read_set(path: Path) -> tuple[SetImages, dict[str, Judged]]:
    """Read a finished set.

    Raises:
        UsageError: the file is damaged or none of ours.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        about = json.loads((table.schema.metadata or {})[_ABOUT])
        shift = None if about["shift"] is None else parse_shift(about["shift"])
        near = None
        if "nearest" in table.column_names:
            both = (table[name].to_pylist() for name in ("nearest", "similarity"))
            near = [list(zip(*each, strict=True)) for each in zip(*both, strict=True)]
        images = SetImages(
            about["name"],
            about["group"],
            table["path"].to_pylist(),
            table["label"].to_pylist(),
            table["digest"].to_pylist(),
            about["unreadable"],
            near,
            shift,
        )
        columns = {
            name.removeprefix("score:"): Judged(
                np.asarray(table[name].to_numpy(), np.float64),
                np.asarray(table[f"predicted:{name.removeprefix('score:')}"].to_numpy(), np.int64),
            )
            for name in table.column_names
            if name.startswith("score:")
        }
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise _damaged(path) from error
    return images, columns


def _damaged(path: Path) -> UsageError:
    return UsageError(
        f"{path}: is damaged or no part of a report; start the evaluation over in another folder"
    )
