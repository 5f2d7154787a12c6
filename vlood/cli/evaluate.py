"""``vlood eval``: how well detectors tell ID from OOD sets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlood.cli import options as opt
from vlood.cli.guard import SOME_UNREADABLE, guarded
from vlood.cli.talk import note, progress, start_logging, warn
from vlood.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vlood.cli.prepare import Source
    from vlood.detector.saved import SavedDetector
    from vlood.engines.evaluating import SetScores
    from vlood.engines.scoring import ScoredBatch
    from vlood.evaluation.metrics import FprMode
    from vlood.evaluation.results import ResultRow

_PANEL = "Classes and method"


@guarded
def evaluate(
    id_inputs: Annotated[
        list[str],
        typer.Option("--id", metavar="IN", help="Known images or embeddings; repeat to join."),
    ],
    ood_inputs: Annotated[
        list[str],
        typer.Option(
            "--ood",
            metavar="[GROUP:][NAME=]IN",
            help="An OOD set; repeat for more. GROUP is near, far or shift; a NAME given twice "
            "joins.",
        ),
    ],
    detector: Annotated[
        list[Path] | None,
        typer.Option(
            help="A saved detector's folder, instead of --method and --classes; repeat to compare.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    save_figures: Annotated[
        bool,
        typer.Option(
            "--save-figures",
            help="Write the figures into the detectors' folders and cards.",
            rich_help_panel="Output",
        ),
    ] = False,
    classes: opt.Classes = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Scores to compare; repeat, or separate by commas; all: every one that gives an "
            "image a score of its own. Default: mcm.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    model: opt.ModelOrOwn = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Folder for results.json, results.csv and pictures.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ] = None,
    format: opt.FormatOption = None,
    id_labels: Annotated[
        Path | None,
        typer.Option(
            help="Labels of --id embeddings (.npy or .txt, one a row), for ID accuracy.",
            rich_help_panel="Input",
            show_default=False,
        ),
    ] = None,
    fpr_mode: Annotated[
        str,
        typer.Option(
            help="canonical, interp or nearest: how FPR at 95 % TPR is read off the curve.",
            rich_help_panel="Statistics",
        ),
    ] = "canonical",
    resamples: Annotated[
        int,
        typer.Option(
            min=0,
            help="Bootstrap resamples of the AUROC interval; 0: none.",
            rich_help_panel="Statistics",
        ),
    ] = 1000,
    negatives: opt.Negatives = None,
    template: opt.Template = None,
    class_embeddings: opt.ClassEmbeddings = None,
    negative_embeddings: opt.NegativeEmbeddings = None,
    logit_scale: opt.LogitScale = None,
    setting: opt.Setting = None,
    root: opt.Root = None,
    fast_decode: opt.FastDecode = False,
    background: opt.Background = "255,255,255",
    device: opt.DeviceOption = opt.Device.auto,
    precision: opt.PrecisionOption = opt.Precision.auto,
    batch_size: opt.BatchSize = 32,
    workers: opt.Workers = None,
    seed: opt.Seed = 0,
    cache: opt.CacheFolder = None,
    no_cache: opt.NoCache = False,
    quiet: opt.Quiet = False,
) -> None:
    """Measure detectors: AUROC, AUPR, FPR95 in both conventions, ID accuracy, intervals.

    Examples:

      vlood eval --classes cifar10 --id test/ --ood near:tin=tin/ --ood far:dtd=dtd/ -o report/

      vlood eval --method mcm,neglabel --classes world --model bundled --id id/ --ood noise/

      vlood eval --detector mine --detector other --id id/ --ood noise/ --save-figures

      vlood eval --class-embeddings names.npy --id a.npy --id-labels labels.npy --ood b=b.npy
    """
    start_logging(quiet)
    from vlood.cli.prepare import (
        ClassOptions,
        ModelOptions,
        ReadOptions,
        check_together,
        check_width,
        detectors_of,
        embedding_width,
        load_model,
        open_cache,
        open_detector,
        refuse_with_detector,
        scored,
        sources_of,
        split_names,
    )
    from vlood.detector.saved import check_backbone
    from vlood.engines.evaluating import collect_scores, compare, result_rows, write_report
    from vlood.engines.scoring import is_stream
    from vlood.prompts.classes import ClassName, label_lookup

    methods = list(dict.fromkeys(split_names(method or ["mcm"])))
    if fpr_mode not in ("canonical", "interp", "nearest"):
        raise UsageError(f"--fpr-mode {fpr_mode}: expected canonical, interp or nearest")
    mode: FprMode = fpr_mode  # type: ignore[assignment]
    if format is opt.Format.parquet:
        raise UsageError("--format parquet: a result has few rows; use jsonl, csv or table")
    if output is not None and output.exists() and not output.is_dir():
        raise UsageError(f"-o {output}: is a file; name a folder for the report")
    folders = detector or []
    held = [open_detector(folder) for folder in folders]
    if held:
        refuse_with_detector(
            {
                "--method": method,
                "--template": template,
                "--class-embeddings": class_embeddings,
                "--negative-embeddings": negative_embeddings,
                "--negatives": negatives,
                "--logit-scale": logit_scale,
                "--set": setting,
            }
        )
        check_together(held, folders)
    elif save_figures:
        raise UsageError("--save-figures: needs --detector, the folders to write into")
    run = ModelOptions(
        model or (held[0].model_name if held else None) or opt.DEFAULT_MODEL,
        device.value,
        precision.value,
        batch_size,
        workers,
        cache,
        no_cache,
    )
    read = ReadOptions(root, False, fast_decode, background)
    known = sources_of(id_inputs)
    sets = {named: sources_of(paths) for named, paths in _ood_sets(ood_inputs).items()}
    sources = [known, *sets.values()]
    if any("-" in source.inputs for source in sources):
        raise UsageError("eval does not read stdin; name files, folders, lists or embeddings")
    for source in sources:
        source.check(read)
    if held:
        wanted = ClassOptions.of_saved(held[0], classes, None, None, folders[0])
    else:
        wanted = ClassOptions.read(
            classes,
            template,
            class_embeddings,
            logit_scale,
            methods,
            setting,
            negatives,
            negative_embeddings,
        )
    if id_labels is not None:
        known = _with_labels(known, id_labels)

    store = open_cache(run)
    needs_model = not (class_embeddings or held)
    needs_model = needs_model or any(one.embeddings is None for one in sources)
    backbone = load_model(run) if needs_model else None
    if held:
        for one, folder in zip(held, folders, strict=True):
            if backbone is not None:
                check_backbone(one, backbone.identity(), f"--detector {folder}")
        detectors = [one.detector for one in held]
        names = [folder.resolve().name for folder in folders]
    else:
        detectors = detectors_of(wanted, backbone, store, quiet=quiet)
        names = [one.method for one in detectors]
    own = [one for one in detectors if not is_stream(one)]
    streaming = len(own) < len(detectors)
    for source in sources:
        if source.embeddings is not None:
            check_width(source.embeddings, source.inputs, embedding_width(detectors[0]))
    named_classes = wanted.side.classes or tuple(map(ClassName.of, detectors[0].class_names))
    index = label_lookup(named_classes)

    def scores_of(source: Source, label: str) -> SetScores:
        total = source.count(read) if sys.stderr.isatty() and not quiet else None
        with progress(label, total, quiet=quiet) as bar:
            batches = scored(source, own, backbone, run, read, store)
            told = _told(batches, bar.advance)
            return collect_scores(told, len(own), index, keep_features=streaming)

    id_name = _set_name(id_inputs[0])
    id_set = scores_of(known, f"ID {id_name}")
    unmatched = id_set.labelled - int((id_set.true >= 0).sum())
    if unmatched:
        warn(
            f"--id: the labels of {unmatched} of {len(id_set)} images are none of the classes; "
            "accuracy is over the others",
            quiet=quiet,
        )
    ood_scores = {named: scores_of(source, f"OOD {named[1]}") for named, source in sets.items()}
    comparisons = compare(
        detectors, id_set, ood_scores, names=names, batch_size=batch_size, seed=seed
    )
    rows = result_rows(comparisons, id_name, fpr_mode=mode, resamples=resamples, seed=seed)
    if output is not None:
        write_report(output, rows, comparisons)
        note(f"report in {output}", quiet=quiet)
    if save_figures:
        _save_figures(held, folders, names, rows)
    _print_rows(rows, format)
    _report_unreadable([id_set, *ood_scores.values()], quiet)


def _save_figures(
    held: list[SavedDetector], folders: list[Path], names: list[str], rows: list[ResultRow]
) -> None:
    """Keep each detector's rows in its folder and on its card."""
    from dataclasses import replace

    from vlood.detector.folder import save_detector

    for saved, folder, name in zip(held, folders, names, strict=True):
        figures = [row.record() for row in rows if row.detector == name]
        save_detector(folder, replace(saved, figures=figures))


