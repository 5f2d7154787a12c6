"""Class embeddings that somebody made, with their names: no model is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.detector.importing.report import Imported, ImportReport
from vlood.detector.importing.target import Target
from vlood.errors import UsageError
from vlood.features.checksums import sha256_of_file
from vlood.features.embeddings import Embeddings, read_embeddings
from vlood.features.row_names import read_names
from vlood.methods import registry
from vlood.methods.contract import Method, make_settings
from vlood.prompts.classes import ClassName
from vlood.prompts.templates import ClassFeatures

FORMAT = "embeddings"
_SCALE = 100.0
_SHOWN = 5


def import_embeddings(
    paths: Sequence[Path], target: Target, *, names: Path | None = None, method: str = "mcm"
) -> Imported:
    """Make a zero-shot detector of class embeddings.

    Args:
        paths: files or stores of embeddings, joined in their order.
        target: classes, which pick rows by name and order them, or none to take all; and a model,
            or none.
        names: a name a row, where the files have none and no ``.txt`` beside them.
        method: any that needs class features alone.

    Raises:
        UsageError: there are no names, widths differ, a class is not among the names, or the method
            needs more.
    """
    chosen = _zero_shot(method)
    held = [read_embeddings(path) for path in paths]
    widths = sorted({one.features.shape[1] for one in held})
    if len(widths) > 1:
        raise UsageError(f"{paths[0]}: files of different widths {widths} cannot be joined")
    rows = np.concatenate([one.features for one in held])
    classes, features, dropped = _of_classes(_names(paths, held, names), rows, target)
    scale, notes = _SCALE, ["no model is named: only embeddings of the same one can be scored"]
    if target.has_model:
        if widths[0] != target.backbone.embed_dim:
            raise UsageError(
                f"{paths[0]}: rows have {widths[0]} numbers, but the embeddings of --model "
                f"{target.backbone.name} have {target.backbone.embed_dim}; use the model that made "
                "them"
            )
        scale, notes = target.backbone.logit_scale, []
    ids = ClassFeatures.of([each.name for each in classes], features)
    detector = chosen.fit(ids, make_settings(chosen, {}), scale)
    report = ImportReport(
        found=tuple(
            f"{path.name} {tuple(one.features.shape)}"
            for path, one in zip(paths, held, strict=True)
        ),
        ignored=dropped,
        missing=(),
        matched=f"{len(classes)} class embeddings of {widths[0]} numbers; they score with "
        f"{chosen.name}",
        notes=tuple(notes),
    )
    saved = target.saved(detector, _source(paths), classes=classes)
    return Imported(saved, report)


def _zero_shot(name: str) -> Method:
    method = registry.get(name)
    unmet = [need for need in method.record.needs if need not in ("classes", "local")]
    if unmet or method.record.trains:
        wanted = " and ".join(unmet) or "training"
        raise UsageError(
            f"--method {method.name}: needs {wanted}, not only class embeddings; choose another, "
            f"or use `vlood tune {method.name}`"
        )
    return method


def _names(paths: Sequence[Path], held: Sequence[Embeddings], given: Path | None) -> list[str]:
    """Return a name a row: those given, those in the files, or those beside them."""
    if given is not None:
        return read_names(given, count=sum(len(one) for one in held))
    names = [
        name
        for path, one in zip(paths, held, strict=True)
        for name in (one.labels or read_names(path, count=len(one)))
    ]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{paths[0]}: names {twice!r} more than once; keep one row of each class")
    return names


def _of_classes(
    names: Sequence[str], rows: NDArray[np.float32], target: Target
) -> tuple[tuple[ClassName, ...], NDArray[np.float32], tuple[str, ...]]:
    """Return the classes, their rows, and the names of the rows that no class asked for."""
    if target.given_classes is None:
        return tuple(map(ClassName.of, names)), rows, ()
    row_of = {_folded(name): row for row, name in enumerate(names)}
    found = [
        row_of.get(_folded(each.name), row_of.get(_folded(each.prompt)))
        for each in (target.classes)
    ]
    absent = [each.name for each, row in zip(target.classes, found, strict=True) if row is None]
    if absent:
        raise UsageError(
            f"--classes: {len(absent)} of {len(found)} are not among the names of the embeddings: "
            f"{', '.join(absent[:_SHOWN])}"
        )
    chosen = [row for row in found if row is not None]
    unused = sorted(set(range(len(names))) - set(chosen))
    return target.classes, rows[chosen], tuple(names[row] for row in unused)


def _folded(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _source(paths: Sequence[Path]) -> dict[str, Any]:
    digests = {path.name: sha256_of_file(path) for path in paths if path.is_file()}
    return {
        "imported": FORMAT,
        "files": [path.name for path in paths],
        "files_sha256": digests,
    }
