"""Make images that lie just outside the classes: pictures of the classes, painted over in part.

    near/making.json             what the images were made with
    near/CLASS/STEM_ood.png      what became of a picture, as SynOOD lays such images out
    near/CLASS/STEM_ood.flagged  one that the pipeline's own safety checker withheld
    near.jsonl                   a record an image: its source, its class, its prompt, its seed

SynOOD (Li et al., ICCV 2025) takes the 50 pictures of each class that hold the most (bytes a
pixel), and in-paints them with Stable Diffusion 2: 512 x 512, strength 0.6, 20 steps, guidance 8,
and a prompt of what remains of the picture without the class. The paper also pushes the noise with
gradients of a classifier's energy and asks a language model for the context's words; here those
words come from a file, and nothing is pushed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlood.engines.synthesis import (
    MAKING_FILE,
    Making,
    Pipeline,
    image_seed,
    keep_image,
    options_of,
    run_pipeline,
    withheld_of,
)
from vlood.errors import ImageError, UsageError
from vlood.features.atomic import write_atomically
from vlood.images.decode import DecodeSettings, decode
from vlood.images.item import ImageItem
from vlood.prompts.templates import fill

if TYPE_CHECKING:
    from PIL import Image

PIPELINE = "stabilityai/stable-diffusion-2-inpainting"
PROMPT = "A photo only remain {}."
CONTEXT = "the background"
A_CLASS, STEPS, GUIDANCE, STRENGTH, SIDE = 50, 20, 8.0, 0.6, 512
MASKS = ("centre", "all")
NEAR_FOLDER, RECORDS = "near", "near.jsonl"
# Longer contexts do not fit into the text tower; the authors cut there too.
_LONGEST_CONTEXT = 73
# Of the sides: a box of half the picture's area.
_CENTRE = 0.707


@dataclass(frozen=True)
class Inpainting(Making):
    """What decides an in-painted image, beside its source.

    Attributes:
        strength: how much of the picture may change, in (0, 1].
        mask: ``centre``, a box of half the area; ``all``; or a folder of masks, white where painted
            over, named like the pictures.
    """

    strength: float = STRENGTH
    mask: str = "centre"


@dataclass(frozen=True)
class Source:
    """A picture to be painted over: its class, its place among that class's, its weight."""

    item: ImageItem
    label: str
    stem: str
    bytes_a_pixel: float


@dataclass(frozen=True)
class Painted:
    """An image that was made; ``path`` is None where the safety checker withheld it."""

    source: Source
    prompt: str
    seed: int
    path: Path | None
    fresh: bool

    def record(self, folder: Path) -> dict[str, Any]:
        """Return what near.jsonl says of it."""
        return {
            "path": None if self.path is None else str(self.path.relative_to(folder)),
            "source": self.source.item.path,
            "label": self.source.label,
            "prompt": self.prompt,
            "seed": self.seed,
        }


def choose_sources(
    items: Sequence[ImageItem], names: Mapping[str, str], count: int, decoding: DecodeSettings
) -> tuple[list[Source], dict[str, str]]:
    """Choose the pictures of each class that hold the most: bytes of the file a pixel.

    Args:
        items: labelled images.
        names: every spelling of a label to its class.
        count: pictures a class, at most.
        decoding: how images are read.

    Returns:
        The pictures, class after class, and reasons of those that cannot be read, by path.

    Raises:
        UsageError: no image has a label that is a class, or none can be read.
    """
    found: dict[str, list[Source]] = {}
    unreadable: dict[str, str] = {}
    for item in items:
        label = names.get(item.label or "")
        if label is None:
            continue
        try:
            data = item.read()
            width, height = decode(data, decoding).size
        except ImageError as error:
            unreadable[item.path] = str(error)
            continue
        stem = Path(item.path).stem
        found.setdefault(label, []).append(Source(item, label, stem, len(data) / (width * height)))
    if not found:
        reason = (
            f"none of the {len(unreadable)} images of classes could be read"
            if unreadable
            else "no image has a label that is a class"
        )
        raise UsageError(f"--inpaint: {reason}; give images in a folder a class")
    chosen: list[Source] = []
    for label in sorted(found):
        best = sorted(found[label], key=lambda one: (-one.bytes_a_pixel, one.item.path))[:count]
        taken: set[str] = set()
        for one in best:
            stem, number = one.stem, 2
            while stem in taken:
                stem, number = f"{one.stem}_{number}", number + 1
            taken.add(stem)
            chosen.append(Source(one.item, label, stem, one.bytes_a_pixel))
    return chosen, unreadable


