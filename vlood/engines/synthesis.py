"""Make training images for labels with a text-to-image pipeline of diffusers, resumably.

    made/making.json          what the images were made with
    made/LABEL/0001.png       the first image of a label
    made/LABEL/0002.flagged   an image that the pipeline's own safety checker withheld

Every image has a seed of its own, so what is there need not be made again and what is missing comes
out as it would have. LAPT (Zhang et al., ECCV 2024) makes 32 images a label with SDXL, guidance
7.5, from the bare label as the prompt.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlood.errors import UsageError, VloodError
from vlood.features.atomic import write_atomically
from vlood.images.item import ImageItem
from vlood.prompts.templates import fill

if TYPE_CHECKING:
    from PIL import Image

DEFAULT_PIPELINE = "stabilityai/stable-diffusion-xl-base-1.0"
MADE_FOLDER = "made"
MAKING_FILE = "making.json"
MADE, KEPT = 32, 8
GUIDANCE = 7.5
_INDEX_FILE = "model_index.json"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_LAYOUT = "a folder in diffusers' layout (it holds model_index.json) or a name on the hub, ORG/NAME"


@dataclass(frozen=True)
class Making:
    """Everything that decides an image, beside its label and number.

    Attributes:
        pipeline: a folder or a hub name.
        prompt: the template of the prompt, with {} for the label.
        negative_prompt: what not to show, or None.
        seed: of the run.
        steps: denoising steps, or None for the pipeline's own.
        guidance: guidance scale, or None for the pipeline's own.
        width: in pixels, or None for the pipeline's own.
        height: likewise.
        precision: the numbers it computes with.
    """

    pipeline: str
    prompt: str = "{}"
    negative_prompt: str | None = None
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None
    precision: str = "fp32"


@dataclass(frozen=True, eq=False)
class Pipeline:
    """A loaded text-to-image pipeline.

    Attributes:
        run: diffusers' object.
        kind: the name of its class.
        takes: the parameters its call has.
        device: where it runs.
    """

    run: Any
    kind: str
    takes: frozenset[str]
    device: str


@dataclass(frozen=True)
class Made:
    """One image of a label: ``path`` is None where the pipeline's safety checker withheld it."""

    label: int
    number: int
    seed: int
    path: Path | None
    fresh: bool

    def item(self) -> ImageItem:
        """Return the image as an input."""
        assert self.path is not None
        return ImageItem(str(self.path))


def image_seed(seed: int, label: str, number: int) -> int:
    """Return the seed of one image of a label: the same on every machine, in any order."""
    text = f"{seed}\0{label}\0{number}".encode("utf-8", "surrogateescape")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big") >> 1


def check_pipeline(name: str) -> None:
    """Refuse what cannot be a pipeline, before anything slow is done.

    Raises:
        UsageError: it is no folder in diffusers' layout and no name on the hub.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / _INDEX_FILE).is_file():
            raise UsageError(f"--pipeline {name}: has no {_INDEX_FILE}; give {_LAYOUT}")
    elif not _HUB_NAME.fullmatch(name) or name.startswith("."):
        raise UsageError(f"--pipeline {name}: is no folder and no name on the hub; give {_LAYOUT}")


def load_pipeline(name: str, device: str, precision: str, *, inpaint: bool = False) -> Pipeline:
    """Load a text-to-image or in-painting pipeline, weights from safetensors only.

    Args:
        name: a folder in diffusers' layout, or a name on the hub.
        device: ``cpu``, ``cuda`` or ``mps``.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        inpaint: whether it is to paint over parts of pictures; a text-to-image folder whose kind
            has an in-painting twin serves too.

    Raises:
        UsageError: there is no such pipeline, or it does not take a prompt (and a mask).
        VloodError: diffusers is not installed, or the pipeline cannot be fetched or read.
    """
    check_pipeline(name)
    with _quietly():
        pipe = _fetched(name, Path(name).expanduser(), precision, inpaint)
    takes = frozenset(inspect.signature(type(pipe).__call__).parameters)
    if "prompt" not in takes:
        raise UsageError(
            f"--pipeline {name}: {type(pipe).__name__} does not make images from a text alone; "
            "give a text-to-image pipeline"
        )
    if inpaint and not {"image", "mask_image"} <= takes:
        raise UsageError(
            f"--pipeline {name}: {type(pipe).__name__} does not paint over parts of a picture; "
            "give an in-painting pipeline"
        )
    pipe.set_progress_bar_config(disable=True)
    return Pipeline(pipe.to(device), type(pipe).__name__, takes, device)


def _fetched(name: str, folder: Path, precision: str, inpaint: bool) -> Any:
    import torch

    try:
        from diffusers import AutoPipelineForInpainting, DiffusionPipeline
    except ImportError as error:
        raise _not_installed() from error
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    common = {"torch_dtype": dtype, "use_safetensors": True}
    kind = AutoPipelineForInpainting if inpaint else DiffusionPipeline
    try:
        if folder.is_dir():
            return kind.from_pretrained(folder, local_files_only=True, **common)
        try:
            return kind.from_pretrained(name, local_files_only=True, **common)
        except (OSError, ValueError):
            return kind.from_pretrained(name, **common)
    except ImportError as error:
        raise _not_installed() from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        if folder.is_dir():
            raise VloodError(
                f"--pipeline {name}: cannot be read ({reason}); save it again with "
                "save_pretrained, as safetensors"
            ) from error
        raise VloodError(
            f"--pipeline {name}: is not on this machine and cannot be fetched ({reason}); check "
            "the name and the network, or give a folder in diffusers' layout"
        ) from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep the bars and the chatter of loading a pipeline off stderr for a while."""
    try:
        from diffusers.utils import logging as diffusers_talk
        from transformers.utils import logging as transformers_talk
    except ImportError as error:
        raise _not_installed() from error
    from vlood.backbone.load import quiet_libraries

    shown = [talk for talk in (diffusers_talk, transformers_talk) if talk.is_progress_bar_enabled()]
    said = diffusers_talk.get_verbosity()
    diffusers_talk.set_verbosity_error()
    for talk in shown:
        talk.disable_progress_bar()
    try:
        with quiet_libraries():
            yield
    finally:
        diffusers_talk.set_verbosity(said)
        for talk in shown:
            talk.enable_progress_bar()


