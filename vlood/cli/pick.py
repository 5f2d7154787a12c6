"""``vlood pick``: which method fits a user's own images."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlood.cli import options as opt
from vlood.cli.guard import guarded
from vlood.cli.pick_output import print_records, tell_reasons
from vlood.cli.talk import note, progress, start_logging, warn
from vlood.errors import UsageError

if TYPE_CHECKING:
    from vlood.engines.evaluating.sets import EvalSet, SetImages
    from vlood.engines.picking_report import Typed
    from vlood.engines.picking_sets import Pool
    from vlood.evaluation.choosing import Choice

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


@guarded
def pick(
    id_inputs: Annotated[
        list[str],
        typer.Option(
            "--id",
            metavar="IN",
            help="Your known images, a folder a class if they are labelled, or embeddings; repeat "
            "to join.",
        ),
    ],
    ood_inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--ood",
            metavar="[GROUP:][NAME=]IN",
            help="Images that should be refused; repeat for more sets. Without any, some of the "
            "classes are left out in turn and taken for OOD.",
            show_default=False,
        ),
    ] = None,
    classes: opt.Classes = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Methods to try; repeat, or separate by commas. Default: all that fit.",
            rich_help_panel="Classes and method",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="90s, 10m or 1h: no method is begun later, and at most half of it encodes images.",
        ),
    ] = "10m",
    images: Annotated[
        int,
        typer.Option(min=2, help="Images of each set at most, drawn by --seed.", metavar="N"),
    ] = 5000,
    margin: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=100.0,
            help="A difference in AUROC, in percentage points, that is not worth a more demanding "
            "method.",
        ),
    ] = 0.5,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Folder for pick.json, pick.md and the lists of the images used, with which the "
            "commands give the very same figures.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ] = None,
    overwrite: opt.OverwriteReport = False,
    format: opt.FormatOption = None,
    model: opt.Model = opt.DEFAULT_MODEL,
    negatives: opt.Negatives = None,
    template: opt.Template = None,
    class_embeddings: opt.ClassEmbeddings = None,
    negative_embeddings: opt.NegativeEmbeddings = None,
    id_labels: Annotated[
        Path | None,
        typer.Option(
            help="Labels of --id embeddings (.npy or .txt, one a row).",
            rich_help_panel="Input",
            show_default=False,
        ),
    ] = None,
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
    """Try the methods that fit your images and your time, and recommend one, with reasons.

    Every image is encoded once. Half of each class is learned from, the other half measured on.
    Of the methods that are not told apart from the best, the one that asks for least is
    recommended, with the commands that make it. Skipped methods are listed with the reason.

    Examples:

      vlood pick --id known-good/ --ood strange/

      vlood pick --id known-good/ --classes classes.txt --budget 2m -o picked

      vlood pick --id test.store --ood far=strange.store --classes c.txt --method mcm,energy,knn

      vlood pick --id good/ --ood bad/ | jq -r 'select(.status == "recommended") | .method'
    """
    start_logging(quiet)
    from vlood.cli.class_options import ClassOptions, split_names
    from vlood.cli.eval_sets import eval_sets
    from vlood.cli.model_options import (
        ModelOptions,
        ReadOptions,
        load_model,
        open_cache,
        stream_settings,
    )
    from vlood.engines.detectors import settings_by_method
    from vlood.engines.evaluating.sets import check_sets
    from vlood.engines.mining import Encoder
    from vlood.engines.picking import Bench, try_all
    from vlood.engines.picking_report import Typed, commands, reasons, records, write_report
    from vlood.engines.picking_sets import Clock, gather, halves
    from vlood.evaluation.choosing import choose
    from vlood.methods import registry
    from vlood.prompts.classes import ClassName, label_lookup

    clock = Clock(seconds_of(budget))
    if format is opt.Format.parquet:
        raise UsageError("--format parquet: there are few records; use jsonl, csv or table")
    if output is not None:
        _check_folder(output, overwrite)
    sets = eval_sets(id_inputs, ood_inputs or [], [], root=root, id_labels=id_labels)
    check_sets(sets)
    if classes is None and not class_embeddings and _has_folders(Path(id_inputs[0])):
        classes = id_inputs[0]
    named = split_names(method) if method else list(registry.names())
    for name in named:
        registry.get(name)
    wanted = ClassOptions.read(
        *(classes, template, class_embeddings, logit_scale, ["energy"], setting, negatives),
        negative_embeddings,
    )
    side = replace(
        wanted.side, classes=wanted.side.classes or tuple(map(ClassName.of, wanted.side.names()))
    )
    settings_by_method([registry.get(name) for name in named], wanted.settings)
    run = ModelOptions(model, device.value, precision.value, batch_size, workers, cache, no_cache)
    read = ReadOptions(root, False, fast_decode, background)
    store = open_cache(run)
    need = any(one.embeddings is None for one in sets) or not class_embeddings
    backbone = load_model(run) if need else None
    total = sum(min(images, one.count()) for one in sets)
    with progress("encoding", total, quiet=quiet) as bar:
        gathered = gather(
            *(sets, label_lookup(side.classes or ()), backbone, stream_settings(run, read), store),
            clock,
            most=images,
            seed=seed,
            advance=bar.advance,
        )
    encoding = clock.spent()
    known, *others = gathered.pools.values()
    to_fit, to_hold = halves(known.labels, seed)
    bench = Bench(
        side=side,
        fit=known.rows(to_fit),
        held=known.rows(to_hold),
        others=dict(zip(list(gathered.pools)[1:], others, strict=True)),
        encoder=None if backbone is None else Encoder(backbone, store),
        negatives=wanted.negatives,
        seed=seed,
    )
    with progress("trying", len(named), quiet=quiet) as bar:
        tries = try_all(
            *(named, bench, clock),
            settings=wanted.settings,
            told=lambda name: bar.advance(1, name),
        )
    if not tries.tried:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(tries.skipped.items())[:3])
        raise UsageError(f"no method could be tried ({why})")
    choice = choose([one.trial for one in tries.tried.values()], tries.kind, margin=margin / 100)
    found = records(tries, choice)
    sizes = {"held": len(bench.held), **{name: len(one) for name, one in bench.others.items()}}
    said = reasons(tries, choice, sizes, margin / 100)
    shared = _shared(classes, class_embeddings, model if need else None, template, negatives,
                     negative_embeddings, logit_scale)  # fmt: skip
    typed = Typed(
        shared, id_inputs, id_inputs, ood_inputs or (), seed, _own(setting, choice), exact=False
    )
    detector = "picked" if output is None else str(output / "detector")
    if output is not None:
        typed = _lists(output, typed, bench.fit, bench.held, bench.others, gathered.images, sets)
    lines = commands(choice.chosen, typed, tries.kind, detector)
    notes = list(gathered.notes)
    facts = {
        "budget_seconds": clock.budget,
        "encoding_seconds": round(encoding, 3),
        "total_seconds": round(clock.spent(), 3),
        "measured_on": tries.kind,
        "images": {"learned from": len(bench.fit), **sizes},
        "seed": seed,
    }
    if output is not None:
        write_report(output, found, said, lines, notes, facts)
        note(f"report in {output}: pick.md", quiet=quiet)
    for text in notes:
        warn(text, quiet=quiet)
    print_records(found, format)
    if not quiet:
        tell_reasons(said, lines, typed.exact, facts)


def seconds_of(text: str) -> float:
    """Read a time such as 90s, 10m or 1h.

    Raises:
        UsageError: it is none, or zero.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip().lower())
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if seconds <= 0:
        raise UsageError(f"--budget {text}: expected a time such as 90s, 10m or 1h")
    return seconds


