"""``vlood collect``: training images for labels, from a pool or from a text-to-image pipeline."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

from vlood.cli import collect_options as own
from vlood.cli import options as opt
from vlood.cli.guard import guarded
from vlood.cli.talk import note, start_logging
from vlood.errors import UsageError


@guarded
def collect(
    output: own.Output,
    classes: opt.Classes = None,
    pool: own.Pool = None,
    from_folder: own.FromFolder = None,
    synthesize: own.Synthesize = False,
    negatives: own.Negatives = None,
    negative_labels: own.NegativeLabels = None,
    classes_only: own.ClassesOnly = False,
    per_label: own.PerLabel = None,
    filter: own.Filter = None,
    fill: own.Fill = None,
    min_similarity: own.MinSimilarity = None,
    min_confidence: own.MinConfidence = None,
    duplicates: own.Duplicates = None,
    strict: own.Strict = False,
    pipeline: own.Pipeline = None,
    made: own.Made = None,
    prompt: own.Prompt = None,
    inpaint: own.Inpaint = None,
    mask: own.Mask = None,
    strength: own.Strength = None,
    contexts: own.Contexts = None,
    negative_prompt: own.NegativePrompt = None,
    steps: own.Steps = None,
    guidance: own.Guidance = None,
    size: own.Size = None,
    copy: own.Copy = False,
    resume: own.Resume = False,
    overwrite: own.Overwrite = False,
    index: own.Index = "auto",
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
    from vlood.cli.model_options import (
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