def read_contexts(path: Path | None) -> dict[str, str]:
    """Read what remains of a picture, ``class or path<TAB>words`` a line.

    Raises:
        UsageError: the file cannot be read, or a line has no tab.
    """
    if path is None:
        return {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--contexts {path}: cannot be read; give a text file") from error
    contexts = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, tab, words = line.partition("\t")
        if not tab or not words.strip():
            raise UsageError(
                f"--contexts {path}: line {number} is {line[:60]!r}; expected a class or a path, a "
                "tab and words"
            )
        contexts[name.strip()] = words.strip()[:_LONGEST_CONTEXT]
    return contexts


def paint(
    sources: Sequence[Source],
    contexts: Mapping[str, str],
    places: Mapping[str, str],
    pipeline: Pipeline,
    making: Inpainting,
    folder: Path,
    decoding: DecodeSettings,
) -> Iterator[Painted]:
    """Paint over one picture after the other; those that are there stay.

    Args:
        sources: the pictures.
        contexts: words by path or class; of others :data:`CONTEXT`.
        places: the folder's name of each class.
        pipeline: what paints.
        making: how.
        folder: where they go.
        decoding: how images are read.

    Raises:
        UsageError: the pipeline refuses an option, or a mask is missing.
        VloodError: it fails otherwise.
        OSError: an image cannot be written.
    """
    options = options_of(pipeline, making)
    if "strength" not in pipeline.takes:
        raise UsageError(f"--strength: {pipeline.kind} has no such setting; use another pipeline")
    options["strength"] = making.strength
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / MAKING_FILE, (json.dumps(asdict(making), indent=1) + "\n").encode())
    size = (making.width or SIDE, making.height or SIDE)
    for source in sources:
        path = folder / places[source.label] / f"{source.stem}_ood.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        words = contexts.get(source.item.path) or contexts.get(source.label) or CONTEXT
        prompt = fill(making.prompt, words)
        seed = image_seed(making.seed, f"{source.label}/{source.stem}", 1)
        if path.is_file() or withheld_of(path).is_file():
            yield Painted(source, prompt, seed, path if path.is_file() else None, False)
            continue
        picture = decode(source.item.read(), decoding).resize(size)
        shown = {"image": picture, "mask_image": mask_of(making.mask, source, size)}
        image = run_pipeline(pipeline, prompt, seed, {**options, **shown})
        keep_image(image, path)
        yield Painted(source, prompt, seed, path if image is not None else None, True)


def mask_of(mask: str, source: Source, size: tuple[int, int]) -> Image.Image:
    """Return what is painted over, white, of a picture of (width, height).

    Raises:
        UsageError: the folder of masks has none for it.
    """
    from PIL import Image

    if mask == "all":
        return Image.new("L", size, 255)
    if mask == "centre":
        drawn = Image.new("L", size, 0)
        inner = tuple(round(side * _CENTRE) for side in size)
        at = tuple((whole - part) // 2 for whole, part in zip(size, inner, strict=True))
        drawn.paste(255, (at[0], at[1], at[0] + inner[0], at[1] + inner[1]))
        return drawn
    name = Path(source.item.path).stem
    for path in (Path(mask) / source.label / f"{name}.png", Path(mask) / f"{name}.png"):
        if path.is_file():
            with Image.open(path) as held:
                kept: Image.Image = held.convert("L").resize(size)
            return kept
    raise UsageError(
        f"--mask {mask}: has no {source.label}/{name}.png and no {name}.png; add the mask, or use "
        f"{' or '.join(MASKS)}"
    )


def check_mask(mask: str) -> None:
    """Refuse a mask that is no word for one and no folder.

    Raises:
        UsageError: it is neither.
    """
    if mask not in MASKS and not Path(mask).is_dir():
        raise UsageError(f"--mask {mask}: expected {', '.join(MASKS)} or a folder of masks")


def write_records(folder: Path, painted: Sequence[Painted]) -> None:
    """Write near.jsonl."""
    lines = [json.dumps(one.record(folder), ensure_ascii=False) + "\n" for one in painted]
    write_atomically(folder / RECORDS, "".join(lines).encode("utf-8", "surrogateescape"))
