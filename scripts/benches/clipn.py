"""CLIPN: a training step, and how well the trained detectors tell.

Without --images the pictures are the pictograms of the bundled model's world, in a shard with a
caption each; a second training leaves out every other name of those that are out-of-distribution in
the test, which is then made on the names that were left out. With --images, a labelled folder that
is trained on with captions by templates, --test is a labelled folder of the same classes and
--strange FOLDER... are out-of-distribution.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benches.clipn_step import clipn_step
from benches.clipn_world import drawn, encoded, shard
from benches.measuring import Measured

SEEDS = (0, 1, 2)
WAYS = ("full", "lora", "prompts")


def clipn(options: argparse.Namespace) -> Iterator[Measured]:
    from vlood.backbone.load import load_backbone

    backbone = load_backbone(options.model, device=options.device, precision="fp32")
    if options.images is None:
        yield clipn_step(backbone, options.device)
        yield from world(backbone, options.count or 20)
    else:
        yield photographs(backbone, options)


@dataclass
class Sets:
    """Embeddings that a detector is tested on."""

    known: Any
    labels: list[str]
    strange: dict[str, Any]


def world(backbone: Any, count: int) -> Iterator[Measured]:
    """Near-OOD of the pictogram world after training on a shard of captioned pictograms."""
    from vlood.engines.captioned_images import caption_set
    from vlood.features.stream import StreamSettings
    from vlood.images import world as pictograms
    from vlood.images.captions import find_captions

    names = [one.name for one in pictograms.near_pictograms()]
    out = frozenset(names[::2])
    near = list(pictograms.near_images(4))
    known = list(pictograms.id_images("test", 40))
    sets = Sets(
        encoded(backbone, [one.image for one in known]),
        [one.label for one in known],
        {"near": encoded(backbone, [one.image for one in near])},
    )
    unseen = replace(
        sets,
        strange={"unseen": encoded(backbone, [one.image for one in near if one.label in out])},
    )
    for title, without, tested in (
        (f"{len(names)} near-OOD names, all in captions", frozenset(), sets),
        (f"{len(out)} near-OOD names that no caption has", out, unseen),
    ):
        kept = len(names) + len(pictograms.ID_CLASSES) - len(without)
        with tempfile.TemporaryDirectory() as scratch:
            pictures, captions, _ = drawn(count * kept, without=without)
            shard(Path(scratch) / "shard-000.tar", pictures, captions)
            found = caption_set(find_captions([scratch]), backbone, StreamSettings(64, 2)).images
        ways = ("full",) if without else WAYS
        columns, rows = compare(backbone, list(pictograms.ID_CLASSES), found, tested, ways)
        yield Measured(
            *("world-clipn", "unseen" if without else "captions"),
            *(columns, rows),
            keys=2,
            caption=(f"{title}: {len(found):,} captioned pictograms.",),
            bundled=True,
        )


def photographs(backbone: Any, options: argparse.Namespace) -> Measured:
    """The same from labelled photographs, whose captions are templates."""
    from vlood.engines.training_images import labelled_images, training_set
    from vlood.features.stream import StreamSettings
    from vlood.images.sources import find_images, labelled_classes
    from vlood.prompts.classes import ClassName

    settings = StreamSettings(64, 2)
    names = list(labelled_classes(options.images))
    classes = [ClassName.of(name) for name in names]

    def read(folder: Path) -> Any:
        return labelled_images(find_images([str(folder)]), backbone, settings)

    images = training_set(read(options.images), classes).images
    test = training_set(read(options.test), classes).images
    strange = {
        folder.name: np.concatenate([batch.features.raw for batch in read(folder)])
        for folder in options.strange
    }
    sets = Sets(test.raw, [names[label] for label in test.labels.tolist()], strange)
    columns, rows = compare(backbone, names, images, sets, WAYS, epochs="20")
    return Measured(*("photos-clipn", "ways"), *(columns, rows), keys=2)


def compare(
    backbone: Any,
    names: list[str],
    images: Any,
    sets: Sets,
    ways: tuple[str, ...],
    **settings: str,
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Train every way with three seeds; AUROC of ATD and CTW beside MCM's on the same templates."""
    from vlood.backbone.image_features import ImageFeatures
    from vlood.engines.few_shot import fit_from_images
    from vlood.engines.mining import Encoder
    from vlood.engines.text_side import TextSide
    from vlood.evaluation.metrics import auroc
    from vlood.methods import registry
    from vlood.prompts.classes import ClassName
    from vlood.prompts.templates import class_features, read_no_templates

    classes = tuple(ClassName.of(name) for name in names)
    templates = [positive for positive, _ in read_no_templates()]

    def tested(detector: Any) -> dict[str, float]:
        known = registry.score(detector, ImageFeatures(sets.known)).score
        return {
            name: auroc(known, registry.score(detector, ImageFeatures(raw)).score)
            for name, raw in sets.strange.items()
        }

    rows: list[tuple[Any, ...]] = []
    for title, some in (("16 templates", templates), ("one template", ["a photo of a {}."])):
        features = class_features(backbone.encode_texts, classes, some)
        mcm = registry.get("mcm")
        detector = mcm.fit(features, mcm.settings(), backbone.logit_scale)
        plain = [round(one, 4) for one in tested(detector).values()]
        rows.append(("nothing", f"MCM, {title}", None, None, *plain))
    for way in ways:
        found: dict[str, list[dict[str, float]]] = {"ATD": [], "CTW": []}
        begun, trained = time.process_time(), 0
        for seed in SEEDS:
            fitted = fit_from_images(
                "clipn",
                TextSide(classes),
                images,
                seed=seed,
                settings={"preset": "small", "no_train": way, **settings},
                encoder=Encoder(backbone, None),
            )
            trained = sum(array.size for array in fitted.learned.arrays.values())
            own = fitted.detector
            for rule, held in found.items():
                held.append(tested(replace(own, settings=replace(own.settings, rule=rule.lower()))))
        seconds = round((time.process_time() - begun) / len(SEEDS))
        for rule, held in found.items():
            cells = [spread([one[name] for one in held]) for name in sets.strange]
            rows.append((way, rule, trained, seconds, *cells))
    headings = ("what is trained", "rule", "numbers", "s of CPU a training")
    return (*headings, *((name, 4) for name in sets.strange)), tuple(rows)


def spread(values: list[float]) -> dict[str, float]:
    """Return the mean, the lowest and the highest of the seeds."""
    ends = {"mean": float(np.mean(values)), "low": min(values), "high": max(values)}
    return {name: round(value, 4) for name, value in ends.items()}
