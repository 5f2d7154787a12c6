"""Where the records of ``vlood score`` go: the format, the file, and what a run leaves behind."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vlood.cli import options as opt
from vlood.cli.guard import OOD_FOUND, SOME_UNREADABLE
from vlood.cli.talk import note, warn
from vlood.errors import UsageError

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone
    from vlood.cli.class_options import ClassOptions
    from vlood.cli.model_options import ModelOptions, ReadOptions
    from vlood.cli.sources import Source
    from vlood.engines.heatmaps import Heatmaps
    from vlood.engines.records import Record, Sink, Tally
    from vlood.methods.contract import Detector


def chosen_format(output: Path | None, format: opt.Format | None) -> str:
    """Return the format asked for, or the one that fits the place.

    Raises:
        UsageError: there can be no such file, or the format is not for the place.
    """
    from vlood.engines.record_files import check_place

    if output is None or _is_stream(output):
        plain = "table" if output is None and sys.stdout.isatty() else "jsonl"
        chosen = plain if format is None else format.value
        if chosen == "parquet":
            raise UsageError("--format parquet: is not for a stream; name a file with -o")
        return chosen
    check_place(output)
    if format is opt.Format.table:
        raise UsageError("--format table: is for a terminal; use jsonl, csv or parquet with -o")
    by_ending = {".csv": "csv", ".parquet": "parquet"}.get(output.suffix.lower(), "jsonl")
    return by_ending if format is None else format.value


def _is_stream(path: Path) -> bool:
    """Say whether a path is a pipe or a device: written as it comes, never renamed over."""
    return path.exists() and not path.is_file() and not path.is_dir()


def open_sink(
    output: Path | None,
    chosen: str,
    columns: tuple[str, ...],
    resume: bool,
    fingerprint: dict[str, object],
    batch_size: int,
    quiet: bool,
) -> tuple[Sink, Tally, list[Record]]:
    """Open where the records go, and return those kept from an interrupted run."""
    from vlood.engines.record_files import FileSink
    from vlood.engines.records import CsvLines, JsonLines, Tally, TerminalTable

    tally = Tally()
    if output is None or _is_stream(output):
        stream = sys.stdout if output is None else output.open("w", encoding="utf-8")
        if chosen == "csv":
            return CsvLines(stream, columns), tally, []
        if chosen == "table":
            return TerminalTable(stream, colour=stream.isatty()), tally, []
        return JsonLines(stream), tally, []
    sink = FileSink(output, chosen, columns, fingerprint)
    kept = sink.start(resume=resume, batch_size=batch_size)
    for record in kept:
        tally.add(record)
    if kept:
        note(f"{len(kept)} finished records kept", quiet=quiet)
    return sink, tally, kept


def is_finished(output: Path) -> bool:
    """Say whether an earlier run wrote this file to its end."""
    from vlood.engines.record_files import is_complete

    return output.is_file() and is_complete(output)


def complete_tally(
    output: Path, format: str, source: Source, read: ReadOptions, method: str
) -> Tally:
    """Count the records of a complete file, after making sure that they are of these inputs."""
    from vlood.engines.printable import path_cell
    from vlood.engines.record_files import read_records
    from vlood.engines.records import Tally

    tally = Tally()
    if source.embeddings is not None:
        paths = (one_id for one in source.embeddings for one_id in one.ids)
    else:
        paths = (item.path for item in source.items(read))
    refusal = UsageError(
        f"--resume: {output} is complete, but of other inputs or another method; leave --resume "
        "out to start over, or name another file"
    )
    try:
        for record in read_records(output, format):
            path = next(paths, None)
            if path is None or record["path"] not in (path, path_cell(path)):
                raise refusal
            if record.get("method") not in (None, "", method):
                raise refusal
            tally.add(record)
    except (ValueError, KeyError, OSError):
        raise refusal from None
    if next(paths, None) is not None:
        raise refusal
    return tally


def fingerprint_of(
    inputs: list[str],
    run: ModelOptions,
    wanted: ClassOptions,
    read: ReadOptions,
    decides: tuple[float | None, float | None],
    explain: bool,
    backbone: Backbone | None,
    detector: Detector,
    saved: Path | None,
) -> dict[str, object]:
    """Describe all that decides the records, so that a resumed run is the same run."""
    from hashlib import blake2b

    from vlood.engines.streaming import arrays_digest
    from vlood.features.checksums import sha256_of_file
    from vlood.methods import registry

    digest = None if saved is None else sha256_of_file(saved / "detector.json")

    side = wanted.side
    described = repr((side.classes, side.templates, detector.class_names, detector.negative_names))
    names = blake2b(described.encode("utf-8", "surrogateescape"), digest_size=16)
    if side.class_embeddings:
        names.update(arrays_digest(registry.identity_arrays(detector)).encode())
    return {
        "inputs": inputs,
        "model": None if backbone is None else backbone.identity(),
        "batch size": run.batch_size,
        "classes": names.hexdigest(),
        "method": [*wanted.methods, wanted.settings, side.logit_scale],
        "reading": repr(read),
        "threshold": decides[0],
        "alpha": decides[1],
        "explain": explain,
        "detector": digest,
    }


def error_line(record: Record) -> str:
    """Say which input could not be read, and why."""
    from vlood.engines.printable import printable

    return f"{printable(record['path'])}: {printable(record['error'])}"


def abandon(sink: Sink, tally: Tally | None) -> None:
    """Keep what is finished; say where it is when a person stopped the run."""
    from vlood.engines.record_files import FileSink

    if not isinstance(sink, FileSink):
        if tally is not None:
            warn("stopped")
        return
    sink.abandon()
    if tally is not None:
        warn(
            f"stopped; {tally.records} finished records kept in {sink.partial}: "
            "add --resume to go on"
        )


def finish(tally: Tally, fail_on_ood: bool, quiet: bool) -> None:
    """Sum up, and leave with the code that scripts read."""
    if tally.errors:
        warn(f"{tally.errors} of {tally.records} inputs could not be read", quiet=quiet)
    if fail_on_ood and tally.ood:
        raise typer.Exit(OOD_FOUND)
    if tally.errors:
        raise typer.Exit(SOME_UNREADABLE)


def check_heatmap(folder: Path, source: Source) -> None:
    """Refuse heat maps that there cannot be, before anything slow is done.

    Raises:
        UsageError: the inputs are embeddings, or the place is no folder of its own.
    """
    from vlood.engines.heatmaps import check_folder

    if source.embeddings is not None:
        raise UsageError(
            f"--heatmap: {source.inputs[0]} holds embeddings, and there is no picture to draw on; "
            "name the images themselves"
        )
    check_folder(folder, source.inputs)


def heatmaps_of(
    folder: Path,
    limit: int | None,
    detector: Detector,
    backbone: Backbone,
    run: ModelOptions,
    read: ReadOptions,
) -> Heatmaps:
    """Return what draws the pictures."""
    from vlood.cli.model_options import stream_settings
    from vlood.engines.heatmaps import DEFAULT_LIMIT, Heatmaps

    wanted = DEFAULT_LIMIT if limit is None else limit
    return Heatmaps(folder, wanted, detector, backbone, stream_settings(run, read).decode)
