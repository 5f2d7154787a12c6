"""The card of a saved detector: what a person reads before trusting it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vlood.detector.calibration_report import describe
from vlood.methods import registry

if TYPE_CHECKING:
    from vlood.detector.saved import SavedDetector

_SHOWN = 20
_FIGURES = ("ood", "n_ood", "auroc", "fpr95_id_pos", "fpr95_ood_pos")


def card(saved: SavedDetector) -> str:
    """Describe a detector as Markdown: what it is, how it was made and how good, how to use it."""
    method = registry.get(saved.detector.method)
    record = method.record
    parts = [
        f"# An out-of-distribution detector: {record.title}",
        f"It says of an image how much it looks like one of {len(saved.classes)} known classes. "
        "Its score is higher = more in-distribution.",
        "## What it knows",
        _classes(saved),
        "## How it scores",
        f"{record.summary}: {record.score_note}. From {record.paper} ({record.venue} "
        f"{record.year}, {record.url}).",
        _facts(
            {
                "method": record.name,
                "settings": dict(vars(saved.detector.settings)) or "none",
                "logit scale": f"{saved.detector.logit_scale:.7g}",
                "model": saved.base_model or "none: embeddings alone",
                **_classifier(saved),
                "negatives": len(saved.negatives) or "none",
                "learned": _learned(saved, record.trains),
                "class templates": list(saved.templates) or "none",
                **({"members": _members(saved)} if saved.members else {}),
            }
        ),
        "## Its threshold",
        _threshold(saved),
        "## How good it was",
        _figures(saved),
        "## How it was made",
        _facts(saved.provenance) if saved.provenance else "Nothing was recorded.",
        "## How to use it",
        _use(saved),
        "## Its limits",
        _limits(saved),
    ]
    return "\n\n".join(parts) + "\n"


def _classifier(saved: SavedDetector) -> dict[str, str]:
    """Say which classifier is read beside the model, and whether a copy of it is here."""
    if saved.classifier is None:
        return {}
    found = saved.classifier
    where = "a copy in classifier/" if found.is_copied else f"found at {found.source}"
    named = " ".join(filter(None, (found.identity["kind"], found.identity["architecture"])))
    text = (
        f"{named}, digest {found.identity['weights']}, {found.identity['preprocessing']}; {where}"
    )
    return {"classifier": text}


def _classes(saved: SavedDetector) -> str:
    names = [each.name for each in saved.classes]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    text = f"{', '.join(names[:_SHOWN])}{more}."
    if saved.negatives:
        words = [row.term for row in saved.negatives[:_SHOWN]]
        text += f"\n\nWords that speak against them: {', '.join(words)}"
        text += (
            "." if len(saved.negatives) <= _SHOWN else f" and {len(saved.negatives) - _SHOWN} more."
        )
    return text


def _learned(saved: SavedDetector, trains: bool) -> str:
    if saved.learned is not None:
        trained_by = saved.learned.about.get("format")
        # Some methods are scored in more than one way, and a figure means nothing without which.
        if trained_by in registry.names() and trained_by != saved.detector.method:
            titles = [
                registry.get(name).record.title for name in (trained_by, saved.detector.method)
            ]
            return f"{saved.learned.kind}, trained by {titles[0]} and scored with {titles[1]}"
        return saved.learned.kind
    return "its tensors, on images of these classes" if trains else "nothing"


def _members(saved: SavedDetector) -> str:
    """Name an ensemble's members with their methods and weights."""
    weights = saved.detector.tensors["weights"].tolist()
    told = zip(saved.members.items(), weights, strict=True)
    return ", ".join(
        f"{name} ({one.detector.method}, weight {weight:.3g})" for (name, one), weight in told
    )


def _threshold(saved: SavedDetector) -> str:
    if saved.threshold is not None:
        return f"Images that score below {saved.threshold:.7g} are called OOD: set by hand."
    if saved.calibration is None:
        return "None yet: `vlood calibrate THIS_FOLDER --id IN...` sets it from known images."
    return describe(saved.calibration)


def _figures(saved: SavedDetector) -> str:
    if not saved.figures:
        return "Not measured yet: `vlood eval --detector THIS_FOLDER --id IN --ood IN`."
    lines = [
        "| OOD set | images | AUROC | FPR95, ID positive | FPR95, OOD positive |",
        "|---|---|---|---|---|",
    ]
    for row in saved.figures:
        cells = [_cell(row.get(name)) for name in _FIGURES]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{100 * value:.2f} %"
    return str(value).replace("|", "/")


def _use(saved: SavedDetector) -> str:
    inputs = "photos/" if saved.backbone is not None else "embeddings.npy"
    return (
        f"```sh\nvlood score {inputs} --detector THIS_FOLDER\n```\n\n```python\nimport vlood\n\n"
        f'detector = vlood.load("THIS_FOLDER")\nprint(detector.score(["{inputs}"]).score)\n```'
    )


def _limits(saved: SavedDetector) -> str:
    limits = [
        "A score compares images with each other; it is no probability.",
        "It holds for the model named above, its preprocessing and this class list alone.",
    ]
    if registry.get(saved.detector.method).record.stream:
        limits.append("An image's score depends on the images scored before it.")
    if saved.calibration is None:
        limits.append("Without calibration it decides nothing.")
    else:
        limits.append(
            "Its threshold and p-values hold for images of the kind it was calibrated on; "
            "calibrate again when the camera, the crop or the source changes."
        )
    return "\n".join(f"- {limit}" for limit in limits)


def _facts(facts: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name}: {_fact(value)}" for name, value in facts.items())


def _fact(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and len(value) > _SHOWN:
        return f"{json.dumps(value[:3], ensure_ascii=False)[:-1]}, ...], {len(value)} in all"
    return json.dumps(value, ensure_ascii=False)
