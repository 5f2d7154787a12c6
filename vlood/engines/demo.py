"""The demo: draw the world on disk, find what the bundled model does not know, show the result."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from vlood.backbone.load import load_backbone
from vlood.detector.threshold import threshold_from_id
from vlood.engines.detectors import fit_zero_shot
from vlood.engines.evaluating.collecting import Collected, collect
from vlood.engines.evaluating.comparing import Contestant, Evaluation, comparisons, result_rows
from vlood.engines.evaluating.provenance import provenance
from vlood.engines.evaluating.reporting import Measured, report_inputs, write_figures
from vlood.engines.evaluating.sets import EvalSet
from vlood.engines.records import COLUMNS, FileSink, Record, read_json_lines, rounded
from vlood.engines.scoring import Decision, ScoredBatch, records_of, score_images
from vlood.engines.text_side import classes_from_texts
from vlood.evaluation.contact_sheet import Shown, write_contact_sheet
from vlood.evaluation.report.page import write_report_page
from vlood.evaluation.results import ResultRow
from vlood.features.stream import StreamSettings
from vlood.images import world
from vlood.images.item import ImageItem
from vlood.prompts.classes import label_lookup, read_classes
from vlood.prompts.templates import DEFAULT_TEMPLATE

RECORDED = "energy"
METHODS = ("mcm", "max-logit", "energy", "entropy", "gl-mcm")
PICTURES = 1524
CALIBRATION_PICTURES = 240
_SHIFT = ("blur", 3)
_SHOWN = 16
_RESAMPLES = 200

Advance = Callable[[str, int], None]


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Attributes:
        rows: one evaluation row a method and OOD set.
        called_ood: by set and then method, the share below the method's own threshold, which keeps
            95 % of ID pictures kept apart.
        sizes: pictures in each set.
    """

    rows: list[ResultRow]
    called_ood: Mapping[str, Mapping[str, float]]
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class WorldFolders:
    """Where the sets of the world lie."""

    known: Path
    test: Path
    near: Path
    far: Path
    shifted: Path


def run_demo(out: Path, *, seed: int, device: str, advance: Advance) -> DemoResult:
    """Draw, calibrate, score and evaluate; everything is written below ``out``.

    ``advance`` is told of every few pictures drawn or scored.
    """
    out.mkdir(parents=True, exist_ok=True)
    folders = write_world(out / "world", _told(world_pictures(seed), advance))
    backbone = load_backbone("bundled", device=device)
    classes = read_classes("world")
    features = classes_from_texts(classes, [DEFAULT_TEMPLATE], backbone, None)
    detectors = fit_zero_shot(METHODS, features, backbone.logit_scale)
    settings = StreamSettings(batch_size=64)

    def scored(items: Iterator[ImageItem] | None) -> Iterator[ScoredBatch]:
        for batch in score_images(items or (), backbone, detectors, settings):
            advance("scoring", len(batch.ids))
            yield batch

    calibration = collect(_set("known", "id", folders.known), scored, len(detectors))
    thresholds = [rounded(threshold_from_id(one.scores).value) for one in calibration.judged]
    recorded_one = METHODS.index(RECORDED)
    decision = Decision(thresholds[recorded_one])
    sink = FileSink(out / "records.jsonl", "jsonl", COLUMNS, {})
    sink.start(resume=False, batch_size=settings.batch_size)

    def recorded(items: Iterator[ImageItem] | None) -> Iterator[ScoredBatch]:
        for batch in scored(items):
            chosen = replace(batch, scores=[batch.scores[recorded_one]])
            sink.write(records_of(chosen, detectors[recorded_one], decision))
            yield batch

    sets = [
        _set("12 pictograms", "id", folders.test),
        _set("others", "near", folders.near),
        _set("letters", "far", folders.far),
        _set("blurred", "shift", folders.shifted),
    ]
    test, near, far, shifted = (collect(one, recorded, len(detectors)) for one in sets)
    sink.close()
    note = f"set to keep 95 % of {len(calibration.images):,} other ID images"
    contestants = [
        Contestant(method, method, method, threshold=threshold, threshold_note=note)
        for method, threshold in zip(METHODS, thresholds, strict=True)
    ]
    found = Evaluation(
        test.images,
        {one.images.name: one.images for one in (near, far)},
        contestants,
        {
            (method, one.images.name): judged
            for one in (test, near, far)
            for method, judged in zip(METHODS, one.judged, strict=True)
        },
        label_lookup(classes),
        tuple(one.name for one in classes),
    )
    measured = Measured(result_rows(found, resamples=_RESAMPLES, seed=seed), comparisons(found))
    write_figures(out / "report", found, measured)
    facts = provenance(found, backbone, [], {"bootstrap draws": f"{_RESAMPLES}, seed {seed}"})
    page = report_inputs(
        found, measured, sets[:3], title="The demo's world", provenance=facts, notes=[]
    )
    write_report_page(out / "report" / "report.html", page)
    write_extremes(out / "contact-sheet.png", read_json_lines(out / "records.jsonl"))
    decided: dict[str, Collected] = {
        "the 12 known pictograms": test,
        "the same, blurred": shifted,
        "other pictograms": near,
        "letters, textures, noise": far,
    }
    called = {
        name: {
            method: float((judged.scores < threshold).mean())
            for method, judged, threshold in zip(METHODS, one.judged, thresholds, strict=True)
        }
        for name, one in decided.items()
    }
    rows = list(measured.rows)
    return DemoResult(rows, called, {name: len(one.images) for name, one in decided.items()})


def _set(name: str, group: str, folder: Path) -> EvalSet:
    return EvalSet(name, group, (str(folder),))


def world_pictures(seed: int) -> Iterator[world.WorldImage]:
    """Yield every picture of the demo."""
    yield from world.id_images("train", 20, seed)
    yield from world.id_images("test", 25, seed)
    yield from world.near_images(2, seed)
    yield from world.far_images(16, seed)
    yield from world.shifted_images(*_SHIFT, per_class=25, seed=seed)


def write_world(folder: Path, pictures: Iterable[world.WorldImage]) -> WorldFolders:
    """Write pictures below ``folder`` as PNG files in class folders."""
    for picture in pictures:
        path = folder / picture.path
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.image.save(path, compress_level=1)
    shift, severity = _SHIFT
    return WorldFolders(
        known=folder / "id" / "train",
        test=folder / "id" / "test",
        near=folder / "near",
        far=folder / "far",
        shifted=folder / "shifted" / f"{shift}-{severity}",
    )


def write_extremes(path: Path, records: Iterable[Record]) -> None:
    """Draw the contact sheet of the lowest and the highest scores."""
    scored = [record for record in records if "error" not in record]
    lowest = heapq.nsmallest(_SHOWN, scored, key=lambda record: float(record["score"]))
    highest = heapq.nlargest(_SHOWN, scored, key=lambda record: float(record["score"]))
    rows = [
        ("Least in-distribution: lowest scores, and the class each was taken for", lowest),
        ("Most in-distribution: highest scores", highest),
    ]
    write_contact_sheet(path, [(title, [_shown(one) for one in chosen]) for title, chosen in rows])


def _told(pictures: Iterable[world.WorldImage], advance: Advance) -> Iterator[world.WorldImage]:
    for picture in pictures:
        advance("drawing", 1)
        yield picture


def _shown(record: Record) -> Shown:
    with Image.open(record["path"]) as image:
        picture = image.convert("RGB")
    return Shown(picture, float(record["score"]), str(record["label"]), record["ood"])
