"""``vlood import``: what others published becomes vlood's own."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlood import __version__
from vlood.cli import options as opt
from vlood.cli.guard import guarded
from vlood.cli.talk import note, start_logging
from vlood.errors import UsageError

if TYPE_CHECKING:
    from vlood.cli.model_options import ModelOptions
    from vlood.detector.importing.formats import ImportOptions
    from vlood.detector.importing.report import ImportReport
    from vlood.detector.importing.target import Target
    from vlood.negatives.bank import NegativeBank
    from vlood.prompts.classes import ClassName

_FORMAT = "Options of some formats"


class ImportFormat(str, Enum):
    """What can be imported."""

    neglabel_txt = "neglabel-txt"
    cma_npy = "cma-npy"
    synood_labels = "synood-labels"
    coop = "coop"
    locoop = "locoop"
    local_prompt = "local-prompt"
    lapt = "lapt"
    clipn = "clipn"
    cma = "cma"
    cooked_probe = "cooked-probe"
    clip_benchmark = "clip-benchmark"
    embeddings = "embeddings"


class Position(str, Enum):
    """Where a class name stands among learned contexts."""

    end = "end"
    middle = "middle"
    front = "front"


# The options of each format; any other that is given is refused, so that none is without effect.
_LISTS = frozenset({"--classes", "--dedup"})
_DETECTOR = frozenset({"--classes", "--model"})
_TAKES = {
    ImportFormat.neglabel_txt: _LISTS,
    ImportFormat.cma_npy: _LISTS,
    ImportFormat.synood_labels: frozenset({"--classes", "--names"}),
    ImportFormat.coop: _DETECTOR | {"--position"},
    ImportFormat.locoop: _DETECTOR | {"--position"},
    ImportFormat.local_prompt: _DETECTOR | {"--template"},
    ImportFormat.lapt: _DETECTOR | {"--negatives"},
    ImportFormat.clipn: _DETECTOR | {"--template", "--keep-learned"},
    ImportFormat.cma: frozenset({"--architecture"}),
    ImportFormat.cooked_probe: _DETECTOR,
    ImportFormat.clip_benchmark: _DETECTOR,
    ImportFormat.embeddings: _DETECTOR | {"--names", "--method"},
}


@guarded
def import_(
    format: Annotated[
        ImportFormat,
        typer.Argument(
            metavar="FORMAT",
            help="Lists of negatives: neglabel-txt, cma-npy, synood-labels. Detectors: coop, "
            "locoop, local-prompt, lapt, clipn, cooked-probe, clip-benchmark, embeddings. A model: "
            "cma.",
        ),
    ],
    file: Annotated[list[Path], typer.Argument(metavar="FILE...", help="The published file.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of the bank, detector or model.")
    ],
    classes: opt.Classes = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="The model the file was made with: ARCH:TAG, ARCH:FILE, hf-hub:ORG/NAME, "
            f"local-dir:FOLDER or bundled. Default: {opt.DEFAULT_MODEL}; none for embeddings.",
            show_default=False,
        ),
    ] = None,
    position: Annotated[
        Position | None,
        typer.Option(
            help="coop, locoop: where class names stand; by default at the end.",
            show_default=False,
            rich_help_panel=_FORMAT,
        ),
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(
            "--template",
            help="clipn, local-prompt: a prompt with {} for the class, a file or a library name; "
            "repeat to average.",
            show_default=False,
            rich_help_panel=_FORMAT,
        ),
    ] = None,
    negatives: Annotated[
        Path | None,
        typer.Option(
            help="lapt: the bank whose words get the second contexts.",
            show_default=False,
            rich_help_panel=_FORMAT,
        ),
    ] = None,
    names: Annotated[
        Path | None,
        typer.Option(
            help="embeddings, synood-labels: a .txt with a name a row.",
            show_default=False,
            rich_help_panel=_FORMAT,
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="embeddings: the score; by default mcm.",
            show_default=False,
            rich_help_panel=_FORMAT,
        ),
    ] = None,
    keep_learned: Annotated[
        bool,
        typer.Option(
            "--keep-learned",
            help='clipn: also keep the "no" tower, in half precision.',
            rich_help_panel=_FORMAT,
        ),
    ] = False,
    architecture: Annotated[
        str | None,
        typer.Option(
            help="cma: open_clip's name of it; by default ViT-B-16-quickgelu.",
            show_default=False,
            rich_help_panel=_FORMAT,
        ),
    ] = None,
    dedup: Annotated[
        bool,
        typer.Option(
            "--dedup",
            help="Lists: keep a word once; published ones repeat some.",
            rich_help_panel=_FORMAT,
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what was imported there before.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the groups of negatives.")] = 0,
    device: opt.DeviceOption = opt.Device.auto,
    precision: opt.PrecisionOption = opt.Precision.auto,
    cache: opt.CacheFolder = None,
    no_cache: opt.NoCache = False,
    quiet: opt.Quiet = False,
) -> None:
    """Turn a published file into a bank of negatives, a detector or a model; say what was in it.

    Nothing in a file is ever run. Class names are not in published files: give --classes in the
    order of the training, and the --model it was made with.

    Examples:

      vlood import neglabel-txt selected_neg_labels_in1k_10k.txt --classes imagenet-1k -o bank

      vlood import locoop model.pth.tar-50 --classes imagenet-1k -o my-detector

      vlood import lapt best.ckpt --classes imagenet-1k --negatives bank -o my-detector
    """
    start_logging(quiet)
    given = {
        "--classes": classes,
        "--model": model,
        "--position": position,
        "--template": template,
        "--negatives": negatives,
        "--names": names,
        "--method": method,
        "--keep-learned": keep_learned,
        "--architecture": architecture,
        "--dedup": dedup,
    }
    _refuse_others(format, given)
    from vlood.prompts.classes import read_classes

    named = None if classes is None else read_classes(classes)
    if "--model" in _TAKES[format]:
        from vlood.cli.model_options import ModelOptions

        used = model or (None if format is ImportFormat.embeddings else opt.DEFAULT_MODEL)
        run = ModelOptions(used or "", device.value, precision.value, 1, None, cache, no_cache)
        options = _options(position, template, negatives, names, method, keep_learned)
        _detector(format, file, output, _target(named, used, run), options, overwrite=overwrite)
    elif format is ImportFormat.cma:
        _model(_one(format, file), output, architecture, overwrite=overwrite)
    elif format is ImportFormat.synood_labels:
        _labels(_one(format, file), output, names, named or (), overwrite=overwrite, seed=seed)
    else:
        path = _one(format, file)
        _list(format, path, output, named or (), dedup=dedup, overwrite=overwrite, seed=seed)
        note(
            "templates were taken off and are put on again when the words are encoded", quiet=quiet
        )


def _refuse_others(format: ImportFormat, given: dict[str, Any]) -> None:
    for name, value in given.items():
        if value and name not in _TAKES[format]:
            those = ", ".join(sorted(_TAKES[format]))
            raise UsageError(f"{name}: has no meaning for {format.value}, which takes {those}")


def _one(format: ImportFormat, files: Sequence[Path]) -> Path:
    if len(files) != 1:
        raise UsageError(
            f"{len(files)} files were named and {format.value} is one file; only embeddings are "
            "joined from several"
        )
    return files[0]


def _options(
    position: Position | None,
    template: Sequence[str] | None,
    negatives: Path | None,
    names: Path | None,
    method: str | None,
    keep_learned: bool,
) -> ImportOptions:
    from vlood.detector.importing.formats import ImportOptions
    from vlood.prompts.templates import read_templates

    return ImportOptions(
        position=(position or Position.end).value,
        templates=tuple(text for value in template or [] for text in read_templates(value)),
        negatives=None if negatives is None else _bank(negatives),
        names=names,
        method=method or "mcm",
        keep_learned=keep_learned,
    )


def _bank(path: Path) -> NegativeBank:
    from vlood.negatives.bank_folder import is_bank, load_bank

    if not is_bank(path):
        raise UsageError(
            f"--negatives {path}: is no bank; make one with `vlood mine` or `vlood import "
            "neglabel-txt`"
        )
    return load_bank(path)


def _target(classes: tuple[ClassName, ...] | None, model: str | None, run: ModelOptions) -> Target:
    from vlood.cli.model_options import load_model, open_cache
    from vlood.detector.importing.target import Target

    made_by = {"vlood": __version__}
    if model is None:
        return Target(classes, provenance=made_by)
    return Target(
        classes,
        lambda: load_model(run),
        model=model,
        cache=open_cache(run),
        provenance=made_by,
    )


def _detector(
    format: ImportFormat,
    files: Sequence[Path],
    output: Path,
    target: Target,
    options: ImportOptions,
    *,
    overwrite: bool,
) -> None:
    from vlood.detector.folder import check_new, save_detector
    from vlood.detector.importing.formats import import_detector

    check_new(output, overwrite=overwrite)
    made = import_detector(format.value, files, target, options)
    save_detector(output, made.saved)
    facts = {"detector": str(output), "format": format.value, "method": made.saved.detector.method}
    _tell(facts, made.report)


def _model(path: Path, output: Path, architecture: str | None, *, overwrite: bool) -> None:
    from vlood.detector.importing.checkpoint import read_checkpoint
    from vlood.detector.importing.cma import ARCHITECTURE, check_new, import_cma

    check_new(output, overwrite=overwrite)
    report = import_cma(read_checkpoint(path), output, architecture=architecture or ARCHITECTURE)
    _tell({"model": f"local-dir:{output}", "format": ImportFormat.cma.value}, report)


def _labels(
    path: Path,
    output: Path,
    names: Path | None,
    classes: tuple[ClassName, ...],
    *,
    overwrite: bool,
    seed: int,
) -> None:
    from vlood.detector.importing.checkpoint import read_checkpoint
    from vlood.detector.importing.synood import import_labels
    from vlood.negatives.bank_folder import check_new, save_bank

    check_new(output, overwrite=overwrite)
    bank, report = import_labels(
        read_checkpoint(path),
        names,
        classes=classes,
        seed=seed,
        provenance={"vlood": __version__},
    )
    save_bank(output, bank)
    _tell({"bank": str(output), "format": ImportFormat.synood_labels.value}, report)


def _tell(facts: dict[str, Any], report: ImportReport) -> None:
    """Print one JSON object, or a sentence a line on a terminal."""
    if not sys.stdout.isatty():
        sys.stdout.write(json.dumps({**facts, **report.to_json()}) + "\n")
        return
    (what, place), *_ = facts.items()
    for sentence in (f"{what} {place}", *report.sentences()):
        sys.stdout.write(f"{sentence}\n")


def _list(
    format: ImportFormat,
    path: Path,
    output: Path,
    classes: tuple[ClassName, ...],
    *,
    dedup: bool,
    overwrite: bool,
    seed: int,
) -> None:
    from vlood.engines.published_banks import import_bank
    from vlood.negatives.bank_folder import check_new, save_bank

    check_new(output, overwrite=overwrite)
    bank, report = import_bank(format.value, path, classes, dedup=dedup, seed=seed)
    save_bank(output, bank)
    if not sys.stdout.isatty():
        sys.stdout.write(json.dumps({"bank": str(output), **report}) + "\n")
    else:
        counted = ", ".join(f"{name} {value}" for name, value in report.items())
        sys.stdout.write(f"{output}: {counted}\n")
