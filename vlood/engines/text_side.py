"""What is in-distribution, in words or in embeddings, and its text features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vlood.engines.mining import Encoder
from vlood.errors import UsageError
from vlood.features.cache import FeatureCache
from vlood.features.embeddings import read_embeddings
from vlood.features.row_names import read_names
from vlood.features.texts import encode_texts
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


@dataclass(frozen=True)
class TextSide:
    """What is in-distribution, in words or in embeddings.

    Attributes:
        classes: the classes, or None where only embeddings name them.
        templates: those the user chose; none leaves the choice to the method.
        class_embeddings: files of class embeddings, instead of a model.
        logit_scale: the user's, or None.
    """

    classes: tuple[ClassName, ...] | None
    templates: tuple[str, ...] = ()
    class_embeddings: tuple[Path, ...] = ()
    logit_scale: float | None = None

    def names(self) -> tuple[str, ...]:
        """Return the classes' names; those of the embedding files where no list was given.

        Raises:
            UsageError: there are neither.
        """
        if self.classes is not None:
            return tuple(each.name for each in self.classes)
        if not self.class_embeddings:
            raise UsageError("--classes: is missing; name the known classes")
        return classes_from_files(self.class_embeddings, None).names

    def scale(self, encoder: Encoder | None) -> float:
        """Return the factor on cosines: the user's, the model's, or CLIP's 100."""
        if self.logit_scale is not None:
            return self.logit_scale
        if encoder is None or self.class_embeddings:
            return 100.0
        return encoder.backbone.logit_scale


def class_side(side: TextSide, templates: Sequence[str], encoder: Encoder | None) -> ClassFeatures:
    """Read the class embeddings, or encode the class names.

    Raises:
        UsageError: a class embedding of another width than the model, or no model to encode with.
    """
    if side.class_embeddings:
        classes = classes_from_files(side.class_embeddings, side.classes)
        if encoder is not None and classes.features.shape[1] != encoder.backbone.embed_dim:
            raise UsageError(
                f"--class-embeddings: rows have {classes.features.shape[1]} numbers, but the "
                f"embeddings of {encoder.backbone.name} have {encoder.backbone.embed_dim}; use the "
                "model that made them"
            )
        return classes
    if side.classes is None or encoder is None:
        raise UsageError("--classes: need a model to encode them; or give --class-embeddings")
    return classes_from_texts(side.classes, templates, encoder.backbone, encoder.cache)


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
