"""The one thing that runs a big network: images and texts to features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlood.backbone.batches import ShrinkingBatches
from vlood.backbone.device import Precision
from vlood.backbone.image_features import ImageFeatures
from vlood.backbone.library import open_clip
from vlood.backbone.local import encode_with_local, local_refusal
from vlood.backbone.preprocess import Preprocessing
from vlood.backbone.text import CausalTextTower, Progress, encode_texts
from vlood.errors import UsageError, VloodError

if TYPE_CHECKING:
    from vlood.backbone.classifier.classifier import Classifier

__all__ = ["Backbone", "ImageFeatures"]

CPU_BATCH_TOKENS = 2048
GPU_BATCH_TOKENS = 32768


class Backbone:
    """A loaded open_clip model; ``load.load_backbone`` makes it.

    Attributes:
        name: the model as the user named it.
        base_name: of the model that this one was tuned on; its own where it was not tuned.
        architecture: open_clip's name of it, or a description of a configuration of one's own.
        digest: hex digest of the weights as they are stored.
        config_digest: hex digest of the model's configuration (activation, heads: what the weights
            do not tell).
        config: open_clip's configuration of the model, or nothing where it is not known.
        module: the open_clip model, frozen and in evaluation mode.
        preprocessing: the model's own.
        device: torch's name of the device.
        precision: ``fp32``, ``bf16`` or ``fp16``; ``precision_reason`` says why.
        embed_dim: width D of the features.
        logit_scale: the learned factor on cosines, exponentiated (about 100 for CLIP).
        logit_bias: the learned bias of SigLIP models, else None.
        local_refusal: why there are no local features, or None when there are.
        classifier: a closed-world classifier that sees the same images beside it, or None; no part
            of the model's identity.
    """

    def __init__(
        self,
        *,
        name: str,
        architecture: str,
        digest: str,
        config_digest: str,
        module: Any,
        make_tokenizer: Callable[[], Any],
        preprocessing: Preprocessing,
        device: str,
        precision: Precision,
        base_name: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.config = dict(config or {})
        self.base_name = base_name or name
        self.architecture = architecture
        self.digest = digest
        self.config_digest = config_digest
        self.module = module
        self.preprocessing = preprocessing
        self.device = device
        self.precision = precision.name
        self.precision_reason = precision.reason
        self.logit_scale = float(module.logit_scale.detach().float().exp().reshape(-1)[0])
        bias = getattr(module, "logit_bias", None)
        self.logit_bias = None if bias is None else float(bias.detach().float().reshape(-1)[0])
        self.local_refusal = local_refusal(module.visual)
        self.classifier: Classifier | None = None
        self._make_tokenizer = make_tokenizer
        self._dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[
            self.precision
        ]
        self._images = ShrinkingBatches("image")
        self._texts = ShrinkingBatches("text")

    @cached_property
    def embed_dim(self) -> int:
        """Width D of the features."""
        for holder in (self.module.visual, getattr(self.module, "text", None)):
            width = getattr(holder, "output_dim", None)
            if isinstance(width, int):
                return width
        height, width = self.preprocessing.size
        blank = torch.zeros(1, 3, height, width, dtype=self._dtype, device=self.device)
        with torch.inference_mode():
            return int(self.module.encode_image(blank, normalize=False).shape[1])

    @cached_property
    def tokenizer(self) -> Any:
        """open_clip's tokenizer of the model: list of texts to token ids [N, L]."""
        return self._make_tokenizer()

    @cached_property
    def text_tower(self) -> CausalTextTower | None:
        """The text tower for prompt learning, or None when it is not a causal one."""
        return CausalTextTower.of(self.module)

    def replaced(self, *, name: str, digest: str, module: Any) -> Backbone:
        """Return this model with other weights, frozen.

        Args:
            name: as the user names it.
            digest: of the weights.
            module: an open_clip model of the same architecture, device and precision.
        """
        return Backbone(
            name=name,
            architecture=self.architecture,
            digest=digest,
            config_digest=self.config_digest,
            module=module.eval().requires_grad_(False),
            make_tokenizer=lambda: self.tokenizer,
            preprocessing=self.preprocessing,
            device=self.device,
            precision=Precision(self.precision, self.precision_reason),
            base_name=self.base_name,
            config=self.config,
        )

    def identity(self) -> dict[str, str]:
        """Return what decides the features, for cache keys and saved detectors; JSON-able."""
        return {
            "architecture": self.architecture,
            "config": self.config_digest,
            "weights": self.digest,
            "preprocessing": self.preprocessing.describe(),
            "precision": self.precision,
            "open_clip": str(open_clip.__version__),
        }

    def encode_pixels(self, pixels: NDArray[Any], *, local: bool = False) -> ImageFeatures:
        """Encode prepared pictures.

        Args:
            pixels: uint8 [N, H, W, 3], as ``preprocessing.prepare`` gives them, stacked.
            local: also give local features.

        Raises:
            UsageError: local features are asked of a tower without them.
            VloodError: not even one picture fits in memory.
        """
        if local and self.local_refusal is not None:
            raise UsageError(f"--model {self.name}: {self.local_refusal}")
        grid: tuple[int, int] | None = None

        def run(rows: slice) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
            nonlocal grid
            images = self.preprocessing.normalise(pixels[rows], self.device).to(self._dtype)
            if not local:
                return _float32(self.module.encode_image(images, normalize=False)), None
            features, patches, grid = encode_with_local(self.module.visual, images)
            return _float32(features), _float32(patches)

        if len(pixels) == 0:
            return ImageFeatures(np.zeros((0, self.embed_dim), np.float32))
        with torch.inference_mode():
            parts = list(self._images.map(len(pixels), run))
        raw = np.concatenate([features for features, _ in parts])
        self._check_range(raw)
        if not local:
            return ImageFeatures(raw)
        patches = np.concatenate([part for _, part in parts if part is not None])
        return ImageFeatures(raw, patches, grid)

    def encode_texts(
        self,
        texts: Sequence[str],
        *,
        batch_tokens: int | None = None,
        on_progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """Encode texts: float32 [N, D] in their order, not normalised.

        Args:
            texts: any number; those longer than the model's context are cut, with a warning.
            batch_tokens: most tokens in a batch; the default suits the device.
            on_progress: called with (texts done, all texts) after each batch.
        """
        if len(texts) == 0:
            return np.zeros((0, self.embed_dim), np.float32)
        default = CPU_BATCH_TOKENS if self.device == "cpu" else GPU_BATCH_TOKENS
        features = encode_texts(
            self.module,
            self.tokenizer,
            texts,
            device=self.device,
            batch_tokens=batch_tokens or default,
            batches=self._texts,
            on_progress=on_progress,
        )
        self._check_range(features)
        return features

    def _check_range(self, features: NDArray[np.float32]) -> None:
        """Refuse numbers that left the range of the precision: no score could be made of them."""
        if not np.isfinite(features).all():
            raise VloodError(
                f"{self.name}: the embeddings are not finite numbers in {self.precision}; "
                "use --precision fp32, or check the weights"
            )


def _float32(features: torch.Tensor) -> NDArray[np.float32]:
    return features.float().cpu().numpy()
