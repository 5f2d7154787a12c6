"""Saved detectors that options name: opened, and held against what they are used for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlood.errors import UsageError

if TYPE_CHECKING:
    from vlood.detector.saved import SavedDetector


def open_detector(folder: Path) -> SavedDetector:
    """Load a saved detector.

    Raises:
        UsageError: it is none, is damaged, or needs a newer vlood.
    """
    from vlood.detector.folder import load_detector

    return load_detector(folder)


def with_global_prompts_of(saved: SavedDetector, folder: Path | None) -> SavedDetector:
    """Put the prompts of --global-prompts, where it is given, into a Local-Prompt detector.

    Raises:
        UsageError: the two do not fit.
    """
    if folder is None:
        return saved
    from vlood.engines.global_prompts import with_global_prompts

    return with_global_prompts(saved, open_detector(folder), str(folder), option="--global-prompts")


def check_together(held: Sequence[SavedDetector], folders: Sequence[Path]) -> None:
    """Refuse to compare detectors that do not look at the same thing in the same way.

    Raises:
        UsageError: two have the same name, other classes, or another model.
    """
    from vlood.detector.saved import check_backbone, check_class_list

    names = [folder.resolve().name for folder in folders]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"--detector: two folders are named {twice}; rename one to compare them")
    for one, folder in zip(held[1:], folders[1:], strict=True):
        where = f"--detector {folder}"
        check_class_list(one, held[0].classes, where)
        if held[0].backbone is not None and one.backbone is not None:
            check_backbone(one, held[0].backbone, where)


def refuse_with_detector(options: dict[str, object]) -> None:
    """Refuse options that a saved detector has settled."""
    for name, value in options.items():
        if value:
            raise UsageError(f"{name}: is settled by --detector; leave one of them out")


def check_decidable(
    saved: SavedDetector, folder: Path | None, alpha: float | None, must_decide: bool
) -> None:
    """Refuse to decide by a detector that has not been calibrated, or not with enough images."""
    from vlood.detector.calibration import threshold_at_alpha

    decides = saved.calibration is not None or (alpha is None and saved.threshold is not None)
    if not decides and (alpha is not None or must_decide):
        option = "--alpha" if alpha is not None else "--fail-on-ood"
        raise UsageError(
            f"{option}: {folder} is not calibrated; run `vlood calibrate {folder} --id IN...` first"
            + ("" if alpha is not None else ", or give --threshold")
        )
    if saved.calibration is not None and alpha is not None:
        threshold_at_alpha(saved.calibration, alpha)
