"""``vlood eval``: how well detectors tell ID from OOD sets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from vlood.cli import options as opt
from vlood.cli.guard import guarded
from vlood.cli.talk import start_logging, warn
from vlood.errors import UsageError

_PANEL = "Classes and method"
_TRAINING = "Training"


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
    classifier: opt.Classifier = None,
    classifier_set: opt.ClassifierSetting = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Folder of the report: report.html, results as json, csv, parquet, md and tex, "
            "pictures, and every image's scores.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ] = None,
    resume: opt.ResumeReport = False,
    append: opt.AppendReport = False,
    overwrite: opt.OverwriteReport = False,
    title: Annotated[
        str | None,
        typer.Option(help="Title of the page.", rich_help_panel="Output", show_default=False),
    ] = None,
    format: opt.FormatOption = None,
    shift: Annotated[
        list[str] | None,
        typer.Option(
            "--shift",
            metavar="NAME[:1-5]",
            help="Also make the --id images worse (fog:3, jpeg:1-5, contrast, ...): severity "
            "curves, and full-spectrum rows with all of them on the ID side.",
            rich_help_panel="Input",
            show_default=False,
        ),
    ] = None,
    overlap: opt.OverlapOption = opt.Overlap.refuse,
    train: Annotated[list[str] | None, opt.train_of(_TRAINING)] = None,
    train_labels: opt.TrainLabels = None,
    shots: Annotated[
        str | None,
        typer.Option(
            "--shots",
            metavar="N,N...",
            help="Learn from so many images of each class, once for each number: a learning curve.",
            rich_help_panel=_TRAINING,
            show_default=False,
        ),
    ] = None,
    label_noise: opt.LabelNoise = 0.0,
    seeds: Annotated[
        str | None,
        typer.Option(
            "--seeds",
            metavar="N,N...",
            help="Repeat what depends on chance (the shots drawn, a stream's order) with each.",
            rich_help_panel=_TRAINING,
            show_default=False,
        ),
    ] = None,
    calibrate_on: Annotated[
        list[str] | None,
        typer.Option(
            help="Other known images that set each detector's threshold; rates at it are measured "
            "with intervals. Repeatable.",
            rich_help_panel="Statistics",
            show_default=False,
        ),
    ] = None,
    tpr: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="The share of --calibrate-on images to keep; 0.95 by default.",
            rich_help_panel="Statistics",
            show_default=False,
        ),
    ] = None,
    id_labels: Annotated[
        Path | None,
        typer.Option(
            help="Labels of --id embeddings (.npy or .txt, one a row), for ID accuracy.",
            rich_help_panel="Input",
            show_default=False,
        ),
    ] = None,
    fpr_mode: opt.FprModeOption = "canonical",
    resamples: opt.Resamples = 1000,
    negatives: opt.Negatives = None,
    template: opt.Template = None,
    class_embeddings: opt.ClassEmbeddings = None,
    negative_embeddings: opt.NegativeEmbeddings = None,
    global_prompts: opt.GlobalPrompts = None,
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
    """Measure detectors side by side, with intervals and paired tests, and write a report.

    AUROC, AUPR, FPR95 in both conventions, ID accuracy, OSCR, rates at the deployed threshold.
    Every image is encoded once for all detectors.

    Examples:

      vlood eval --classes cifar10 --id test/ --ood near:tin=tin/ --ood far:dtd=dtd/ -o report/

      vlood eval --method mcm,neglabel --classes world --model bundled --id id/ --ood noise/

      vlood eval --detector my-probe --detector my-neighbours --id id/ --ood noise/ --save-figures

      vlood eval --method linear-probe --classes c.txt --train train/ --shots 1,4,16 --seeds 1,2,3 \
          --id test/ --ood far=x/ -o report/

      vlood eval --method locoop,coop,gl-mcm --classes c.txt --train train/ --shots 1,4 \
          --seeds 1,2,3 --id test/ --ood far=x/ -o report/

      vlood eval --method cooked,knn,mahalanobis,linear-probe --classes c.txt --train train.store \
          --id test.store --ood far=strange.store --label-noise 0.2 -o report/

      vlood eval --method cooked,mcm,linear-probe --classes c.txt --train train/ \
          --classifier my-net --id test/ --ood far=x/

      vlood eval --method all --classes c.txt --id test/ --ood far=x/ --shift fog --shift jpeg:3

      vlood eval --class-embeddings names.npy --id a.npy --id-labels labels.npy --ood b=b.npy
    """
    start_logging(quiet)
    from vlood.cli.class_options import ClassOptions, split_names
    from vlood.cli.entrants import Fits, numbers_of, shots_of
    from vlood.cli.eval_sets import eval_sets
    from vlood.cli.evaluation import EvalOptions, carry_out, mode_of
    from vlood.cli.model_options import ModelOptions, ReadOptions
    from vlood.cli.saved_detectors import open_detector, refuse_with_detector
    from vlood.cli.sources import sources_of
    from vlood.cli.training_inputs import training_source
    from vlood.engines.classifiers import check_images, choose, choose_for
    from vlood.methods import registry

    folders = detector or []
    if folders:
        refuse_with_detector(
            {
                "--method": method,
                "--template": template,
                "--class-embeddings": class_embeddings,
                "--negative-embeddings": negative_embeddings,
                "--negatives": negatives,
                "--logit-scale": logit_scale,
                "--set": setting,
                "--train": train,
                "--shots": shots,
            }
        )
    if tpr is not None and not calibrate_on:
        raise UsageError("--tpr: needs --calibrate-on IN..., images known to be in-distribution")
    read = ReadOptions(root, False, fast_decode, background)
    counts = shots_of(shots)
    source = training_source(train, train_labels, counts, read)
    fits = Fits(source, counts, numbers_of(seeds, "--seeds", least=0), [label_noise])
    if label_noise and source is None:
        raise UsageError("--label-noise: goes with --train, the labelled images to learn from")
    how = EvalOptions(
        folders=folders,
        fits=fits,
        fpr_mode=fpr_mode,
        resamples=resamples,
        overlap=overlap.value,
        calibrate_on=sources_of(calibrate_on) if calibrate_on else None,
        tpr=0.95 if tpr is None else tpr,
        output=output,
        mode=mode_of(resume, append, overwrite),
        save_figures=save_figures,
        global_prompts=global_prompts,
        format=format,
        seed=seed,
        title=title or "",
        quiet=quiet,
    )
    how.check()
    sets = eval_sets(id_inputs, ood_inputs, shift or [], root=root, id_labels=id_labels)
    if folders:
        held = open_detector(folders[0])
        wanted = ClassOptions.of_saved(held, classes, None, None, folders[0])
        own_model = held.model_name
        every = [held, *map(open_detector, folders[1:])]
        beside = choose_for(every, folders, classifier, classifier_set)
    else:
        own_model = None
        wanted = ClassOptions.read(
            classes,
            template,
            class_embeddings,
            logit_scale,
            split_names(method or ["mcm"]),
            setting,
            negatives,
            negative_embeddings,
            training=source is not None,
        )
        beside = choose(classifier, classifier_set, wanted.methods, wanted.side.names())
        stored = source is not None and source.embeddings is not None
        check_images(beside, "--train", embeddings=stored)
        needs = [registry.get(name).record.needs for name in wanted.methods]
        # A method that tunes the model is refused further on, with the reason.
        unused = not any({"negatives", "pixels"} & set(each) for each in needs) and not any(
            key.rpartition(".")[2] == "neglabel" for key in wanted.settings
        )
        if wanted.negatives.named and unused:
            warn(f"--negatives: {', '.join(wanted.methods)} score without them", quiet=quiet)
    run = ModelOptions(
        model or own_model or opt.DEFAULT_MODEL,
        device.value,
        precision.value,
        batch_size,
        workers,
        cache,
        no_cache,
        beside,
    )
    carry_out(sets, replace(how, classes=wanted), run, read)
