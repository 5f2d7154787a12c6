"""Write collected images into a folder: a list, records, where they are from, a contact sheet.

collected.txt       path<TAB>label, which --train reads; copied images by their place in here
collected.jsonl     a record an image: label, similarity, confidence, rank, source, seed
collected.npz       features, ids and labels, where the pool was stored embeddings
images/LABEL/...    copied images: those of shards, made ones, or all with --copy
missing.txt         labels without an image
unreadable.jsonl    images that could not be read, and why
contact-sheet.png   the first images of the first labels
provenance.json     how all this was made; ``complete`` is false until it is

"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vlood import __version__
from vlood.engines.collect_labels import Labels
from vlood.engines.collecting import Collected
from vlood.engines.inpainting import NEAR_FOLDER, RECORDS
from vlood.engines.pools import Pool
from vlood.engines.printable import printable
from vlood.engines.records import Record, rounded, to_json
from vlood.engines.synthesis import MADE_FOLDER
from vlood.errors import ImageError, UsageError
from vlood.evaluation.cleaning.keep_lists import Entry, list_bytes, unlisted
from vlood.evaluation.contact_sheet import Shown, write_contact_sheet
from vlood.evaluation.report_files import write_file
from vlood.images.decode import DecodeSettings, decode
from vlood.images.item import ImageItem
from vlood.training.collecting import FILLED, TRUSTED

KIND = "vlood collect"
PROVENANCE = "provenance.json"
IMAGES = "images"
_FILES = (
    *("collected.txt", "collected.jsonl", "collected.npz", "missing.txt", "unreadable.jsonl"),
    *("contact-sheet.png", RECORDS),
)
_SHEET_LABELS, _SHEET_IMAGES = 24, 8
_THUMBNAIL = 112
_ODD = re.compile(r"[^\w.-]+")


@dataclass(frozen=True, eq=False)
class Written:
    """What was written: records by label, and the paths that a ``.txt`` list cannot hold."""

    records: list[Record]
    missing: list[str]
    lacking: list[Entry] = field(default_factory=list)


def check_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a place that holds something else, or an earlier collection nobody spoke of.

    Raises:
        UsageError: naming what is there and what to do.
    """
    if resume and overwrite:
        raise UsageError("--resume and --overwrite: give one of them")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"-o {folder}: is a file; name a folder for the collected images")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    try:
        held = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        held = None
    if not isinstance(held, dict) or held.get("kind") != KIND:
        raise UsageError(
            f"-o {folder}: holds files that vlood collect did not write; name a new or empty folder"
        )
    if not resume and not overwrite:
        state = "a collection" if held.get("complete") else "a collection that was stopped"
        raise UsageError(f"-o {folder}: holds {state}; use --resume, --overwrite or another folder")


def begin(folder: Path, facts: Mapping[str, Any], *, overwrite: bool) -> None:
    """Mark a folder as ours, after emptying it of an earlier collection where that is wanted.

    Nothing that ``vlood collect`` did not write is touched; made images go only with ``overwrite``.
    """
    _write_provenance(folder, {"complete": False, **facts})
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)
    for name in (IMAGES, MADE_FOLDER, NEAR_FOLDER) if overwrite else (IMAGES,):
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)


def complete(folder: Path, facts: Mapping[str, Any]) -> None:
    """Say that a folder holds all it should."""
    _write_provenance(folder, {"complete": True, **facts})


def folder_names(names: Sequence[str]) -> list[str]:
    """Return for each label a folder name that any file system takes, all different."""
    taken: set[str] = set()
    places = []
    for name in names:
        base = _ODD.sub("_", name).strip("._")[:80] or "label"
        place, number = base, 2
        while place.casefold() in taken:
            place, number = f"{base}_{number}", number + 1
        taken.add(place.casefold())
        places.append(place)
    return places


def write_folder(
    folder: Path,
    found: Collected,
    pool: Pool,
    labels: Labels,
    facts: Mapping[str, Any],
    *,
    source: str,
    seeds: Mapping[str, int] | None = None,
    copy: bool = False,
    decoding: DecodeSettings | None = None,
) -> Written:
    """Write everything; ``provenance.json`` last, which says that it is all there.

    Args:
        folder: where.
        found: what was chosen.
        pool: from what.
        labels: for which labels.
        facts: of the run, JSON-able.
        source: what images with a given label are from: ``folder`` or ``synthesis``.
        seeds: of made images, by path.
        copy: copy every image into the folder, not only those that no list can name.
        decoding: how the pictures of the contact sheet are decoded.

    Raises:
        VloodError: the folder cannot be written.
        OSError: an image cannot be copied.
    """
    places = folder_names([each.name for each in labels.names])
    records: list[Record] = []
    for place, (row, label) in enumerate(
        zip(found.candidates.rows.tolist(), found.candidates.labels.tolist(), strict=True)
    ):
        record = _record(found, place, pool, labels, source)
        if pool.stored:
            # An id that names a file is made good wherever the list is read; others stay ids.
            there = os.path.isfile(pool.paths[row])  # noqa: PTH113
            record["path"] = os.path.abspath(pool.paths[row]) if there else pool.paths[row]  # noqa: PTH100
        else:
            item = pool.items[row]
            made = seeds is not None and item.path in seeds
            record["seed"] = seeds[item.path] if made and seeds is not None else None
            if copy or made or item.shard is not None:
                inside = f"{IMAGES}/{places[label]}/{int(found.rank[place]):04d}_{_base(item)}"
                _copy(item, folder / inside)
                origin = os.path.relpath(item.path, folder) if made else item.path
                record |= {"path": inside, "original": origin}
            else:
                record["path"] = os.path.abspath(item.path)  # noqa: PTH100 - keeps odd names
        records.append(record)
    counts = found.counts(len(labels.names))
    missing = [labels.names[label].name for label in labels.wanted.tolist() if not counts[label]]
    entries: list[Entry] = [(one["path"], one["label"]) for one in records]
    lacking = unlisted(entries)
    write_file(
        folder / "collected.txt",
        list_bytes([entry for entry in entries if entry not in set(lacking)], ".txt"),
    )
    write_file(folder / "collected.jsonl", _lines(records))
    if pool.stored:
        write_file(folder / "collected.npz", _arrays(found, pool, records))
    if missing:
        write_file(folder / "missing.txt", "".join(f"{name}\n" for name in missing).encode())
    if pool.errors:
        bad = [{"path": path, "error": reason} for path, reason in pool.errors.items()]
        write_file(folder / "unreadable.jsonl", _lines(bad))
    if not pool.stored and records:
        _write_sheet(folder / "contact-sheet.png", found, pool, labels, decoding)
    _write_provenance(folder, {"complete": True, **facts, **_figures(found, pool, labels, missing)})
    return Written(records, missing, lacking)


