"""``vlood cache``: what the embedding cache holds, and emptying it."""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated

import typer

from vlood.cli import options as opt
from vlood.cli.guard import guarded

app = typer.Typer(
    help="Look into or empty the cache of embeddings.",
    no_args_is_help=True,
    epilog="Example:  vlood cache info",
)


@app.command()
@guarded
def info(
    cache: opt.CacheFolder = None,
    json_lines: opt.OneJson = False,
) -> None:
    """Say where the cache is, how large, and whose embeddings it holds.

    Example:

      vlood cache info
    """
    from vlood.features.cache import FeatureCache, default_cache_folder

    held = FeatureCache(cache or default_cache_folder()).info()
    if json_lines or not sys.stdout.isatty():
        facts = {
            "folder": str(held.folder),
            "bytes": held.size_bytes,
            "limit_bytes": held.limit_bytes,
            "files": held.files,
            "banks": held.banks,
            "spaces": [
                {"rows": one.rows, "bytes": one.size_bytes, "last_used": one.last_used, **one.key}
                for one in held.spaces
            ],
        }
        sys.stdout.write(json.dumps(facts) + "\n")
        return
    limit = "" if held.limit_bytes is None else f" of at most {held.limit_bytes / 1e9:.3g} GB"
    sys.stdout.write(f"{held.folder}: {held.size_bytes / 1e6:.1f} MB{limit}\n")
    for one in held.spaces:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.last_used))
        sys.stdout.write(
            f"  {one.rows:>9} {one.key.get('kind', '?'):<6} {one.size_bytes / 1e6:>9.1f} MB  "
            f"used {used}  {one.key.get('architecture', '?')} {one.key.get('precision', '')}\n"
        )
    if held.banks:
        sys.stdout.write(f"  {held.banks:>9} banks of mined negatives\n")


@app.command()
@guarded
def clear(
    cache: opt.CacheFolder = None,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
) -> None:
    """Remove every cached embedding; scoring again computes them again.

    Example:

      vlood cache clear --yes
    """
    from vlood.features.cache import FeatureCache, default_cache_folder

    place = FeatureCache(cache or default_cache_folder())
    if not yes and sys.stdin.isatty():
        typer.confirm(f"Remove the embeddings in {place.folder}?", abort=True)
    freed = place.clear()
    sys.stdout.write(f"{freed / 1e6:.1f} MB freed in {place.folder}\n")
