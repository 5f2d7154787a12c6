"""A training step of CLIPN, on cached features and as the released code makes it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benches.clipn_world import drawn
from benches.measuring import Measured, rounded

STEPS = 20


def clipn_step(backbone: Any, device: str, batch: int = 256) -> Measured:
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
    plain_step, own_step = float(np.median(slow)), float(np.median(fast))
    return Measured(
        *("reference-forms", "clipn"),
        ("measured", "all towers, 77 tokens", "vlood", "unit", "times as fast", "losses apart"),
        (
            (
                f"a CLIPN step of {batch} captioned pictograms, bundled model",
                *(rounded(plain_step), rounded(own_step), "s of CPU"),
                *(rounded(plain_step / own_step), rounded(apart, 2)),
            ),
        ),
        caption=(
            f"Over {len(ours)} steps the losses go from {ours[0]:.3f} to {ours[-1]:.3f} in both.",
        ),
    )