def _record(found: Collected, place: int, pool: Pool, labels: Labels, source: str) -> Record:
    pairs = found.candidates
    label, tier = int(pairs.labels[place]), int(pairs.tier[place])
    given = pool.given[int(pairs.rows[place])] >= 0
    basis = "filled" if tier == FILLED else "given" if tier == TRUSTED else "passed"
    if source == "synthesis" and tier == TRUSTED:
        basis = "passed"
    return {
        "path": "",
        "label": labels.names[label].name,
        "side": labels.side(label),
        "similarity": rounded(float(pairs.similarity[place])),
        "confidence": rounded(float(pairs.confidence[place])),
        "rank": int(found.rank[place]),
        "source": source if given else "pool",
        "basis": basis,
        "seed": None,
    }


def _figures(
    found: Collected, pool: Pool, labels: Labels, missing: Sequence[str]
) -> dict[str, Any]:
    counts = found.counts(len(labels.names))
    return {
        "images": len(found.candidates),
        "pool": {
            "images": len(pool),
            "unreadable": len(pool.errors),
            "other_labels": pool.left_out,
            "digest": pool.digest(),
        },
        "copies_left_out": found.copies,
        "index": None if found.index is None else found.index.parameters,
        "labels": [
            {"name": each.name, "prompt": each.prompt, "side": labels.side(label), "images": count}
            for label, (each, count) in enumerate(zip(labels.names, counts.tolist(), strict=True))
        ],
        "missing": list(missing),
        "licences": "unknown: vlood does not know under which licences these images may be used",
    }


def _write_provenance(folder: Path, facts: Mapping[str, Any]) -> None:
    described = {"kind": KIND, "version": __version__, **facts}
    text = json.dumps(described, indent=1, ensure_ascii=True) + "\n"
    write_file(folder / PROVENANCE, text.encode())


def _lines(records: Sequence[Record]) -> bytes:
    return "".join(to_json(one) + "\n" for one in records).encode()


def _arrays(found: Collected, pool: Pool, records: Sequence[Record]) -> bytes:
    data = io.BytesIO()
    chosen = found.candidates.rows
    # Lone surrogates of odd file names cannot be encoded; such an id shows its escapes.
    ids = [printable(one["path"]) for one in records]
    np.savez(
        data,
        features=np.asarray(pool.file.rows()[chosen], np.float32),
        ids=np.array(ids, np.str_),
        labels=np.array([one["label"] for one in records], np.str_),
    )
    return data.getvalue()


def _base(item: ImageItem) -> str:
    stem, suffix = os.path.splitext(os.path.basename(item.path))  # noqa: PTH119, PTH122
    return f"{_ODD.sub('_', stem)[:60] or 'image'}{_ODD.sub('', suffix)[:8]}"


def _copy(item: ImageItem, place: Path) -> None:
    """Copy an image's bytes.

    Raises:
        VloodError: the place cannot be written.
        UsageError: the image has gone since it was encoded.
    """
    try:
        data = item.read()
    except ImageError as error:
        raise UsageError(
            f"{printable(item.path)}: could be read before and now cannot ({error}); run again"
        ) from error
    write_file(place, data)


def _write_sheet(
    path: Path, found: Collected, pool: Pool, labels: Labels, decoding: DecodeSettings | None
) -> None:
    settings = decoding or DecodeSettings()
    fast = DecodeSettings(True, settings.background, settings.max_pixels)
    pairs = found.candidates
    rows = []
    for label in np.unique(pairs.labels)[:_SHEET_LABELS].tolist():
        own = np.flatnonzero(pairs.labels == label)
        shown = []
        for place in own[:_SHEET_IMAGES].tolist():
            item = pool.items[int(pairs.rows[place])]
            try:
                picture = decode(item.read(), fast, draft_side=_THUMBNAIL)
            except ImageError:
                continue
            picture.thumbnail((2 * _THUMBNAIL, 2 * _THUMBNAIL))
            name = printable(os.path.basename(item.path))  # noqa: PTH119
            shown.append(Shown(picture, float(pairs.similarity[place]), name, None))
        rows.append((f"{printable(labels.names[label].name)}: {len(own)}", shown))
    write_contact_sheet(path, rows)
