"""The folder of a run: what a stopped run needs to go on, bit for bit.

- ``run.json``: what decides the run's course; going on with anything else is refused
- ``state.safetensors``: the tensors, the best ones so far, the optimiser's, and where the run is
- ``training.csv``: its log
- a folder a later stage, with the same files, where a method trains in stages
- ``regions/``: regional maps of the training images, where a method needs them
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vlood.errors import UsageError, VloodError
from vlood.features.atomic import write_atomically

RUN_FILE = "run.json"
STATE_FILE = "state.safetensors"
LOG_FILE = "training.csv"
MAPS_FOLDER = "regions"
_META = "vlood_run"
_SCHEMA = 1


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its state.

    Attributes:
        path: the folder; made when the run begins.
        resume: go on with the run that is there, if there is one.
        log: where the log is written instead of inside the folder, or None.
    """

    path: Path
    resume: bool = False
    log: Path | None = None

    @property
    def log_path(self) -> Path:
        """Return the file of the log."""
        return self.log or self.path / LOG_FILE

    @property
    def maps_path(self) -> Path:
        """Return the folder of regional maps; they say themselves whose they are."""
        return self.path / MAPS_FOLDER

    def stage(self, name: str) -> RunFolder:
        """Return the folder of a later stage of the run, inside this one and going with it."""
        log = None if self.log is None else self.log.with_stem(f"{self.log.stem}.{name}")
        return RunFolder(self.path / name, self.resume, log)

    def check(self, *, overwrite: bool = False) -> None:
        """Refuse a folder that holds another run, before anything slow is done.

        Raises:
            UsageError: an unfinished run is there and is neither resumed nor to be replaced, or
                the place is something else.
        """
        if not self.path.exists():
            return
        if not (self.path / RUN_FILE).is_file():
            if self.path.is_dir() and {one.name for one in self.path.iterdir()} <= {MAPS_FOLDER}:
                return
            raise UsageError(f"{self.path}: is in the way of the run's folder; remove it")
        if not (self.resume or overwrite):
            raise UsageError(
                f"{self.path}: holds a run that was stopped; --resume goes on with it, --overwrite "
                "starts over"
            )

    def begin(self, about: Mapping[str, Any]) -> Saved | None:
        """Start the run, or find where it was stopped.

        Args:
            about: what decides its course; JSON-able.

        Returns:
            The state to go on from, or None at the beginning.

        Raises:
            UsageError: ``resume``, and the run there differs or is damaged.
            VloodError: the place cannot be written.
        """
        wanted = json.loads(json.dumps(about))
        if self.resume and (self.path / RUN_FILE).is_file():
            self._check_same(wanted)
            saved = self.saved()
            if saved is not None:
                return saved
        try:
            if (self.path / RUN_FILE).is_file():
                self._clear()
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / RUN_FILE, (json.dumps(wanted, indent=1) + "\n").encode())
        except OSError as error:
            raise self._cannot_write(error) from error
        return None

    def saved(self) -> Saved | None:
        """Return the state to go on from, or None where there is none or it is not wanted.

        Raises:
            UsageError: it is damaged, or of another version.
        """
        if self.resume and (self.path / STATE_FILE).is_file():
            return self._read()
        return None

    def write(self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """Replace the run's state, in one file and so whole.

        Raises:
            VloodError: the place cannot be written; the state before stays.
        """
        from safetensors.torch import save

        data = save(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            {_META: json.dumps({"schema": _SCHEMA, **about})},
        )
        try:
            write_atomically(self.path / STATE_FILE, data)
        except OSError as error:
            raise self._cannot_write(error) from error

    def remove(self) -> None:
        """Remove the folder of a run that is done."""
        if (self.path / RUN_FILE).is_file():
            shutil.rmtree(self.path, ignore_errors=True)

    def _clear(self) -> None:
        """Remove the run that is there, but for its maps: those of the same views serve again."""
        for one in self.path.iterdir():
            if one.name == MAPS_FOLDER:
                continue
            if one.is_dir() and not one.is_symlink():
                shutil.rmtree(one)
            else:
                one.unlink()

    def _read(self) -> Saved:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path / STATE_FILE, framework="pt") as file:
                about = json.loads((file.metadata() or {})[_META])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise self._damaged() from error
        if about.get("schema") != _SCHEMA:
            raise UsageError(
                f"--resume: {self.path} was written by another version of vlood; use that one, or "
                "--overwrite to start over"
            )
        return Saved(tensors, about)

    def _check_same(self, wanted: Mapping[str, Any]) -> None:
        try:
            stored = json.loads((self.path / RUN_FILE).read_bytes())
        except (OSError, ValueError) as error:
            raise self._damaged() from error
        if stored == wanted:
            return
        differing = differences(stored, wanted)
        raise UsageError(
            f"--resume: {self.path} was started with something else ({', '.join(differing)[:200]} "
            "differ); use the same command, or --overwrite to start over"
        )

    def _damaged(self) -> UsageError:
        return UsageError(f"--resume: {self.path} is damaged; use --overwrite to start over")

    def _cannot_write(self, error: OSError) -> VloodError:
        reason = error.strerror or str(error)
        return VloodError(
            f"{self.path}: the run's state cannot be written ({reason}); free some space or choose "
            "another -o, then go on with --resume"
        )