def check_installed() -> None:
    """Refuse to make images without the packages that do.

    Raises:
        VloodError: diffusers or transformers is not installed.
    """
    from importlib.util import find_spec

    if find_spec("diffusers") is None or find_spec("transformers") is None:
        raise _not_installed()


def _not_installed() -> VloodError:
    return VloodError(
        "--synthesize: needs diffusers and transformers; install them with "
        "pip install 'vlood[synth]'"
    )


def check_making(folder: Path, making: Making) -> None:
    """Refuse to add images to some that were made otherwise.

    Args:
        folder: the folder of made images, if there is one.
        making: how.

    Raises:
        UsageError: images made otherwise are there.
    """
    record = folder / MAKING_FILE
    if not record.is_file():
        return
    wanted = asdict(making)
    try:
        held = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        held = None
    if not isinstance(held, dict):
        raise UsageError(f"--resume: {record} is damaged; use --overwrite to begin anew")
    other = [name for name in wanted if held.get(name) != wanted[name]]
    if other:
        raise UsageError(
            f"--resume: the images in {folder} were made otherwise ({other[0]}: "
            f"{held.get(other[0])!r} then, {wanted[other[0]]!r} now); use the same options, or "
            "--overwrite"
        )


def make_images(
    labels: Sequence[tuple[int, str, str, str]],
    count: int,
    pipeline: Pipeline,
    making: Making,
    folder: Path,
) -> Iterator[Made]:
    """Make ``count`` images of each label, one after the other; those that are there stay.

    One image at a time, so that an image does not depend on which others are made beside it.

    Args:
        labels: for each its number, its name, its words in a prompt, and its folder's name.
        count: images a label.
        pipeline: what makes them.
        making: how.
        folder: where they go.

    Raises:
        UsageError: the pipeline refuses an option.
        VloodError: it fails otherwise.
        OSError: an image cannot be written.
    """
    options = options_of(pipeline, making)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / MAKING_FILE, (json.dumps(asdict(making), indent=1) + "\n").encode())
    for label, name, words, place in labels:
        (folder / place).mkdir(parents=True, exist_ok=True)
        for number in range(1, count + 1):
            seed = image_seed(making.seed, name, number)
            path = folder / place / f"{number:04d}.png"
            if path.is_file() or withheld_of(path).is_file():
                yield Made(label, number, seed, path if path.is_file() else None, False)
                continue
            image = run_pipeline(pipeline, fill(making.prompt, words), seed, options)
            keep_image(image, path)
            yield Made(label, number, seed, path if image is not None else None, True)


def withheld_of(path: Path) -> Path:
    """Return the empty file that says that an image was withheld."""
    return path.with_suffix(".flagged")


def keep_image(image: Image.Image | None, path: Path) -> None:
    """Write an image that was made, or that the safety checker withheld it.

    Raises:
        OSError: it cannot be written.
    """
    if image is None:
        write_atomically(withheld_of(path), b"")
        return
    data = io.BytesIO()
    image.save(data, "PNG")
    write_atomically(path, data.getvalue())


def options_of(pipeline: Pipeline, making: Making) -> dict[str, Any]:
    """Return the call's options, those that were given.

    Raises:
        UsageError: the pipeline has no such option.
    """
    named = (
        ("num_inference_steps", making.steps, "--steps"),
        ("guidance_scale", making.guidance, "--guidance"),
        ("width", making.width, "--size"),
        ("height", making.height, "--size"),
        ("negative_prompt", making.negative_prompt, "--negative-prompt"),
    )
    options = {}
    for name, value, option in named:
        if value is None:
            continue
        if name not in pipeline.takes:
            raise UsageError(f"{option}: {pipeline.kind} has no such setting; leave it out")
        options[name] = value
    return options


def run_pipeline(
    pipeline: Pipeline, prompt: str, seed: int, options: dict[str, Any]
) -> Image.Image | None:
    """Make one image; None where the pipeline's safety checker withholds it.

    Raises:
        UsageError: the pipeline does not take these options.
        VloodError: it failed, or ran out of memory.
    """
    import torch

    # Noise drawn on the CPU is the same for every device.
    generator = torch.Generator("cpu").manual_seed(seed)
    try:
        made = pipeline.run(prompt=prompt, generator=generator, output_type="pil", **options)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"--synthesize: {pipeline.kind} refuses its options: {reason}") from error
    except torch.OutOfMemoryError as error:
        raise VloodError(
            f"--synthesize: {pipeline.kind} needs more memory than {pipeline.device} has; use a "
            "smaller --size, --precision fp16, or a smaller pipeline"
        ) from error
    flagged = getattr(made, "nsfw_content_detected", None)
    if flagged and flagged[0]:
        return None
    image: Image.Image = made.images[0]
    return image.convert("RGB")
