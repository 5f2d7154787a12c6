"""A bank of negative labels on disk: a folder of Parquet, safetensors, a FAISS index and JSON.

- ``bank.json``: schema, model, classes, how it was made, digests of the other files
- ``negatives.parquet``: a row a negative label, in the order of mining
- ``embeddings.safetensors``: its embeddings, those of the classes, the order of the groups
- ``negatives.faiss``: the index that nearest negatives are looked up in
- ``dropped.parquet``: what mining left out, and why
- ``README.md``: the same for a person
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError, VloodError
from vlood.features.atomic import atomic_folder
from vlood.features.checksums import sha256_of_file
from vlood.negatives.bank import Dropped, NegativeBank
from vlood.prompts.classes import ClassName

if TYPE_CHECKING:
    from vlood.negatives.index import SearchIndex

SCHEMA = 1
BANK_FILE = "bank.json"
TERMS_FILE = "negatives.parquet"
ARRAYS_FILE = "embeddings.safetensors"
INDEX_FILE = "negatives.faiss"
DROPPED_FILE = "dropped.parquet"
CARD_FILE = "README.md"
_COLUMNS = ("term", "part_of_speech", "lex_file", "closeness", "template", "source")
_DROPPED_COLUMNS = ("term", "reason", "other", "detail")
# A term with several templates keeps them in one cell, a line each.
_JOINT = "\n"


def is_bank(path: Path) -> bool:
    """Tell whether a path is a bank's folder."""
    return path.is_dir() and (path / BANK_FILE).is_file()


