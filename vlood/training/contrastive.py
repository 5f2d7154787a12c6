"""Train a small CLIP from scratch on captioned pictures, on one device, resumably.

This makes the bundled model. It is the plain symmetric contrastive objective of CLIP (Radford et
al., 2021, section 2.3) with one difference that a small data set needs: a batch holds every class
at most once, so two pictures of one class are never pushed apart.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from vlood.training.pictures import CaptionedPictures
from vlood.training.pretraining import (
    CONTEXT_LENGTH,
    MEAN,
    STD,
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
    tokenizer,
    tokens_of,
)

FULL_VOCABULARY = 49408


@dataclass(frozen=True)
class ContrastiveSettings(RunSettings):
    """Settings of one run, and the sizes of the model.

    ``patch_dropout`` is the share of patches left out of every training picture (Li et al., 2023,
    "Scaling Language-Image Pre-training via Masking"): half the cost, and used to hidden parts.
    """

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
        tokens = tokenizer()(list(texts), context_length=CONTEXT_LENGTH)
        return cls(tuple(int(token) for token in torch.unique(tokens)))

    def encode(self, captions: Sequence[str]) -> torch.Tensor:
        """Return compact token ids [B, L], cut to the longest caption.

        Ids keep the order of the full vocabulary, so end-of-text stays the largest.
        """
        return torch.searchsorted(torch.tensor(self.kept), tokens_of(captions).contiguous())


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
    optimizers = optimizers_of(model, settings)
    first = resume_state(state, model, optimizers, settings)
    scaled = image_scaling(device)
    model.train()
    for step, batch in prefetched(pictures, settings, first):
        # On a CPU half precision makes the backward pass of so small a model slower, not faster.
        with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):
            of_images = F.normalize(model.encode_image(scaled(batch.images)), dim=-1)
            # Encoded apart: the absent ones are short, and no text is longer than its batch needs.
            texts = [group for group in (batch.captions, batch.absent) if group]
            of_texts = torch.cat(
                [text_features(model, vocabulary.encode(group).to(device)) for group in texts]
            )
        loss = contrastive_loss(of_images.float(), of_texts.float(), model.logit_scale)
        take_step(model, optimizers, loss, learning_rate(step, settings))
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        if on_step is not None:
            on_step(step, float(loss.detach()))
        if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
            save_state(state, model, optimizers, settings, step + 1)


def contrastive_loss(
    image_features: torch.Tensor, text_features: torch.Tensor, log_scale: torch.Tensor
) -> torch.Tensor:
    """Return the symmetric cross-entropy of unit features: images [B, D] and texts [B + A, D].

    Text i describes image i; the A texts after them describe no image and are wrong answers only.
    """
    return symmetric_loss(log_scale.exp() * image_features @ text_features.T)


def export(model: Any, vocabulary: Vocabulary, settings: ContrastiveSettings, folder: Path) -> Path:
    """Write the model in open_clip's own folder layout, in half precision.

    Rows of tokens that were never seen are zero: the model knows no other words, and says so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = model.state_dict()
    width = settings.text["width"]
    embedding = torch.zeros(FULL_VOCABULARY, width)
    embedding[torch.tensor(vocabulary.kept)] = state["token_embedding.weight"].cpu()
    state["token_embedding.weight"] = embedding
    save_half(state, folder)
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