@dataclass(frozen=True, eq=False)
class Saved:
    """A run's state: its tensors by name, and where it is."""

    tensors: Mapping[str, torch.Tensor]
    about: Mapping[str, Any]


def differences(one: Any, other: Any, name: str = "") -> list[str]:
    """Name what differs between two JSON values, with dots between levels."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            each
            for key in sorted({*one, *other})
            for each in differences(one.get(key), other.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if one == other else [name or "all"]


class TrainingLog:
    """The log of a run: a row a step, written out together with the run's state.

    Args:
        path: the file.
        step: the step that the run goes on from; rows behind it are removed.

    Raises:
        VloodError: the file cannot be written.
    """

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        self._rows: list[dict[str, Any]] = []
        self._columns: list[str] = []
        self._seconds = 0.0
        kept: list[dict[str, str]] = []
        if step and path.is_file():
            with open(path, encoding="utf-8", newline="") as stream:
                reader = csv.DictReader(stream)
                kept = [row for row in reader if _number(row.get("step")) <= step]
                self._columns = list(reader.fieldnames or [])
        if kept:
            self._seconds = float(kept[-1].get("seconds") or 0)
        self._explained(lambda: write_atomically(path, self._text(kept, header=True)))
        self._started = bool(kept)

    @property
    def seconds(self) -> float:
        """Return how long the run took before it was stopped."""
        return self._seconds

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep a row for the next ``flush``."""
        self._rows.append(dict(row))

    def flush(self) -> None:
        """Append the rows to the file."""
        if not self._rows:
            return
        first = not self._started
        if first:
            self._columns = list(self._rows[0])
        text = self._text(self._rows, header=first)

        def append() -> None:
            with open(self._path, "ab") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())

        self._explained(append)
        self._started, self._rows = True, []

    def _text(self, rows: Sequence[Mapping[str, Any]], *, header: bool) -> bytes:
        if not self._columns:
            return b""
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, extrasaction="ignore", lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()

    def _explained(self, write: Any) -> None:
        try:
            write()
        except OSError as error:
            raise VloodError(
                f"{self._path}: the log cannot be written ({error.strerror or error}); choose "
                "another place with --log"
            ) from error


def without_times(log: bytes) -> bytes:
    """Return a log without its column of seconds: the same run gives the same bytes."""
    rows = list(csv.reader(io.StringIO(log.decode())))
    if not rows or "seconds" not in rows[0]:
        return log
    at = rows[0].index("seconds")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(row[:at] + row[at + 1 :] for row in rows)
    return text.getvalue().encode()


def _number(text: str | None) -> float:
    try:
        return float(text or "inf")
    except ValueError:
        return float("inf")
