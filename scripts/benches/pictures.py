"""Made pictures, models with random weights, and the pipeline that scores them."""

from __future__ import annotations

import argparse
import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image


def random_model(architecture: str, folder: Path) -> str:
    """Save a model with random weights in open_clip's folder layout; return its --model value."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    config = open_clip.get_model_config(architecture)
    torch.manual_seed(0)
    model = open_clip.create_model(architecture, pretrained=None)
    folder.mkdir(parents=True)
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    preprocess = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    text = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
    (folder / "open_clip_config.json").write_text(text)
    return f"local-dir:{folder}"


def photo_like(width: int, height: int, seed: int) -> Image.Image:
    """Make a picture with structure at every scale, as photographs have."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(seed)
    pixels = np.zeros((height, width, 3), np.float32)
    scale = 4
    while scale < max(width, height):
        small = rng.normal(0, 1, (max(2, height // scale), max(2, width // scale), 3)).astype(
            np.float32
        )
        for channel in range(3):
            layer = Image.fromarray(small[..., channel]).resize(
                (width, height), Image.Resampling.BILINEAR
            )
            pixels[..., channel] += np.asarray(layer) * scale**0.55
        scale *= 2
    pixels = (pixels - pixels.mean()) / pixels.std() * 55 + 120
    # The grain of a camera: without it a 12-megapixel JPEG is a third of its usual size.
    pixels += rng.normal(0, 4, (height, width, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def picture_folder(
    folder: Path, count: int, size: tuple[int, int], *, distinct: int | None = None
) -> Path:
    """Write ``count`` JPEGs of quality 90, no two files alike, of ``distinct`` pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn: list[bytes] = []
    for number in range(min(count, distinct or count)):
        data = io.BytesIO()
        photo_like(*size, seed=number).save(data, "JPEG", quality=90, subsampling="4:2:0")
        drawn.append(data.getvalue())
    for number in range(count):
        # Bytes after the end of a JPEG change the file's digest and nothing else.
        extra = b"" if number < len(drawn) else str(number).encode()
        (folder / f"{number:06d}.jpg").write_bytes(drawn[number % len(drawn)] + extra)
    return folder


def pipeline(scratch: Path, folder: Path, architecture: str, options: argparse.Namespace) -> tuple:
    """Load a random model and everything a score needs."""
    from vlood.backbone.load import load_backbone
    from vlood.engines.detectors import fit_zero_shot
    from vlood.engines.text_side import classes_from_texts
    from vlood.features.stream import StreamSettings
    from vlood.images.sources import find_images
    from vlood.prompts.classes import read_classes

    backbone = load_backbone(
        random_model(architecture, scratch / "model"), device=options.device, precision="fp32"
    )
    classes = classes_from_texts(read_classes("cifar10"), ["a photo of a {}."], backbone, None)
    detector = fit_zero_shot(["mcm"], classes, backbone.logit_scale)[0]
    return (
        backbone,
        detector,
        StreamSettings(32, os.cpu_count() or 1),
        list(find_images([str(folder)])),
    )


def transformed(backbone: Any, path: str) -> Any:
    """Apply open_clip's own transform to one file, as a plain loop does."""
    from open_clip.transform import image_transform_v2
    from PIL import Image

    global _TRANSFORM
    if _TRANSFORM is None:
        from open_clip.transform import PreprocessCfg

        _TRANSFORM = image_transform_v2(PreprocessCfg(size=224), is_train=False)
    with Image.open(path) as image:
        return _TRANSFORM(image)


_TRANSFORM = None


def score_to_file(
    items: list,
    backbone: object,
    detector: object,
    settings: object,
    out: Path,
    cache: object = None,
) -> None:
    """Do what ``vlood score -o`` does once the model is loaded."""
    from vlood.engines.record_files import FileSink
    from vlood.engines.records import COLUMNS
    from vlood.engines.scoring import Decision, records_of, score_images

    sink = FileSink(out, "jsonl", COLUMNS, {})
    sink.start(resume=False, batch_size=settings.batch_size)
    for batch in score_images(iter(items), backbone, [detector], settings, cache=cache):
        sink.write(records_of(batch, detector, Decision()))
    sink.close()