def _ood_sets(values: list[str]) -> dict[tuple[str, str], list[str]]:
    """Read ``[GROUP:][NAME=]IN`` values into inputs by (group, name)."""
    from vlood.evaluation.results import GROUPS

    sets: dict[tuple[str, str], list[str]] = {}
    for value in values:
        text, group = value, "-"
        head, colon, rest = value.partition(":")
        if colon and head in GROUPS and not Path(value).exists():
            group, text = head, rest
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists():
            name, path = _set_name(text), text
        if not name or not path:
            raise UsageError(f"--ood {value}: expected [GROUP:][NAME=]IN, e.g. near:tin=tin/")
        sets.setdefault((group, name), []).append(path)
    return sets


def _set_name(path: str) -> str:
    """Name a set after its file or folder."""
    place = Path(path.rstrip("/") or path)
    name = place.stem if place.suffix and not place.is_dir() else place.name
    parent = place.resolve().parent.name
    plain = ("features", "test", "train", "val", "images", "embeddings")
    return f"{parent}/{name}" if name in plain and parent else name or str(path)


def _with_labels(source: Source, path: Path) -> Source:
    """Give the rows of one embedding file the labels of another file."""
    from dataclasses import replace

    from vlood.features.embeddings import read_labels

    if source.embeddings is None or len(source.embeddings) != 1:
        raise UsageError(
            "--id-labels: goes with one --id file of embeddings; images take their labels from "
            "folders or lists"
        )
    labels = read_labels(path)
    stored = source.embeddings[0]
    if len(labels) != len(stored.ids):
        raise UsageError(
            f"--id-labels {path}: {len(labels)} labels for the {len(stored.ids)} rows of "
            f"{source.inputs[0]}; give one a row, in the same order"
        )
    return replace(source, embeddings=[replace(stored, labels=labels)])


