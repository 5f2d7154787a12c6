"""``vlood tune``: fit a detector and save it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vlood.cli import options as opt
from vlood.cli import tune_options as own
from vlood.cli.guard import SOME_UNREADABLE, guarded
from vlood.cli.talk import start_logging
from vlood.cli.tune_output import list_methods, report
from vlood.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vlood.cli.sources import Source
    from vlood.detector.saved import SavedDetector


@guarded
def tune(
    method: own.Method = None,
    members: own.Members = None,
    output: own.Output = None,
    listed: own.List = False,
    classes: opt.Classes = None,
    train: own.Train = None,
    train_labels: opt.TrainLabels = None,
    captions: own.Captions = None,
    no_train: own.NoTrain = None,
    init: own.Init = None,
    tuned: own.TunedPart = None,
    synthetic: own.Synthetic = None,
    lambda_value: own.Lambda = None,
    shots: own.Shots = None,
    label_noise: opt.LabelNoise = 0.0,
    resume: own.Resume = False,
    dry_run: own.DryRun = False,
    log: own.Log = None,
    combine: own.Combine = None,
    weights: own.Weights = None,
    id_inputs: own.Known = None,
    ood_inputs: own.Strange = None,
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
    overwrite: opt.OverwriteDetector = False,
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
        list_methods()
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
        from vlood.cli.model_options import ModelOptions, ReadOptions

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
    from vlood.cli.class_options import ClassOptions
    from vlood.cli.model_options import ModelOptions, ReadOptions, load_model, open_cache
    from vlood.cli.saved_detectors import with_global_prompts_of
    from vlood.cli.synthetic_inputs import synthetic_source
    from vlood.cli.training_inputs import training_source
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
        report(output, saved)
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
    encoder = None if backbone is None else Encoder(backbone, open_cache(run))
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
        from vlood.cli.class_options import fitted_of

        fitted = fitted_of(wanted, encoder, quiet=quiet)[0]
    else:
        from vlood.cli.tune_images import tune_on_images

        learned = tune_on_images(
            method,
            wanted,
            source,
            made,
            encoder,
            run,
            read,
            folder,
            shots=shots,
            label_noise=label_noise,
            dry=dry_run,
            seed=seed,
            quiet=quiet,
        )
        if learned is None:
            return
        fitted, training_log, unreadable = learned
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
    report(output, saved)
    if unreadable:
        raise typer.Exit(SOME_UNREADABLE)


def _check_global_prompts(folder: Path, method: str, classes: tuple[str, ...]) -> None:
    """Refuse --global-prompts that will not fit, before anything is trained."""
    from vlood.cli.saved_detectors import open_detector
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


def _command() -> str:
    """Return the command as it was typed, its program's folder left out."""
    import shlex

    return shlex.join(["vlood", *sys.argv[1:]])
