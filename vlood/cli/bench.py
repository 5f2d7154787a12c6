"""``vlood bench``: published protocols: run, checked, and their lists built."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlood.cli import options as opt
from vlood.cli.bench_output import list_suites, print_built, print_statuses, shown
from vlood.cli.guard import FAILED, guarded
from vlood.cli.talk import note, start_logging, warn
from vlood.errors import UsageError

if TYPE_CHECKING:
    from vlood.cli.entrants import Fits
    from vlood.evaluation.suites import Suite

_PANEL = "Run"
_SETTINGS = "Settings"
_WORLD = "world"


@guarded
def bench(
    suite: Annotated[
        str | None,
        typer.Argument(
            metavar="SUITE",
            help="A published protocol, or a .json file of your own; none: list them.",
            show_default=False,
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder that the datasets and lists lie in; world is drawn in vlood-world/ "
            "without it.",
            show_default=False,
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Say what is present, and what is missing and where.")
    ] = False,
    build_lists: Annotated[
        Path | None,
        typer.Option(
            "--build-lists",
            metavar="OUT",
            help="Write the image lists that the datasets' folders determine; OUT may be DIR.",
            show_default=False,
        ),
    ] = None,
    json_lines: opt.JsonLines = False,
    detector: Annotated[
        list[Path] | None,
        typer.Option(
            help="A saved detector's folder, instead of --method; repeat to compare.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Scores to compare; repeat, or separate by commas, or all. Default: mcm.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    classes: opt.Classes = None,
    skip_missing: Annotated[
        bool,
        typer.Option(
            "--skip-missing", help="Go without the sets that are not there.", rich_help_panel=_PANEL
        ),
    ] = False,
    train: Annotated[list[str] | None, opt.train_of(_SETTINGS)] = None,
    shots: Annotated[
        str | None,
        typer.Option(
            "--shots",
            metavar="N,N...",
            help="Learn from so many images of each class, once for each number.",
            rich_help_panel=_SETTINGS,
            show_default=False,
        ),
    ] = None,
    label_noise: Annotated[
        str | None,
        typer.Option(
            "--label-noise",
            metavar="SHARE,...",
            help="Learn from labels of which a share is wrong, once for each: 0,0.2,0.4.",
            rich_help_panel=_SETTINGS,
            show_default=False,
        ),
    ] = None,
    shift: Annotated[
        list[str] | None,
        typer.Option(
            "--shift",
            metavar="NAME[:1-5]",
            help="Covariate shift: make the ID images worse too (fog:3, jpeg:1-5, ...); they join "
            "the ID side in full-spectrum rows.",
            rich_help_panel=_SETTINGS,
            show_default=False,
        ),
    ] = None,
    name_shift: Annotated[
        str | None,
        typer.Option(
            "--name-shift",
            metavar="SHARE,...",
            help="Zero-shot shift: replace the prompt names of a share of the classes by numbers, "
            "once for each: 0,0.5,1. Methods that read no names are fitted once.",
            rich_help_panel=_SETTINGS,
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Folder of the report.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ] = None,
    resume: opt.ResumeReport = False,
    append: opt.AppendReport = False,
    overwrite: opt.OverwriteReport = False,
    format: opt.FormatOption = None,
    overlap: opt.OverlapOption = opt.Overlap.refuse,
    fpr_mode: opt.FprModeOption = "canonical",
    resamples: opt.Resamples = 1000,
    model: opt.ModelOrOwn = None,
    negatives: opt.Negatives = None,
    template: opt.Template = None,
    setting: opt.Setting = None,
    fast_decode: opt.FastDecode = False,
    device: opt.DeviceOption = opt.Device.auto,
    precision: opt.PrecisionOption = opt.Precision.auto,
    batch_size: opt.BatchSize = 32,
    workers: opt.Workers = None,
    seed: opt.Seed = 0,
    cache: opt.CacheFolder = None,
    no_cache: opt.NoCache = False,
    quiet: opt.Quiet = False,
) -> None:
    """Run a published protocol, check its datasets, or build its image lists.

    Nothing is downloaded; --check says what must lie where, and under which licence.

    Examples:

      vlood bench

      vlood bench world --method mcm,energy -o report

      vlood bench world --method cooked,linear-probe,mcm --train vlood-world/id/train \
          --label-noise 0,0.2,0.4

      vlood bench world --method mcm,energy --shift fog:3 --shift jpeg:1-5 -o report

      vlood bench ooddb-dtd --root data/ --method cooked,mcm --train data/train.txt --name-shift 0,1

      vlood bench openood-imagenet1k --root data/ --check

      vlood bench openood-imagenet1k --root data/ --method mcm,neglabel -o report

      vlood bench traditional-four --root data/ --build-lists data/ --check
    """
    start_logging(quiet)
    from vlood.evaluation import suites

    as_json = json_lines or not sys.stdout.isatty()
    if suite is None:
        if root is not None or check or build_lists is not None:
            raise UsageError("these options are about one suite; name it, such as traditional-four")
        list_suites([suites.read_suite(name) for name in suites.suite_names()], as_json)
        return
    chosen = suites.read_suite(suite)
    if check or build_lists is not None:
        _look(chosen, _folder(root, "--check and --build-lists need"), check, build_lists, as_json)
        return
    from vlood.cli.class_options import ClassOptions, split_names
    from vlood.cli.entrants import Fits, shares_of, shots_of
    from vlood.cli.eval_sets import shifted_sets
    from vlood.cli.evaluation import EvalOptions, carry_out, mode_of
    from vlood.cli.model_options import ModelOptions, ReadOptions
    from vlood.cli.saved_detectors import open_detector, refuse_with_detector
    from vlood.cli.training_inputs import training_source
    from vlood.engines.evaluating.suite_sets import left_out, licences, suite_sets

    folders = detector or []
    if folders:
        given = {"--method": method, "--template": template, "--negatives": negatives}
        learning = {"--train": train, "--shots": shots, "--name-shift": name_shift}
        refuse_with_detector({**given, "--set": setting, **learning})
    read = ReadOptions(None, False, fast_decode)
    if label_noise is not None and not train:
        raise UsageError("--label-noise: goes with --train, the labelled images to learn from")
    how = EvalOptions(
        folders=folders,
        fpr_mode=fpr_mode,
        resamples=resamples,
        overlap=overlap.value,
        output=output,
        mode=mode_of(resume, append, overwrite),
        format=format,
        seed=seed,
        title=f"{chosen.title}",
        quiet=quiet,
    )
    how.check()
    place = _drawn_world(quiet) if chosen.name == _WORLD and root is None else _folder(root)
    counts = shots_of(shots)
    fits = Fits(
        training_source(train, None, counts, read),
        counts,
        label_noise=shares_of(label_noise, "--label-noise"),
        name_shift=shares_of(name_shift, "--name-shift"),
    )
    sets = suite_sets(chosen, place, skip_missing=skip_missing)
    sets += shifted_sets(sets[0], shift or [])
    held = open_detector(folders[0]) if folders else None
    if held is not None:
        wanted = ClassOptions.of_saved(held, classes, None, None, folders[0])
    else:
        names = split_names(method or ["mcm"])
        wanted = ClassOptions.read(
            classes or _classes(chosen),
            template,
            None,
            None,
            names,
            setting,
            negatives,
            training=bool(train),
        )
    usual = "bundled" if chosen.name == _WORLD else opt.DEFAULT_MODEL
    run = ModelOptions(
        model or (held.model_name if held else None) or usual,
        device.value,
        precision.value,
        batch_size,
        workers,
        cache,
        no_cache,
    )
    notes = [*chosen.notes, *left_out(chosen, sets), *_settings_notes(fits)]
    how = replace(
        how, classes=wanted, fits=fits, notes=notes, sections={"Licences": licences(chosen, sets)}
    )
    carry_out(sets, how, run, read)


def _settings_notes(fits: Fits) -> list[str]:
    """Say what the settings of this run are not: the published ones."""
    notes = []
    if any(fits.label_noise):
        notes.append(
            "Label noise is drawn evenly over the classes; that of CIFAR-100N, which COOkeD uses, "
            "was made by people."
        )
    if any(fits.name_shift):
        notes.append(
            "Names gone: numbers stand for a share of the class names in prompts, the zero-shot "
            "shift made to measure; COOkeD uses DTD and PatternNet (suites ooddb-dtd and "
            "ooddb-patternnet)."
        )
    return notes


def _look(chosen: Suite, root: Path, check: bool, build_lists: Path | None, as_json: bool) -> None:
    """Build lists, or check what is there, or both."""
    from vlood.evaluation import suites

    failed = False
    if build_lists is not None:
        if build_lists.exists() and not build_lists.is_dir():
            raise UsageError(f"--build-lists {build_lists}: is a file; name a folder")
        built = suites.build_lists(chosen, root, build_lists)
        print_built(built, as_json)
        failed = all(one.path is None for one in built)
    if check:
        statuses = suites.check_suite(chosen, root)
        print_statuses(statuses, as_json)
        for shared in suites.find_overlaps(chosen, root):
            images = "image" if shared.count == 1 else "images"
            warn(
                f"{shared.ood} shares {shared.count:,} {images} with {shared.id}, such as "
                f"{shown(shared.example)}: each is a sure error"
            )
        lacking = [one for one in statuses if one.state != "present"]
        if lacking:
            warn(f"{len(lacking)} of the {len(statuses)} sets of {chosen.name} are not whole")
        else:
            note(f"all {len(statuses)} sets of {chosen.name} are there")
        failed = failed or bool(lacking)
    if failed:
        raise typer.Exit(FAILED)


def _folder(root: Path | None, asked: str = "a suite needs") -> Path:
    if root is None:
        raise UsageError(f"{asked} --root, the folder of the datasets")
    if not root.is_dir():
        raise UsageError(f"--root {root}: is no folder; name the one that holds the datasets")
    return root


def _classes(chosen: Suite) -> str:
    """Return a suite's classes as --classes takes them."""
    if chosen.classes is None:
        raise UsageError(f"--classes is missing: the suite {chosen.name} does not name its classes")
    return chosen.classes if isinstance(chosen.classes, str) else ",".join(chosen.classes)


def _drawn_world(quiet: bool) -> Path:
    """Draw the bundled world beside the user, once."""
    from vlood.engines.demo import world_pictures, write_world

    place = Path("vlood-world")
    if not (place / "id" / "test").is_dir():
        warn(f"drawing the pictogram world in {place}/", quiet=quiet)
        write_world(place, world_pictures(0))
    return place
