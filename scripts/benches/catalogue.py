"""The benches by name: what each measures, which function does, what it needs and writes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from benches.environment import has_pytorch_ood, shared_folder
from benches.measuring import Measured


@dataclass(frozen=True)
class Bench:
    """A bench.

    Args:
        summary: a line for the help.
        place: module and function, "text:text".
        needs: "shared" (the folder of test data), "pytorch-ood", or nothing.
        given: options that it sets where the user gave none, as paths below the shared folder.
    """

    summary: str
    place: str
    needs: str = ""
    given: dict[str, Any] = field(default_factory=dict)

    def missing(self) -> str:
        """Say what keeps it from running here, or return nothing."""
        if self.needs == "shared" and shared_folder() is None:
            return "needs the folder of test data: ../shared, or VLOOD_SHARED"
        if self.needs == "pytorch-ood" and not has_pytorch_ood():
            return "needs pytorch-ood, which is not installed: pip install pytorch-ood"
        return ""

    def run(self, options: argparse.Namespace) -> Iterator[Measured]:
        module, name = self.place.split(":")
        work: Callable[[argparse.Namespace], Iterator[Measured]] = getattr(
            import_module(f"benches.{module}"), name
        )
        return work(self.filled(options))

    def filled(self, options: argparse.Namespace) -> argparse.Namespace:
        """Return the options with those this bench sets by itself."""
        values = dict(vars(options))
        for name, value in self.given.items():
            if values.get(name) in (None, "bundled"):
                values[name] = _below_shared(value)
        return argparse.Namespace(**values)


def _below_shared(value: Any) -> Any:
    shared = shared_folder()
    assert shared is not None  # a bench that is given such paths needs the folder
    if isinstance(value, list):
        return [shared / one for one in value]
    if value.startswith("local-dir:"):
        return f"local-dir:{shared / value.removeprefix('local-dir:')}"
    return shared / value if "/" in value else value


PHOTO_MODEL = "local-dir:models/photo-tiny"
IMAGENETTE = {
    "model": PHOTO_MODEL,
    "images": "photos/id_imagenette/train",
    "test": "photos/id_imagenette/test",
}
STRANGE = [
    f"photos/{one}"
    for one in (
        *("near_tin", "near_imagewoof", "near_caltech101", "far_dtd10", "far_food101_64"),
        *("far_scenes_intel", "far_eurosat", "far_mnist"),
    )
]
BENCHES = {
    "text": Bench("exact truncated text encoding over open_clip's encode_text", "text:text"),
    "score": Bench(
        "the scoring pipeline over a bare encode_image loop on preloaded tensors", "scoring:score"
    ),
    "large": Bench(
        "12-megapixel JPEGs: --fast-decode over open_clip's own transform", "scoring:large"
    ),
    "cache": Bench("a second score of the same folder over the first", "scoring:cache"),
    "memory": Bench("peak memory of scoring 20,000 images and 1,000", "scoring:memory"),
    "negatives": Bench(
        "grouped scores, mining, a bank's index, and what 10,000 negatives cost",
        "negatives:negatives",
    ),
    "tune": Bench(
        "learned prompts: memory of chunks over all at once, and a LAPT step", "tuning:tune"
    ),
    "local-prompt": Bench(
        "a Local-Prompt step: memory, and time over 16 maps and dense logits",
        "local_prompt:local_prompt",
    ),
    "features": Bench(
        "k-NN and Mahalanobis with a bank of 1,281,167 embeddings", "features:features"
    ),
    "clean": Bench("what vlood clean finds again in a folder spoiled on purpose", "cleaning:clean"),
    "collect": Bench(
        "how many of the images vlood collect gathers are of their label", "collecting:collected"
    ),
    "clean-photos": Bench(
        "what vlood clean finds again among spoiled photographs",
        "cleaning:clean",
        "shared",
        IMAGENETTE | {"strange": STRANGE},
    ),
    "collect-photos": Bench(
        "how many of the photographs vlood collect gathers are of their label",
        "collecting:collected",
        "shared",
        IMAGENETTE | {"strange": STRANGE, "corpus": "models/photo-tiny/vocabulary.txt"},
    ),
    "tables": Bench(
        "every detector of feature space on labelled embeddings (--images FOLDER)",
        "tables:tables",
        "shared",
        {
            "images": "embeddings/food10_vitb32",
            "strange": ["embeddings/cifar10_500_vitb32/features.npy"],
        },
    ),
    "clipn": Bench(
        "a CLIPN step on cached features, and CLIPN's detectors against MCM", "clipn:clipn"
    ),
    "clipn-photos": Bench(
        "CLIPN's detectors on photographs",
        "clipn:clipn",
        "shared",
        IMAGENETTE
        | {
            "strange": [
                f"photos/{one}" for one in ("near_imagewoof", "near_imagenet990", "far_dtd10")
            ]
        },
    ),
    "cma": Bench("a CMA step over the plain form's, with memory", "cma:cma"),
    "synood": Bench("SynOOD's detectors against NegLabel on the pictogram world", "synood:synood"),
    "world": Bench("every method that trains nothing, pictogram world", "world:world"),
    "world-negatives": Bench(
        "NegLabel, AdaNeg and TANL with mined negatives, pictogram world", "world:world_negatives"
    ),
    "world-images": Bench(
        "every method that learns from embeddings of images, pictogram world", "world:world_images"
    ),
    "world-few-shot": Bench(
        "detectors on embeddings by shots, pictogram world", "world:world_few_shot"
    ),
    "world-prompts": Bench("CoOp and LoCoOp by shots, pictogram world", "world:world_prompts"),
    "world-local-prompt": Bench(
        "Local-Prompt by shots, pictogram world", "world:world_local_prompt"
    ),
    "world-cooked": Bench("COOkeD under wrong labels, pictogram world", "world:world_cooked"),
    "world-classifier": Bench(
        "COOkeD with a classifier trained from scratch, pictogram world",
        "cooked:world_classifier",
    ),
    "world-layers": Bench("every layer of the tower, pictogram world", "world:world_layers"),
    "photos": Bench("methods that train nothing, photographs", "photos:photos", "shared"),
    "photos-images": Bench(
        "detectors that learn from embeddings, photographs", "photos:photos_images", "shared"
    ),
    "photos-prompts": Bench("CoOp and LoCoOp, photographs", "photos:photos_prompts", "shared"),
    "photos-local-prompt": Bench(
        "Local-Prompt by shots, photographs", "photos:photos_local_prompt", "shared"
    ),
    "embeddings": Bench(
        "zero-shot methods and negatives, real ViT-B/32 embeddings",
        "embeddings:embeddings",
        "shared",
    ),
    "embeddings-probe": Bench(
        "a linear probe by shots, real ViT-B/32 embeddings",
        "embeddings:embeddings_probe",
        "shared",
    ),
    "pytorch-ood": Bench(
        "feature-space detectors over pytorch-ood's on the same arrays",
        "pytorch_ood:pytorch_ood",
        "pytorch-ood",
    ),
    "statistics": Bench("metrics of 200,000 scores with intervals", "intervals:statistics"),
    "demo": Bench("vlood demo from start to end", "intervals:demo"),
    "world-lapt": Bench("LAPT, parts left out, pictogram world", "scripted:world_lapt"),
    "world-contexts": Bench(
        "what CoOp learns epoch by epoch, pictogram world", "scripted:world_contexts"
    ),
    "world-cma": Bench("CMA and FLYP, pictogram world", "scripted:world_cma"),
    "photos-cma": Bench("CMA and FLYP, photographs", "scripted:photos_cma", "shared"),
}
