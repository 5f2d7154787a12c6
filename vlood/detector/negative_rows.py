"""A detector's negatives in its folder: a row each, and the index that explanations look up."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from vlood.detector.described import read_described
from vlood.detector.integrity import damaged
from vlood.detector.saved import SavedDetector
from vlood.negatives.negative_features import NegativeRow

if TYPE_CHECKING:
    from vlood.negatives.index import SearchIndex


NEGATIVES_FILE = "negatives.parquet"


INDEX_FILE = "negatives.faiss"


_COLUMNS = tuple(each.name for each in fields(NegativeRow))


def write_negatives(folder: Path, saved: SavedDetector) -> None:
    """Write the negatives and their index, if there are some."""
    if not saved.negatives:
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    from vlood.negatives.index import build_index, write_index

    kinds = {"closeness": pa.float32()}
    table = {
        name: pa.array(
            [getattr(row, name) for row in saved.negatives], kinds.get(name, pa.string())
        )
        for name in _COLUMNS
    }
    pq.write_table(pa.table(table), folder / NEGATIVES_FILE)
    features = saved.detector.tensors.get("negative_features")
    if features is None:
        return
    record = write_index(folder / INDEX_FILE, build_index(features, "auto"))
    (folder / f"{INDEX_FILE}.json").write_text(json.dumps(record) + "\n", encoding="utf-8")


def read_negatives(path: Path, count: int, where: str) -> tuple[NegativeRow, ...]:
    """Read a row a negative, in the order of its tensors.

    Raises:
        UsageError: the file is damaged, or holds another number of rows than ``count``.
    """
    if count == 0:
        return ()
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Not `read_table`, which would import Arrow's machinery for whole data sets.
        with pq.ParquetFile(path / NEGATIVES_FILE) as file:
            table = file.read(columns=list(_COLUMNS))
        rows = tuple(NegativeRow.stored(row) for row in table.to_pylist())
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError) as error:
        raise damaged(where, f"{NEGATIVES_FILE} cannot be read") from error
    if len(rows) != count:
        raise damaged(where, f"{NEGATIVES_FILE} holds {len(rows)} rows, not {count}")
    return rows


def open_index(path: Path) -> SearchIndex | None:
    """Open a detector's index of negatives, or return None where it has none.

    Raises:
        UsageError: it is damaged.
    """
    from vlood.negatives.index import read_index

    record_file = path / f"{INDEX_FILE}.json"
    if not record_file.is_file():
        return None
    return read_index(path / INDEX_FILE, read_described(record_file).fields)
