"""BENCHMARKS.md from the result files."""

from __future__ import annotations

from pathlib import Path

from benches.rendering import page
from benches.results import FOLDER, read_results
from benches.weights import present_weights

INTRODUCTION = Path(__file__).resolve().parent / "introduction.md"
PAGE = Path(__file__).resolve().parents[2] / "BENCHMARKS.md"


def made(folder: Path = FOLDER) -> str:
    """Return the page that the result files give."""
    introduction = INTRODUCTION.read_text(encoding="utf-8")
    return page(introduction, read_results(folder), present_weights())


def write(place: Path = PAGE, folder: Path = FOLDER) -> None:
    """Write the page, at once."""
    aside = place.with_name(f".{place.name}")
    aside.write_text(made(folder), encoding="utf-8")
    aside.replace(place)


def is_current(place: Path = PAGE, folder: Path = FOLDER) -> bool:
    """Tell whether the page is what the files give."""
    return place.is_file() and place.read_text(encoding="utf-8") == made(folder)
