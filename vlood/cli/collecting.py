"""What ``vlood collect`` checks, reads and says."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vlood.cli.guard import SOME_UNREADABLE
from vlood.cli.talk import note, progress, warn, warn_unreadable
from vlood.errors import UsageError

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone
    from vlood.cli.model_options import ModelOptions, ReadOptions
    from vlood.cli.sources import Source
    from vlood.engines.collect_labels import Labels
    from vlood.engines.collected_folder import Written
    from vlood.engines.pools import Pool
    from vlood.engines.synthesis import Making
    from vlood.features.cache import FeatureCache
    from vlood.features.stream import StreamSettings
    from vlood.images.item import ImageItem

_SHOWN = 5


@dataclass(frozen=True)
class PoolSources:
    """Where images are from: a pool of images or of embeddings, and labelled images."""

    images: Source | None
    stored: tuple[Path, ...]
    labelled: Source | None


def check_sources(
    pool: Sequence[str] | None,
    from_folder: Sequence[str] | None,
    synthesize: bool,
    embedded: bool,
) -> None:
    """Refuse to collect from nothing, or from two things that exclude each other.

    Raises:
        UsageError: naming the options.
    """
    if synthesize and (pool or from_folder):
        given = "--pool" if pool else "--from-folder"
        raise UsageError(f"--synthesize and {given}: give one of them")
    if not (pool or from_folder or synthesize):
        raise UsageError(
            "--pool is missing: name images to search, or labelled ones with --from-folder, or "
            "have some made with --synthesize"
        )
    if embedded and (synthesize or from_folder):
        raise UsageError(
            "--class-embeddings: go with a --pool of stored embeddings; images need a --model"
        )


def sources_of_pool(
    pool: Sequence[str] | None, from_folder: Sequence[str] | None, read: ReadOptions
) -> PoolSources:
    """Tell images from embeddings, and refuse wrong inputs before a model is loaded.

    Raises:
        UsageError: an input does not exist, or kinds that do not go together are mixed.
    """
    from vlood.cli.sources import Source
    from vlood.features.embeddings import looks_like_embeddings

    stored = [
        Path(text) for text in pool or [] if text != "-" and looks_like_embeddings(Path(text))
    ]
    if stored and (len(stored) < len(pool or []) or from_folder):
        raise UsageError(
            f"--pool {stored[0]}: holds embeddings, which do not go together with images; collect "
            "from one kind at a time"
        )
    for path in stored:
        if not path.exists():
            raise UsageError(f"--pool {path}: does not exist; name a file of embeddings")
    for text in from_folder or []:
        if text == "-" or looks_like_embeddings(Path(text)):
            raise UsageError(
                f"--from-folder {text}: expected labelled images, in a folder a class or in a list"
            )
    images = Source(list(pool), None) if pool and not stored else None
    labelled = Source(list(from_folder), None) if from_folder else None
    for source in (images, labelled):
        if source is not None:
            source.check(read)
    return PoolSources(images, tuple(stored), labelled)


def pixels(size: str | None) -> tuple[int | None, int | None]:
    """Read --size as width and height.

    Raises:
        UsageError: it is neither a side nor WIDTHxHEIGHT.
    """
    if size is None:
        return None, None
    sides = size.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise UsageError(f"--size {size}: expected SIDE or WIDTHxHEIGHT, e.g. 512 or 768x512")
    return int(sides[0]), int(sides[-1])


def making_of(
    pipeline: str | None,
    prompt: str,
    negative_prompt: str | None,
    seed: int,
    steps: int | None,
    guidance: float | None,
    size: tuple[int | None, int | None],
    run: ModelOptions,
    resumed: Path | None,
) -> Making:
    """Gather what decides made images; refuse what cannot work or does not fit those there are.

    Raises:
        UsageError: naming the option.
        VloodError: diffusers is not installed.
    """
    from vlood.backbone.device import choose_device, choose_precision
    from vlood.engines.synthesis import (
        DEFAULT_PIPELINE,
        GUIDANCE,
        MADE_FOLDER,
        Making,
        check_installed,
        check_making,
        check_pipeline,
    )

    chosen = pipeline or DEFAULT_PIPELINE
    check_pipeline(chosen)
    check_installed()
    numbers = choose_precision(run.precision, choose_device(run.device)).name
    own = GUIDANCE if chosen == DEFAULT_PIPELINE and guidance is None else guidance
    making = Making(chosen, prompt, negative_prompt, seed, steps, own, *size, numbers)
    if resumed is not None:
        check_making(resumed / MADE_FOLDER, making)
    return making


def read_pool(
    pool: Pool,
    sources: PoolSources,
    labels: Labels,
    backbone: Backbone | None,
    stream: StreamSettings,
    store: FeatureCache | None,
    read: ReadOptions,
    quiet: bool,
) -> None:
    """Read the pool, then the labelled images."""
    from vlood.engines.pools import add_images, add_stored
    from vlood.prompts.classes import label_lookup

    if sources.stored:
        model = None if backbone is None else backbone.identity()
        add_stored(pool, sources.stored, labels.text.shape[1], model)
        return
    if backbone is None:
        raise UsageError(
            "--class-embeddings: go with a --pool of stored embeddings; images need a --model"
        )
    index = label_lookup(labels.names)
    for source, known in ((sources.images, None), (sources.labelled, index)):
        if source is None:
            continue
        shown = sys.stderr.isatty() and not quiet
        with progress("encoding", source.count(read) if shown else None, quiet=quiet) as bar:
            add_images(
                pool,
                source.items(read),
                backbone,
                stream,
                cache=store,
                index=known,
                advance=bar.advance,
            )
    if pool.left_out:
        warn(
            f"--from-folder: {pool.left_out} images left out, their labels are none of the classes",
            quiet=quiet,
        )


def make(
    pool: Pool,
    labels: Labels,
    making: Making,
    made: int,
    output: Path,
    backbone: Backbone,
    stream: StreamSettings,
    store: FeatureCache | None,
    quiet: bool,
) -> tuple[dict[str, Any], dict[str, int]]:
    """Make images, or take those that are there, into the pool; return facts and seeds by path."""
    from dataclasses import asdict

    from vlood.engines.collected_folder import folder_names
    from vlood.engines.pools import add_images
    from vlood.engines.synthesis import MADE_FOLDER, load_pipeline, make_images

    places = folder_names([each.name for each in labels.names])
    wanted = [
        (label, labels.names[label].name, labels.names[label].prompt, places[label])
        for label in labels.wanted.tolist()
    ]
    pipeline = load_pipeline(making.pipeline, backbone.device, making.precision)
    index = {labels.names[label].name: label for label in labels.wanted.tolist()}
    seeds: dict[str, int] = {}
    fresh = withheld = 0
    with progress("making", made * len(wanted), quiet=quiet) as bar:

        def items() -> Iterator[ImageItem]:
            nonlocal fresh, withheld
            for one in make_images(wanted, made, pipeline, making, output / MADE_FOLDER):
                fresh += one.fresh
                withheld += one.path is None
                bar.advance(1)
                if one.path is not None:
                    item = replace(one.item(), label=labels.names[one.label].name)
                    seeds[item.path] = one.seed
                    yield item

        add_images(pool, items(), backbone, stream, cache=store, index=index)
    if withheld:
        warn(f"{withheld} images were withheld by the pipeline's safety checker", quiet=quiet)
    from importlib.metadata import version

    facts = {
        **asdict(making),
        "class": pipeline.kind,
        "diffusers": version("diffusers"),
        "images_a_label": made,
        "made_now": fresh,
        "withheld": withheld,
    }
    return facts, seeds


def say(text: str, strict: bool, quiet: bool) -> None:
    """Warn, or with --strict refuse.

    Raises:
        UsageError: ``strict``.
    """
    if strict:
        raise UsageError(text)
    warn(text, quiet=quiet)


def check_broken(pool: Pool, labels: Labels, strict: bool, quiet: bool) -> None:
    """Tell of labels none of whose given images could be read."""
    alive = set(pool.given)
    dead = [labels.names[label].name for label in sorted(pool.broken) if label not in alive]
    if dead:
        say(
            f"--from-folder: no image of {_some(dead)} could be read; replace the files",
            strict,
            quiet,
        )


def check_counts(counts: Sequence[int], labels: Labels, strict: bool, quiet: bool) -> None:
    """Tell of labels that have no image, or one."""
    wanted = labels.wanted.tolist()
    for count, what in ((0, "no image"), (1, "a single image")):
        few = [labels.names[label].name for label in wanted if counts[label] == count]
        if few:
            say(
                f"{len(few)} of {len(wanted)} labels get {what} ({_some(few)}); add images to "
                "search, or loosen --filter and --min-similarity",
                strict,
                quiet,
            )


def _some(names: Sequence[str]) -> str:
    from vlood.engines.printable import printable

    shown = ", ".join(printable(name) for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def conclude(written: Written, pool: Pool, labels: Labels, output: Path, quiet: bool) -> None:
    """Say what was collected, and on stderr what could not be read."""
    if written.lacking:
        warn(
            f"{len(written.lacking)} paths hold a tab or a line break, which collected.txt cannot; "
            "collected.jsonl is complete",
            quiet=quiet,
        )
    facts = {
        "collected": str(output),
        "list": str(output / "collected.txt"),
        "images": len(written.records),
        "id_images": sum(one["side"] == "id" for one in written.records),
        "labels": len(labels.wanted),
        "missing": len(written.missing),
        "pool": len(pool),
        "unreadable": len(pool.errors),
    }
    if sys.stdout.isatty():
        sys.stdout.write(
            f"{facts['images']:,} images of {facts['pool']:,} for {facts['labels']:,} labels in "
            f"{output}; {facts['missing']} labels have none\n"
        )
        note(f"look at {output / 'contact-sheet.png'}", quiet=quiet or pool.stored)
    else:
        sys.stdout.write(json.dumps(facts) + "\n")
    summary = f"{len(pool.errors)} images could not be read: unreadable.jsonl"
    warn_unreadable(pool.errors, summary, quiet=quiet)
    if pool.errors:
        raise typer.Exit(SOME_UNREADABLE)
