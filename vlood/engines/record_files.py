"""Records in files, of which what is finished survives any interruption.

A file is written beside itself as ``OUT.partial`` and renamed when it is complete; ``--resume``
goes on from what is there.
"""

from __future__ import annotations

import csv
import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from vlood.engines.records import CsvLines, Record, cell, to_json
from vlood.errors import UsageError, VloodError


@dataclass
class FileSink:
    """Records to a file, through ``OUT.partial`` beside it.

    ``fingerprint`` describes everything that decides the records; ``resume`` keeps what an
    interrupted run with the same fingerprint finished.
    """

    path: Path
    format: str
    columns: Sequence[str]
    fingerprint: Mapping[str, Any]
    _file: IO[str] | None = field(default=None, repr=False)

    @property
    def partial(self) -> Path:
        """Return the file that grows during the run."""
        return partial_of(self.path)

    @property
    def _state(self) -> Path:
        return self.path.with_name(self.path.name + ".partial.json")

    def start(self, *, resume: bool, batch_size: int) -> list[Record]:
        """Open the output and return the records that are kept: whole batches only.

        Raises:
            UsageError: the folder does not exist, or ``resume`` finds a run with other settings.
            VloodError: the place cannot be written.
        """
        check_place(self.path)
        kept: list[Record] = []
        with self._explained():
            if resume and self.partial.exists():
                self._check_fingerprint()
                kept = self._whole_batches(batch_size)
            else:
                self._state.write_text(json.dumps(self.fingerprint, sort_keys=True) + "\n")
                self.partial.write_text("")
            self._file = self.partial.open("a", encoding="utf-8", newline="")
        return kept

    def write(self, records: Sequence[Record]) -> None:
        """Append the records."""
        assert self._file is not None
        with self._explained():
            self._file.write("".join(to_json(record) + "\n" for record in records))
            self._file.flush()

    def close(self) -> None:
        """Turn the partial file into the complete one."""
        assert self._file is not None
        with self._explained():
            os.fsync(self._file.fileno())
            self._file.close()
            if self.format == "jsonl":
                self.partial.replace(self.path)
            else:
                self._convert()
            self._state.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Stop here and keep what is finished for ``--resume``."""
        if self._file is not None and not self._file.closed:
            try:
                self._file.close()
            except OSError:
                return

    def _convert(self) -> None:
        temporary = self.path.with_name(self.path.name + ".converting")
        records = read_json_lines(self.partial)
        if self.format == "csv":
            with open(temporary, "w", encoding="utf-8", newline="") as stream:
                sink = CsvLines(stream, self.columns)
                for chunk in _chunks(records, 10_000):
                    sink.write(chunk)
                sink.close()
                os.fsync(stream.fileno())
        else:
            write_parquet(temporary, records, self.columns)
        temporary.replace(self.path)
        self.partial.unlink()

    def _check_fingerprint(self) -> None:
        try:
            stored = json.loads(self._state.read_text())
        except (OSError, ValueError):
            stored = None
        wanted = json.loads(json.dumps(self.fingerprint))
        if stored == wanted:
            return
        changed = [
            name
            for name in wanted
            if not isinstance(stored, dict) or stored.get(name) != wanted[name]
        ]
        raise UsageError(
            f"--resume: {self.partial} was started with other settings ({', '.join(changed)}); "
            "use the same command, or leave --resume out to start over"
        )

    def _whole_batches(self, batch_size: int) -> list[Record]:
        """Cut the partial file after its last whole batch; a torn last line goes with it.

        Batches, not lines: a batch is encoded together, and only the same batches give the same
        bytes as a run that was never stopped.
        """
        kept: list[Record] = []
        ends: list[int] = []
        with open(self.partial, "rb") as stream:
            for line in stream:
                try:
                    record = json.loads(line)
                except ValueError:
                    break
                if not line.endswith(b"\n"):
                    break
                kept.append(record)
                ends.append(stream.tell())
        whole = len(kept) - len(kept) % batch_size
        with open(self.partial, "r+b") as stream:
            stream.truncate(ends[whole - 1] if whole else 0)
        return kept[:whole]

    def _explained(self) -> _ExplainedWrite:
        return _ExplainedWrite(self.path, self.partial)


@dataclass
class _ExplainedWrite:
    """Turn a failing write into one sentence that says what is kept."""

    path: Path
    partial: Path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, OSError):
            return
        kept = f"what is finished is kept in {self.partial}, and --resume goes on from it"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise VloodError(
                f"-o {self.path}: the disk is full; free some space: {kept}"
            ) from error
        reason = error.strerror or str(error)
        raise VloodError(
            f"-o {self.path}: cannot be written ({reason}); choose another place"
        ) from error


def read_json_lines(path: Path) -> Iterator[Record]:
    """Yield the records of a JSON Lines file."""
    with open(path, encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


def read_records(path: Path, format: str) -> Iterator[Record]:
    """Yield what a finished file of records says of path, method, ood and error, whole or flat.

    Flat formats show paths as `path_cell` writes them, and have empty cells for what is absent.
    """
    if format == "jsonl":
        yield from read_json_lines(path)
        return
    for row in _read_csv(path) if format == "csv" else _read_parquet(path):
        record: Record = {"path": row["path"], "method": row["method"]}
        record["ood"] = row["ood"] in (True, "true")
        if row["error"]:
            record["error"] = row["error"]
        yield record


def _read_csv(path: Path) -> Iterator[Record]:
    with open(path, encoding="utf-8", newline="") as stream:
        yield from csv.DictReader(stream)


def _read_parquet(path: Path) -> Iterator[Record]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["path", "method", "ood", "error"]):
            yield from batch.to_pylist()


def check_place(path: Path) -> None:
    """Refuse a place where no file can be.

    Raises:
        UsageError: the folder does not exist, or the place is a folder.
    """
    if not path.parent.is_dir():
        raise UsageError(f"-o {path}: the folder {path.parent} does not exist; make it")
    if path.is_dir():
        raise UsageError(f"-o {path}: is a folder; name a file")


def is_complete(path: Path) -> bool:
    """Say whether an earlier run finished this very file and left nothing to resume."""
    return path.exists() and not partial_of(path).exists()


def partial_of(path: Path) -> Path:
    """Return the file that grows beside `path` during a run."""
    return path.with_name(path.name + ".partial")


def write_parquet(path: Path, records: Iterable[Record], columns: Sequence[str]) -> None:
    """Write records as Parquet, streaming, and flush them to disk."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"score": pa.float64(), "confidence": pa.float64(), "p_value": pa.float64()}
    types["ood"] = pa.bool_()
    schema = pa.schema([(name, types.get(name, pa.string())) for name in columns])
    with open(path, "wb") as stream, pq.ParquetWriter(stream, schema) as writer:
        for chunk in _chunks(records, 10_000):
            rows = [{name: cell(record.get(name)) for name in columns} for record in chunk]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        stream.flush()
        os.fsync(stream.fileno())


def _chunks(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    chunk: list[Record] = []
    for record in records:
        chunk.append(record)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
