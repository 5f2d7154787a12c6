"""``vlood tune``: fit a detector and save it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
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
_ENSEMBLE = "Ensemble"


@guarded
def tune(
    method: Annotated[
        str | None,
        typer.Argument(
            help="Which method; --list names them. Or classifier, a closed-world one for cooked.",
            show_default=False,
        ),
    ] = None,
    members: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[DIR]...", help="ensemble: the detectors to combine.", show_default=False
        ),
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
    captions: Annotated[
        list[str] | None,
        typer.Option(
            "--captions",
            metavar="IN",
            help="Images with captions that clipn learns from: .tar shards (key.jpg, key.txt or "
            "key.json), .csv or .jsonl with path and caption; repeat to join.",
            show_default=False,
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    no_train: Annotated[
        str | None,
        typer.Option(
            "--no-train",
            metavar="full|lora|prompts",
            help='clipn: what of the "no" text tower is trained; full by default.',
            show_default=False,
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            "--init",
            metavar="FILE|DIR",
            help="classifier: local weights to start from, read weights-only, or another "
            "classifier's folder; by default from scratch.",
            show_default=False,
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    tuned: Annotated[
        str | None,
        typer.Option(
            "--tune",
            metavar="full|lora|projection|visual|text",
            help="cma: what of the model is tuned; lora by default.",
            show_default=False,
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    synthetic: Annotated[
        list[str] | None,
        typer.Option(
            "--synthetic",
            metavar="IN",
            help="synood: made images just outside the classes (`vlood collect --synthesize "
            "--inpaint` makes some), or their embeddings; labels are not needed; repeat to join.",
            show_default=False,
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    lambda_value: Annotated[
        float | None,
        typer.Option(
            "--lambda",
            help="cma, locoop: what the second part of the loss weighs; with cma 0 is FLYP.",
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
    combine: Annotated[
        str | None,
        typer.Option(
            "--combine",
            metavar="rank|probability",
            help="Average ranks among known images (the default), or calibrated probabilities.",
            show_default=False,
            rich_help_panel=_ENSEMBLE,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="W,W...",
            help="A weight a detector, in their order; equal by default.",
            show_default=False,
            rich_help_panel=_ENSEMBLE,
        ),
    ] = None,
    id_inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--id",
            metavar="IN",
            help="Held-out known images to rank among; by default those that each detector was "
            "calibrated on.",
            show_default=False,
            rich_help_panel=_ENSEMBLE,
        ),
    ] = None,
    ood_inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--ood",
            metavar="IN",
            help="OOD images to fit probabilities with, for --combine probability.",
            show_default=False,
            rich_help_panel=_ENSEMBLE,
        ),
    ] = None,
    model: opt.Model = opt.DEFAULT_MODEL,
    classifier: opt.Classifier = None,
    classifier_set: opt.ClassifierSetting = None,
    negatives: opt.Negatives = None,
    template: opt.Template = None,
    class_embeddings: opt.ClassEmbeddings = None,
    negative_embeddings: opt.NegativeEmbeddings = None,
    global_prompts: opt.GlobalPrompts = None,
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
    learns from images takes them with --train, all or --shots of each class; clipn learns from
    images with --captions, or makes captions of --train images from their labels. --set preset=NAME
    takes a published recipe, where a method has several.

    Examples:

      vlood tune neglabel --classes classes.txt -o my-detector

      vlood tune linear-probe --classes classes.txt --train train/ --shots 16 -o my-probe

      vlood tune linear-probe --classes c.txt --train x.npy --train-labels y.npy -o my-probe

      vlood tune knn --classes classes.txt --train train.store -o my-neighbours

      vlood tune mahalanobis --classes classes.txt --train train/ --label-noise 0.2 -o noisy

      vlood tune mahalanobis-layers --model layers:bundled --classes world --train train/ -o deep

      vlood tune cooked --classes classes.txt --train train.store --set score=entropy -o my-ensemble

      vlood tune cooked --classes classes.txt --train train/ --classifier my-net -o robust

      vlood tune classifier --classes classes.txt --train train/ --set size=64 -o my-net

      vlood tune coop --classes classes.txt --train train/ --shots 16 --dry-run -o my-prompts

      vlood tune coop --classes classes.txt --train train/ --shots 16 -o my-prompts

      vlood tune locoop --classes classes.txt --train train/ --shots 4 --set top_k=2 -o my-prompts

      vlood tune lapt --classes classes.txt --negatives bank --train found/collected.txt -o my-lapt

      vlood tune synood --classes classes.txt --train train/ --synthetic made/ -o my-synood

      vlood tune local-prompt --classes classes.txt --train train/ --shots 4 -o my-regions

      vlood tune local-prompt --classes c.txt --train train/ --global-prompts my-prompts -o both

      vlood tune clipn --classes classes.txt --captions 'shards-{000..331}.tar' -o my-clipn

      vlood tune clipn --classes classes.txt --train train/ --no-train lora -o my-clipn

      vlood tune ensemble my-probe my-neighbours my-regions --id held-out/ -o my-ensemble

      vlood tune ensemble my-probe my-neighbours --combine probability --id id/ --ood other/ -o pair

      vlood tune cma --classes classes.txt --train train/ --shots 16 -o my-cma

      vlood tune cma --classes c.txt --train train/ --tune full --set preset=cma-paper -o my-cma

      vlood calibrate my-detector --id known-good/

      vlood score photos/ --detector my-detector
    """
    start_logging(quiet)
    if listed:
        _list()
        return
    if method is None or output is None:
        raise UsageError("tune: name a method and -o FOLDER; `vlood tune --list` has the methods")
    from vlood.cli.ensemble import METHOD as ENSEMBLE
    from vlood.cli.ensemble import EnsembleOptions, tune_ensemble

    asked = EnsembleOptions(members or (), combine, weights, id_inputs or (), ood_inputs or ())
    if method != ENSEMBLE:
        asked.refuse_for(method)
    if method == "classifier":
        from vlood.cli import tune_classifier
        from vlood.cli.prepare import ModelOptions, ReadOptions

        tune_classifier.run(
            output,
            classes,
            train,
            setting,
            init,
            ModelOptions(
                model, device.value, precision.value, batch_size, workers, cache, no_cache
            ),
            ReadOptions(root, False, fast_decode, background),
            shots=shots,
            label_noise=label_noise,
            seed=seed,
            resume=resume,
            dry_run=dry_run,
            log=log,
            overwrite=overwrite,
            quiet=quiet,
            command=_command(),
            refused={
                "--captions": captions,
                "--train-labels": train_labels,
                "--no-train": no_train,
                "--negatives": negatives,
                "--negative-embeddings": negative_embeddings,
                "--template": template,
                "--class-embeddings": class_embeddings,
                "--global-prompts": global_prompts,
                "--synthetic": synthetic,
                "--classifier": classifier,
                "--classifier-set": classifier_set,
                "--logit-scale": logit_scale,
            },
        )
        return
    if init is not None:
        raise UsageError(f"--init: is for `vlood tune classifier`; {method} starts by its --set")
    from vlood.cli.prepare import (
        ClassOptions,
        ModelOptions,
        ReadOptions,
        load_model,
        open_cache,
        with_global_prompts_of,
    )
    from vlood.cli.synthetic_inputs import joined, synthetic_source
    from vlood.cli.training_inputs import cost_of, training_set_of, training_source
    from vlood.cli.tuning_run import run_folder
    from vlood.detector.folder import check_new, save_detector
    from vlood.engines.classifiers import check_images, choose, with_classifier
    from vlood.engines.mining import Encoder
    from vlood.engines.saved_detectors import saved_from
    from vlood.engines.training_checks import check_model, check_settings
    from vlood.images.captions import find_captions
    from vlood.methods import registry

    folder = run_folder(output, resume=resume, log=log)
    if not dry_run:
        check_new(output, overwrite=overwrite)
        folder.check(overwrite=overwrite)
    read = ReadOptions(root, False, fast_decode, background)
    options = {"--resume": resume, "--dry-run": dry_run, "--log": log}
    for name, given in {**options, "--label-noise": label_noise}.items():
        if given and not (train or captions):
            raise UsageError(f"{name}: goes with --train, the labelled images to learn from")
    for name, value in (("no_train", no_train), ("tune", tuned), ("lambda_value", lambda_value)):
        if value is not None:
            setting = [*(setting or []), f"{name}={value}"]
    run = ModelOptions(model, device.value, precision.value, batch_size, workers, cache, no_cache)
    provenance: dict[str, Any] = {"command": _command(), "seed": seed}
    if method == ENSEMBLE:
        for name, settled in (
            ("--train", train or captions),
            ("--classes", classes),
            ("--classifier", classifier or classifier_set),
            ("--synthetic", synthetic),
        ):
            if settled:
                raise UsageError(f"{name}: is settled by the detectors to combine; leave it out")
        chosen_model = None if model == opt.DEFAULT_MODEL else model
        saved, some = tune_ensemble(
            asked, setting, chosen_model, run, read, provenance, quiet=quiet
        )
        save_detector(output, saved)
        _report(output, saved)
        if some:
            raise typer.Exit(SOME_UNREADABLE)
        return
    if captions:
        for name, refused in (("--train", train), ("--shots", shots is not None)):
            if refused:
                raise UsageError(f"{name}: cannot be joined with --captions; leave one out")
        find_captions(captions, root=root)
    wanted = ClassOptions.read(
        classes,
        template,
        class_embeddings,
        logit_scale,
        [method],
        setting,
        negatives,
        negative_embeddings,
        training=bool(train or captions),
    )
    source = training_source(train, train_labels, [] if shots is None else [shots], read)
    draw = None if shots is None else (shots, seed)
    beside = choose(classifier, classifier_set, wanted.methods, wanted.side.names())
    check_images(beside, "--train", embeddings=source is not None and source.embeddings is not None)
    run = replace(run, classifier=beside)
    chosen = registry.get(wanted.methods[0])
    made = synthetic_source(synthetic, chosen, source, read)
    if source is not None:
        check_settings(chosen.name, wanted.side, wanted.settings)
    needs_text = not (class_embeddings or chosen.record.names_only)
    needs_model = needs_text or bool(captions) or (source is not None and source.embeddings is None)
    if global_prompts is not None:
        _check_global_prompts(global_prompts, method, wanted.side.names())
    backbone = load_model(run) if needs_model else None
    if source is not None and backbone is not None:
        check_model(chosen.name, backbone)
    store = None if backbone is None else open_cache(run)
    encoder = None if backbone is None else Encoder(backbone, store)
    unreadable: Mapping[str, object] = {}
    training_log = None
    if captions:
        from vlood.cli.caption_inputs import tune_on_captions

        assert encoder is not None
        done = tune_on_captions(
            method,
            wanted,
            captions,
            encoder,
            run,
            read,
            folder,
            dry=dry_run,
            seed=seed,
            quiet=quiet,
        )
        if done is None:
            return
        fitted, training_log, unreadable = done
        provenance |= {"captions": captions, "left_out": dict(unreadable)}
    elif source is None:
        from vlood.cli.prepare import fitted_of

        fitted = fitted_of(wanted, encoder, quiet=quiet)[0]
    else:
        from vlood.cli.training_inputs import views_of
        from vlood.cli.tuning_run import print_cost, watched
        from vlood.engines.detectors import training_negatives
        from vlood.engines.few_shot import fit_from_images
        from vlood.training.workers import workers as processes

        def announce(text: str) -> None:
            warn(text, quiet=quiet)

        named = training_negatives(
            chosen.name, wanted.side, wanted.negatives, encoder, announce=announce
        )

        def fit(images: LabelledFeatures, how: TuningRun) -> Fitted:
            return fit_from_images(
                method,
                wanted.side,
                images,
                shots=shots,
                seed=seed,
                settings=wanted.settings,
                encoder=encoder,
                negatives=named,
                announce=announce,
                run=how,
                label_noise=label_noise,
            )

        if dry_run:
            print_cost(
                cost_of(
                    fit,
                    chosen,
                    source,
                    wanted,
                    backbone,
                    run,
                    read,
                    store,
                    draw,
                    seed,
                    quiet,
                    negatives=named,
                    synthetic=made,
                )
            )
            return
        local = chosen.learns_from_whole_regions
        found = training_set_of(
            source,
            wanted,
            backbone,
            run,
            read,
            store,
            local=local,
            quiet=quiet,
            draw=draw,
            negatives=named,
        )
        if made is not None and named.found is not None:
            count = len(wanted.side.names())
            found = joined(found, made, count, named.found, backbone, run, read, store, quiet=quiet)
        unreadable = found.unreadable
        fitted, training_log = watched(
            lambda how: fit(found.images, how),
            folder,
            views_of(source, backbone, run, read, store),
            quiet=quiet,
        )
        if not processes().is_main:
            return
        for text in _notes(fitted):
            warn(text, quiet=quiet)
        provenance["train"] = source.inputs
        if made is not None:
            provenance["synthetic"] = made.inputs
    saved = saved_from(fitted, wanted.side.classes, encoder, provenance, training_log=training_log)
    if backbone is None and source is not None:
        saved = _with_stored_model(saved, source)
    saved = with_classifier(saved, backbone)
    saved = with_global_prompts_of(saved, global_prompts)
    save_detector(output, saved)
    folder.remove()
    _report(output, saved)
    if unreadable:
        raise typer.Exit(SOME_UNREADABLE)


def _notes(fitted: Fitted) -> list[str]:
    """Return what a method has to say of how it learned."""
    return [] if fitted.learned is None else list(fitted.learned.about.get("notes", []))


def _check_global_prompts(folder: Path, method: str, classes: tuple[str, ...]) -> None:
    """Refuse --global-prompts that will not fit, before anything is trained."""
    from vlood.cli.prepare import open_detector
    from vlood.engines.global_prompts import METHOD, check_global_prompts

    if method != METHOD:
        raise UsageError(f"--global-prompts: is for local-prompt, and {method} has no regions")
    check_global_prompts(open_detector(folder), classes, None, f"--global-prompts {folder}")


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
        if "detectors" in method.record.needs:
            kind = "from detectors"
        elif method.record.trains:
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
        **({"members": list(saved.members)} if saved.members else {}),
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
