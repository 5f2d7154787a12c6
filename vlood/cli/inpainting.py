"""``vlood collect --synthesize --inpaint``: images that lie just outside the classes."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vlood.cli.guard import SOME_UNREADABLE
from vlood.cli.talk import note, progress, warn, warn_unreadable
from vlood.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vlood.cli.model_options import ModelOptions, ReadOptions


def check_options(
    inpaint: Sequence[str] | None,
    synthesize: bool,
    only: Mapping[str, object],
    without: Mapping[str, object],
) -> None:
    """Refuse options that do not go with --inpaint, or that go with it alone.

    Args:
        inpaint: its inputs, or None.
        synthesize: whether images are made.
        only: values by option, of those that go with it alone.
        without: of those that choose among images for labels, which such images have none of.

    Raises:
        UsageError: naming the option.
    """
    if inpaint is None:
        for name, value in only.items():
            if value is not None:
                raise UsageError(f"{name}: goes with --inpaint")
        return
    if not synthesize:
        raise UsageError("--inpaint: goes with --synthesize, and a pipeline that paints")
    for name, value in without.items():
        if value is not None and value is not False:
            raise UsageError(
                f"{name}: chooses among images of labels, and what --inpaint makes has no label; "
                "leave it out"
            )


def inpaint_images(
    inputs: Sequence[str],
    classes: str,
    output: Path,
    run: ModelOptions,
    read: ReadOptions,
    *,
    count: int | None,
    pipeline: str | None,
    prompt: str | None,
    negative_prompt: str | None,
    steps: int | None,
    guidance: float | None,
    size: tuple[int | None, int | None],
    strength: float | None,
    mask: str | None,
    contexts: Path | None,
    seed: int,
    resume: bool,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Paint over pictures of the classes, and leave records of it; no model of vlood is needed.

    Raises:
        UsageError: naming the option.
        VloodError: diffusers is not installed, or the pipeline fails.
    """
    from importlib.metadata import version

    from vlood.backbone.device import choose_device, choose_precision
    from vlood.cli.model_options import stream_settings
    from vlood.cli.sources import Source
    from vlood.engines.collected_folder import begin, check_folder, complete, folder_names
    from vlood.engines.inpainting import (
        A_CLASS,
        GUIDANCE,
        NEAR_FOLDER,
        PIPELINE,
        PROMPT,
        SIDE,
        STEPS,
        STRENGTH,
        Inpainting,
        check_mask,
        choose_sources,
        paint,
        read_contexts,
        write_records,
    )
    from vlood.engines.printable import printable
    from vlood.engines.synthesis import (
        check_installed,
        check_making,
        check_pipeline,
        load_pipeline,
    )
    from vlood.prompts.classes import label_lookup, read_classes
    from vlood.prompts.templates import SLOT

    shown = PROMPT if prompt is None else prompt
    if SLOT not in shown:
        raise UsageError(f"--prompt {shown}: has no {SLOT} for the context")
    if strength is not None and not 0 < strength <= 1:
        raise UsageError(f"--strength {strength}: expected a number above 0, at most 1")
    check_mask(mask or "centre")
    words = read_contexts(contexts)
    named = read_classes(classes)
    source = Source(list(inputs), None)
    source.check(read)
    chosen_pipeline = pipeline or PIPELINE
    check_pipeline(chosen_pipeline)
    check_installed()
    check_folder(output, resume=resume, overwrite=overwrite)
    device = choose_device(run.device)
    making = Inpainting(
        chosen_pipeline,
        shown,
        negative_prompt,
        seed,
        STEPS if steps is None else steps,
        GUIDANCE if guidance is None else guidance,
        size[0] or SIDE,
        size[1] or SIDE,
        choose_precision(run.precision, device).name,
        STRENGTH if strength is None else strength,
        mask or "centre",
    )
    near = output / NEAR_FOLDER
    if resume:
        check_making(near, making)
    decoding = stream_settings(run, read).decode
    lookup = label_lookup(named)
    spelled = {text: named[row].name for text, row in lookup.items()}
    items = list(source.items(read))
    sources, unreadable = choose_sources(items, spelled, count or A_CLASS, decoding)
    facts: dict[str, Any] = {
        "command": ["vlood", *sys.argv[1:]],
        "sources": {"inpaint": list(inputs), "contexts": str(contexts) if contexts else None},
        "pipeline": asdict(making),
    }
    begin(output, facts, overwrite=overwrite)
    loaded = load_pipeline(chosen_pipeline, device, making.precision, inpaint=True)
    places = dict(
        zip([one.name for one in named], folder_names([one.name for one in named]), strict=True)
    )
    painted = []
    try:
        with progress("painting", len(sources), quiet=quiet) as bar:
            for one in paint(sources, words, places, loaded, making, near, decoding):
                painted.append(one)
                bar.advance(1)
    except KeyboardInterrupt:
        note(f"{output}: go on with --resume", quiet=quiet)
        raise
    write_records(output, painted)
    withheld = sum(one.path is None for one in painted)
    told = {
        "collected": str(output),
        "folder": str(near),
        "images": len(painted) - withheld,
        "classes": len({one.source.label for one in painted}),
        "made_now": sum(one.fresh for one in painted),
        "withheld": withheld,
        "unreadable": len(unreadable),
    }
    facts["pipeline"] |= {"class": loaded.kind, "diffusers": version("diffusers")}
    complete(output, {**facts, **told})
    if withheld:
        warn(f"{withheld} images were withheld by the pipeline's safety checker", quiet=quiet)
    absent = [one.name for one in named if one.name not in {each.label for each in sources}]
    if absent:
        warn(
            f"{len(absent)} of {len(named)} classes have no image to paint over "
            f"({printable(', '.join(absent[:5]))})",
            quiet=quiet,
        )
    if sys.stdout.isatty():
        sys.stdout.write(f"{told['images']:,} images of {told['classes']:,} classes in {near}\n")
    else:
        sys.stdout.write(json.dumps(told) + "\n")
    images = "image" if len(unreadable) == 1 else "images"
    warn_unreadable(unreadable, f"{len(unreadable)} {images} could not be read", quiet=quiet)
    if unreadable:
        raise typer.Exit(SOME_UNREADABLE)
