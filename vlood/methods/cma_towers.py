"""The towers that CMA tunes: a copy of a model in single precision, some of it trainable."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from vlood.backbone.backbone import Backbone
from vlood.backbone.text import CausalTextTower
from vlood.backbone.tuned_folder import PREFIX, TunedWeights
from vlood.backbone.tuned_weights import (
    add_adapter,
    check_gradients,
    trainable_names,
    trained_weights,
)
from vlood.errors import UsageError
from vlood.methods.cma_settings import CMASettings
from vlood.training.draws import generator


class Towers:
    """A copy of a model in single precision, some of it trainable.

    Args:
        backbone: it; stays as it is.
        settings: what is tuned.
        seed: of an adapter's start.

    Attributes:
        module: the copy.
        names: of the parameters that are trained.

    Raises:
        UsageError: a tuned model, one without such parameters, or targets that learn nothing.
    """

    def __init__(self, backbone: Backbone, settings: CMASettings, seed: int) -> None:
        if backbone.name.startswith(PREFIX):
            raise UsageError(
                f"--model {backbone.name}: is a tuned model already; tune its base again, or merge "
                "it first with `vlood export --format open-clip` and tune that"
            )
        self._backbone, self._device = backbone, backbone.device
        self.module = copy.deepcopy(backbone.module).float().eval().requires_grad_(False)
        self._adapted: Any = None
        self._base: dict[str, torch.Tensor] = {}
        if settings.tune == "lora":
            start = generator(seed, "adapter")
            self._adapted = add_adapter(self.module, settings.lora(), start)
            # Layers of an adapter are new, and new ones are in training.
            self.module.eval()
            self.names = [n for n, one in self.module.named_parameters() if one.requires_grad]
        else:
            self.names = trainable_names(self.module, settings.tune)
        self._parameters = dict(self.module.named_parameters())
        for name in self.names:
            self._parameters[name].requires_grad_()
        self._tower = CausalTextTower.of(self.module)
        self._check(settings, seed)
        for name, layer in self.module.named_modules():
            if name.endswith("lora_dropout.default"):
                layer.train()
        if self._adapted is None:
            self._base = {name: self._parameters[name].detach().clone() for name in self.names}

    def _check(self, settings: CMASettings, seed: int) -> None:
        """Leave out what has no part in the features; refuse an adapter of which some has none."""
        random = generator(seed, "check")
        size = (2, 3, *self._backbone.preprocessing.size)
        pixels = torch.from_numpy(random.normal(size=size).astype(np.float32)).to(self._device)
        tokens = self._backbone.tokenizer(["a photo", "a drawing of it"]).to(self._device)
        width = self._backbone.embed_dim
        towards = torch.from_numpy(random.normal(size=(2, 2, width)).astype(np.float32))
        places = towards.to(self._device)

        def features() -> torch.Tensor:
            images = F.normalize(self.module.encode_image(pixels, normalize=False), dim=-1)
            texts = F.normalize(self.encode_texts(tokens), dim=-1)
            scale: torch.Tensor = self.log_scale.exp()
            return scale * ((images * places[0]).sum() + (texts * places[1]).sum())

        dead = check_gradients(self.module, self.names, features, random)
        if dead and self._adapted is not None:
            raise UsageError(
                f"targets={settings.targets}: {len(dead)} of {len(self.names)} trained tensors get "
                f"no gradient, such as {dead[0]}: the model reads that layer's weights past an "
                "adapter; use targets=auto"
            )
        for name in dead:
            self._parameters[name].requires_grad_(False)
        self.names = [name for name in self.names if name not in set(dead)]

    @property
    def log_scale(self) -> torch.Tensor:
        """Return the logarithm of the factor on cosines, a scalar."""
        scale: torch.Tensor = self.module.logit_scale
        return scale.reshape(())

    @property
    def width(self) -> int:
        """Return the width of the features."""
        return self._backbone.embed_dim

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what is trained, by name."""
        return {name: self._parameters[name] for name in self.names}

    def encode_pictures(self, pictures: NDArray[Any]) -> torch.Tensor:
        """Encode prepared pictures to features [n, D], not normalised."""
        pixels = self._backbone.preprocessing.normalise(pictures, self._device)
        features: torch.Tensor = self.module.encode_image(pixels.float(), normalize=False)
        return features

    def encode_texts(self, tokens: torch.Tensor) -> torch.Tensor:
        """Encode token ids [n, L] to features [n, D], not normalised."""
        if self._tower is not None:
            return self._tower.encode_tokens(tokens.to(self._device))
        features: torch.Tensor = self.module.encode_text(tokens.to(self._device), normalize=False)
        return features

    def weights(self, trained: dict[str, torch.Tensor]) -> TunedWeights:
        """Return what was trained, as it is kept.

        Args:
            trained: the values to keep, by name.
        """
        with torch.no_grad():
            for name, tensor in trained.items():
                self._parameters[name].copy_(tensor)
        return trained_weights(self.module, self._adapted, self._base, self.names)
