"""``vlood clean``: what is wrong in a labelled training folder."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlood.cli import options as opt
from vlood.cli.guard import SOME_UNREADABLE, guarded
from vlood.cli.talk import note, progress, start_logging, warn, warn_unreadable
from vlood.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vlood.engines.cleaning import Cleaned, Score
    from vlood.methods.contract import Detector
    from vlood.prompts.classes import ClassName

_PANEL = "Classes and method"
_WHAT = "What is suspect"
_SHOWN = 10


class By(str, Enum):
    """What labels are judged by."""

    both = "both"
    images = "images"
    names = "names"


@guarded
def clean(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="FOLDER...",
            help="A folder of class folders, a list of `path label` lines (.txt .csv .jsonl), or "
            "labelled embeddings.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Folder for suspects.csv, suspects.jsonl, keep.txt, drop.txt, page.html and "
            "summary.json.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ] = None,
    keep_list: Annotated[
        Path | None,
        typer.Option(
            help="Write the images that are not suspect, with their labels, to a .txt, .csv or "
            ".jsonl list.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ] = None,
    format: opt.FormatOption = None,
    by: Annotated[
        By,
        typer.Option(
            help="Judge labels by the other images of the classes, by the class names, or by both, "
            "each as far as it explains the labels.",
            rich_help_panel=_WHAT,
        ),
    ] = By.both,
    mislabelled: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Flag a label less than this share as probable as is usual of it; 0: none.",
            rich_help_panel=_WHAT,
        ),
    ] = 0.2,
    outliers: Annotated[
        float,
        typer.Option(
            min=0.1,
            help="Flag images so many robust standard deviations below the median of a class.",
            rich_help_panel=_WHAT,
        ),
    ] = 3.5,
    duplicates: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.01,
            help="Flag pictures so alike; above 1: only the same bytes. Default: 0.9 of pictures, "
            "0.98 of stored embeddings.",
            rich_help_panel=_WHAT,
            show_default=False,
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="The classes, where their names should be other than the labels: a .txt with "
            "LABEL<TAB>PROMPT NAME lines, a library name, ... By default the labels themselves.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Flag images that this method scores low for their class, too; `vlood methods` "
            "lists them.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    negatives: opt.Negatives = None,
    template: opt.Template = None,
    setting: opt.Setting = None,
    model: opt.Model = opt.DEFAULT_MODEL,
    root: opt.Root = None,
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
    """Find wrong labels, out-of-distribution images and duplicates in a labelled folder.

    Nothing is deleted or moved: what to keep is a list.

    Examples:

      vlood clean train/ -o suspects/      (then look at suspects/page.html)

      vlood clean train/ --keep-list good.txt && vlood eval --id good.txt --ood strange/ ...

      vlood clean train/ --by images | jq -r 'select(.problem == "duplicate") | .path'
    """
    start_logging(quiet)
    from vlood.cli.class_options import ClassOptions, detectors_of
    from vlood.cli.model_options import (
        ModelOptions,
        ReadOptions,
        load_model,
        open_cache,
        stream_settings,
    )
    from vlood.cli.sources import check_width, embedding_width, sources_of
    from vlood.engines.cleaning import (
        CleaningSettings,
        check_labels,
        read_images,
        read_stored,
        stored_labels,
    )
    from vlood.engines.cleaning import clean as find
    from vlood.engines.cleaning_folder import check_folder, kept_and_dropped, names_of, write_folder
    from vlood.evaluation.cleaning.keep_lists import check_list_name, list_bytes
    from vlood.evaluation.report_files import write_file
    from vlood.prompts.classes import label_lookup, read_classes

    if format is opt.Format.parquet:
        raise UsageError("--format parquet: is not offered here; use jsonl, csv or table")
    if "-" in inputs:
        raise UsageError("clean does not read stdin: paths there have no labels; give a list file")
    if output is not None:
        check_folder(output)
    if keep_list is not None:
        check_list_name(keep_list, "--keep-list")
    if method is None and (negatives or setting):
        given = "--negatives" if negatives else "--set"
        raise UsageError(f"{given}: has no part without --method; name one, e.g. --method neglabel")
    if method is not None:
        _check_method(method)
    wanted = CleaningSettings(by.value, mislabelled, outliers, duplicates)
    run = ModelOptions(model, device.value, precision.value, batch_size, workers, cache, no_cache)
    read = ReadOptions(root, False, fast_decode, background)
    source = sources_of(inputs)
    if source.embeddings is None:
        items = list(source.items(read))
        labels = [item.label for item in items]
        if any(item.shard is not None for item in items):
            raise UsageError("clean does not read .tar shards: no list can name what is in them")
    else:
        items = []
        labels = [label for one in source.embeddings for label in stored_labels(one)]
    named = read_classes(classes) if classes is not None else _classes_of(labels)
    index = label_lookup(named)
    check_labels(labels, index)
    unlabelled = sum(label is None for label in labels)
    if unlabelled:
        warn(
            f"{unlabelled} of {len(labels)} images have no label; only copies are looked for among "
            "them",
            quiet=quiet,
        )

    store = open_cache(run)
    needs_text = method is not None or by is not By.images
    backbone = load_model(run) if source.embeddings is None or needs_text else None
    text, score = None, None
    if needs_text:
        methods = [method or "mcm"]
        prompts = ClassOptions.read(
            named, template, None, None, methods, setting, negatives=negatives
        )
        detector = detectors_of(prompts, backbone, store, quiet=quiet)[0]
        text = detector.tensors["class_features"]
        score = None if method is None else _score_of(detector)
        if source.embeddings is not None:
            check_width(source.embeddings, source.inputs, embedding_width(detector))
    settings = stream_settings(run, read)
    if source.embeddings is not None:
        data = read_stored(source.embeddings, index, score=score)
    else:
        assert backbone is not None
        with progress("encoding", len(items), quiet=quiet) as bar:
            data = read_images(
                items, index, backbone, settings, cache=store, score=score, advance=bar.advance
            )
    names = [one.name for one in named]
    found = find(data, names, wanted, text=text, decoding=settings.decode, workers=settings.workers)
    if output is not None:
        described = {
            "inputs": inputs,
            "model": model,
            "by": by.value,
            "method": method,
            "mislabelled": mislabelled,
            "outliers": outliers,
            "duplicates": duplicates,
            "evidence_scales": list(found.doubt.scales),
        }
        lacking = write_folder(
            output, found, described, title=names_of(inputs), decoding=settings.decode
        )
        if lacking:
            warn(
                f"{len(lacking)} paths hold a tab or a line break, which keep.txt and drop.txt "
                "cannot; keep.jsonl and drop.jsonl are complete",
                quiet=quiet,
            )
        note(f"results in {output}; look at {output / 'page.html'}", quiet=quiet)
    if keep_list is not None:
        write_file(keep_list, list_bytes(kept_and_dropped(found)[0], keep_list.suffix.lower()))
    _print(found, format)
    _conclude(found, quiet)


def _classes_of(labels: Sequence[str | None]) -> tuple[ClassName, ...]:
    from vlood.prompts.classes import ClassName

    return tuple(map(ClassName.of, sorted({label for label in labels if label is not None})))


def _check_method(name: str) -> None:
    """Refuse a method that scores by more than an image's own embedding."""
    from vlood.methods import registry

    method = registry.get(name)
    if method.stream is not None or "local" in method.record.needs:
        raise UsageError(
            f"--method {name}: needs more than an image's own embedding; take mcm, max-logit, "
            "energy or neglabel"
        )