def check_new(path: Path, *, overwrite: bool = False) -> None:
    """Refuse a place where a bank cannot be written, before anything slow is done.

    Raises:
        UsageError: something is there already, or the place cannot be a folder.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"-o {path}: is a file; name a folder for the bank")
    if path.is_dir() and any(path.iterdir()):
        if not is_bank(path):
            raise UsageError(f"-o {path}: is not empty and no bank; name a new folder")
        if not overwrite:
            raise UsageError(f"-o {path}: holds a bank already; use --overwrite, or another folder")


def save_bank(path: Path, bank: NegativeBank, index: SearchIndex | None = None) -> None:
    """Write a bank, whole or not at all; a bank that was there is replaced in the last moment.

    Raises:
        VloodError: the place cannot be written.
    """
    from vlood.negatives.index import write_index

    try:
        with atomic_folder(path) as folder:
            _write_terms(folder / TERMS_FILE, bank)
            _write_arrays(folder / ARRAYS_FILE, bank)
            _write_dropped(folder / DROPPED_FILE, bank.dropped)
            record = None if index is None else write_index(folder / INDEX_FILE, index)
            described = {
                "schema": SCHEMA,
                "kind": "vlood negatives",
                "negatives": len(bank),
                "model_name": bank.model_name,
                "model": None if bank.model is None else dict(bank.model),
                "classes": [[each.name, each.prompt] for each in bank.classes],
                "class_templates": list(bank.class_templates),
                "made": dict(bank.made),
                "index": record,
                "digests": {
                    name: sha256_of_file(folder / name)
                    for name in (TERMS_FILE, ARRAYS_FILE, DROPPED_FILE)
                },
            }
            text = json.dumps(described, indent=1, ensure_ascii=True) + "\n"
            (folder / BANK_FILE).write_text(text, encoding="utf-8")
            (folder / CARD_FILE).write_text(card(bank, record), "utf-8", "backslashreplace")
    except OSError as error:
        reason = error.strerror or str(error)
        raise VloodError(
            f"-o {path}: cannot be written ({reason}); choose another place"
        ) from error


def load_bank(path: Path) -> NegativeBank:
    """Read a bank, after comparing its files with their digests; the index stays on disk.

    Raises:
        UsageError: it is no bank, is damaged, or is of a newer kind.
    """
    described = describe_bank(path)
    for name, digest in described["digests"].items():
        if not (path / name).is_file() or sha256_of_file(path / name) != digest:
            raise _damaged(path, f"{name} is missing or does not match its digest")
    try:
        columns = _read_columns(path / TERMS_FILE, _COLUMNS)
        dropped = _read_columns(path / DROPPED_FILE, _DROPPED_COLUMNS)
        arrays = _read_arrays(path / ARRAYS_FILE)
        bank = NegativeBank(
            terms=tuple(columns["term"]),
            parts=tuple(columns["part_of_speech"]),
            lex_files=tuple(columns["lex_file"]),
            closeness=np.array(columns["closeness"], np.float32),
            templates=tuple(tuple(cell.split(_JOINT)) for cell in columns["template"]),
            sources=tuple(columns["source"]),
            features=arrays.get("features"),
            permutation=arrays["permutation"],
            classes=tuple(ClassName(name, prompt) for name, prompt in described["classes"]),
            class_templates=tuple(described["class_templates"]),
            class_features=arrays.get("class_features"),
            model=described["model"],
            model_name=described["model_name"],
            made=described["made"],
            dropped=tuple(map(Dropped, *(dropped[name] for name in _DROPPED_COLUMNS))),
        )
        if len(bank.permutation) != len(bank) or not 0 < len(bank) == described["negatives"]:
            raise ValueError("its parts disagree on how many negatives there are")
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise _damaged(path, str(error)) from error
    return bank


def describe_bank(path: Path) -> dict[str, Any]:
    """Read what a bank's JSON says, without its arrays.

    Raises:
        UsageError: it is no bank, is damaged, or is of a newer kind.
    """
    if not is_bank(path):
        raise UsageError(
            f"{path}: is not a bank of negatives; make one with `vlood mine -o {path}`"
        )
    try:
        described = json.loads((path / BANK_FILE).read_text(encoding="utf-8"))
        schema = int(described["schema"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise _damaged(path, f"{BANK_FILE} cannot be read") from error
    if schema > SCHEMA:
        raise UsageError(
            f"{path}: was written by a newer vlood (schema {schema}, this one reads {SCHEMA}); "
            "update vlood, or mine again"
        )
    if not isinstance(described.get("digests"), dict):
        raise _damaged(path, f"{BANK_FILE} lacks its digests")
    return dict(described)


def open_index(path: Path) -> SearchIndex | None:
    """Open a bank's index, or return None where it has none.

    Raises:
        UsageError: the index is damaged.
    """
    from vlood.negatives.index import read_index

    described = describe_bank(path)
    if "index" not in described or not isinstance(described["index"], dict | None):
        raise _damaged(path, f"{BANK_FILE} does not say whether there is an index")
    record = described["index"]
    return None if record is None else read_index(path / INDEX_FILE, record)


def card(bank: NegativeBank, index: Mapping[str, Any] | None) -> str:
    """Describe a bank for a person, as Markdown."""
    parts = {part: bank.parts.count(part) for part in sorted(set(bank.parts))}
    counted = ", ".join(f"{count} {part or 'of unknown kind'}" for part, count in parts.items())
    classes = ", ".join(each.name for each in bank.classes[:12])
    more = f" and {len(bank.classes) - 12} more" if len(bank.classes) > 12 else ""
    reasons = Counter(each.reason for each in bank.dropped)
    lines = [
        "# Negative labels",
        "",
        f"{len(bank)} words ({counted}) that stand for what is none of the classes: images that "
        "match them better than the classes are out-of-distribution.",
        "",
        f"- classes: {f'{len(bank.classes)}: {classes}{more}' if bank.classes else 'any'}",
        f"- class templates: {' | '.join(bank.class_templates) or '-'}",
        f"- model: {bank.model_name or 'none: words or given embeddings alone'}",
        f"- left out: {', '.join(f'{count} {name}' for name, count in reasons.items()) or 'none'}",
        f"- index: {'none' if index is None else index['kind']}",
        *(f"- {name}: {_plain(value)}" for name, value in sorted(bank.made.items())),
        "",
        f"First: {', '.join(bank.terms[:20])}.",
        "",
        "Use it: `vlood score IN --classes C --method neglabel --negatives THIS_FOLDER`; look into "
        "it: `vlood negatives show THIS_FOLDER`. Closeness is the quantile of a word's cosines "
        "with the classes that it was chosen by: low is far.",
        "",
    ]
    return "\n".join(lines)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _write_terms(path: Path, bank: NegativeBank) -> None:
    cells = {
        "term": list(bank.terms),
        "part_of_speech": list(bank.parts),
        "lex_file": list(bank.lex_files),
        "closeness": bank.closeness.astype(np.float32),
        "template": [_JOINT.join(templates) for templates in bank.templates],
        "source": list(bank.sources),
    }
    _write_columns(path, cells)


def _write_dropped(path: Path, dropped: Sequence[Dropped]) -> None:
    cells = {name: [getattr(each, name) for each in dropped] for name in _DROPPED_COLUMNS}
    _write_columns(path, cells)


def _write_columns(path: Path, cells: Mapping[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = {
        name: column
        if isinstance(column, np.ndarray)
        else pa.array(map(_storable, column), pa.string())
        for name, column in cells.items()
    }
    pq.write_table(pa.table(texts), path)


def _storable(text: str) -> str:
    # The name of a folder that is not UTF-8 holds lone surrogates, which Parquet cannot.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _read_columns(path: Path, names: Sequence[str]) -> dict[str, list[Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=list(names))
    except pa.ArrowException as error:
        raise ValueError(f"{path.name} cannot be read") from error
    return {name: table.column(name).to_pylist() for name in names}


def _write_arrays(path: Path, bank: NegativeBank) -> None:
    from safetensors.numpy import save_file

    arrays: dict[str, NDArray[Any]] = {"permutation": bank.permutation.astype(np.int64)}
    if bank.features is not None:
        arrays["features"] = np.ascontiguousarray(bank.features, np.float32)
    if bank.class_features is not None:
        arrays["class_features"] = np.ascontiguousarray(bank.class_features, np.float32)
    save_file(arrays, path)


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ValueError(f"{path.name} cannot be read") from error


def _damaged(path: Path, what: str) -> UsageError:
    reason = " ".join(what.split())[:160]
    return UsageError(f"{path}: the bank is damaged ({reason}); mine or copy it again")
