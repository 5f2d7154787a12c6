"""What a method needs beside class names: refused where it is not there, made where it can be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlood.engines.mining import Encoder
from vlood.errors import UsageError
from vlood.methods import registry
from vlood.methods.contract import Method
from vlood.methods.ensemble import MADE_OF_DETECTORS
from vlood.prompts.templates import ClassFeatures
from vlood.training.captioned import CaptionedFeatures
from vlood.training.labelled import LabelledFeatures


def refuse_unmet(method: Method, allowed: Sequence[str]) -> None:
    """Refuse a method that needs more than what is there.

    Raises:
        UsageError: saying what it needs.
    """
    if method.learns and method.data not in allowed:
        raise UsageError(needs_training(method.name))
    missing = [need for need in method.record.needs if need not in allowed]
    if missing:
        raise UsageError(
            f"--method {method.name}: needs {' and '.join(missing)}, not only class names; "
            "`vlood methods` says what each method needs"
        )


def needs_training(method: str) -> str:
    """Say that a method has to be given images, or detectors, and how."""
    chosen = registry.get(method)
    if "detectors" in chosen.record.needs:
        return MADE_OF_DETECTORS
    if chosen.data == "captioned-images":
        return (
            f'--method {method}: its "no" text features must be trained, on images with '
            f"captions: `vlood tune {method} --classes C --captions IN... -o DIR` (or --train, "
            "labelled images), or brought in with `vlood import`; then use --detector DIR"
        )
    told = (
        f"--method {method}: learns from labelled images; give them with --train, as in `vlood "
        f"tune {method} --classes C --train IN... -o DIR`, then use --detector DIR"
    )
    if chosen.record.negative_images:
        told += "; `vlood collect` gathers some from the names of classes and negatives"
    return told


def data_of(method: Method, images: LabelledFeatures) -> LabelledFeatures:
    """Return what a method learns from, unless it is captions that it cannot read.

    Raises:
        UsageError: it is.
    """
    if isinstance(images, CaptionedFeatures):
        refuse_captions(method)
    return images


def refuse_captions(method: Method) -> None:
    """Refuse captions for a method that learns from labels.

    Raises:
        UsageError: it does.
    """
    if method.data != "captioned-images":
        raise UsageError(
            f"--captions: --method {method.name} learns from labelled images; give them with "
            "--train, or tune clipn, which learns from captions"
        )


def check_widths(classes: ClassFeatures, images: LabelledFeatures) -> None:
    """Refuse training embeddings that are not as wide as the class embeddings.

    Raises:
        UsageError: saying both widths.
    """
    wide, own = classes.features.shape[1], images.raw.shape[1]
    if wide not in (0, own):
        raise UsageError(
            f"--train: the embeddings are {own} wide and those of the classes {wide}; both must "
            "come from one model"
        )


def noise_features(method: str, encoder: Encoder | None) -> NDArray[np.float32]:
    """Return the raw features of the noise pictures, [n, D].

    Raises:
        UsageError: there is no model to see them.
    """
    if encoder is None:
        raise UsageError(
            f"--method {method}: begins with pictures of noise, and embeddings alone have no model "
            "to see them; give --model and class names"
        )
    from PIL import Image

    from vlood.images.noise import noise_pictures

    backbone = encoder.backbone
    prepare, (height, width) = backbone.preprocessing.prepare, backbone.preprocessing.size
    pictures = [prepare(Image.fromarray(one)) for one in noise_pictures(height, width)]
    return backbone.encode_pixels(np.stack(pictures)).raw