def _score_of(detector: Detector) -> Score:
    from vlood.backbone.image_features import ImageFeatures
    from vlood.methods import registry

    return lambda raw: registry.score(detector, ImageFeatures(raw=raw)).score


def _print(found: Cleaned, format: opt.Format | None) -> None:
    from vlood.engines.cleaning import COLUMNS
    from vlood.engines.records import CsvLines, JsonLines

    chosen = format or (opt.Format.table if sys.stdout.isatty() else opt.Format.jsonl)
    if chosen is opt.Format.table:
        _print_table(found)
        return
    sink = JsonLines(sys.stdout) if chosen is opt.Format.jsonl else CsvLines(sys.stdout, COLUMNS)
    sink.write(list(found.records()))
    sink.close()


def _print_table(found: Cleaned) -> None:
    """Show the most certain suspects of each problem."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from vlood.engines.printable import printable
    from vlood.evaluation.cleaning.suspects import PROBLEMS

    console = Console(highlight=False)
    for problem in PROBLEMS:
        own = [one for one in found.suspects if one.problem == problem]
        if not own:
            continue
        copies = problem == "duplicate"
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
        table.title = Text(f"{problem}: {len(own)}")
        table.add_column("severity", justify="right", no_wrap=True)
        table.add_column("label", overflow="fold")
        if problem != "ood":
            table.add_column("copy of" if copies else "suggested", overflow="fold")
        table.add_column("path", overflow="fold")
        for one in own[:_SHOWN]:
            record = found.record(one)
            label = (record["label"] or "-") + (" (conflict)" if one.conflict else "")
            other = record["duplicate_of"] if copies else record["suggested_label"]
            cells = [f"{one.severity:.2f}", label, record["path"]]
            if problem != "ood":
                cells.insert(2, other or "-")
            table.add_row(*(Text(printable(cell)) for cell in cells))
        if len(own) > _SHOWN:
            more = f"and {len(own) - _SHOWN} more: -o DIR or --format jsonl have all"
            table.caption = Text(more)
        console.print(table)
    console.print(_sentence(found))


def _sentence(found: Cleaned) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in found.counts.items())
    return f"{len(found.suspects)} of {len(found.data.paths)} images are suspect: {counts}"


def _conclude(found: Cleaned, quiet: bool) -> None:
    """Say what was found, and on stderr what could not be read."""
    if not sys.stdout.isatty():
        note(_sentence(found), quiet=quiet)
    errors = found.data.errors
    warn_unreadable(errors, f"{len(errors)} images could not be read", quiet=quiet)
    if errors:
        raise typer.Exit(SOME_UNREADABLE)
