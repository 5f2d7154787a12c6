"""``vlood embed``: store embeddings, to score and evaluate them later without the images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlood.cli import options as opt
from vlood.cli.guard import SOME_UNREADABLE, guarded, leave
from vlood.cli.interrupt import INTERRUPTED
from vlood.cli.talk import note, progress, start_logging, warn
from vlood.errors import UsageError

if TYPE_CHECKING:
    from vlood.features.store import EmbeddingStoreWriter


@guarded
def embed(
    inputs: opt.Inputs,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="Folder of the store; new, empty, or to --resume."),
    ],
    model: opt.Model = opt.DEFAULT_MODEL,
    local: Annotated[
        bool,
        typer.Option("--local", help="Store patch embeddings too; they are large."),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted store.")
    ] = False,
    root: opt.Root = None,
    null: opt.NullSeparated = False,
    fast_decode: opt.FastDecode = False,
    background: opt.Background = "255,255,255",
    device: opt.DeviceOption = opt.Device.auto,
    precision: opt.PrecisionOption = opt.Precision.auto,
    batch_size: opt.BatchSize = 32,
    workers: opt.Workers = None,
    cache: opt.CacheFolder = None,
    no_cache: opt.NoCache = False,
    quiet: opt.Quiet = False,
) -> None:
    """Store the embeddings of images in a folder that score and eval read.

    Examples:

      vlood embed photos/ -o photos.store

      vlood score photos.store --classes cats,dogs
    """
    start_logging(quiet)
    from vlood.cli.model_options import (
        ModelOptions,
        ReadOptions,
        load_model,
        open_cache,
        stream_settings,
    )
    from vlood.cli.sources import sources_of
    from vlood.engines.embedding import embed_images, store_meta
    from vlood.engines.printable import printable
    from vlood.features.store import EmbeddingStoreWriter

    run = ModelOptions(model, device.value, precision.value, batch_size, workers, cache, no_cache)
    read = ReadOptions(root, null, fast_decode, background)
    source = sources_of(inputs)
    if source.embeddings is not None:
        raise UsageError(f"{inputs[0]} holds embeddings already; embed takes images")
    source.check(read)
    settings = stream_settings(run, read)
    backbone = load_model(run)
    meta = store_meta(backbone, settings, inputs)
    with EmbeddingStoreWriter(output, meta, resume=resume) as writer:
        if writer.done:
            note(f"{writer.done} finished inputs kept", quiet=quiet)
        total = source.count(read) if sys.stderr.isatty() and not quiet else None
        unreadable: list[tuple[str, str]] = []
        try:
            with progress("embedding", total, quiet=quiet) as bar:
                bar.advance(writer.done)
                batches = embed_images(
                    source.items(read),
                    backbone,
                    settings,
                    writer,
                    cache=open_cache(run),
                    local=local,
                )
                for count, errors in batches:
                    unreadable.extend(errors)
                    bar.advance(count)
        except KeyboardInterrupt:
            _keep(writer, output)
            leave(INTERRUPTED)
        writer.finish()
    for path, reason in unreadable[:20]:
        warn(f"{printable(path)}: {printable(reason)}", quiet=quiet)
    if writer.errors:
        warn(f"{writer.errors} of {writer.done} inputs could not be read", quiet=quiet)
    note(f"{writer.done} inputs in {output}", quiet=quiet)
    if writer.errors:
        raise typer.Exit(SOME_UNREADABLE)


def _keep(writer: EmbeddingStoreWriter, output: Path) -> None:
    writer.close()
    warn(f"stopped; {writer.done} finished inputs kept in {output}: add --resume to go on")
