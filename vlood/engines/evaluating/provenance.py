"""Where the figures of a report come from: command, model, data, software, hardware, time."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from vlood import __version__
from vlood.engines.evaluating.comparing import Contestant, Evaluation
from vlood.engines.evaluating.sets import SetImages

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone

_PACKAGES = ("torch", "open_clip_torch", "numpy", "faiss-cpu", "pillow", "scikit-learn")


def run_facts(command: str, started: str, seconds: float, encoded: int) -> dict[str, str]:
    """Return what is known of one run.

    Args:
        command: as it was typed.
        started: UTC, as ISO 8601 has it.
        seconds: how long it took.
        encoded: images the model ran on.
    """
    return {
        "command": command,
        "started": started,
        "seconds": f"{seconds:.1f}",
        "images of the sets encoded": f"{encoded:,}",
        "vlood": __version__,
    }


def provenance(
    found: Evaluation,
    backbone: Backbone | None,
    runs: Iterable[Mapping[str, str]],
    statistics: Mapping[str, str],
) -> dict[str, dict[str, str]]:
    """Return sections of facts for a report.

    Args:
        found: the evaluation.
        backbone: the model that ran, or None.
        runs: facts of each run, the latest last.
        statistics: how figures and intervals were taken.
    """
    latest = list(runs)
    sections: dict[str, dict[str, str]] = {}
    for number, run in enumerate(latest, 1):
        sections["Run" if len(latest) == 1 else f"Run {number}"] = dict(run)
    sections["Statistics"] = dict(statistics)
    if backbone is not None:
        model = {"name": backbone.name, **backbone.identity(), "device": str(backbone.device)}
        sections["Model"] = {name: str(value) for name, value in model.items()}
    if backbone is not None and backbone.classifier is not None:
        beside = backbone.classifier
        facts = {"name": beside.name, **beside.identity(), "classes": ", ".join(beside.names[:20])}
        sections["Classifier"] = facts
    sections["Detectors"] = {one.name: _detector(one) for one in found.contestants}
    every = [found.known, *found.others.values()]
    sections["Sets"] = {one.name: _set(one) for one in every}
    sections["Software"] = {"Python": platform.python_version(), **_versions()}
    sections["Hardware"] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(_cores()),
    }
    return sections


def _detector(one: Contestant) -> str:
    text = f"{one.method}, digest {one.digest}"
    if one.threshold is not None:
        text += f"; threshold {one.threshold:.7g}, {one.threshold_note}"
    return text


def _set(one: SetImages) -> str:
    digest = blake2b("".join(sorted(one.digests)).encode(), digest_size=16).hexdigest()
    shift = "" if one.shift is None else f", shift {one.shift}"
    return f"{len(one):,} images, group {one.group}{shift}, digest of the contents {digest}"


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or "not known"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "not known")


def _cores() -> int:
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1
