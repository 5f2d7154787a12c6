"""Score records and where they go: JSON Lines, CSV, Parquet or a terminal table.

A file is written beside itself as ``OUT.partial`` and renamed when it is complete. What is finished
survives any interruption, and ``--resume`` goes on from it.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from vlood.errors import UsageError, VloodError

FORMATS = ("jsonl", "csv", "parquet", "table")
COLUMNS = ("path", "score", "ood", "label", "confidence", "p_value", "method")
EXPLAIN_COLUMNS = ("top_labels", "nearest_negatives", "explanation")
REGION_COLUMNS = ("deciding_region",)
MEMBER_COLUMNS = ("members",)
HEATMAP_COLUMNS = ("heatmap",)
SIGNIFICANT_DIGITS = 7

Record = dict[str, Any]


@dataclass
class Tally:
    """What a run has met so far; it decides the exit code."""

    records: int = 0
    errors: int = 0
    ood: int = 0

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one record."""
        self.records += 1
        self.errors += "error" in record
        self.ood += bool(record.get("ood"))


class Sink(Protocol):
    """Something that takes records in order."""

    def write(self, records: Sequence[Record]) -> None:
        """Take the next records; they are out of this process when the call returns."""
        ...

    def close(self) -> None:
        """Complete the output."""
        ...


def rounded(value: float) -> float:
    """Round to seven significant digits: all that single precision holds."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def to_json(record: Mapping[str, Any]) -> str:
    """Write a record as one line of JSON.

    A path that is not valid UTF-8 is written with its lone surrogates escaped, so that reading the
    line gives back the very same path.
    """
    line = json.dumps(record, ensure_ascii=False, allow_nan=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        line = json.dumps(record, allow_nan=False)
    return line


def columns_of(
    explain: bool,
    with_errors: bool = True,
    *,
    heatmap: bool = False,
    regions: bool = False,
    members: bool = False,
) -> tuple[str, ...]:
    """Return a flat format's columns; ``regions``, ``members``: what the detector scores with."""
    more = (REGION_COLUMNS if regions else ()) + (MEMBER_COLUMNS if members else ())
    extra = EXPLAIN_COLUMNS + more if explain else ()
    extra += HEATMAP_COLUMNS if heatmap else ()
    return (*COLUMNS, *extra, *(("error",) if with_errors else ()))


@dataclass
class JsonLines:
    """Records to a stream, one JSON object a line."""

    stream: IO[str]

    def write(self, records: Sequence[Record]) -> None:
        """Write and flush the records."""
        self.stream.write("".join(to_json(record) + "\n" for record in records))
        self.stream.flush()

    def close(self) -> None:
        """Flush what is left."""
        self.stream.flush()


@dataclass
class CsvLines:
    """Records to a stream as CSV, a header first."""

    stream: IO[str]
    columns: Sequence[str]
    _started: bool = False

    def write(self, records: Sequence[Record]) -> None:
        """Write and flush the records."""
        text = io.StringIO()
        rows = csv.DictWriter(text, self.columns, extrasaction="ignore", lineterminator="\n")
        if not self._started:
            rows.writeheader()
            self._started = True
        rows.writerows(_flat(record) for record in records)
        self.stream.write(text.getvalue())
        self.stream.flush()

    def close(self) -> None:
        """Write the header of an empty table, if nothing else came."""
        if not self._started:
            self.write([])


@dataclass
class TerminalTable:
    """Records to a terminal: aligned columns that can stream, the path last."""

    stream: IO[str]
    colour: bool = True
    _started: bool = False

    def write(self, records: Sequence[Record]) -> None:
        """Write and flush the records."""
        lines = []
        if not self._started:
            lines.append(f"{'score':>10}  {'ood':<4} {'label':<22} {'conf.':>6}  path")
            self._started = True
        lines.extend(self._line(record) for record in records)
        self.stream.write("".join(line + "\n" for line in lines))
        self.stream.flush()

    def _line(self, record: Record) -> str:
        path = printable(record["path"])
        if "error" in record:
            return self._paint(f"{'error':>10}  {path}: {record['error']}", "31")
        decision = {True: "OOD", False: "ID", None: "-"}[record["ood"]]
        label = _shortened(str(record["label"]), 22)
        figures = (
            f"{record['score']:>10.4f}  {decision:<4} {label:<22} {record['confidence']:>6.3f}"
        )
        line = f"{figures}  {path}"
        if "explanation" in record:
            line += f"\n{'':>12}{printable(record['explanation'])}"
        return self._paint(line, "33") if record["ood"] else line

    def _paint(self, line: str, code: str) -> str:
        return f"\x1b[{code}m{line}\x1b[0m" if self.colour else line

    def close(self) -> None:
        """Flush what is left."""
        self.stream.flush()


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


def path_cell(path: str) -> str:
    """Write a path as flat formats hold it: bytes that are not UTF-8 as backslash escapes."""
    try:
        data = path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # A surrogate that no file name gives, only a list somebody wrote.
        data = path.encode("utf-8", "backslashreplace")
    return data.decode("utf-8", "backslashreplace")


def _read_csv(path: Path) -> Iterator[Record]:
    with open(path, encoding="utf-8", newline="") as stream:
        yield from csv.DictReader(stream)


def _read_parquet(path: Path) -> Iterator[Record]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["path", "method", "ood", "error"]):
            yield from batch.to_pylist()


def write_parquet(path: Path, records: Iterable[Record], columns: Sequence[str]) -> None:
    """Write records as Parquet, streaming, and flush them to disk."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"score": pa.float64(), "confidence": pa.float64(), "p_value": pa.float64()}
    types["ood"] = pa.bool_()
    schema = pa.schema([(name, types.get(name, pa.string())) for name in columns])
    with open(path, "wb") as stream, pq.ParquetWriter(stream, schema) as writer:
        for chunk in _chunks(records, 10_000):
            rows = [{name: _cell(record.get(name)) for name in columns} for record in chunk]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        stream.flush()
        os.fsync(stream.fileno())


def printable(path: str) -> str:
    """Show a path on one line of valid text, whatever bytes and line breaks it holds."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in path_cell(path)
    )


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return path_cell(value)
    return json.dumps(value) if isinstance(value, list | dict) else value


def _flat(record: Record) -> dict[str, Any]:
    flat = {name: _cell(value) for name, value in record.items()}
    return {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in flat.items()
    }


def _chunks(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    chunk: list[Record] = []
    for record in records:
        chunk.append(record)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
