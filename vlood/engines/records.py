"""Score records, and the streams they go to: JSON Lines, CSV or a terminal table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Protocol

from vlood.engines.printable import path_cell, printable

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


def cell(value: Any) -> Any:
    """Return a value as flat formats hold it: lists and objects as JSON."""
    if isinstance(value, str):
        return path_cell(value)
    return json.dumps(value) if isinstance(value, list | dict) else value


def _flat(record: Record) -> dict[str, Any]:
    flat = {name: cell(value) for name, value in record.items()}
    return {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in flat.items()
    }


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
