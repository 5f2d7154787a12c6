"""``vlood collect``: training images for labels, from a pool or from a text-to-image pipeline."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from vlood.cli import options as opt
from vlood.cli.guard import guarded
from vlood.cli.talk import note, start_logging
from vlood.errors import UsageError

_FROM = "Where images are from"
_CHOICE = "Which are taken"
_MAKING = "Synthesis"


@guarded
def collect(
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            help="Folder for collected.txt (a list that --train reads), records, images, a contact "
            "sheet and provenance.json.",
            rich_help_panel="Output",
        ),
    ],
    classes: opt.Classes = None,
    pool: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IN",
            help="Images to search: files, folders, globs, lists, .tar shards or - for stdin; or "
            "stored embeddings; repeat for more.",
            show_default=False,
            rich_help_panel=_FROM,
        ),
    ] = None,
    from_folder: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IN",
            help="Labelled images, a folder a class or a list: taken for their own label, before "
            "those of the pool; repeat for more.",
            show_default=False,
            rich_help_panel=_FROM,
        ),
    ] = None,
    synthesize: Annotated[
        bool,
        typer.Option(
            "--synthesize", help="Make images with diffusers instead.", rich_help_panel=_FROM
        ),
    ] = False,
    negatives: Annotated[
        str | None,
        typer.Option(
            help="A bank made by vlood mine, or a word list: its words compete for the images and "
            "get some of their own, as LAPT trains with.",
            show_default=False,
            rich_help_panel=_FROM,
        ),
    ] = None,
    negative_labels: Annotated[
        int | None,
        typer.Option(
            help="The first so many of them; 1,000 by default.",
            show_default=False,
            rich_help_panel=_FROM,
        ),
    ] = None,
    classes_only: Annotated[
        bool,
        typer.Option("--classes-only", help="No images for the negatives.", rich_help_panel=_FROM),
    ] = False,
    per_label: Annotated[
        int | None,
        typer.Option(
            help="Images a label, at most. Default: 32; 8 of those made, as LAPT's filter keeps.",
            show_default=False,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    filter: Annotated[
        str | None,
        typer.Option(
            help="An image is taken for a label only if: label-wins (no other label is more "
            "similar), above-chance (likelier than a guess), or none. Default: label-wins; "
            "none for --from-folder.",
            show_default=False,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    fill: Annotated[
        bool | None,
        typer.Option(
            "--fill/--no-fill",
            help="Where too few pass the filter, take the likeliest of the others. Default: of "
            "made images, as LAPT does; not of a pool.",
            show_default=False,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    min_similarity: Annotated[
        float | None,
        typer.Option(
            min=-1.0,
            max=1.0,
            help="The smallest cosine of an image with its label's text.",
            show_default=False,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    min_confidence: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="The smallest probability of the label among all labels.",
            show_default=False,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    duplicates: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.01,
            help="Pictures so alike are copies, of which one is taken; above 1: only the same "
            "bytes. Default: 0.9 of pictures, 0.98 of stored embeddings.",
            show_default=False,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Fail where a label gets no image or one, or the pool is too small.",
            rich_help_panel=_CHOICE,
        ),
    ] = False,
    pipeline: Annotated[
        str | None,
        typer.Option(
            help="A text-to-image pipeline: a folder in diffusers' layout, or its name on the hub. "
            "Default: stabilityai/stable-diffusion-xl-base-1.0 (7 GB); with --inpaint "
            "stabilityai/stable-diffusion-2-inpainting.",
            show_default=False,
            rich_help_panel=_MAKING,
        ),
    ] = None,
    made: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images made a label. Default: 32; 50 a class with --inpaint, as SynOOD.",
            show_default=False,
            rich_help_panel=_MAKING,
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="Prompt, with {} for the label. Default: the label; with --inpaint, SynOOD's, and "
            "{} is the context.",
            show_default=False,
            rich_help_panel=_MAKING,
        ),
    ] = None,
    inpaint: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IN",
            help="Paint over parts of these images of the classes (a folder a class, or lists): "
            "near-boundary images for `vlood tune synood --synthetic`, in near/CLASS/.",
            show_default=False,
            rich_help_panel=_MAKING,
        ),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            metavar="centre|all|DIR",
            help="What is painted over: a box of half the area, all, or masks of a folder, white "
            "there. Default: centre.",
            show_default=False,
            rich_help_panel=_MAKING,
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            help="How much of it may change, up to 1. Default: 0.6, as SynOOD.",
            show_default=False,
            rich_help_panel=_MAKING,
        ),
    ] = None,
    contexts: Annotated[
        Path | None,
        typer.Option(
            help="What remains of an image without its class: `class or path<TAB>words` a line. "
            "Default: the background.",
            show_default=False,
            rich_help_panel=_MAKING,
        ),
    ] = None,
    negative_prompt: Annotated[
        str | None,
        typer.Option(help="What not to show.", show_default=False, rich_help_panel=_MAKING),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Denoising steps. Default: the pipeline's own.",
            show_default=False,
            rich_help_panel=_MAKING,
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            help="Guidance scale. Default: 7.5 with the default pipeline, as LAPT; else its own.",
            show_default=False,
            rich_help_panel=_MAKING,
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="SIDE or WIDTHxHEIGHT in pixels. Default: the pipeline's own.",
            show_default=False,
            rich_help_panel=_MAKING,
        ),
    ] = None,
    copy: Annotated[
        bool,
        typer.Option(
            "--copy",
            help="Copy images to images/LABEL/; otherwise the list names the pool's files.",
            rich_help_panel="Output",
        ),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on; made images are not made again.", rich_help_panel="Output"
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace a collection.", rich_help_panel="Output"),
    ] = False,
    index: Annotated[
        str,
        typer.Option(
            help="FAISS index of the pool: auto (by size), flat, hnsw or ivfpq.",
            rich_help_panel=_CHOICE,
        ),
    ] = "auto",
    template: opt.Template = None,
    class_embeddings: opt.ClassEmbeddings = None,
    logit_scale: opt.LogitScale = None,
    model: opt.Model = opt.DEFAULT_MODEL,
    root: opt.Root = None,
    null_separated: opt.NullSeparated = False,
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
    """Gather training images for labels: found in a pool, or made by a text-to-image pipeline.

    Every image goes to one label, copies are left out, and the files stay where they are.

    Examples:

      vlood collect --classes classes.txt --pool photos/ -o found

      vlood collect --classes classes.txt --pool photos/ --negatives bank --per-label 16 -o found

      vlood tune linear-probe --classes classes.txt --train found/collected.txt -o my-detector

      vlood collect --classes cats,dogs --synthesize -o made      (needs the extra `synth`)

      vlood collect --classes cats,dogs --synthesize --inpaint train/ -o near
    """
    start_logging(quiet)
    from vlood.cli.collecting import (
        check_broken,
        check_counts,
        check_sources,
        conclude,
        make,
        making_of,
        pixels,
        read_pool,
        say,
        sources_of_pool,
    )
    from vlood.cli.inpainting import check_options, inpaint_images
    from vlood.cli.prepare import (
        ModelOptions,
        ReadOptions,
        load_model,
        open_cache,
        stream_settings,
    )
    from vlood.engines.collect_labels import (
        NEGATIVE_LABELS,
        check_labels,
        label_texts,
        read_negatives,
    )
    from vlood.engines.collected_folder import begin, check_folder, write_folder
    from vlood.engines.collecting import PER_LABEL, CollectSettings
    from vlood.engines.collecting import collect as choose
    from vlood.engines.mining import Encoder
    from vlood.engines.pools import Pool, RowFile
    from vlood.engines.synthesis import KEPT, MADE
    from vlood.prompts.classes import read_classes
    from vlood.prompts.templates import DEFAULT_TEMPLATE, SLOT, read_templates

    if classes is None:
        raise UsageError("--classes is missing: name what images are wanted of")
    check_sources(pool, from_folder, synthesize, bool(class_embeddings))
    check_options(
        inpaint,
        synthesize,
        {"--mask": mask, "--strength": strength, "--contexts": contexts},
        {
            "--negatives": negatives,
            "--per-label": per_label,
            "--filter": filter,
            "--fill": fill,
            "--min-similarity": min_similarity,
            "--min-confidence": min_confidence,
            "--copy": copy,
            "--strict": strict,
        },
    )
    if not synthesize:
        options: dict[str, object] = {"--pipeline": pipeline, "--negative-prompt": negative_prompt}
        options |= {"--steps": steps, "--guidance": guidance, "--size": size}
        for name, value in options.items():
            if value is not None:
                raise UsageError(f"{name}: goes with --synthesize")
    if negatives is None and (negative_labels is not None or classes_only):
        given = "--classes-only" if classes_only else "--negative-labels"
        raise UsageError(f"{given}: goes with --negatives")
    read = ReadOptions(root, null_separated, fast_decode, background)
    run = ModelOptions(model, device.value, precision.value, batch_size, workers, cache, no_cache)
    if inpaint is not None:
        inpaint_images(
            inpaint,
            classes,
            output,
            run,
            read,
            count=made,
            pipeline=pipeline,
            prompt=prompt,
            negative_prompt=negative_prompt,
            steps=steps,
            guidance=guidance,
            size=pixels(size),
            strength=strength,
            mask=mask,
            contexts=contexts,
            seed=seed,
            resume=resume,
            overwrite=overwrite,
            quiet=quiet,
        )
        return
    prompt = SLOT if prompt is None else prompt
    if SLOT not in prompt:
        raise UsageError(f"--prompt {prompt}: has no {SLOT} for the label")
    check_folder(output, resume=resume, overwrite=overwrite)
    settings = CollectSettings(
        per_label=per_label if per_label is not None else KEPT if synthesize else PER_LABEL,
        rule=filter or "label-wins",
        trusted_rule=filter or ("label-wins" if synthesize else "none"),
        min_similarity=min_similarity,
        min_confidence=min_confidence,
        fill=synthesize if fill is None else fill,
        duplicates=duplicates,
        shuffle=seed if synthesize else None,
        index=index,
        seed=seed,
    )
    named = read_classes(classes)
    templates = [text for value in template or [] for text in read_templates(value)]
    templates = templates or [DEFAULT_TEMPLATE]
    words = None
    if negatives is not None:
        count = NEGATIVE_LABELS if negative_labels is None else negative_labels
        words = read_negatives(negatives, named, count)
    check_labels(named, () if words is None else words.terms)
    sources = sources_of_pool(pool, from_folder, read)
    making = None
    if synthesize:
        making = making_of(
            pipeline,
            prompt,
            negative_prompt,
            seed,
            steps,
            guidance,
            pixels(size),
            run,
            output if resume else None,
        )
    backbone = None if class_embeddings else load_model(run)
    store = open_cache(run)
    labels = label_texts(
        named,
        words,
        templates,
        None if backbone is None else Encoder(backbone, store),
        class_embeddings or (),
        logit_scale=logit_scale or (100.0 if backbone is None else backbone.logit_scale),
        classes_only=classes_only,
    )
    facts: dict[str, Any] = {
        "command": ["vlood", *sys.argv[1:]],
        "model": None if backbone is None else {"name": backbone.name, **backbone.identity()},
        "templates": templates if backbone is not None else None,
        "sources": {"pool": pool, "from_folder": from_folder, "negatives": negatives},
        "settings": asdict(settings),
        "pipeline": None if making is None else asdict(making),
    }
    begin(output, facts, overwrite=overwrite)
    found = Pool(RowFile(output, labels.text.shape[1]))
    seeds: dict[str, int] | None = None
    stream = stream_settings(run, read)
    try:
        if making is not None:
            assert backbone is not None
            facts["pipeline"], seeds = make(
                found, labels, making, made or MADE, output, backbone, stream, store, quiet
            )
        else:
            read_pool(found, sources, labels, backbone, stream, store, read, quiet)
    except KeyboardInterrupt:
        note(f"{output}: go on with --resume", quiet=quiet)
        raise
    check_broken(found, labels, strict, quiet)
    needed = settings.per_label * len(labels.wanted)
    if making is None and len(found) < needed:
        say(
            f"--pool: {len(found)} images are fewer than the {needed} asked for "
            f"({settings.per_label} for each of {len(labels.wanted)} labels); name more images, or "
            "lower --per-label",
            strict,
            quiet,
        )
    result = choose(
        found,
        labels,
        settings,
        decoding=stream.decode,
        announce=lambda text: note(text, quiet=quiet),
    )
    check_counts(result.counts(len(labels.names)).tolist(), labels, strict, quiet)
    written = write_folder(
        output,
        result,
        found,
        labels,
        facts,
        source="folder" if making is None else "synthesis",
        seeds=seeds,
        copy=copy,
        decoding=stream.decode,
    )
    conclude(written, found, labels, output, quiet)
