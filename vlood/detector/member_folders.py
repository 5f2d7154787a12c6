"""The detectors inside an ensemble's folder: ``members/NAME``, each a saved detector of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vlood.detector.described import Described

if TYPE_CHECKING:
    from vlood.detector.saved import SavedDetector

MEMBERS_FOLDER = "members"


def write_members(folder: Path, members: Mapping[str, SavedDetector]) -> None:
    """Write the members of an ensemble into its folder, if there are some."""
    from vlood.detector.folder import save_detector

    if members:
        (folder / MEMBERS_FOLDER).mkdir()
    for name, one in members.items():
        save_detector(folder / MEMBERS_FOLDER / name, one)


def read_members(path: Path, described: Described) -> dict[str, SavedDetector]:
    """Read an ensemble's members, in their order; none where there are none.

    Raises:
        UsageError: one is missing or damaged, or its name is no folder's.
    """
    from vlood.detector.folder import load_detector

    names = described.texts("members") if "members" in described.fields else ()
    if len(set(names)) < len(names) or not all(map(is_folder_name, names)):
        raise described.wrong("members", "a list of distinct names of folders")
    return {name: load_detector(path / MEMBERS_FOLDER / name) for name in names}


def is_folder_name(name: str) -> bool:
    """Tell whether a name can be that of a folder inside another."""
    return name not in ("", ".", "..") and not set("/\\\0") & set(name)
