"""What `scripts/bench cma` measures: a step of full fine-tuning with CMA, against the plain form.

The plain form encodes a prompt for every image of the batch at the model's full context, as the
released code does. vlood encodes every distinct prompt once, cut to the longest. Both train all of
ViT-B-32 with AdamW; weights are random. Every form runs in a process of its own, for its peak
memory, and all start from the same weights, so that their first losses must agree.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np

ARCHITECTURE, BATCH, CLASSES, STEPS = "ViT-B-32", 64, 1000, 3
FORMS = {
    "plain": "a prompt an image, 77 tokens",
    "fused": "distinct prompts, cut",
    "2 parts": "the same, in 2 parts (gradient cache)",
    "4 parts": "the same, in 4 parts (gradient cache)",
}


def bench_cma(options: argparse.Namespace) -> None:
    batch, plain = options.count or BATCH, None
    print(f"cma: {ARCHITECTURE}, all weights trained, batch {batch}, {CLASSES} classes", flush=True)
    for form, title in FORMS.items():
        one = measured(form, CLASSES, batch, options.device)
        plain = plain or one
        print(
            f"  {title}: {one['texts']} x {one['tokens']} tokens, {one['seconds']:.1f} s of "
            f"processor time a step ({plain['seconds'] / one['seconds']:.2f} times as fast), "
            f"peak {one['peak'] / 1e9:.2f} GB ({one['peak'] / plain['peak']:.0%}), the step "
            f"itself {one['step'] / 1e9:.2f} GB ({one['step'] / plain['step']:.0%}); first loss "
            f"{abs(one['loss'] - plain['loss']):.1e} apart",
            flush=True,
        )


def measured(form: str, classes: int, batch: int, device: str) -> dict[str, Any]:
    """Run a form in a process of its own."""
    command = [sys.executable, __file__, form, str(classes), str(batch), device]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"bench cma, {form}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run(form: str, classes: int, batch: int, device: str) -> dict[str, Any]:
    """Make some steps; return the median time of those after the first, and the peak memory."""
    import open_clip
    import torch
    from torch import Tensor

    from vlood.backbone.text import CausalTextTower
    from vlood.methods.cma_training import (
        Objective,
        UniqueTexts,
        cached_part,
        feature_gradients,
        fused_step,
        plain_step,
        text_span,
    )

    if device == "cpu":
        # Processor time of one thread does not count another's waiting.
        torch.set_num_threads(1)
    torch.manual_seed(0)
    model = open_clip.create_model(ARCHITECTURE, device=device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.1)
    names = _names(classes)
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.normal(size=(batch, 3, 224, 224)).astype(np.float32)).to(device)
    labels = rng.integers(classes, size=batch)
    unique = UniqueTexts.of(labels.astype(np.int64))
    shown = labels if form == "plain" else unique.texts
    tokens = open_clip.get_tokenizer(ARCHITECTURE)([f"a photo of a {names[row]}" for row in shown])
    if form != "plain":
        tokens = tokens[:, : int(tokens.argmax(dim=1).max()) + 1]
    tokens = tokens.to(device)
    own = torch.from_numpy(unique.own).to(device)
    objective = Objective()

    tower = CausalTextTower.of(model)
    assert tower is not None

    def encode_texts(some: Tensor) -> Tensor:
        # The same features without the padding, for attention is causal.
        return model.encode_text(some) if form == "plain" else tower.encode_tokens(some)

    def whole() -> float:
        scale = model.logit_scale.exp()
        if form == "plain":
            loss = plain_step(model.encode_image, encode_texts, pixels, tokens, scale)
        else:
            loss, _ = fused_step(
                model.encode_image, encode_texts, pixels, tokens, own, scale, objective
            )
        loss.backward()
        return float(loss.detach())

    def in_parts(count: int) -> float:
        size = -(-batch // count)
        parts = [slice(at, min(batch, at + size)) for at in range(0, batch, size)]
        spans = [text_span(len(tokens), batch, rows) for rows in parts]

        def encoded(rows: slice, span: slice) -> tuple[Tensor, Tensor | None]:
            texts = encode_texts(tokens[span]) if span.stop > span.start else None
            return model.encode_image(pixels[rows]), texts

        # As in the loss of the method: the first part is encoded last, with its graph.
        with torch.no_grad():
            others = [encoded(*part) for part in zip(parts[1:], spans[1:], strict=True)]
        first = encoded(parts[0], spans[0])
        known = [first, *others]
        found = feature_gradients(
            torch.cat([images for images, _ in known]),
            torch.cat([texts for _, texts in known if texts is not None]),
            own,
            model.logit_scale,
            objective,
        )
        for part, (rows, span) in enumerate(zip(parts, spans, strict=True)):
            images, texts = known.pop(0) if part == 0 else encoded(rows, span)
            share = (rows.stop - rows.start) / batch
            term = cached_part(found, images, texts, rows, span, model.logit_scale, share)
            (term * share).backward()
            del images, texts, term
            first = None
        return float(found.loss)

    # AdamW's two moments are there before the first step is measured.
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    before = _peak(device)
    losses, times = [], []
    for _ in range(STEPS):
        begun = _now(device)
        optimizer.zero_grad()
        losses.append(in_parts(int(form[0])) if form.endswith("parts") else whole())
        optimizer.step()
        times.append(_now(device) - begun)
    peak = _peak(device)
    return {
        "seconds": float(np.median(times[1:])),
        "peak": peak,
        "step": peak - before,
        "loss": losses[0],
        "texts": len(tokens),
        "tokens": tokens.shape[1],
    }


def _names(classes: int) -> list[str]:
    """Return ImageNet's class names, so that prompts are as long as they are."""
    from vlood.prompts.classes import read_classes

    return [one.prompt for one in read_classes("imagenet-1k")][:classes]


def _now(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()


def _peak(device: str) -> int:
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    import torch

    return int(torch.cuda.max_memory_allocated())


if __name__ == "__main__":
    name, count, size, where = sys.argv[1:]
    print(json.dumps(run(name, int(count), int(size), where)))
