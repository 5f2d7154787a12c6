"""vlood tells which images a CLIP model does not know.

The names below are the public Python API; each is imported when it is first used, so that
``import vlood`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlood.backbone.image_features import ImageFeatures
    from vlood.backbone.load import load_backbone
    from vlood.detector.threshold import threshold_from_id
    from vlood.engines.detectors import fit_zero_shot
    from vlood.engines.few_shot import fit_from_images
    from vlood.engines.loaded import LoadedDetector, ScoredImages, load
    from vlood.engines.scoring import score_embeddings, score_images
    from vlood.engines.text_side import TextSide, classes_from_files, classes_from_texts
    from vlood.errors import ImageError, UsageError, VloodError
    from vlood.evaluation.evaluate import evaluate
    from vlood.features.cache import FeatureCache
    from vlood.features.embeddings import read_embeddings
    from vlood.features.stream import StreamSettings, encode_images
    from vlood.images.sources import find_images
    from vlood.methods.contract import Detector, Method, MethodRecord, Scores
    from vlood.prompts.classes import read_classes
    from vlood.prompts.templates import read_templates
    from vlood.training.labelled import LabelledFeatures

__version__ = "0.1.0"

_HOMES = {
    "Detector": "methods.contract",
    "FeatureCache": "features.cache",
    "ImageError": "errors",
    "ImageFeatures": "backbone.image_features",
    "LabelledFeatures": "training.labelled",
    "LoadedDetector": "engines.loaded",
    "Method": "methods.contract",
    "MethodRecord": "methods.contract",
    "ScoredImages": "engines.loaded",
    "Scores": "methods.contract",
    "StreamSettings": "features.stream",
    "TextSide": "engines.text_side",
    "UsageError": "errors",
    "VloodError": "errors",
    "classes_from_files": "engines.text_side",
    "classes_from_texts": "engines.text_side",
    "encode_images": "features.stream",
    "evaluate": "evaluation.evaluate",
    "find_images": "images.sources",
    "fit_from_images": "engines.few_shot",
    "fit_zero_shot": "engines.detectors",
    "load": "engines.loaded",
    "load_backbone": "backbone.load",
    "read_classes": "prompts.classes",
    "read_embeddings": "features.embeddings",
    "read_templates": "prompts.templates",
    "score_embeddings": "engines.scoring",
    "score_images": "engines.scoring",
    "threshold_from_id": "detector.threshold",
}

__all__ = [
    "Detector",
    "FeatureCache",
    "ImageError",
    "ImageFeatures",
    "LabelledFeatures",
    "LoadedDetector",
    "Method",
    "MethodRecord",
    "ScoredImages",
    "Scores",
    "StreamSettings",
    "TextSide",
    "UsageError",
    "VloodError",
    "classes_from_files",
    "classes_from_texts",
    "encode_images",
    "evaluate",
    "find_images",
    "fit_from_images",
    "fit_zero_shot",
    "load",
    "load_backbone",
    "read_classes",
    "read_embeddings",
    "read_templates",
    "score_embeddings",
    "score_images",
    "threshold_from_id",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vlood' has no attribute {name!r}")
    return getattr(import_module(f"vlood.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
