"""A saved detector on disk: written whole or not at all, verified when it is read.

- ``detector.json``: what :data:`vlood.detector.schema.FIELDS` lists
- ``tensors.safetensors``: what it compiles to, ``learned.*`` and ``calibration.*``
- ``negatives.parquet``: a row a negative label, in the order of its tensors
- ``negatives.faiss``: their FAISS index
- ``classifier/``: the closed-world classifier beside the model, where it is not too large
- ``members/``: the detectors that an ensemble combines, a folder each
- ``adapter/``: a PEFT adapter, where one was tuned
- ``training.csv``: the log of the training loop, where it ran
- ``README.md``: the card
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
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
from vlood.detector.integrity import check_tensors, damaged, digests_of, verify
from vlood.detector.member_folders import read_members, write_members
from vlood.detector.negative_rows import NEGATIVES_FILE, read_negatives, write_negatives
from vlood.detector.saved import Learned, SavedDetector
from vlood.detector.schema import READS_FROM, SCHEMA, up_to_date
from vlood.errors import UsageError, VloodError
from vlood.features.atomic import atomic_folder
from vlood.methods import registry
from vlood.methods.contract import Detector, make_settings
from vlood.prompts.classes import ClassName

if TYPE_CHECKING:
    from vlood.detector.calibration import Calibration

DETECTOR_FILE = "detector.json"
TENSORS_FILE = "tensors.safetensors"
CARD_FILE = "README.md"
ADAPTER_FOLDER = "adapter"
LOG_FILE = "training.csv"
_LEARNED = "learned."
_CALIBRATION = "calibration."


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
            write_negatives(folder, saved)
            write_members(folder, saved.members)
            if saved.learned is not None and has_adapter(saved.learned):
                write_adapter(folder / ADAPTER_FOLDER, saved.learned)
            elif adapter is not None:
                _copy(adapter, folder / ADAPTER_FOLDER)
            if saved.classifier is not None:
                saved.classifier.write_into(folder)
            if saved.training_log is not None:
                (folder / LOG_FILE).write_bytes(saved.training_log.encode())
            described = _described(saved, digests_of(folder))
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
    needed = [TENSORS_FILE, *([NEGATIVES_FILE] if described.whole("negatives") else [])]
    verify(path, described, needed)
    arrays = _read_tensors(path / TENSORS_FILE, where)
    method = registry.get(described.text("method"))
    classes = tuple(ClassName(name, prompt) for name, prompt in described.pairs("classes"))
    if not classes or len({each.name for each in classes}) < len(classes):
        raise described.wrong("classes", "a list of distinct classes")
    negatives = read_negatives(path, described.whole("negatives"), where)
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
    check_tensors(detector, method, described.whole("width"), where)
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


def _read_tensors(path: Path, where: str) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(where, f"{TENSORS_FILE} cannot be read") from error


def _compiled(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {
        name: array
        for name, array in arrays.items()
        if not name.startswith((_LEARNED, _CALIBRATION))
    }


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
        raise damaged(str(path), f"{LOG_FILE} cannot be read") from error


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
        raise damaged(where, str(error)) from error


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


def _copy(source: Path, target: Path) -> None:
    import shutil

    shutil.copytree(source, target)
