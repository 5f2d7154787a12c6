"""What lies in a store's folder: its state, its manifest, and which of its parts are whole."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from vlood.errors import UsageError, VloodError
from vlood.features.embeddings import STORE_FILE

log = logging.getLogger(__name__)

SCHEMA = 1
MANIFEST_FILE = "manifest.jsonl"


@dataclass(frozen=True)
class StorePart:
    """One line of the manifest: a part's name, its rows, its unreadable inputs, its digests."""

    part: str
    rows: int
    errors: int
    features_digest: str
    ids_digest: str

    @property
    def features_file(self) -> str:
        """Return the name of the part's arrays."""
        return f"{self.part}.safetensors"

    @property
    def ids_file(self) -> str:
        """Return the name of the part's ids, labels and errors."""
        return f"{self.part}.jsonl"


def read_state(folder: Path) -> dict[str, Any]:
    """Read what a store says of itself.

    Raises:
        UsageError: the folder holds no store.
        VloodError: its state is damaged or newer than this library.

    """
    path = folder / STORE_FILE
    try:
        state: dict[str, Any] = json.loads(path.read_bytes())
        schema = state["schema"]
        missing = {"meta", "dim", "local_shape", "complete", "inputs"} - set(state)
    except FileNotFoundError as error:
        raise UsageError(f"{folder}: holds no embeddings; make them with `vlood embed`") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(path) from error
    if not isinstance(schema, int) or schema > SCHEMA:
        raise VloodError(f"{path}: was written by a newer vlood (schema {schema}); update vlood")
    if missing:
        raise damaged(path)
    return state


def read_manifest(folder: Path) -> Iterator[tuple[StorePart, int]]:
    """Yield the manifest's parts and where each line ends, up to the first torn line."""
    try:
        data = (folder / MANIFEST_FILE).read_bytes()
    except FileNotFoundError:
        return
    end = 0
    for number, line in enumerate(data.splitlines(keepends=True), start=1):
        end += len(line)
        try:
            values = json.loads(line)
            part = StorePart(**{name: values[name] for name in StorePart.__dataclass_fields__})
        except (ValueError, KeyError, TypeError):
            return
        if not line.endswith(b"\n") or part.part != f"part-{number:06d}":
            return
        yield part, end


def good_parts(folder: Path) -> tuple[list[StorePart], int]:
    """Return the parts before the first that is missing or altered, and where their lines end."""
    parts: list[StorePart] = []
    good_bytes = 0
    for part, end in read_manifest(folder):
        if not is_good(folder, part):
            log.warning("%s is damaged; going on from before it", folder / part.features_file)
            break
        parts.append(part)
        good_bytes = end
    return parts, good_bytes


def is_good(folder: Path, part: StorePart) -> bool:
    """Tell whether both files of a part are what the manifest's digests say."""
    try:
        return (
            _file_digest(folder / part.features_file) == part.features_digest
            and _file_digest(folder / part.ids_file) == part.ids_digest
        )
    except OSError:
        return False


def read_lines(path: Path) -> Iterator[dict[str, str]]:
    """Yield the inputs of a part: id and label, or id and error.

    Raises:
        VloodError: the file is gone or damaged.

    """
    try:
        with open(path, "rb") as stream:
            for line in stream:
                yield json.loads(line)
    except (OSError, ValueError) as error:
        raise damaged(path) from error


def damaged(path: Path) -> VloodError:
    """Return the error for a file of a store that is not whole."""
    return VloodError(
        f"{path}: is damaged or missing; run the same `vlood embed` again with --resume to repair "
        "the store"
    )


def digest_of(data: bytes) -> str:
    """Return the digest a manifest line holds for a file's bytes."""
    return blake2b(data, digest_size=16).hexdigest()


def _file_digest(path: Path) -> str:
    digest = blake2b(digest_size=16)
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
