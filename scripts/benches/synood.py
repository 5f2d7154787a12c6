"""What `scripts/bench synood` measures: SynOOD beside NegLabel on the pictogram world, ablated.

No pipeline in-paints here. Stand-ins for near-boundary images are pictures of a class a part of
which, a half or a box in the middle, is that of another pictogram; those others are every second
name that is no class, and the rest of the names is what near-OOD is tested on. Negatives are mined
from the bundled words, which hold names of both halves.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from benches.measuring import Measured, percent

SEEDS = (0, 1, 2)
A_CLASS = 50
NEGATIVES = 128
LONG = {"head_epochs": "30", "label_epochs": "50"}
VARIANTS: dict[str, dict[str, str]] = {
    "synood": {},
    "tuned=head": {"tuned": "head"},
    "tuned=labels": {"tuned": "labels"},
    "zero_start=true": {"zero_start": "true"},
    "10 times the passes": LONG,
    "10 times, zero_start=true": {"zero_start": "true", **LONG},
    "10 times, tuned=labels": {"tuned": "labels", **LONG},
}


def synood(options: argparse.Namespace) -> Iterator[Measured]:
    from vlood.backbone.load import load_backbone

    backbone = load_backbone("bundled", device=options.device, precision="fp32")
    runs: dict[str, list[list[float]]] = {}
    for seed in SEEDS:
        for name, figures in of_seed(backbone, options.count or A_CLASS, seed):
            runs.setdefault(name, []).append(figures)
            print(f"seed {seed}: {name}: {' '.join(f'{one:.4f}' for one in figures)}", flush=True)
    rows = []
    for name, figures in runs.items():
        mean, spread = np.mean(figures, axis=0), np.std(figures, axis=0, ddof=1)
        cells = [
            {"mean": percent(m), "sd": percent(s)} for m, s in zip(mean[:4], spread, strict=False)
        ]
        rows.append((name, *cells, round(float(mean[4]), 1) if mean[4] else None))
    headings = ("near, shown", "near, not shown", "far", "ID accuracy")
    yield Measured(
        *("world-synood", "variants"),
        ("method", *((one, 1) for one in headings), "s of CPU"),
        tuple(rows),
        bundled=True,
    )


def of_seed(backbone: Any, count: int, seed: int) -> Any:
    """Yield each variant's AUROCs, ID accuracy and the seconds of its training."""
    from vlood.backbone.image_features import ImageFeatures
    from vlood.engines.detectors import fit_all
    from vlood.engines.few_shot import fit_from_images
    from vlood.engines.mining import Encoder, mine_words
    from vlood.engines.negatives import NegativesChoice
    from vlood.engines.text_side import TextSide
    from vlood.evaluation.metrics import auroc
    from vlood.images import world
    from vlood.methods import registry
    from vlood.methods.synood import mine_labels
    from vlood.negatives.corpora import read_corpus
    from vlood.negatives.mining import MiningSettings
    from vlood.negatives.prompting import Prompting
    from vlood.prompts.classes import ClassName
    from vlood.training.labelled import LabelledFeatures

    names = list(world.ID_CLASSES)
    classes = tuple(map(ClassName.of, names))
    encoder = Encoder(backbone, None)
    bank = mine_words(
        read_corpus("bundled"), classes, Prompting(), MiningSettings(size=NEGATIVES), encoder
    )
    negatives = bank.negative_features()
    others = [one.name for one in world.near_pictograms()][::2]
    train = list(world.id_images("train", count, seed))
    parts = [one.image for one in world.near_images(4, seed + 100) if one.label in set(others)]
    rng = np.random.default_rng([4, seed])
    made = [painted(one.image, parts[rng.integers(len(parts))], rng) for one in train]
    raw, synthetic = encoded(backbone, [one.image for one in train]), encoded(backbone, made)
    labels = np.array([names.index(one.label) for one in train])
    mined = len(names) + mine_labels(synthetic, negatives.features)
    images = LabelledFeatures(np.concatenate([raw, synthetic]), np.concatenate([labels, mined]))

    known = list(world.id_images("test", 25, seed))
    truth = np.array([names.index(one.label) for one in known])
    near = list(world.near_images(4, seed))
    shown = [one.image for one in near if one.label in set(others)]
    unseen = [one.image for one in near if one.label not in set(others)]
    far = [one.image for one in world.far_images(16, seed)]
    own = [one.image for one in known]
    sets = [encoded(backbone, some) for some in (own, shown, unseen, far)]
    if seed == SEEDS[0]:
        print(
            f"synood: {len(raw)} images of {len(names)} classes, {len(made)} made ones with "
            f"{len(np.unique(mined))} of {len(negatives)} negatives; tested on {len(own)} ID, "
            f"{len(shown)} near of the {len(others)} names that made ones show, {len(unseen)} of "
            f"others, {len(far)} far"
        )

    def tested(detector: Any, seconds: float) -> list[float]:
        scores = [registry.score(detector, ImageFeatures(rows)) for rows in sets]
        inside, *strange = (one.score for one in scores)
        right = float((scores[0].label == truth).mean())
        return [*(auroc(inside, one) for one in strange), right, seconds]

    choice = NegativesChoice(found=negatives)
    side = TextSide(classes, ("the nice {}",))
    for plain in ("mcm", "neglabel"):
        fitted = fit_all([plain], side, choice, encoder, {}, announce=lambda text: None)[0]
        yield plain, tested(fitted.detector, 0.0)
    for title, settings in VARIANTS.items():
        begun = time.process_time()
        fitted = fit_from_images(
            "synood",
            side,
            images,
            seed=seed,
            settings=settings,
            encoder=encoder,
            negatives=choice,
        )
        yield title, tested(fitted.detector, time.process_time() - begun)


def painted(picture: Any, other: Any, rng: np.random.Generator) -> Any:
    """Return a picture with a half or the middle of another: what an in-painting stands for."""
    width, height = picture.size
    box = [
        (0, 0, width // 2, height),
        (width // 2, 0, width, height),
        (0, 0, width, height // 2),
        (0, height // 2, width, height),
        (width // 5, height // 5, width - width // 5, height - height // 5),
    ][rng.integers(5)]
    mixed = picture.copy()
    mixed.paste(other.crop(box), box[:2])
    return mixed


def encoded(backbone: Any, pictures: list[Any]) -> Any:
    """Encode pictures, 64 at a time."""
    pixels = [backbone.preprocessing.prepare(one) for one in pictures]
    return np.concatenate(
        [
            backbone.encode_pixels(np.stack(pixels[start : start + 64])).raw
            for start in range(0, len(pixels), 64)
        ]
    )
