"""Teach a small CLIP's regions what they show, and leave what it says of whole pictures alone.

A large CLIP's local embeddings, by the value path of its last block, lie near the texts of what
they show though nothing asked for it. So small a model's do not. Here its image tower learns it:
the best regions of a picture against the caption, among the captions of everything else, while the
global embedding is held where it was. The text tower stays as it is.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from vlood.training.pictures import CaptionedPictures
from vlood.training.pretraining import (
    RunSettings,
    image_scaling,
    learning_rate,
    optimizers_of,
    prefetched,
    resume_state,
    save_half,
    save_state,
    symmetric_loss,
    take_step,
    text_features,
    tokens_of,
)


@dataclass(frozen=True)
class RegionSettings(RunSettings):
    """Settings of one run.

    Attributes:
        best: regions of a picture whose mean cosine is its likeness to a text.
        worst: regions by which a picture may be mistaken for another's text.
        bound: cosine between what is like a text and what is not.
        weight_bound: of the loss that keeps likeness above and all else below the bound.
        hold: weight of the global embedding's distance from where it was.
    """

    steps: int = 300
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    warmup: int = 30
    seed: int = 7
    checkpoint_every: int = 100
    best: int = 16
    worst: int = 4
    bound: float = 0.4
    weight_bound: float = 0.5
    hold: float = 40.0


def teach_regions(
    folder: Path,
    pictures: CaptionedPictures,
    settings: RegionSettings,
    out: Path,
    *,
    device: str = "cpu",
    on_step: Callable[[int, float], None] | None = None,
) -> Path:
    """Train, or go on training, in the folder ``out`` and return the taught model's folder.

    Args:
        folder: the model to start from, in open_clip's layout, with a causal text tower and an
            image tower that has a value path.
        pictures: as for the first training.
        settings: of the run.
        out: holds the run's state, as the first training's folder does.
        device: to train on.
        on_step: told every step's number and loss.

    Raises:
        ValueError: ``out`` holds a run with other settings.
    """
    from vlood.backbone.library import open_clip

    out.mkdir(parents=True, exist_ok=True)
    model = open_clip.create_model(f"local-dir:{folder}", device=device).float()
    _run(model, pictures, settings, out / "state.pt", device, on_step)
    taught = out / "model"
    taught.mkdir(exist_ok=True)
    save_half(model.state_dict(), taught)
    shutil.copyfile(folder / "open_clip_config.json", taught / "open_clip_config.json")
    return taught


def region_loss(
    regions: torch.Tensor,
    texts: torch.Tensor,
    scale: float,
    settings: RegionSettings,
) -> torch.Tensor:
    """Return how far the regions are from showing what their picture's text says.

    Args:
        regions: unit features [B, R, D].
        texts: unit features [B + A, D]; text i describes picture i, the A after them none.
        scale: factor on cosines.
        settings: the sizes and weights.
    """
    cosines = regions @ texts.T
    likeness = cosines.topk(min(settings.best, cosines.shape[1]), dim=1).values.mean(1)
    own = likeness.diagonal()
    mistaken = cosines.topk(min(settings.worst, cosines.shape[1]), dim=1).values.mean(1)
    others = ~torch.eye(*mistaken.shape, dtype=torch.bool, device=mistaken.device)
    above = F.softplus(scale * (settings.bound - own))
    below = (F.softplus(scale * (mistaken - settings.bound)) * others).sum(1)
    return symmetric_loss(scale * likeness) + settings.weight_bound * (above + below).mean()


def _run(
    model: Any,
    pictures: CaptionedPictures,
    settings: RegionSettings,
    state: Path,
    device: str,
    on_step: Callable[[int, float], None] | None,
) -> None:
    from vlood.backbone.local import encode_with_local

    model.requires_grad_(False)
    before = copy.deepcopy(model.visual).eval()
    tower = model.visual.requires_grad_(True)
    scale = float(model.logit_scale.exp())
    optimizers = optimizers_of(tower, settings)
    first = resume_state(state, model, optimizers, settings)
    scaled = image_scaling(device)
    known: dict[str, torch.Tensor] = {}
    for step, batch in prefetched(pictures, settings, first):
        pixels = scaled(batch.images)
        texts = _remembered(model, [*batch.captions, *batch.absent], known, device)
        whole, regions, _ = encode_with_local(tower, pixels)
        with torch.no_grad():
            held = before(pixels)
        moved = (1 - F.cosine_similarity(whole, held)).mean()
        loss = region_loss(F.normalize(regions, dim=-1), texts, scale, settings)
        loss = loss + settings.hold * moved
        take_step(tower, optimizers, loss, learning_rate(step, settings))
        if on_step is not None:
            on_step(step, float(loss.detach()))
        if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
            save_state(state, model, optimizers, settings, step + 1)


def _remembered(
    model: Any, captions: list[str], known: dict[str, torch.Tensor], device: str
) -> torch.Tensor:
    """Return the unit features of captions; the text tower is frozen, so each is encoded once.

    Each is encoded by itself: in company its last bits would depend on what was known before, and a
    run that goes on would not be one never stopped.
    """
    with torch.no_grad():
        for caption in dict.fromkeys(captions):
            if caption not in known:
                known[caption] = text_features(model, tokens_of([caption]).to(device))[0]
    return torch.stack([known[caption] for caption in captions])
