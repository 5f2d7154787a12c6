"""What every format tells of a detector, as text: names, method, settings, threshold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vlood.errors import UsageError

if TYPE_CHECKING:
    from vlood.detector.saved import SavedDetector


def threshold_of(saved: SavedDetector) -> float | None:
    """Return the score below which an image is OOD: the one set by hand before the calibrated."""
    if saved.threshold is not None:
        return saved.threshold
    return None if saved.calibration is None else saved.calibration.threshold


def class_thresholds_of(saved: SavedDetector) -> dict[str, float]:
    """Return the thresholds of classes that have their own, by class name."""
    if saved.threshold is not None or saved.calibration is None:
        return {}
    names = saved.detector.class_names
    return {names[row]: value for row, value in saved.calibration.per_class.items()}


def facts_of(saved: SavedDetector) -> dict[str, Any]:
    """Return all that is needed to use a detector's arrays without vlood; JSON-able."""
    detector = saved.detector
    return {
        "kind": "vlood detector, exported",
        "method": detector.method,
        "settings": asdict(detector.settings),
        "logit_scale": detector.logit_scale,
        "class_names": list(detector.class_names),
        "class_prompts": [each.prompt for each in saved.classes],
        "class_templates": list(saved.templates),
        "negative_names": list(detector.negative_names),
        "score": "higher = more in-distribution",
        "threshold": threshold_of(saved),
        "class_thresholds": class_thresholds_of(saved),
        "model": saved.base_model,
        "backbone": None if saved.backbone is None else dict(saved.backbone),
    }


def as_texts(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return facts as the text-only metadata of files hold them: texts as they are, else JSON."""
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in facts.items()
        if value is not None
    }


def lines_of(names: Sequence[str], what: str) -> str:
    """Return names one a line, as lists of them are read back.

    Raises:
        UsageError: a name that would not be read back as it is.
    """
    for name in names:
        if not name.strip() or name != name.strip() or len(name.splitlines()) > 1 or "\t" in name:
            raise UsageError(
                f"{what}: the name {name!r} cannot stand on a line of its own; use --format "
                "safetensors, which keeps any name"
            )
    return "".join(f"{name}\n" for name in names)
