"""Train a small CLIP from scratch on captioned pictures, on one device, resumably.

This makes the bundled model. It is the plain symmetric contrastive objective of CLIP (Radford et
al., 2021, section 2.3) with one difference that a small data set needs: a batch holds every class
at most once, so two pictures of one class are never pushed apart.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from vlood.training.pictures import Batch, CaptionedPictures

CONTEXT_LENGTH = 77
FULL_VOCABULARY = 49408
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ContrastiveSettings:
    """Settings of one run: ``steps`` and ``warmup`` in optimiser steps, ``batch_size`` pictures.

    ``patch_dropout`` is the share of patches left out of every training picture (Li et al., 2023,
    "Scaling Language-Image Pre-training via Masking"): half the cost, and used to hidden parts.
    """

    steps: int = 2400
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    warmup: int = 200
    seed: int = 0
    checkpoint_every: int = 200
    embed_dim: int = 128
    patch_dropout: float = 0.0
    vision: dict[str, int] = field(
        default_factory=lambda: {
            "image_size": 64,
            "patch_size": 8,
            "width": 128,
            "layers": 4,
            "head_width": 32,
        }
    )
    text: dict[str, int] = field(default_factory=lambda: {"width": 64, "heads": 2, "layers": 2})


@dataclass(frozen=True)
class Vocabulary:
    """The tokens a run uses, so that the other 49,000 rows are neither stored nor stepped."""

    kept: tuple[int, ...]

    @classmethod
    def of(cls, texts: Sequence[str]) -> Vocabulary:
        """Collect the CLIP tokens of ``texts``."""
        tokens = _tokenizer()(list(texts), context_length=CONTEXT_LENGTH)
        return cls(tuple(int(token) for token in torch.unique(tokens)))

    def encode(self, captions: Sequence[str]) -> torch.Tensor:
        """Return compact token ids [B, L], cut to the longest caption.

        Ids keep the order of the full vocabulary, so end-of-text stays the largest.
        """
        tokens = _tokenizer()(list(captions), context_length=CONTEXT_LENGTH)
        tokens = tokens[:, : int(tokens.argmax(1).max()) + 1].contiguous()
        return torch.searchsorted(torch.tensor(self.kept), tokens)


def train(
    pictures: CaptionedPictures,
    settings: ContrastiveSettings,
    out: Path,
    *,
    device: str = "cpu",
    on_step: Callable[[int, float], None] | None = None,
) -> Path:
    """Train, or go on training, in the folder ``out`` and return the exported model's folder.

    The run's state is one file replaced atomically every ``checkpoint_every`` steps; starting again
    with the same settings goes on from it and gives the same weights as a run never stopped.

    Raises:
        ValueError: ``out`` holds a run with other settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    vocabulary = Vocabulary.of(pictures.words())
    # open_clip draws its weights and the patches it leaves out from the global generator: lent to
    # this run with its own seed, and given back as it was.
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        model = _build(settings, len(vocabulary.kept)).to(device)
        _run(model, vocabulary, pictures, settings, out / "state.pt", device, on_step)
    return export(model, vocabulary, settings, out / "model")


def _run(
    model: Any,
    vocabulary: Vocabulary,
    pictures: CaptionedPictures,
    settings: ContrastiveSettings,
    state: Path,
    device: str,
    on_step: Callable[[int, float], None] | None,
) -> None:
    """Take every step that is left, keeping the run's state every so often."""
    optimizers = _optimizers(model, settings)
    first = _resume(state, model, optimizers, settings)
    mean = torch.tensor(MEAN, device=device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=device).view(1, 3, 1, 1)
    model.train()
    for step, batch in _prefetched(pictures, settings, first):
        for group in (group for one in optimizers for group in one.param_groups):
            group["lr"] = learning_rate(step, settings)
        pixels = torch.from_numpy(batch.images).to(device).permute(0, 3, 1, 2).float() / 255
        # On a CPU half precision makes the backward pass of so small a model slower, not faster.
        with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):
            image_features = F.normalize(model.encode_image((pixels - mean) / std), dim=-1)
            # Encoded apart: the absent ones are short, and no text is longer than its batch needs.
            texts = [group for group in (batch.captions, batch.absent) if group]
            text_features = torch.cat(
                [_encode_text(model, vocabulary.encode(group).to(device)) for group in texts]
            )
        loss = contrastive_loss(image_features.float(), text_features.float(), model.logit_scale)
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        if on_step is not None:
            on_step(step, float(loss.detach()))
        if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
            _checkpoint(state, model, optimizers, settings, step + 1)


