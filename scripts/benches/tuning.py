"""Learned prompts: memory of chunks over all at once, and a LAPT step."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

from benches.measuring import Measured, in_own_process, synchronise, timed

WORDS_FOR_PROMPTS = ("stone", "river barge", "lantern", "wild apple tree", "copper", "night owl")


def tune(options: argparse.Namespace) -> Iterator[Measured]:
    """Memory of a training step's prompts, and the time of a LAPT step."""
    yield tune_memory(options.count or 2000)
    yield tune_step(20, 200, 32, options.device)


def tune_memory(count: int) -> Measured:
    """Peak memory of encoding prompts and passing a gradient back, a process each."""
    rows = []
    for name, chunk in (("all at once", 0), ("in chunks of 128", 128)):
        peak, seconds = in_own_process(encode_prompts, count, chunk)
        rows.append((name, round(peak), round(seconds, 1)))
    return Measured(
        *("memory", "prompts"),
        ("measured", "MB over the memory before", "s"),
        tuple(rows),
        caption=(
            f"Forward and backward of {count:,} prompts through ViT-B-32's text tower, 4 context "
            f"vectors: {rows[0][1] / rows[1][1]:.1f} times less memory",
            "in chunks. The gradients are the same: a test, to 1e-5 of the largest.",
        ),
    )


def encode_prompts(count: int, chunk: int) -> list[float]:
    """Encode and go back in this process, whose peak is then that of the prompts alone."""
    import resource

    import open_clip
    import torch

    from vlood.backbone.text import CausalTextTower
    from vlood.prompts.chunked import PromptEncoder
    from vlood.prompts.contexts import prepare
    from vlood.prompts.starting import random_contexts

    model = open_clip.create_model("ViT-B-32", pretrained=None).eval().requires_grad_(False)
    tower = CausalTextTower.of(model)
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    names = [f"{WORDS_FOR_PROMPTS[n % 6]} {n}" for n in range(count)]

    def step(some: list[str]) -> float:
        encode = PromptEncoder(tower, prepare(tower, tokenizer, some, 4), chunk=chunk or len(some))
        contexts = random_contexts(4, 512, generator=torch.Generator().manual_seed(0))
        contexts.requires_grad_()
        started = time.perf_counter()
        torch.nn.functional.normalize(encode(contexts), dim=-1).square().mean().backward()
        return time.perf_counter() - started

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    step(names[:4])
    before = peak()
    seconds = step(names)
    return [peak() - before, seconds]


def tune_step(classes: int, negatives: int, batch: int, device: str) -> Measured:
    """A LAPT step as vlood takes it, and with full-length prompts and the images encoded anew."""
    import numpy as np
    import open_clip
    import torch
    import torch.nn.functional as F

    from vlood.backbone.text import CausalTextTower
    from vlood.methods.lapt_loss import draw_mixing, lapt_loss
    from vlood.methods.lapt_prompts import PromptSides, starting_contexts
    from vlood.methods.lapt_settings import LaptSettings
    from vlood.prompts.contexts import assemble

    settings = LaptSettings()
    model = open_clip.create_model("ViT-B-32", pretrained=None).eval().requires_grad_(False)
    model = model.to(device)
    tower, tokenizer = CausalTextTower.of(model), open_clip.get_tokenizer("ViT-B-32")
    names = [f"{WORDS_FOR_PROMPTS[n % 6]} {'abcdefgh'[n % 8]}" for n in range(classes + negatives)]
    names = names[:classes], names[classes:]
    generator = torch.Generator().manual_seed(0)
    contexts = {
        name: each.to(device).requires_grad_()
        for name, each in starting_contexts(
            settings, tower, tokenizer, classes, negatives, generator
        ).items()
    }
    pixels = torch.randn(batch, 3, 224, 224, generator=generator).to(device)
    bank = torch.randn(classes + negatives, 7, 512, generator=generator)
    bank = F.normalize(bank, dim=-1).to(device)
    labels = torch.randint(classes + negatives, (batch,), generator=generator)
    labels[::2] %= classes
    mixing = draw_mixing(labels.numpy(), classes, 7, settings, np.random.default_rng(0))
    labels = labels.to(device)
    with torch.no_grad():
        cached = F.normalize(model.encode_image(pixels), dim=-1)
    sides = PromptSides(tower, tokenizer, *names, settings.context_length)

    def finish(images, text) -> list[torch.Tensor]:
        for each in contexts.values():
            each.grad = None
        loss, _ = lapt_loss(images, labels, *text, bank, mixing, settings, logit_scale=100.0)
        loss.backward()
        synchronise(device)
        return [each.grad for each in contexts.values()]

    def ours() -> list[torch.Tensor]:
        return finish(cached, sides(contexts))

    def published() -> list[torch.Tensor]:
        with torch.no_grad():
            images = F.normalize(model.encode_image(pixels), dim=-1)
        text = []
        for each, vectors in zip(names, contexts.values(), strict=True):
            embedded, ends = assemble(tower, tokenizer, vectors, each)
            padding = torch.zeros(len(each), 77 - embedded.shape[1], dtype=torch.long)
            embedded = torch.cat([embedded, tower.embed(padding.to(device))], dim=1)
            text.append(F.normalize(tower.encode_embedded(embedded, ends), dim=-1))
        return finish(images, text)

    ours()
    ratios, figures = [], []
    for _ in range(3):
        slow, expected = timed(published)
        fast, found = timed(ours)
        ratios.append(slow / fast)
        figures.append((slow, fast))
    off = max(
        float((one - other).abs().max() / other.abs().max())
        for one, other in zip(found, expected, strict=True)
    )
    slow, fast = figures[ratios.index(sorted(ratios)[1])]
    return Measured(
        *("reference-forms", "lapt"),
        ("measured", "77 tokens, images anew", "vlood", "unit", "times as fast", "three runs"),
        (
            (
                f"a LAPT step of {classes} classes, {negatives} negatives and {batch} images, "
                "ViT-B-32",
                *(round(slow, 2), round(fast, 2), "s", round(sorted(ratios)[1], 1)),
                [round(ratio, 1) for ratio in ratios],
            ),
        ),
        caption=(
            "Prompts of 77 tokens and images encoded anew in every step, as published; vlood cuts "
            "prompts and reads images from",
            f"the cache. Gradients differ by {off:.1e} of the largest.",
        ),
    )
