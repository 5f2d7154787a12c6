"""The demo: draw the world on disk, find what the bundled model does not know, show the result."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from vlood.backbone.load import load_backbone
from vlood.detector.threshold import threshold_from_id
from vlood.engines.detectors import classes_from_texts, fit_zero_shot
from vlood.engines.evaluating import collect_scores, compare, result_rows, write_report
from vlood.engines.records import COLUMNS, FileSink, Record, read_json_lines, rounded
from vlood.engines.scoring import Decision, ScoredBatch, records_of, score_images
from vlood.evaluation.contact_sheet import Shown, write_contact_sheet
from vlood.evaluation.results import ResultRow
from vlood.features.stream import StreamSettings
from vlood.images import world
from vlood.images.sources import find_images
from vlood.prompts.classes import label_lookup, read_classes
from vlood.prompts.templates import DEFAULT_TEMPLATE

RECORDED = "energy"
METHODS = ("mcm", "max-logit", "energy", "entropy", "gl-mcm")
PICTURES = 1524
CALIBRATION_PICTURES = 240
_SHIFT = ("blur", 3)
_SHOWN = 16

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
    index = label_lookup(classes)

    def scored(folder: Path) -> Iterator[ScoredBatch]:
        for batch in score_images(find_images([str(folder)]), backbone, detectors, settings):
            advance("scoring", len(batch.ids))
            yield batch

    calibration = collect_scores(scored(folders.known), len(detectors), index)
    thresholds = [rounded(threshold_from_id(scores).value) for scores in calibration.scores]
    recorded_one = METHODS.index(RECORDED)
    decision = Decision(thresholds[recorded_one])
    sink = FileSink(out / "records.jsonl", "jsonl", COLUMNS, {})
    sink.start(resume=False, batch_size=settings.batch_size)

    def recorded(folder: Path) -> Iterator[ScoredBatch]:
        for batch in scored(folder):
            chosen = replace(batch, scores=[batch.scores[recorded_one]])
            sink.write(records_of(chosen, detectors[recorded_one], decision))
            yield batch

    test, near, far, shifted = (
        collect_scores(recorded(folder), len(detectors), index)
        for folder in (folders.test, folders.near, folders.far, folders.shifted)
    )
    sink.close()
    sets = {("near", "others"): near, ("far", "letters"): far}
    comparisons = compare(detectors, test, sets)
    rows = result_rows(comparisons, "12 pictograms", resamples=0, seed=seed)
    write_report(out / "report", rows, comparisons)
    write_extremes(out / "contact-sheet.png", read_json_lines(out / "records.jsonl"))
    decided = {
        "the 12 known pictograms": test,
        "the same, blurred": shifted,
        "other pictograms": near,
        "letters, textures, noise": far,
    }
    called = {
        name: {
            method: float((scores < threshold).mean())
            for method, scores, threshold in zip(METHODS, one.scores, thresholds, strict=True)
        }
        for name, one in decided.items()
    }
    return DemoResult(rows, called, {name: len(one) for name, one in decided.items()})


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
