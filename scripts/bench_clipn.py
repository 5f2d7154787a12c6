"""What `scripts/bench clipn` measures: a training step, and how well the trained detectors tell.

Without --images the pictures are the pictograms of the bundled model's world, in a shard with a
caption each; a second training leaves out every other name of those that are out-of-distribution in
the test, which is then made on the names that were left out. With --images, a labelled folder that
is trained on with captions by templates, --test is a labelled folder of the same classes and
--strange FOLDER... are out-of-distribution.
"""

from __future__ import annotations

import argparse
import io
import tarfile
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

SEEDS = (0, 1, 2)
STEPS = 20
WAYS = ("full", "lora", "prompts")


def bench_clipn(options: argparse.Namespace) -> None:
    from vlood.backbone.load import load_backbone

    backbone = load_backbone(options.model, device=options.device, precision="fp32")
    if options.images is None:
        steps(backbone, options.device)
        world(backbone, options.count or 20)
    else:
        photographs(backbone, options)


def steps(backbone: Any, device: str, batch: int = 256) -> None:
    """The same steps on cached features and with all towers run anew, as the released code does."""
    import torch
    import torch.nn.functional as F

    from vlood.methods.clipn_loss import losses
    from vlood.methods.clipn_settings import CLIPNSettings
    from vlood.methods.clipn_training import ByLength, Objective, starting_tower, texts_of
    from vlood.training.captioned import CaptionedFeatures
    from vlood.training.draws import ShuffledRows
    from vlood.training.loop import train

    settings = CLIPNSettings(batch_size=batch, epochs=STEPS // 4, logit_scale=backbone.logit_scale)
    pictures, captions, _ = drawn(4 * batch)
    pixels = np.stack([backbone.preprocessing.prepare(one) for one in pictures])
    raw = np.concatenate(
        [backbone.encode_pixels(pixels[n : n + 64]).raw for n in range(0, len(pixels), 64)]
    )
    images = CaptionedFeatures.of(raw, captions)
    texts = texts_of(images, (), settings, 0)
    tokens = backbone.tokenizer(list(texts.no))
    lengths = backbone.text_tower.ends(tokens).numpy() + 1
    order = ByLength(ShuffledRows(len(images), batch), lengths[texts.index].max(axis=1))
    scale, loop = backbone.logit_scale, settings.loop(len(images))

    def cached() -> tuple[list[float], list[float]]:
        tower, _ = starting_tower(backbone.text_tower, settings, 0)
        tower.to(device)
        short = tokens[:, : int(lengths.max())]
        yes = backbone.encode_texts(list(texts.yes))
        objective = Objective(tower, raw, texts, yes, short, order, settings, scale, 0)
        curve: list[float] = []
        times = [time.process_time()]

        def told(report: Any) -> None:
            curve.append(report.loss)
            times.append(time.process_time())

        train(tower.trainable(), objective.of, order, loop, on_step=told)
        return curve, np.diff(times).tolist()

    def plain() -> tuple[list[float], list[float]]:
        """Image tower, text tower and "no" tower on 77 tokens in every step, one optimiser."""
        tower, _ = starting_tower(backbone.text_tower, settings, 0)
        tower.to(device)
        draws = Objective(tower, raw, texts, raw[:1], tokens, order, settings, scale, 0)
        named = tower.trainable().values()
        optimizer = torch.optim.AdamW(
            [
                {"params": [one for one in named if one.ndim >= 2], "weight_decay": 0.2},
                {"params": [one for one in named if one.ndim < 2], "weight_decay": 0.0},
            ],
            lr=3e-4,
            betas=(0.9, 0.98),
            eps=1e-6,
        )
        module = backbone.module
        curve, times = [], [time.process_time()]
        for step in range(loop.epochs * order.per_epoch):
            rate = loop.schedule.rate(loop.learning_rate, step, order.per_epoch, loop.epochs)
            for group in optimizer.param_groups:
                group["lr"] = rate
            rows = order.batch(*divmod(step, order.per_epoch))
            chosen, prompts = draws._draws(rows, step)
            some = tokens[torch.from_numpy(chosen)].to(device)
            with torch.no_grad():
                shown = backbone.preprocessing.normalise(pixels[rows]).to(device)
                seen = F.normalize(module.encode_image(shown).float(), dim=-1)
                said = F.normalize(module.encode_text(some).float(), dim=-1)
            embedded = tower.side.token_embedding(some) + tower._prompts(
                torch.from_numpy(prompts).to(device), some.shape[1]
            )
            no = tower.tower.encode_embedded(embedded, tower.tower.ends(some))
            loss = losses(seen, said, F.normalize(no, dim=-1), scale).total()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(float(loss.detach()))
            times.append(time.process_time())
        return curve, np.diff(times).tolist()

    ours, fast = cached()
    theirs, slow = plain()
    apart = max(abs(one - other) for one, other in zip(ours, theirs, strict=True))
    ratio = float(np.median(slow) / np.median(fast))
    print(
        f"clipn: {len(ours)} steps of {batch} captions: loss {ours[0]:.4f} to {ours[-1]:.4f}, all "
        f"towers every step {np.median(slow):.2f} s of processor time a step, on cached features "
        f"{np.median(fast):.3f} s: {ratio:.1f} times faster; losses at most {apart:.1e} apart"
    )


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


@dataclass
class Sets:
    """Embeddings that a detector is tested on."""

    known: Any
    labels: list[str]
    strange: dict[str, Any]


def world(backbone: Any, count: int) -> None:
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
        print(f"clipn: {title}: {len(found)} captioned pictograms, {model_name(backbone)}")
        ways = ("full",) if without else WAYS
        compare(backbone, list(pictograms.ID_CLASSES), found, tested, ways)


def photographs(backbone: Any, options: argparse.Namespace) -> None:
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
    print(f"clipn: {len(images)} photographs of {len(names)} classes, {model_name(backbone)}")
    compare(backbone, names, images, sets, WAYS, epochs="20")


def compare(
    backbone: Any,
    names: list[str],
    images: Any,
    sets: Sets,
    ways: tuple[str, ...],
    **settings: str,
) -> None:
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

    for title, some in (("a photo of a {}.", ["a photo of a {}."]), ("16 templates", templates)):
        features = class_features(backbone.encode_texts, classes, some)
        mcm = registry.get("mcm")
        detector = mcm.fit(features, mcm.settings(), backbone.logit_scale)
        scores = registry.score(detector, ImageFeatures(sets.known))
        right = np.mean(
            [names[row] == own for row, own in zip(scores.label, sets.labels, strict=True)]
        )
        print(f"  MCM, {title}: {said(tested(detector))}, ID accuracy {100 * right:.1f} %")
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
        seconds = (time.process_time() - begun) / len(SEEDS)
        for rule, held in found.items():
            mean = {name: float(np.mean([one[name] for one in held])) for name in held[0]}
            spread = {}
            for name in held[0]:
                all_three = [one[name] for one in held]
                spread[name] = f"{min(all_three):.4f} to {max(all_three):.4f}"
            told = ", ".join(f"{name} {mean[name]:.4f} ({spread[name]})" for name in mean)
            print(
                f"  {way} ({trained:,} numbers, {seconds:.0f} s of processor time), {rule}: {told}",
                flush=True,
            )


def said(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())


def model_name(backbone: Any) -> str:
    return Path(backbone.name).name


def encoded(backbone: Any, pictures: list[Any]) -> Any:
    """Encode pictures, 64 at a time."""
    pixels = [backbone.preprocessing.prepare(one) for one in pictures]
    return np.concatenate(
        [
            backbone.encode_pixels(np.stack(pixels[start : start + 64])).raw
            for start in range(0, len(pixels), 64)
        ]
    )