def _has_folders(path: Path) -> bool:
    """Say whether a path may be a labelled set: a folder of folders."""
    return path.is_dir() and any(each.is_dir() for each in path.iterdir())


def _check_folder(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"-o {folder}: is a file; name a folder")
    held = folder.is_dir() and any(folder.iterdir())
    ours = (folder / "pick.json").is_file()
    if held and not (ours and overwrite):
        hint = "replace it with --overwrite, or name" if ours else "name"
        what = "a report of vlood pick already" if ours else "something else"
        raise UsageError(f"-o {folder}: holds {what}; {hint} another folder")


def _shared(
    classes: str | None,
    class_embeddings: Sequence[Path] | None,
    model: str | None,
    templates: Sequence[str] | None,
    negatives: str | None,
    negative_embeddings: Sequence[Path] | None,
    logit_scale: float | None,
) -> list[str]:
    """Return the options that the commands share, as they were given."""
    found = [] if classes is None else ["--classes", classes]
    for one in class_embeddings or []:
        found += ["--class-embeddings", str(one)]
    if model is not None and model != opt.DEFAULT_MODEL:
        found += ["--model", model]
    for text in templates or []:
        found += ["--template", text]
    if negatives is not None:
        found += ["--negatives", negatives]
    for one in negative_embeddings or []:
        found += ["--negative-embeddings", str(one)]
    return found if logit_scale is None else [*found, "--logit-scale", f"{logit_scale:g}"]


def _own(settings: Sequence[str] | None, choice: Choice) -> list[str]:
    """Return the settings that are the chosen method's."""
    own = []
    for text in settings or []:
        key, _, value = text.partition("=")
        of, dot, name = key.partition(".")
        if not dot or of == choice.chosen:
            own.append(f"{name or key}={value}")
    return own


def _lists(
    folder: Path,
    typed: Typed,
    fit: Pool,
    held: Pool,
    others: Mapping[str, Pool],
    images: Mapping[str, SetImages],
    sets: Sequence[EvalSet],
) -> Typed:
    """Write which images were used, and return what commands say of them."""
    from vlood.engines.picking_report import labels_of, write_pool

    folder.mkdir(parents=True, exist_ok=True)
    first, *rest = sets
    own = first.embeddings is not None
    known = labels_of(images[first.name].paths, images[first.name].labels)
    paths = {
        "fit": write_pool(folder, "fit", fit, known(fit), stored=own),
        "held": write_pool(folder, "held", held, known(held), stored=own),
    }
    values = []
    for number, one in enumerate(rest, 1):
        pool = others[one.name]
        stored = one.embeddings is not None
        path = write_pool(folder, f"ood-{number}", pool, images[one.name].labels, stored=stored)
        group = "" if one.group == "-" else f"{one.group}:"
        values.append(f"{group}{one.name}={path}")
    return replace(
        typed, fit=[str(paths["fit"])], held=[str(paths["held"])], others=values, exact=True
    )
