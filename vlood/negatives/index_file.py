"""An index on disk: FAISS's own bytes, and a record of them for the bank's JSON."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlood.errors import UsageError
from vlood.features.atomic import atomic_file
from vlood.negatives.search_index import SearchIndex

_CLASSES = {"flat": "IndexFlat", "hnsw": "IndexHNSWSQ", "ivfpq": "IndexPreTransform"}


def write_index(path: Path, index: SearchIndex) -> dict[str, Any]:
    """Write an index whole or not at all, block by block.

    Returns:
        Its record, JSON-able: kind, rows, dim, parameters, recall and the file's sha256.

    Raises:
        OSError: the place cannot be written.
    """
    import faiss

    digest = hashlib.sha256()
    with atomic_file(path) as stream:

        def write(data: bytes) -> int:
            digest.update(data)
            return stream.write(data)

        library: Any = faiss  # whose stubs do not know the next name
        library.write_index(index.faiss_index, library.PyCallbackIOWriter(write))
    return {
        "kind": index.kind,
        "rows": index.rows,
        "dim": index.dim,
        "parameters": index.parameters,
        "recall": index.recall,
        "sha256": digest.hexdigest(),
    }


def read_index(path: Path, record: Mapping[str, Any]) -> SearchIndex:
    """Read an index that :func:`write_index` wrote, after comparing it with its record.

    The bytes are handed to FAISS only if their digest is the record's: FAISS's reader is not made
    for damaged files.

    Raises:
        UsageError: the file is missing, damaged or foreign, or does not fit the record.
    """
    import faiss

    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unusable(path, error.strerror or "cannot be read") from error
    if hashlib.sha256(data).hexdigest() != record.get("sha256"):
        raise _unusable(path, "does not match the digest in the bank: cut, changed or foreign")
    try:
        kind, rows, dim = str(record["kind"]), int(record["rows"]), int(record["dim"])
        recall = record.get("recall")
        parameters = dict(record["parameters"])
        recalled = None if recall is None else float(recall)
    except (KeyError, TypeError, ValueError) as error:
        raise _unusable(path, "its record in the bank is incomplete") from error
    if kind not in _CLASSES:
        raise _unusable(path, f"its kind {kind} is unknown")
    try:
        held = faiss.deserialize_index(np.frombuffer(data, np.uint8))
    except RuntimeError as error:
        raise _unusable(path, "is no FAISS index that this version reads") from error
    if not isinstance(held, getattr(faiss, _CLASSES[kind])):
        raise _unusable(path, f"is no {kind} index, as its record says")
    if (held.ntotal, held.d) != (rows, dim):
        raise _unusable(path, f"holds {held.ntotal} x {held.d} numbers, expected {rows} x {dim}")
    if held.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise _unusable(path, "does not compare by cosine")
    return SearchIndex(kind, rows, dim, parameters, recalled, held)


def _unusable(path: Path, reason: str) -> UsageError:
    return UsageError(f"{path}: the index {reason}; mine again or rebuild the index")
