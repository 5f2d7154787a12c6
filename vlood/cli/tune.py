"""``vlood tune``: fit a detector and save it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlood.cli import options as opt
from vlood.cli.guard import SOME_UNREADABLE, guarded
from vlood.cli.talk import start_logging, warn
from vlood.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vlood.cli.prepare import Source
    from vlood.detector.saved import SavedDetector
    from vlood.engines.detectors import Fitted
    from vlood.engines.tuning import TuningRun
    from vlood.training.labelled import LabelledFeatures

_TRAINING = "Training"


@guarded
def tune(
    method: Annotated[
        str | None,
        typer.Argument(help="Which method; --list names them.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Folder of the detector.",
            show_default=False,
            rich_help_panel="Output",
        ),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the methods and leave.")] = False,
    classes: opt.Classes = None,
    train: Annotated[
        list[str] | None,
        typer.Option(
            "--train",
            metavar="IN",
            help="Labelled images (a folder a class, or lists) or embeddings that a method learns "
            "from; repeat to join.",
            show_default=False,
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    train_labels: Annotated[
        Path | None,
        typer.Option(
            "--train-labels",
            help="Labels of --train embeddings (.npy or .txt, one a row).",
            show_default=False,
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(
            "--shots",
            help="Train on so many images of each class, drawn by --seed; by default on all.",
            show_default=False,
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    label_noise: Annotated[
        float,
        typer.Option(
            "--label-noise",
            metavar="SHARE",
            help="Make this share of the training labels wrong, drawn by --seed, to see what it "
            "does.",
            rich_help_panel=_TRAINING,
        ),
    ] = 0.0,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with a run that was stopped; its state is in DIR.run.",
            rich_help_panel=_TRAINING,
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Measure what training would cost: pictures, steps, time, memory, disk.",
            rich_help_panel=_TRAINING,
        ),
    ] = False,
    log: Annotated[
        Path | None,
        typer.Option(
            "--log",
            help="CSV with loss, rate and seconds of every step; kept without the seconds in DIR.",
            show_default=False,
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    model: opt.Model = opt.DEFAULT_MODEL,
    negatives: opt.Negatives = None,
    template: opt.Template = None,
    class_embeddings: opt.ClassEmbeddings = None,
    negative_embeddings: opt.NegativeEmbeddings = None,
    logit_scale: opt.LogitScale = None,
    setting: opt.Setting = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a detector.", rich_help_panel="Output")
    ] = False,
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
    """Fit a detector and save it in a folder that score, eval and Python use without options.

    Zero-shot methods are fitted from the class names alone; nothing is trained. A method that
    learns from images takes them with --train, all or --shots of each class.

    Examples:

      vlood tune neglabel --classes classes.txt -o my-detector

      vlood tune linear-probe --classes classes.txt --train train/ --shots 16 -o my-probe

      vlood tune linear-probe --classes c.txt --train x.npy --train-labels y.npy -o my-probe

      vlood tune knn --classes classes.txt --train train.store -o my-neighbours

      vlood tune mahalanobis --classes classes.txt --train train/ --label-noise 0.2 -o noisy

      vlood tune cooked --classes classes.txt --train train.store --set score=entropy -o my-ensemble

      vlood tune coop --classes classes.txt --train train/ --shots 16 --dry-run -o my-prompts

      vlood tune coop --classes classes.txt --train train/ --shots 16 -o my-prompts

      vlood calibrate my-detector --id known-good/

      vlood score photos/ --detector my-detector
    """
    start_logging(quiet)
    if listed:
        _list()
        return
    if method is None or output is None:
        raise UsageError("tune: name a method and -o FOLDER; `vlood tune --list` has the methods")
    from vlood.cli.prepare import ClassOptions, ModelOptions, ReadOptions, load_model, open_cache
    from vlood.cli.training_inputs import cost_of, training_set_of, training_source
    from vlood.cli.tuning_run import run_folder
    from vlood.detector.folder import check_new, save_detector
    from vlood.engines.mining import Encoder
    from vlood.engines.saved_detectors import saved_from
    from vlood.methods import registry

    folder = run_folder(output, resume=resume, log=log)
    if not dry_run:
        check_new(output, overwrite=overwrite)
        folder.check(overwrite=overwrite)
    options = {"--resume": resume, "--dry-run": dry_run, "--log": log}
    for name, given in {**options, "--label-noise": label_noise}.items():
        if given and not train:
            raise UsageError(f"{name}: goes with --train, the labelled images to learn from")
    wanted = ClassOptions.read(
        classes,
        template,
        class_embeddings,
        logit_scale,
        [method],
        setting,
        negatives,
        negative_embeddings,
        training=bool(train),
    )
    read = ReadOptions(root, False, fast_decode, background)
    source = training_source(train, train_labels, [] if shots is None else [shots], read)
    draw = None if shots is None else (shots, seed)
    run = ModelOptions(model, device.value, precision.value, batch_size, workers, cache, no_cache)
    chosen = registry.get(wanted.methods[0])
    needs_text = not (class_embeddings or chosen.record.names_only)
    needs_model = needs_text or (source is not None and source.embeddings is None)
    backbone = load_model(run) if needs_model else None
    store = None if backbone is None else open_cache(run)
    encoder = None if backbone is None else Encoder(backbone, store)
    provenance: dict[str, Any] = {"command": _command(), "seed": seed}
    unreadable: Mapping[str, str] = {}
    training_log = None
    if source is None:
        from vlood.cli.prepare import fitted_of

        fitted = fitted_of(wanted, encoder, quiet=quiet)[0]
    else:
        from vlood.cli.training_inputs import views_of
        from vlood.cli.tuning_run import print_cost, watched
        from vlood.engines.few_shot import fit_from_images
        from vlood.training.workers import workers as processes

        def fit(images: LabelledFeatures, how: TuningRun) -> Fitted:
            return fit_from_images(
                method,
                wanted.side,
                images,
                shots=shots,
                seed=seed,
                settings=wanted.settings,
                encoder=encoder,
                negatives=wanted.negatives,
                announce=lambda text: warn(text, quiet=quiet),
                run=how,
                label_noise=label_noise,
            )

        if dry_run:
            print_cost(
                cost_of(fit, chosen, source, wanted, backbone, run, read, store, draw, seed, quiet)
            )
            return
        local = "local" in chosen.record.needs
        found = training_set_of(
            source, wanted, backbone, run, read, store, local=local, quiet=quiet, draw=draw
        )
        unreadable = found.unreadable
        fitted, training_log = watched(
            lambda how: fit(found.images, how),
            folder,
            views_of(source, backbone, run, read, store),
            quiet=quiet,
        )
        if not processes().is_main:
            return
        provenance["train"] = source.inputs
    saved = saved_from(fitted, wanted.side.classes, encoder, provenance, training_log=training_log)
    if backbone is None and source is not None:
        saved = _with_stored_model(saved, source)
    save_detector(output, saved)
    folder.remove()
    _report(output, saved)
    if unreadable:
        raise typer.Exit(SOME_UNREADABLE)


def _with_stored_model(saved: SavedDetector, source: Source) -> SavedDetector:
    """Keep the model that a store of training embeddings names."""
    from dataclasses import replace

    from vlood.engines.training_images import stored_model

    found = stored_model(source.embeddings or [])
    return saved if found is None else replace(saved, model_name=found[0], backbone=found[1])


def _list() -> None:
    from vlood.methods import registry

    for method in registry.all_methods():
        kind = "from class names"
        if method.record.trains:
            kind = "from images" if method.learns else "needs training"
        if sys.stdout.isatty():
            sys.stdout.write(f"{method.name:<14} {kind:<18} {method.record.summary}\n")
        else:
            row = {
                "method": method.name,
                "trains": method.record.trains,
                "learns_from_images": method.learns,
            }
            sys.stdout.write(json.dumps(row) + "\n")


def _command() -> str:
    """Return the command as it was typed, its program's folder left out."""
    import shlex

    return shlex.join(["vlood", *sys.argv[1:]])


def _report(output: Path, saved: SavedDetector) -> None:
    facts = {
        "detector": str(output),
        "method": saved.detector.method,
        **({} if saved.learned is None else {"learned": saved.learned.kind}),
        "classes": len(saved.classes),
        "negatives": len(saved.negatives),
        "model": saved.model_name,
        **{
            name: saved.provenance[name]
            for name in ("training_images", "shots", "seed")
            if "training_images" in saved.provenance
        },
    }
    if not sys.stdout.isatty():
        sys.stdout.write(json.dumps(facts) + "\n")
        return
    trained = ""
    if "training_images" in saved.provenance:
        trained = f"{saved.provenance['training_images']} training images, "
    if saved.learned is not None:
        trained = f"learned {saved.learned.kind}, {trained}"
    sys.stdout.write(
        f"{output}: {saved.detector.method}, {len(saved.classes)} classes, "
        f"{len(saved.negatives)} negatives, {trained}{saved.model_name or 'embeddings alone'}\n"
        f"next: vlood calibrate {output} --id IN   (a threshold and p-values from known images)\n"
    )
