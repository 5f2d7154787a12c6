"""The files that make up a saved detector: no others leave with it."""

from __future__ import annotations

from pathlib import Path

from vlood.detector.described import read_described
from vlood.detector.folder import CARD_FILE, DETECTOR_FILE


def members_of(source: Path) -> list[str]:
    """Return the names of a detector's own files relative to its folder, sorted.

    What else lies in the folder is left out: nobody has checked that it may be passed on.
    """
    listed = set(read_described(source / DETECTOR_FILE).fields.get("digests") or ())
    listed |= {name for name in (DETECTOR_FILE, CARD_FILE) if (source / name).is_file()}
    return sorted(listed)
