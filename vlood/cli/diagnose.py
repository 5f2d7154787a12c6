"""``vlood diagnose``: how far apart a model keeps images and texts, before and after tuning."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlood.cli import options as opt
from vlood.cli.guard import SOME_UNREADABLE, guarded
from vlood.cli.talk import note, start_logging, warn, warn_unreadable
from vlood.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vlood.cli.model_options import ModelOptions, ReadOptions
    from vlood.cli.sources import Source
    from vlood.detector.saved import SavedDetector
    from vlood.engines.diagnosing import Diagnosis
    from vlood.engines.training_images import LabelledBatch
    from vlood.prompts.classes import ClassName

_COLUMNS = (
    ("modality_gap", "gap"),
    ("alignment", "alignment"),
    ("uniformity", "uniformity"),
    ("matched_cosine", "cos own"),
    ("unmatched_cosine", "cos others"),
    ("id_accuracy", "accuracy"),
)


@guarded
def diagnose(
    inputs: opt.Inputs,
    classes: opt.Classes = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="A model; repeat for several, the first one is what the others are compared with. "
            f"Default: {opt.DEFAULT_MODEL}, or none with --detector.",
            show_default=False,
        ),
    ] = None,
    detector: Annotated[
        list[Path] | None,
        typer.Option(
            "--detector",
            help="A saved detector, with its own model and class features; repeat for several.",
            show_default=False,
        ),
    ] = None,
    template: opt.Template = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File for the rows, JSON Lines.", show_default=False),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            "--picture",
            help="PNG: where images and texts lie, a panel each, and bars.",
            show_default=False,
        ),
    ] = None,
    root: opt.Root = None,
    null_separated: opt.NullSeparated = False,
    fast_decode: opt.FastDecode = False,
    background: opt.Background = "255,255,255",
    device: opt.DeviceOption = opt.Device.auto,
    precision: opt.PrecisionOption = opt.Precision.auto,
    batch_size: opt.BatchSize = 32,
    workers: opt.Workers = None,
    cache: opt.CacheFolder = None,
    no_cache: opt.NoCache = False,
    quiet: opt.Quiet = False,
) -> None:
    """Measure modality gap, alignment and uniformity of models and detectors, side by side.

    Images in folders of their class (or lists with labels) give all figures; without labels the
    gap and the uniformity remain. A lower gap and uniformity mean that images and texts lie nearer
    to each other; a higher alignment, that an image's own text is nearer than any other.

    Examples:

      vlood diagnose test/ --classes classes.txt

      vlood diagnose test/ --classes classes.txt --model bundled --detector my-cma --picture gap.png

      vlood diagnose test/ --classes c.txt --model ViT-B-32:openai --model ViT-B-16:openai
    """
    start_logging(quiet)
    from vlood.cli.model_options import ModelOptions, ReadOptions
    from vlood.cli.sources import sources_of
    from vlood.engines.records import to_json
    from vlood.features.atomic import write_atomically
    from vlood.prompts.classes import read_classes
    from vlood.prompts.templates import DEFAULT_TEMPLATE, read_templates

    if classes is None:
        raise UsageError("--classes is missing: name the classes whose texts images are held to")
    named = read_classes(classes)
    templates = [text for value in template or [] for text in read_templates(value)]
    read = ReadOptions(root, null_separated, fast_decode, background)
    source = sources_of(inputs)
    if source.embeddings is not None:
        raise UsageError(f"{inputs[0]}: holds embeddings of one model; diagnose takes images")
    if "-" in inputs and len(model or []) + len(detector or []) > 1:
        raise UsageError("-: stdin is read once, and each model sees all images; name files")
    source.check(read)
    run = ModelOptions("", device.value, precision.value, batch_size, workers, cache, no_cache)
    found: list[Diagnosis] = []
    unreadable: dict[str, str] = {}
    texts = tuple(templates or [DEFAULT_TEMPLATE])
    for one in _entrants(model, detector, [each.name for each in named]):
        done, unread = _measured(one, source, named, texts, run, read, quiet)
        found.append(done)
        unreadable |= unread
    rows = [one.record(found[0] if place else None) for place, one in enumerate(found)]
    lines = "".join(to_json(row) + "\n" for row in rows)
    if output is not None:
        write_atomically(output, lines.encode())
    if sys.stdout.isatty():
        _table(found)
    elif output is None:
        sys.stdout.write(lines)
    if found[0].figures.labelled < found[0].figures.images:
        missing = found[0].figures.images - found[0].figures.labelled
        warn(
            f"{missing} of {found[0].figures.images} images have no label that is a class, and "
            "have no part in alignment and accuracy; put images in folders of their class",
            quiet=quiet,
        )
    if picture is not None:
        from vlood.evaluation.modality_plot import Shown, save_modality_picture

        save_modality_picture(
            picture,
            [Shown(one.name, one.images, one.labels, one.texts, one.figures) for one in found],
        )
        note(f"look at {picture}", quiet=quiet)
    images = "image" if len(unreadable) == 1 else "images"
    warn_unreadable(unreadable, f"{len(unreadable)} {images} could not be read", quiet=quiet)
    if unreadable:
        raise typer.Exit(SOME_UNREADABLE)


@dataclass(frozen=True, eq=False)
class _Entrant:
    """A model, and the detector whose it is with its folder, or None."""

    model: str
    saved: SavedDetector | None = None
    folder: Path | None = None


def _entrants(
    models: Sequence[str] | None, folders: Sequence[Path] | None, names: Sequence[str]
) -> list[_Entrant]:
    """Return models, then detectors; the default model where neither is named.

    Raises:
        UsageError: a detector is of other classes, or was made without a model.
    """
    from vlood.cli.saved_detectors import open_detector

    found = [_Entrant(name) for name in models or []]
    for folder in folders or []:
        saved = open_detector(folder)
        own = saved.detector.class_names
        if list(own) != list(names):
            other = sorted({*own} ^ {*names}) or ["their order"]
            raise UsageError(
                f"--detector {folder}: is of {len(own)} classes and --classes names {len(names)}; "
                f"they differ in {other[0]!r}: give the list it was tuned with"
            )
        if saved.model_name is None:
            raise UsageError(
                f"--detector {folder}: was made from embeddings, and names no model to see images "
                "with"
            )
        if "class_features" not in saved.detector.tensors:
            raise UsageError(
                f"--detector {folder}: {saved.detector.method} has no text features of classes to "
                "measure"
            )
        found.append(_Entrant(saved.model_name, saved, folder))
    return found or [_Entrant(opt.DEFAULT_MODEL)]


def _measured(
    one: _Entrant,
    source: Source,
    named: Sequence[ClassName],
    templates: tuple[str, ...],
    run: ModelOptions,
    read: ReadOptions,
    quiet: bool,
) -> tuple[Diagnosis, dict[str, str]]:
    """Measure an entrant; return what could not be read too."""
    from vlood.cli.model_options import load_model, open_cache
    from vlood.cli.sources import labelled
    from vlood.cli.talk import progress
    from vlood.detector.saved import check_backbone
    from vlood.engines.diagnosing import diagnose as measure
    from vlood.engines.diagnosing import see
    from vlood.engines.text_side import classes_from_texts

    own = replace(run, model=one.model)
    backbone, store = load_model(own), open_cache(own)
    if one.saved is not None:
        check_backbone(one.saved, backbone.identity(), f"--detector {one.folder}")
    total = source.count(read) if sys.stderr.isatty() and not quiet else None
    with progress("encoding", total, quiet=quiet) as bar:

        def told() -> Iterator[LabelledBatch]:
            for batch in labelled(source, backbone, own, read, store):
                yield batch
                bar.advance(len(batch.ids))

        seen = see(told(), named)
    if one.saved is None or one.folder is None:
        texts = classes_from_texts(named, templates, backbone, store).features
        return measure(one.model, one.model, seen, texts), seen.unreadable
    done = measure(
        one.folder.resolve().name,
        one.model,
        seen,
        one.saved.detector.tensors["class_features"],
        detector=one.saved.detector,
        folder=str(one.folder),
    )
    return done, seen.unreadable


def _table(found: Sequence[Diagnosis]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    table.add_column("")
    for _, title in _COLUMNS:
        table.add_column(title, justify="right")
    for one in found:
        values = [getattr(one.figures, name) for name, _ in _COLUMNS]
        table.add_row(one.name, *("-" if value is None else f"{value:.3f}" for value in values))
    Console().print(table)
