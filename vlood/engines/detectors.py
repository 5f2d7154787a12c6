"""Make zero-shot detectors from class names, or from class embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vlood.errors import UsageError
from vlood.features.cache import FeatureCache
from vlood.features.embeddings import read_embeddings, read_names
from vlood.features.texts import encode_texts
from vlood.methods import registry
from vlood.methods.contract import Detector, make_settings
from vlood.prompts.classes import ClassName
from vlood.prompts.templates import ClassFeatures, class_features

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone


def classes_from_texts(
    classes: Sequence[ClassName],
    templates: Sequence[str],
    backbone: Backbone,
    cache: FeatureCache | None,
) -> ClassFeatures:
    """Encode the class names with every template and average."""
    return class_features(lambda texts: encode_texts(texts, backbone, cache), classes, templates)


def classes_from_files(paths: Sequence[Path], classes: Sequence[ClassName] | None) -> ClassFeatures:
    """Read class embeddings from files, joined in order; ``classes`` picks rows by name.

    Raises:
        UsageError: the files' widths differ, or a class is not among their names.
    """
    names: list[str] = []
    rows = []
    for path in paths:
        embeddings = read_embeddings(path)
        file_names = embeddings.labels or read_names(path)
        if len(file_names) != len(embeddings.ids):
            raise UsageError(
                f"--class-embeddings {path}: {len(embeddings.ids)} rows but {len(file_names)} "
                "names; put one name a line in a .txt beside it"
            )
        names.extend(file_names)
        rows.append(np.asarray(embeddings.features, np.float32))
    widths = sorted({block.shape[1] for block in rows})
    if len(widths) > 1:
        raise UsageError(f"--class-embeddings: files of different widths {widths} cannot be joined")
    features = np.concatenate(rows)
    if classes is not None:
        features = features[_rows_of(classes, names)]
        names = [one.name for one in classes]
    return ClassFeatures.of(names, features)


def fit_zero_shot(
    methods: Sequence[str],
    classes: ClassFeatures,
    logit_scale: float,
    settings: Mapping[str, str] | None = None,
) -> list[Detector]:
    """Fit each named method to the classes.

    Raises:
        UsageError: a method does not exist, needs more than class names, or lacks a setting.
    """
    detectors = []
    for name in methods:
        method = registry.get(name)
        missing = [need for need in method.record.needs if need not in ("classes", "local")]
        if missing:
            raise UsageError(
                f"--method {name}: needs {' and '.join(missing)}, not only class names; "
                "`vlood methods` says what each method needs"
            )
        chosen = make_settings(method, settings or {})
        detectors.append(method.fit(classes, chosen, logit_scale))
    return detectors


def _rows_of(classes: Sequence[ClassName], names: Sequence[str]) -> list[int]:
    """Find each class among the names of an embedding file, by its name or its prompt name."""
    row_of = {_folded(name): row for row, name in reversed(list(enumerate(names)))}
    rows, absent = [], []
    for one in classes:
        row = row_of.get(_folded(one.name), row_of.get(_folded(one.prompt)))
        if row is None:
            absent.append(one.name)
        else:
            rows.append(row)
    if absent:
        raise UsageError(
            f"--classes: {len(absent)} of {len(classes)} are not among the names of "
            f"--class-embeddings: {', '.join(absent[:5])}"
        )
    return rows


def _folded(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())
