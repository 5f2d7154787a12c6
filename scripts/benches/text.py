"""Exact truncated text encoding over open_clip's encode_text."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benches.measuring import Measured, rounded, timed
from benches.pictures import random_model


def text(options: argparse.Namespace) -> Iterator[Measured]:
    """512 prompts "the nice {word}" with ViT-B-16's text tower, in equal batches."""
    import open_clip
    import torch

    from vlood.backbone.load import load_backbone

    count = options.count or 512
    words = [
        f"{a}{b}"
        for a in ("sun", "moon", "river", "stone")
        for b in ("light", "fall", "bed", "wall")
    ]
    prompts = [
        f"the nice {words[n % 16]} {words[(n * 7) % 13]}" if n % 3 else f"the nice {words[n % 16]}"
        for n in range(count)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        backbone = load_backbone(
            random_model("ViT-B-16", Path(scratch) / "model"),
            device=options.device,
            precision="fp32",
        )
        backbone.encode_texts(prompts[:64])
    tokenizer = open_clip.get_tokenizer("ViT-B-16")
    model = backbone.module

    def plain() -> torch.Tensor:
        with torch.inference_mode():
            parts = [
                model.encode_text(tokenizer(prompts[n : n + 64]).to(options.device))
                for n in range(0, count, 64)
            ]
        return torch.cat(parts).float().cpu()

    def ours() -> torch.Tensor:
        return torch.from_numpy(backbone.encode_texts(prompts))

    slow, expected = timed(plain)
    fast, features = timed(ours, repeat=3)
    worst = float((features - expected).abs().max())
    yield Measured(
        *("open-clip", "text"),
        ("measured", "open_clip", "vlood", "unit", "times as fast", "largest difference"),
        (
            (
                f'{count} prompts "the nice ...", ViT-B-16 text tower',
                *(round(slow, 2), round(fast, 2), "s"),
                *(rounded(slow / fast), rounded(worst, 2)),
            ),
        ),
    )
