"""Write what was found in a labelled set into a folder: records, lists for a pipeline, a page."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlood import __version__
from vlood.engines.cleaning import COLUMNS, Cleaned
from vlood.engines.printable import printable
from vlood.engines.records import CsvLines, to_json
from vlood.errors import ImageError, UsageError
from vlood.evaluation.cleaning.keep_lists import Entry, list_bytes, unlisted
from vlood.evaluation.cleaning.page import Card, Section, clean_page, data_uri
from vlood.evaluation.cleaning.suspects import PROBLEMS, Suspect
from vlood.evaluation.report_files import write_file
from vlood.images.decode import DecodeSettings, decode

Shorten = Callable[[str], str]

KIND = "vlood clean"
SUMMARY = "summary.json"
_SHOWN = 60
_SHOWN_UNREADABLE = 100
_PICTURE_SIDE = 256
_TITLES = {
    "mislabelled": (
        "Probably mislabelled",
        "Another class is as likely as it is for that class's own images, and the given label is "
        "not. The most certain come first.",
    ),
    "ood": (
        "Out-of-distribution",
        "Unlike the images of every class: remove them, unless they are rare but right.",
    ),
    "unlike-class": (
        "Unlike its own class",
        "Far from the other images of its label, without another class that fits clearly.",
    ),
    "duplicate": (
        "Duplicates",
        "The same picture as one that is kept. Where their labels differ (in colour), at least one "
        "of the two is wrong.",
    ),
}


def check_folder(folder: Path) -> None:
    """Refuse a place for the results that holds something else.

    Raises:
        UsageError: a file, or a folder that is not empty and was not written by ``vlood clean``.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"-o {folder}: is a file; name a folder for the results")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    try:
        held = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        held = None
    if not isinstance(held, dict) or held.get("kind") != KIND:
        raise UsageError(
            f"-o {folder}: holds files that vlood clean did not write; name a new or empty folder"
        )


