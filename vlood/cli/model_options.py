"""The model that options name, how it is run, and how inputs are read for it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlood.errors import UsageError

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone
    from vlood.engines.classifiers import ClassifierChoice
    from vlood.features.cache import FeatureCache
    from vlood.features.stream import StreamSettings


@dataclass(frozen=True)
class ModelOptions:
    """How the model is chosen and run."""

    model: str
    device: str
    precision: str
    batch_size: int
    workers: int | None
    cache: Path | None
    no_cache: bool
    classifier: ClassifierChoice | None = None


@dataclass(frozen=True)
class ReadOptions:
    """How inputs are read."""

    root: Path | None = None
    null_separated: bool = False
    fast_decode: bool = False
    background: str = "255,255,255"


def open_cache(options: ModelOptions) -> FeatureCache | None:
    """Open the embedding cache, unless it is switched off."""
    from vlood.features.cache import FeatureCache, default_cache_folder

    if options.no_cache:
        return None
    return FeatureCache(options.cache or default_cache_folder())


def load_model(options: ModelOptions) -> Backbone:
    """Load the model the options name, and the classifier beside it where they name one."""
    from vlood.backbone.load import load_backbone

    backbone = load_backbone(options.model, device=options.device, precision=options.precision)
    if options.classifier is not None:
        options.classifier.add_to(backbone, options.device, options.precision)
    return backbone


def stream_settings(options: ModelOptions, read: ReadOptions) -> StreamSettings:
    """Gather how images are decoded and batched."""
    from vlood.features.stream import StreamSettings
    from vlood.images.decode import DecodeSettings

    return StreamSettings(
        batch_size=options.batch_size,
        workers=options.workers or min(16, os.cpu_count() or 1),
        decode=DecodeSettings(fast=read.fast_decode, background=_colour(read.background)),
    )


def _colour(text: str) -> tuple[int, int, int]:
    parts = text.split(",")
    if len(parts) == 3 and all(part.strip().isdigit() and int(part) <= 255 for part in parts):
        return (int(parts[0]), int(parts[1]), int(parts[2]))
    raise UsageError(f"--background {text}: expected R,G,B with numbers from 0 to 255")