def _told(batches: Iterator[ScoredBatch], advance: Callable[[int], None]) -> Iterator[ScoredBatch]:
    for batch in batches:
        advance(len(batch.ids))
        yield batch


def _print_rows(rows: list[ResultRow], format: opt.Format | None) -> None:
    import json

    from vlood.evaluation.results import results_csv

    chosen = format or (opt.Format.table if sys.stdout.isatty() else opt.Format.jsonl)
    if chosen is opt.Format.csv:
        sys.stdout.write(results_csv(rows))
    elif chosen is opt.Format.jsonl:
        for row in rows:
            sys.stdout.write(json.dumps(row.record(), ensure_ascii=True) + "\n")
    else:
        from rich.console import Console

        from vlood.evaluation.table import results_table

        Console(highlight=False).print(results_table(rows))


def _report_unreadable(sets: list[SetScores], quiet: bool) -> None:
    from vlood.engines.records import printable

    unreadable = {path: reason for one in sets for path, reason in one.unreadable.items()}
    if not unreadable:
        return
    for path, reason in list(unreadable.items())[:20]:
        warn(f"{printable(path)}: {printable(reason)}", quiet=quiet)
    warn(f"{len(unreadable)} inputs could not be read and were left out", quiet=quiet)
    raise typer.Exit(SOME_UNREADABLE)
