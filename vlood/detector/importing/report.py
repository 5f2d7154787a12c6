"""What an import found in a file, what it left, and what it made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vlood.detector.saved import SavedDetector

_SHOWN = 5


@dataclass(frozen=True)
class ImportReport:
    """What was in a file; JSON-able.

    Attributes:
        found: the tensors that were used, with their shapes.
        ignored: what else the file holds.
        missing: what files of the format may have and this one has not.
        matched: one sentence: what the tensors were matched to.
        notes: sentences on what a reader should know before using the result.
    """

    found: tuple[str, ...]
    ignored: tuple[str, ...]
    missing: tuple[str, ...]
    matched: str
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    def sentences(self) -> list[str]:
        """Return the report for a person, a sentence a line; long lists are cut short."""
        listed = [
            (f"found {_some(self.found)}", self.found),
            (f"left out {_some(self.ignored)}", self.ignored),
            (f"the file lacks {_some(self.missing)}", self.missing),
        ]
        return [*(text for text, names in listed if names), self.matched, *self.notes]


@dataclass(frozen=True, eq=False)
class Imported:
    """A detector made of a published file, and the report on it."""

    saved: SavedDetector
    report: ImportReport


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
