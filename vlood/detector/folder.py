"""A saved detector on disk: written whole or not at all, verified when it is read.

- ``detector.json``: what :data:`vlood.detector.schema.FIELDS` lists
- ``tensors.safetensors``: what it compiles to, ``learned.*`` and ``calibration.*``
- ``negatives.parquet``: a row a negative label, in the order of its tensors
- ``negatives.faiss``: the index that explanations look up
- ``classifier/``: the closed-world classifier beside the model, where it is not too large
- ``members/``: the detectors that an ensemble combines, a folder each
- ``adapter/``: a PEFT adapter, where one was tuned
- ``training.csv``: the log of the training loop, where it ran
- ``README.md``: the card
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlood.detector import stored_calibration
from vlood.detector.adapter_files import (
    MARKS,
    has_adapter,
    is_tuned_model,
    read_adapter,
    write_adapter,
)
from vlood.detector.card import card
from vlood.detector.classifier import RecordedClassifier
from vlood.detector.described import Described, read_described
from vlood.detector.member_folders import read_members, write_members
from vlood.detector.saved import Learned, SavedDetector
from vlood.detector.schema import READS_FROM, SCHEMA, up_to_date
from vlood.errors import UsageError, VloodError
from vlood.features.atomic import atomic_folder
from vlood.features.checksums import sha256_of_file
from vlood.methods import registry
from vlood.methods.contract import Detector, Method, make_settings
from vlood.negatives.negative_features import NegativeRow
from vlood.prompts.classes import ClassName

if TYPE_CHECKING:
    from vlood.detector.calibration import Calibration
    from vlood.negatives.index import SearchIndex

DETECTOR_FILE = "detector.json"
TENSORS_FILE = "tensors.safetensors"
NEGATIVES_FILE = "negatives.parquet"
INDEX_FILE = "negatives.faiss"
CARD_FILE = "README.md"
ADAPTER_FOLDER = "adapter"
LOG_FILE = "training.csv"
_LEARNED = "learned."
# CLIP's is 100; what is far beyond any model's leaves the range of single precision.
_MOST_SCALE = 1e9
_CALIBRATION = "calibration."
_COLUMNS = tuple(each.name for each in fields(NegativeRow))


def is_detector(path: Path) -> bool:
    """Tell whether a path is a saved detector's folder."""
    return path.is_dir() and (path / DETECTOR_FILE).is_file()


def check_new(path: Path, *, overwrite: bool = False) -> None:
    """Refuse a place where a detector cannot be written, before anything slow is done.

    Raises:
        UsageError: something else is there, or a detector and ``overwrite`` is not set.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"-o {path}: is a file; name a folder for the detector")
    if path.is_dir() and any(path.iterdir()):
        if not is_detector(path):
            raise UsageError(f"-o {path}: is not empty and no detector; name a new folder")
        if not overwrite:
            raise UsageError(
                f"-o {path}: holds a detector already; use --overwrite, or another folder"
            )


def save_detector(path: Path, saved: SavedDetector, *, adapter: Path | None = None) -> None:
    """Write a detector's folder; what was there is replaced in the last moment.

    Args:
        path: the folder.
        saved: the detector.
        adapter: a folder with a PEFT adapter, copied into it.

    Raises:
        VloodError: the place cannot be written.
    """
    try:
        with atomic_folder(path) as folder:
            _write_tensors(folder / TENSORS_FILE, saved)
            _write_negatives(folder, saved)
            write_members(folder, saved.members)
            if saved.learned is not None and has_adapter(saved.learned):
                write_adapter(folder / ADAPTER_FOLDER, saved.learned)
            elif adapter is not None:
                _copy(adapter, folder / ADAPTER_FOLDER)
            if saved.classifier is not None:
                saved.classifier.write_into(folder)
            if saved.training_log is not None:
                (folder / LOG_FILE).write_bytes(saved.training_log.encode())
            described = _described(saved, _digests(folder))
            text = json.dumps(described, indent=1, ensure_ascii=True, allow_nan=False) + "\n"
            (folder / DETECTOR_FILE).write_text(text, encoding="utf-8")
            (folder / CARD_FILE).write_text(card(saved), "utf-8", "backslashreplace")
    except OSError as error:
        reason = error.strerror or str(error)
        raise VloodError(
            f"-o {path}: cannot be written ({reason}); choose another place"
        ) from error


def adapter_of(path: Path) -> Path | None:
    """Return the PEFT adapter of a detector's folder, to be kept when it is written anew."""
    folder = path / ADAPTER_FOLDER
    return folder if folder.is_dir() else None