def contrastive_loss(
    image_features: torch.Tensor, text_features: torch.Tensor, log_scale: torch.Tensor
) -> torch.Tensor:
    """Return the symmetric cross-entropy of unit features: images [B, D] and texts [B + A, D].

    Text i describes image i; the A texts after them describe no image and are wrong answers only.
    """
    logits = log_scale.exp() * image_features @ text_features.T
    count = len(image_features)
    target = torch.arange(count, device=logits.device)
    to_text = F.cross_entropy(logits, target)
    to_image = F.cross_entropy(logits[:, :count].T, target)
    return (to_text + to_image) / 2


def learning_rate(step: int, settings: ContrastiveSettings) -> float:
    """Return the rate at a step: linear warm-up, then cosine to zero."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    progress = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def export(model: Any, vocabulary: Vocabulary, settings: ContrastiveSettings, folder: Path) -> Path:
    """Write the model in open_clip's own folder layout, in half precision.

    Rows of tokens that were never seen are zero: the model knows no other words, and says so.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    width = settings.text["width"]
    embedding = torch.zeros(FULL_VOCABULARY, width)
    embedding[torch.tensor(vocabulary.kept)] = state["token_embedding.weight"]
    state["token_embedding.weight"] = embedding
    half = {name: tensor.half().contiguous() for name, tensor in state.items()}
    save_file(half, folder / "open_clip_model.safetensors")
    config = {
        "model_cfg": _model_config(settings, FULL_VOCABULARY),
        "preprocess_cfg": {
            "size": [settings.vision["image_size"]] * 2,
            "mode": "RGB",
            "mean": list(MEAN),
            "std": list(STD),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
            "fill_color": 0,
        },
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1) + "\n")
    return folder


def _model_config(settings: ContrastiveSettings, vocabulary_size: int) -> dict[str, Any]:
    return {
        "embed_dim": settings.embed_dim,
        "vision_cfg": dict(settings.vision),
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": vocabulary_size,
            **settings.text,
        },
    }


def _build(settings: ContrastiveSettings, vocabulary_size: int) -> Any:
    from vlood.backbone.library import open_clip

    config = _model_config(settings, vocabulary_size)
    config["vision_cfg"]["patch_dropout"] = settings.patch_dropout
    return open_clip.model.CLIP(**config)


def _encode_text(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    from vlood.backbone.text import CausalTextTower

    tower = CausalTextTower.of(model)
    assert tower is not None  # the trainer builds no other text tower
    return F.normalize(tower.encode_tokens(tokens), dim=-1)


def _optimizers(model: Any, settings: ContrastiveSettings) -> list[torch.optim.Optimizer]:
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


def _prefetched(
    pictures: CaptionedPictures, settings: ContrastiveSettings, first: int
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


def _checkpoint(
    path: Path,
    model: Any,
    optimizers: list[torch.optim.Optimizer],
    settings: ContrastiveSettings,
    step: int,
) -> None:
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


def _resume(
    path: Path,
    model: Any,
    optimizers: list[torch.optim.Optimizer],
    settings: ContrastiveSettings,
) -> int:
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


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    from vlood.backbone.library import open_clip

    return open_clip.SimpleTokenizer()
