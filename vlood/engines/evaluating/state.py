"""The state of a report's folder: what is in it, what it was made from, and what may go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vlood.engines.evaluating.comparing import Contestant
from vlood.engines.evaluating.sets import EvalSet
from vlood.errors import UsageError, VloodError
from vlood.features.atomic import write_atomically

SCHEMA = 1
RUN_FILE = "run.json"
MODES = ("new", "resume", "append", "overwrite")
_OURS = ("scores", RUN_FILE)


@dataclass(frozen=True)
class Fingerprint:
    """What decides an evaluation's scores.

    Attributes:
        sets: what each set is made of, by name, the ID set first.
        model: identity of the model, or None where all is embeddings.
        reading: how images are decoded and batched.
        detectors: digests by name.
    """

    sets: Mapping[str, Mapping[str, Any]]
    model: Mapping[str, str] | None
    reading: Mapping[str, Any]
    detectors: Mapping[str, str]

    @classmethod
    def of(
        cls,
        sets: Sequence[EvalSet],
        contestants: Sequence[Contestant],
        model: Mapping[str, str] | None,
        reading: Mapping[str, Any],
    ) -> Fingerprint:
        """Gather it."""
        digests = {one.name: one.digest for one in contestants}
        return cls({one.name: one.described() for one in sets}, model, reading, digests)


@dataclass(frozen=True)
class ReportState:
    """What ``run.json`` says.

    Attributes:
        fingerprint: of the latest run.
        contestants: every detector of the report, earlier runs' included.
        complete: whether the latest run came to its end.
        runs: what is known of each run: command, time, versions.
    """

    fingerprint: Fingerprint
    contestants: Sequence[Contestant]
    complete: bool
    runs: Sequence[Mapping[str, Any]] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Write ``run.json``.

        Raises:
            VloodError: the folder cannot be written.
        """
        record = {"schema": SCHEMA, **asdict(self)}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(
                folder / RUN_FILE, (json.dumps(record, indent=1, default=str) + "\n").encode()
            )
        except OSError as error:
            reason = error.strerror or str(error)
            raise VloodError(
                f"-o {folder}: cannot be written ({reason}); choose another folder"
            ) from error


def open_state(
    folder: Path, wanted: Fingerprint, contestants: Sequence[Contestant], mode: str
) -> ReportState:
    """Say how a run begins: the detectors of earlier runs that stay, and the runs so far.

    Args:
        folder: of the report.
        wanted: of this run.
        contestants: of this run.
        mode: ``new`` refuses a folder that holds something; ``resume`` goes on with a stopped run;
            ``append`` adds detectors to a report; ``overwrite`` removes a report first.

    Raises:
        UsageError: the folder is not as the mode needs it.
    """
    held = check_folder(folder, mode)
    if held is None:
        return ReportState(wanted, contestants, complete=False)
    if mode == "overwrite":
        for name in _OURS:
            place = folder / name
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        return ReportState(wanted, contestants, complete=False)
    if mode == "resume":
        changed = _changed(held.fingerprint, wanted, ("sets", "model", "reading", "detectors"))
        if changed:
            raise UsageError(
                f"--resume: {folder} was started with other {changed}; use the same command, or "
                "name another folder"
            )
        return ReportState(wanted, held.contestants, complete=False, runs=held.runs)
    if not held.complete:
        raise UsageError(
            f"--append: the evaluation in {folder} was stopped before its end; finish it with "
            "--resume first"
        )
    # Each run's detectors keep the thresholds that were set for them.
    free = {"calibration": None}
    before = replace(held.fingerprint, reading={**held.fingerprint.reading, **free})
    changed = _changed(
        before, replace(wanted, reading={**wanted.reading, **free}), ("sets", "model", "reading")
    )
    if changed:
        raise UsageError(
            f"--append: {folder} was made with other {changed}; detectors are compared on the "
            "same images read by the same model, so name another folder"
        )
    names = {one.name for one in held.contestants}
    again = next((one.name for one in contestants if one.name in names), None)
    if again is not None:
        raise UsageError(
            f"--append: {folder} has the detector {again} already; leave it out, or name another "
            "folder"
        )
    return ReportState(wanted, [*held.contestants, *contestants], complete=False, runs=held.runs)


def check_folder(folder: Path, mode: str) -> ReportState | None:
    """Return the state of the report in a folder, or None where there is none.

    Raises:
        UsageError: the folder is not as the mode needs it.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"-o {folder}: is a file; name a folder for the report")
    held = _read(folder)
    if held is None and mode == "append":
        raise UsageError(f"--append: {folder} holds no report; leave --append out to make one")
    if held is None and folder.is_dir() and any(folder.iterdir()):
        raise UsageError(
            f"-o {folder}: exists and holds something else than a report; name another folder"
        )
    if held is not None and mode == "new":
        raise UsageError(
            f"-o {folder}: holds a report already; add detectors to it with --append, go on with "
            "--resume, replace it with --overwrite, or name another folder"
        )
    return held


def read_state(folder: Path) -> ReportState:
    """Read what a report's folder says of itself.

    Raises:
        UsageError: there is no report, or its state is damaged or newer than this vlood.
    """
    held = _read(folder)
    if held is None:
        raise UsageError(f"{folder}: holds no report; make one with vlood eval -o FOLDER")
    return held


def _read(folder: Path) -> ReportState | None:
    path = folder / RUN_FILE
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["schema"] > SCHEMA:
            raise UsageError(f"{path}: was written by a newer vlood; update vlood to read it")
        return ReportState(
            Fingerprint(**record["fingerprint"]),
            [_contestant(one) for one in record["contestants"]],
            bool(record["complete"]),
            record["runs"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: is damaged; name another folder and start over") from error


def _contestant(record: Mapping[str, Any]) -> Contestant:
    per_class = {int(label): float(value) for label, value in record["per_class"].items()}
    return Contestant(**{**record, "per_class": per_class})


def _changed(held: Fingerprint, wanted: Fingerprint, parts: Sequence[str]) -> str:
    """Name the parts that differ."""
    now = json.loads(json.dumps(asdict(wanted), default=str))
    before = asdict(held)
    told = {
        "sets": "sets",
        "model": "weights or model",
        "reading": "decoding, batch size, seed or calibration",
    }
    return " and ".join(told.get(part, part) for part in parts if before[part] != now[part])