def load_detector(path: Path) -> SavedDetector:
    """Read a detector after verifying digests, schema, shapes and values; no model is needed.

    Raises:
        UsageError: it is no detector, is damaged, or needs a newer vlood.
    """
    if not is_detector(path):
        raise UsageError(
            f"{path}: is not a detector's folder; make one with `vlood tune METHOD -o {path}`"
        )
    where = str(path)
    described = up_to_date(read_described(path / DETECTOR_FILE), where)
    _verify(path, described)
    arrays = _read_tensors(path / TENSORS_FILE, where)
    method = registry.get(described.text("method"))
    classes = tuple(ClassName(name, prompt) for name, prompt in described.pairs("classes"))
    if not classes or len({each.name for each in classes}) < len(classes):
        raise described.wrong("classes", "a list of distinct classes")
    negatives = _read_negatives(path, described.whole("negatives"), where)
    members = read_members(path, described)
    detector = Detector(
        method=method.name,
        settings=make_settings(method, described.mapping("settings")),
        class_names=tuple(each.name for each in classes),
        tensors=_compiled(arrays),
        logit_scale=described.number("logit_scale"),
        negative_names=tuple(each.term for each in negatives),
        members={name: one.detector for name, one in members.items()},
    )
    _check_tensors(detector, method, described.whole("width"), where)
    learned = _learned(described, arrays, path)
    return SavedDetector(
        detector=detector,
        classes=classes,
        templates=described.texts("templates"),
        backbone=_backbone(described),
        # What was tuned lies in the folder, wherever that is now.
        model_name=f"tuned:{path}" if is_tuned_model(learned) else described.optional_text("model"),
        negatives=negatives,
        calibration=_calibration(described, arrays, len(classes), where),
        threshold=_threshold(described),
        learned=learned,
        figures=described.objects("figures"),
        provenance=described.mapping("provenance"),
        training_log=_training_log(path, described),
        classifier=RecordedClassifier.read(described, path),
        members=members,
    )


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


def _described(saved: SavedDetector, digests: Mapping[str, str]) -> dict[str, Any]:
    detector = saved.detector
    learned = saved.learned
    return {
        "schema": SCHEMA,
        "reads_from": READS_FROM,
        "kind": "vlood detector",
        "method": detector.method,
        "settings": asdict(detector.settings),
        "logit_scale": detector.logit_scale,
        "classes": [[each.name, each.prompt] for each in saved.classes],
        "templates": list(saved.templates),
        "model": saved.base_model,
        "backbone": None if saved.backbone is None else dict(saved.backbone),
        "classifier": None if saved.classifier is None else saved.classifier.described(),
        "width": saved.width,
        "negatives": len(saved.negatives),
        "members": list(saved.members),
        "learned": None
        if learned is None
        else {
            "kind": learned.kind,
            "about": dict(learned.about),
            "arrays": sorted(learned.arrays),
        },
        "threshold": saved.threshold,
        "calibration": None
        if saved.calibration is None
        else stored_calibration.to_json(saved.calibration),
        "figures": [dict(row) for row in saved.figures],
        "provenance": dict(saved.provenance),
        "digests": dict(digests),
    }


def _write_tensors(path: Path, saved: SavedDetector) -> None:
    from safetensors.numpy import save_file

    arrays = dict(saved.detector.tensors)
    if saved.learned is not None:
        arrays |= {
            _LEARNED + name: array
            for name, array in saved.learned.arrays.items()
            if not name.startswith(MARKS)
        }
    if saved.calibration is not None:
        arrays |= stored_calibration.arrays(saved.calibration)
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)


def _write_negatives(folder: Path, saved: SavedDetector) -> None:
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


def _read_negatives(path: Path, count: int, where: str) -> tuple[NegativeRow, ...]:
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
        raise _damaged(where, f"{NEGATIVES_FILE} cannot be read") from error
    if len(rows) != count:
        raise _damaged(where, f"{NEGATIVES_FILE} holds {len(rows)} rows, not {count}")
    return rows


def _read_tensors(path: Path, where: str) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(where, f"{TENSORS_FILE} cannot be read") from error


