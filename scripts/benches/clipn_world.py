"""Captioned pictograms for CLIPN: drawn, packed into a shard, and encoded."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np


def drawn(count: int, *, without: frozenset[str] = frozenset(), seed: int = 0) -> tuple[Any, ...]:
    """Draw pictograms of every name in turn: pictures, captions and names."""
    from vlood.images import world

    named = [one for one in world.pictograms() if one.name not in without]
    pictures, captions, names = [], [], []
    for number in range(count):
        pictogram = named[number % len(named)]
        rng = np.random.default_rng([777, seed, number])
        look = world.random_look(rng, 0.5)
        pictures.append(world.draw(int(rng.choice(pictogram.glyphs)), look, rng))
        captions.append(world.caption(pictogram.name, look, rng))
        names.append(pictogram.name)
    return pictures, captions, names


def shard(path: Path, pictures: list[Any], captions: list[str]) -> None:
    """Write pictures and captions as Conceptual Captions are stored by img2dataset."""
    with tarfile.open(path, "w") as archive:
        for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
            data = io.BytesIO()
            picture.save(data, "PNG")
            for suffix, held in (("png", data.getvalue()), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{number:08d}.{suffix}")
                member.size = len(held)
                archive.addfile(member, io.BytesIO(held))


def encoded(backbone: Any, pictures: list[Any]) -> Any:
    """Encode pictures, 64 at a time."""
    pixels = [backbone.preprocessing.prepare(one) for one in pictures]
    return np.concatenate(
        [
            backbone.encode_pixels(np.stack(pixels[start : start + 64])).raw
            for start in range(0, len(pixels), 64)
        ]
    )