def summary(found: Cleaned, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a run, JSON-able."""
    images = len(found.data.paths)
    return {
        "kind": KIND,
        "version": __version__,
        "images": images,
        "unreadable": len(found.data.errors),
        "classes": len(found.class_names),
        "suspects": len(found.suspects),
        "kept": images - len(found.suspects),
        **{name: found.counts[name] for name in PROBLEMS},
        "conflicts": sum(one.conflict for one in found.suspects),
        "settings": dict(settings),
    }


def kept_and_dropped(found: Cleaned) -> tuple[list[Entry], list[Entry]]:
    """Return the images to train on and the others, in input order, unreadable ones last.

    Paths of files are absolute, so that a list is good wherever it is read.
    """
    files = found.data.items is not None
    dropped_rows = {one.row for one in found.suspects}
    kept: list[Entry] = []
    dropped: list[Entry] = []
    for row, path in enumerate(found.data.paths):
        place = os.path.abspath(path) if files else path  # noqa: PTH100 - keeps odd names
        (dropped if row in dropped_rows else kept).append((place, found.label(row)))
    for path in found.data.errors:
        dropped.append((os.path.abspath(path) if files else path, None))  # noqa: PTH100
    return kept, dropped


def write_folder(
    folder: Path,
    found: Cleaned,
    settings: Mapping[str, Any],
    *,
    title: str,
    decoding: DecodeSettings | None = None,
) -> list[Entry]:
    """Write records, lists, the page and the summary; return what the ``.txt`` lists lack.

    Files of an earlier run are replaced one by one; nothing else in the folder is touched.

    Raises:
        VloodError: the folder cannot be written.
    """
    records = list(found.records())
    table = io.StringIO()
    rows = CsvLines(table, COLUMNS)
    rows.write(records)
    figures = summary(found, settings)
    lists = dict(zip(("keep", "drop"), kept_and_dropped(found), strict=True))
    lacking = [entry for entries in lists.values() for entry in unlisted(entries)]
    # The summary first: it is what says that the folder is ours, should the rest be cut short.
    write_file(folder / SUMMARY, (json.dumps(figures, indent=2) + "\n").encode())
    write_file(folder / "suspects.csv", table.getvalue().encode())
    write_file(folder / "suspects.jsonl", "".join(to_json(one) + "\n" for one in records).encode())
    for name, entries in lists.items():
        plain = [entry for entry in entries if entry not in set(lacking)]
        write_file(folder / f"{name}.txt", list_bytes(plain, ".txt"))
        if lacking:
            write_file(folder / f"{name}.jsonl", list_bytes(entries, ".jsonl"))
        else:
            (folder / f"{name}.jsonl").unlink(missing_ok=True)
    page = _page(found, figures, title, decoding or DecodeSettings())
    write_file(folder / "page.html", page.encode())
    return lacking


def _page(found: Cleaned, figures: Mapping[str, Any], title: str, decoding: DecodeSettings) -> str:
    fast = DecodeSettings(True, decoding.background, decoding.max_pixels)
    shorten = _shortener(found.data.paths)
    sections = []
    for name in PROBLEMS:
        own = [one for one in found.suspects if one.problem == name]
        cards = [_card(found, one, fast, shorten) for one in own[:_SHOWN]]
        sections.append(Section(name, *_TITLES[name], cards, len(own) - len(cards)))
    unreadable = [(printable(path), printable(why)) for path, why in found.data.errors.items()]
    facts = [
        ("Images", f"{figures['images']:,}"),
        ("Classes", f"{figures['classes']:,}"),
        ("Suspect", f"{figures['suspects']:,}"),
    ]
    shown = unreadable[:_SHOWN_UNREADABLE]
    return clean_page(title, facts, sections, shown, len(unreadable) - len(shown))


def _shortener(paths: Sequence[str]) -> Shorten:
    """Return what leaves out the folder that all paths share, and makes a path printable."""
    try:
        shared = os.path.commonpath([os.path.dirname(path) for path in paths])  # noqa: PTH120
    except ValueError:  # relative and absolute ones, or none
        shared = ""
    return lambda path: printable(path.removeprefix(f"{shared}/") if shared else path)


def _card(found: Cleaned, one: Suspect, decoding: DecodeSettings, shorten: Shorten) -> Card:
    label = printable(found.label(one.row) or "no label")
    beside = None
    if one.duplicate_of >= 0 and one.problem == "duplicate":
        kept = one.duplicate_of
        beside = (shorten(found.data.paths[kept]), _picture(found, kept, decoding))
    return Card(
        path=shorten(found.data.paths[one.row]),
        label=label,
        headline=_headline(found, one, label),
        figures=_figures(found, one, shorten),
        picture=_picture(found, one.row, decoding),
        beside=beside,
        conflict=one.conflict,
    )


def _headline(found: Cleaned, one: Suspect, label: str) -> str:
    if one.problem == "duplicate":
        if not one.conflict:
            return label
        other = printable(found.label(one.duplicate_of) or "no label")
        return f"{label}, the kept copy {other}"
    if one.suggested >= 0 and one.problem == "mislabelled":
        return f"{label} → {printable(found.class_names[one.suggested])}"
    return label


def _figures(found: Cleaned, one: Suspect, shorten: Shorten) -> str:
    doubt = found.doubt
    if one.problem == "mislabelled":
        text = (
            f"{_percent(doubt.confidence[one.row])} → "
            f"{_percent(doubt.suggested_confidence[one.row])} likely"
        )
    elif one.problem == "duplicate":
        text = "the same bytes" if one.exact else f"similarity {one.similarity:.2f}"
    else:
        text = f"{one.severity:.1f} deviations below the median"
        if one.suggested >= 0:
            text += f"; nearest class {printable(found.class_names[one.suggested])}"
    if one.problem != "duplicate" and one.duplicate_of >= 0:
        text += f"; also a duplicate of {shorten(found.data.paths[one.duplicate_of])}"
    return text


def _percent(value: float) -> str:
    return "< 1 %" if value < 0.01 else f"{100 * value:.0f} %"


def _picture(found: Cleaned, row: int, decoding: DecodeSettings) -> str | None:
    if found.data.items is None:
        return None
    try:
        image = decode(found.data.items[row].read(), decoding, draft_side=_PICTURE_SIDE)
    except ImageError:
        return None
    return data_uri(image)


def names_of(inputs: Sequence[str]) -> str:
    """Name a run after its inputs, for the page's title."""
    shown = ", ".join(printable(text.rstrip("/") or text) for text in inputs[:3])
    return shown + (f" and {len(inputs) - 3} more" if len(inputs) > 3 else "")
