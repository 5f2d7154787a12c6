"""A Local-Prompt step: memory, and time over 16 maps and dense logits."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benches.measuring import Measured, in_own_process, synchronise, timed
from benches.tuning import WORDS_FOR_PROMPTS

REGION_STEP = {"classes": 1000, "negatives": 300, "regions": 196, "width": 512, "batch": 8}


def local_prompt(options: argparse.Namespace) -> Iterator[Measured]:
    """What a Local-Prompt step takes at the shapes of ImageNet-1k and ViT-B-16, weights random."""
    yield region_losses(options.device)
    peak, loaded, seconds, busy = in_own_process(region_step)
    yield Measured(
        *("memory", "local-prompt"),
        (
            *("measured", "peak of the process, MB", "loaded before, MB"),
            *("s by the clock", "s of CPU"),
        ),
        (
            (
                "a whole Local-Prompt step: 1,300 prompts of 16 context vectors through ViT-B-16's "
                "text tower in chunks, and its losses",
                *map(round, (peak, loaded, seconds, busy)),
            ),
        ),
    )


def region_losses(device: str) -> Measured:
    """The loss of a step from a store, and from 16 maps an image with dense logits."""
    import numpy as np
    import open_clip
    import torch
    import torch.nn.functional as F

    from vlood.backbone.local import encode_with_local
    from vlood.features.map_store import MapStore
    from vlood.methods.local_prompt_loss import local_prompt_loss

    classes, negatives, regions, width, batch = REGION_STEP.values()
    generator = torch.Generator().manual_seed(0)
    local, nameless = (
        F.normalize(torch.randn(count, width, generator=generator), dim=-1).to(device)
        for count in (classes, negatives)
    )
    labels = torch.randint(classes, (batch,), generator=generator).to(device)
    maps = F.normalize(torch.randn(batch, 9, regions, width, generator=generator), dim=-1)
    model = open_clip.create_model("ViT-B-16", pretrained=None).eval().requires_grad_(False)
    model = model.to(device)
    pixels = torch.randn(16, 3, 224, 224, generator=generator).to(device)

    def finish(loss_of, positive, negative):
        texts = [one.clone().requires_grad_() for one in (local, nameless)]
        loss = loss_of(positive, negative, *texts)
        loss.backward()
        synchronise(device)
        return torch.cat([one.grad for one in texts]), loss.detach()

    def ours_of(positive, negative, own, other):
        return local_prompt_loss(positive, negative, labels, own, other, scale=100.0, top_k=50)[0]

    def dense_of(positive, negative, own, other):
        a, b, d, e = (
            100 * one @ prompts.T
            for one, prompts in (
                (positive, own),
                (positive, other),
                (negative, own),
                (negative, other),
            )
        )
        rows = torch.arange(batch, device=device)
        best = torch.cat([a, b], 2).topk(50, dim=1).values
        pull = best.logsumexp((1, 2)) - a[rows, :, labels].topk(50, dim=1).values.logsumexp(1)
        chosen = d[rows, :, labels].topk(50, dim=1).indices
        evidence = e.gather(1, chosen[..., None].expand(-1, -1, e.shape[2])).logsumexp((1, 2))
        others = d.topk(50, dim=1).values.logsumexp((1, 2))
        push = torch.logaddexp(evidence, others) - evidence
        spread = (other @ other.T).sum() / (negatives * (negatives - 1))
        return pull.mean() + 5 * push.mean() + 0.5 * spread

    def read(step: int):
        both = torch.from_numpy(store.read(np.arange(batch), (step, 8))).to(device)
        return both[:, 0], both[:, 1]

    with tempfile.TemporaryDirectory() as folder:
        store = MapStore(Path(folder), (batch, 9, regions, width), {}, instead="-")
        for row in range(batch):
            store.write(np.full(9, row), np.arange(9), maps[row].numpy())
        store.commit(batch)
        figures = []
        finish(ours_of, *read(0))
        for _ in range(3):
            fast, (found, value) = timed(lambda: finish(ours_of, *read(0)))
            slow, (expected, wanted) = timed(lambda: finish(dense_of, *read(0)))
            with torch.no_grad():
                tower, _ = timed(lambda: encode_with_local(model.visual, pixels))
            # A batch's maps serve the eight steps that are made of it.
            figures.append((fast, slow, tower * batch / 8))
    ratios = [(slow + maps_of) / fast for fast, slow, maps_of in figures]
    fast, slow, maps_of = figures[ratios.index(sorted(ratios)[1])]
    off = float((found - expected).abs().max() / expected.abs().max())
    apart = abs(float(value - wanted))
    return Measured(
        *("reference-forms", "local-prompt"),
        ("measured", "published form", "vlood", "unit", "times as fast", "three runs"),
        (
            (
                "the losses of a Local-Prompt step with their gradients: dense logits and a step's "
                "share of all 16 maps of ViT-B-16, against stored maps and prompts in chunks",
                *(round(1000 * (slow + maps_of)), round(1000 * fast), "ms"),
                *(round(sorted(ratios)[1], 1), [round(one, 1) for one in ratios]),
            ),
            (
                "the same against dense logits alone",
                *(round(1000 * slow), round(1000 * fast), "ms", round(slow / fast, 2), None),
            ),
        ),
        caption=(
            f"C = {classes:,}, M = {negatives}, {regions} regions, {width} wide, {batch} images, "
            "k = 50; one image's maps are measured. The losses differ",
            f"by {apart:.1e}, gradients by {off:.1e} of the largest.",
        ),
    )


def region_step() -> list[float]:
    """Make one whole step in this process, whose peak is then that of the step."""
    import resource
    from types import SimpleNamespace

    import numpy as np
    import open_clip
    import torch

    from vlood.backbone.text import CausalTextTower
    from vlood.features.map_store import MapStore
    from vlood.methods.local_prompt_fit import LOCAL, NEGATIVE, Objective
    from vlood.methods.local_prompt_settings import LocalPromptSettings, Sizes
    from vlood.training.steps import StepInputs

    classes, negatives, regions, width, batch = REGION_STEP.values()
    model = open_clip.create_model("ViT-B-16", pretrained=None).eval().requires_grad_(False)
    backbone = SimpleNamespace(
        name="ViT-B-16",
        text_tower=CausalTextTower.of(model),
        tokenizer=open_clip.get_tokenizer("ViT-B-16"),
    )
    names = tuple(f"{WORDS_FOR_PROMPTS[n % 6]} {'abcdefgh'[n % 8]}" for n in range(classes))
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: (0.02 * torch.randn(count, 16, 512, generator=generator)).requires_grad_()
        for name, count in ((LOCAL, classes), (NEGATIVE, negatives))
    }
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        store = MapStore(Path(folder), (batch, 9, regions, width), {}, instead="-")
        for row in range(batch):
            some = rng.normal(size=(9, regions, width)) / width**0.5
            store.write(np.full(9, row), np.arange(9), some)
        store.commit(batch)
        loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        objective = Objective(
            LocalPromptSettings(),
            Sizes(50, negatives),
            tensors,
            rng.integers(classes, size=batch),
            SimpleNamespace(of=store.read),
            SimpleNamespace(backbone=backbone, prompts=names),
            100.0,
        )
        started, busy = time.perf_counter(), time.process_time()
        objective.of(StepInputs(np.arange(batch), 0, 0, rng)).total.backward()
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [peak, loaded, seconds, busy]
