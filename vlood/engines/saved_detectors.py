"""Save what was fitted, calibrate what was saved, apply it again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import numpy as np

from vlood import __version__
from vlood.detector.calibration import Calibration, calibrate, set_digest
from vlood.detector.saved import SavedDetector
from vlood.engines.fitted import Fitted
from vlood.engines.mining import Encoder
from vlood.engines.scoring import ScoredBatch
from vlood.errors import UsageError
from vlood.prompts.classes import ClassName


def saved_from(
    fitted: Fitted,
    classes: Sequence[ClassName] | None,
    encoder: Encoder | None,
    provenance: Mapping[str, Any],
    *,
    training_log: str | None = None,
) -> SavedDetector:
    """Gather everything a folder holds of a detector that was just fitted."""
    detector = fitted.detector
    trained = {} if fitted.trained is None else fitted.trained.provenance()
    # A tuned model is kept with the detector, under the name of the one it was tuned on.
    own = None if encoder is None else fitted.backbone or encoder.backbone
    rows = () if fitted.negatives is None else fitted.negatives.rows_of(detector.negative_names)
    return SavedDetector(
        detector=detector,
        classes=tuple(classes or map(ClassName.of, detector.class_names)),
        templates=fitted.templates,
        backbone=None if own is None else own.identity(),
        model_name=None if own is None else own.base_name,
        negatives=rows,
        learned=fitted.learned,
        training_log=training_log,
        provenance={"vlood": __version__, **provenance, **trained},
    )


def calibrated(
    saved: SavedDetector,
    batches: Iterable[ScoredBatch],
    *,
    tpr: float = 0.95,
    per_class: bool = False,
    data: Mapping[str, Any] | None = None,
) -> SavedDetector:
    """Set a detector's threshold and p-values from the scores of known images.

    Raises:
        UsageError: no image could be read.
    """
    scores, predicted, unreadable, labels = [], [], 0, set()
    contents: list[bytes] = []
    for batch in batches:
        scores.append(batch.scores[0].score)
        predicted.append(batch.scores[0].label)
        contents.extend(
            blake2b(row.tobytes(), digest_size=16).digest() for row in batch.features.raw
        )
        unreadable += len(batch.errors)
        labels |= {label for label in batch.labels if label is not None}
    values = np.concatenate([np.zeros(0), *scores])
    if not len(values):
        raise UsageError("--id: none of the images could be read")
    about = {
        "images": len(values),
        "unreadable": unreadable,
        "labels": len(labels),
        "digest": set_digest(contents),
        **(data or {}),
    }
    found: Calibration = calibrate(
        values,
        np.concatenate([np.zeros(0, np.int64), *predicted]),
        tpr=tpr,
        per_class=per_class,
        data=about,
    )
    return replace(saved, calibration=found)
