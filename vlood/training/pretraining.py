"""What every run that trains a small CLIP on captioned pictures shares: rates, steps, its state."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from vlood.training.pictures import Batch, CaptionedPictures

CONTEXT_LENGTH = 77
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class RunSettings:
    """Settings of every run: ``steps`` and ``warmup`` in optimiser steps, ``batch_size`` pictures.

    The rate warms up to ``learning_rate`` and falls to zero by a cosine; the run's state is kept
    every ``checkpoint_every`` steps.
    """

    steps: int = 2400
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    warmup: int = 200
    seed: int = 0
    checkpoint_every: int = 200


def image_scaling(device: str) -> Callable[[NDArray[np.uint8]], torch.Tensor]:
    """Return what makes a tower's input [B, 3, H, W] of uint8 pictures [B, H, W, 3]."""
    mean = torch.tensor(MEAN, device=device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=device).view(1, 3, 1, 1)

    def scaled(images: NDArray[np.uint8]) -> torch.Tensor:
        pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255
        return (pixels - mean) / std

    return scaled


def symmetric_loss(logits: torch.Tensor) -> torch.Tensor:
    """Return the symmetric cross-entropy of logits [B, B + A]: text i describes image i.

    The A texts after them describe no image and are wrong answers only.
    """
    count = len(logits)
    target = torch.arange(count, device=logits.device)
    to_text = F.cross_entropy(logits, target)
    to_image = F.cross_entropy(logits[:, :count].T, target)
    return (to_text + to_image) / 2


def learning_rate(step: int, settings: RunSettings) -> float:
    """Return the rate at a step: linear warm-up, then cosine to zero."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    progress = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def take_step(
    module: torch.nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    loss: torch.Tensor,
    rate: float,
) -> None:
    """Follow a loss, a scalar, one step down at a rate, on gradients no longer than 1."""
    for group in (group for one in optimizers for group in one.param_groups):
        group["lr"] = rate
    module.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()


def optimizers_of(model: Any, settings: RunSettings) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside the blocks and AdamW for everything else.

    Muon (Jordan et al., 2024) with AdamW's update size needs far fewer pictures of so small a
    vision transformer. Biases, norms, embeddings and the scale are not decayed.
    """
    hidden: list[torch.nn.Parameter] = []
    decayed: list[torch.nn.Parameter] = []
    free: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "resblocks" in name:
            hidden.append(parameter)
        elif parameter.ndim >= 2 and "embedding" not in name:
            decayed.append(parameter)
        else:
            free.append(parameter)
    muon = torch.optim.Muon(
        hidden,
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), eps=1e-6)
    return [muon, adamw]


def prefetched(
    pictures: CaptionedPictures, settings: RunSettings, first: int
) -> Iterator[tuple[int, Batch]]:
    """Yield the batches from step ``first`` on, drawing the next two while one is trained on."""
    ahead = 2
    # A process of its own: drawing is Python, and would hold the lock the model's thread needs.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:

        def ask(step: int) -> Any:
            return pool.submit(pictures.batch, settings.batch_size, settings.seed, step)

        waiting = [ask(step) for step in range(first, min(first + ahead, settings.steps))]
        for step in range(first, settings.steps):
            batch = waiting.pop(0).result()
            if step + ahead < settings.steps:
                waiting.append(ask(step + ahead))
            yield step, batch


def text_features(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return unit features [N, D] of tokens [N, L] by a causal text tower."""
    from vlood.backbone.text import CausalTextTower

    tower = CausalTextTower.of(model)
    assert tower is not None  # these runs train no other text tower
    return F.normalize(tower.encode_tokens(tokens), dim=-1)


def save_state(
    path: Path,
    model: Any,
    optimizers: list[torch.optim.Optimizer],
    settings: RunSettings,
    step: int,
) -> None:
    """Keep a run's state, in one file replaced atomically."""
    state = {
        "model": model.state_dict(),
        "optimizers": [one.state_dict() for one in optimizers],
        "settings": json.dumps(asdict(settings)),
        "step": step,
        "generator": torch.get_rng_state(),
        "cuda_generators": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def resume_state(
    path: Path,
    model: Any,
    optimizers: list[torch.optim.Optimizer],
    settings: RunSettings,
) -> int:
    """Bring back a run's state and return the step it goes on from; 0 where there is none.

    Raises:
        ValueError: the file is of a run with other settings.
    """
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True, map_location="cpu")
    if state["settings"] != json.dumps(asdict(settings)):
        raise ValueError(f"{path} holds a run with other settings; choose another folder")
    model.load_state_dict(state["model"])
    for optimizer, stored in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(stored)
    torch.set_rng_state(state["generator"])
    for number, generator in enumerate(state["cuda_generators"]):
        torch.cuda.set_rng_state(generator, number)
    return int(state["step"])


def save_half(state: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write a model's tensors in half precision, under the name that open_clip looks for."""
    from safetensors.torch import save_file

    half = {name: each.detach().cpu().half().contiguous() for name, each in state.items()}
    save_file(half, folder / "open_clip_model.safetensors")


def tokens_of(texts: Sequence[str]) -> torch.Tensor:
    """Return CLIP's tokens of texts [N, L], cut to the longest."""
    tokens: torch.Tensor = tokenizer()(list(texts), context_length=CONTEXT_LENGTH)
    return tokens[:, : int(tokens.argmax(1).max()) + 1]


@lru_cache(maxsize=1)
def tokenizer() -> Any:
    """Return CLIP's tokenizer, which takes a moment to make."""
    from vlood.backbone.library import open_clip

    return open_clip.SimpleTokenizer()