def _compiled(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {
        name: array
        for name, array in arrays.items()
        if not name.startswith((_LEARNED, _CALIBRATION))
    }


def _check_tensors(detector: Detector, method: Method, width: int, where: str) -> None:
    """Hold every tensor against the shape and kind its method declares."""
    sizes = {"K": len(detector.class_names), "M": len(detector.negative_names), "D": width}
    if not 0 < detector.logit_scale <= _MOST_SCALE:
        raise _damaged(where, f"logit_scale is not above zero and at most {_MOST_SCALE:g}")
    shapes = method.arrays_of(detector.tensors)
    if set(detector.tensors) != set(shapes):
        differing = sorted(set(detector.tensors) ^ set(shapes))
        raise _damaged(where, f"{method.name} has other tensors ({', '.join(differing)[:100]})")
    for name, wanted in shapes.items():
        array = detector.tensors[name]
        letters = [part for part in wanted.split() if part != "int"]
        whole = wanted.endswith(" int")
        if array.dtype != (np.int64 if whole else np.float32):
            raise _damaged(where, f"{name} holds {array.dtype}")
        if array.ndim != len(letters):
            raise _damaged(where, f"{name} has the shape {array.shape}")
        for letter, length in zip(letters, array.shape, strict=True):
            if sizes.setdefault(letter, length) != length or length == 0:
                raise _damaged(where, f"{name} has the shape {array.shape}")
        if not whole and not np.isfinite(array).all():
            raise _damaged(where, f"{name} holds numbers that are not finite")
    if method.check is not None:
        try:
            method.check(detector)
        except UsageError as error:
            raise _damaged(where, str(error)) from error


def _backbone(described: Described) -> dict[str, str] | None:
    if described.optional_mapping("backbone") is None:
        return None
    return described.mapping_of_texts("backbone")


def _training_log(path: Path, described: Described) -> str | None:
    """Return the log; it was verified with the rest, and one without a digest is not ours."""
    if LOG_FILE not in described.mapping_of_texts("digests"):
        return None
    try:
        return (path / LOG_FILE).read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(str(path), f"{LOG_FILE} cannot be read") from error


def _threshold(described: Described) -> float | None:
    return None if described.fields.get("threshold") is None else described.number("threshold")


def _calibration(
    described: Described, arrays: Mapping[str, NDArray[Any]], classes: int, where: str
) -> Calibration | None:
    stored = described.optional_mapping("calibration")
    if stored is None:
        return None
    own = {name: array for name, array in arrays.items() if name.startswith(_CALIBRATION)}
    try:
        return stored_calibration.from_stored(stored, own, classes=classes)
    except UsageError as error:
        raise _damaged(where, str(error)) from error


def _learned(
    described: Described, arrays: Mapping[str, NDArray[Any]], path: Path
) -> Learned | None:
    if described.optional_mapping("learned") is None:
        return None
    inside = described.inside("learned")
    names = inside.texts("arrays")
    held = {
        name.removeprefix(_LEARNED): array
        for name, array in arrays.items()
        if name.startswith(_LEARNED)
    }
    if any(name.startswith(MARKS) for name in names):
        held |= read_adapter(path / ADAPTER_FOLDER, str(path))
    missing = [name for name in names if name not in held]
    if missing:
        raise inside.wrong("arrays", f"in {TENSORS_FILE} or {ADAPTER_FOLDER} ({missing[0]})")
    kept = {name: held[name] for name in names}
    return Learned(inside.text("kind"), kept, inside.mapping("about"))


def _verify(path: Path, described: Described) -> None:
    """Compare every file with its digest; every needed file must have one."""
    digests = described.mapping_of_texts("digests")
    for name in (TENSORS_FILE, *([NEGATIVES_FILE] if described.whole("negatives") else [])):
        if name not in digests:
            raise described.wrong("digests", f"complete (it lacks {name})")
    for name, digest in digests.items():
        parts = PurePosixPath(name).parts
        if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\0" in name:
            raise described.wrong("digests", f"of files in the folder ({name!r})")
        file = path.joinpath(*parts)
        try:
            good = file.is_file() and sha256_of_file(file) == digest
        except OSError:
            good = False
        if not good:
            raise _damaged(str(path), f"{name} is missing or does not match its digest")


def _digests(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): sha256_of_file(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def _copy(source: Path, target: Path) -> None:
    import shutil

    shutil.copytree(source, target)


def _damaged(where: str, what: str) -> UsageError:
    reason = " ".join(what.split())[:200]
    return UsageError(f"{where}: the detector is damaged ({reason}); copy or make it again")
