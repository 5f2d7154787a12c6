"""A loaded classifier: prepared pictures in, logits out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlood.backbone.batches import ShrinkingBatches
from vlood.backbone.classifier.input import ClassifierInput
from vlood.backbone.image_features import ClassifierLogits
from vlood.errors import UsageError, VloodError

Run = Callable[[torch.Tensor], torch.Tensor]
"""Normalised pictures [N, 3, H, W] on the device, to logits [N, C]."""


class Classifier:
    """A closed-world classifier beside the model; ``load.load_classifier`` makes it.

    Attributes:
        name: as the user named it, with an absolute path.
        kind: ``timm``, ``torchvision``, ``onnx`` or ``torchscript``.
        architecture: of the network, "" where a file holds all of it.
        digest: hex digest of the weights, or of the file.
        names: the classes of its C outputs, in order.
        named: whether the names were stated, by its folder or the user, and not merely taken from
            the class list.
        input: what it sees of an image.
        preprocessing: the same, as steps.
        device: torch's name of the device it runs on.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        runtime: the library that runs it, with its version.
        weights: of a network, in single precision, by name; None where a file holds all of it.
        file: the bytes of an ONNX file, or None.
    """

    def __init__(
        self,
        *,
        name: str,
        kind: str,
        architecture: str,
        digest: str,
        names: tuple[str, ...],
        named: bool,
        input: ClassifierInput,
        run: Run,
        device: str,
        precision: str,
        runtime: str = f"torch {torch.__version__.partition('+')[0]}",
        weights: Mapping[str, torch.Tensor] | None = None,
        file: bytes | None = None,
    ) -> None:
        self.name, self.kind, self.architecture = name, kind, architecture
        self.digest, self.names, self.named = digest, names, named
        self.input = input
        self.preprocessing = input.preprocessing()
        self.device, self.precision, self.runtime = device, precision, runtime
        self.weights, self.file = weights, file
        self._run = run
        self._images = ShrinkingBatches("image of the classifier")

    @property
    def outputs(self) -> int:
        """How many logits an image has, C."""
        return len(self.names)

    def identity(self) -> dict[str, str]:
        """Return what decides the logits, for cache keys and saved detectors; JSON-able."""
        return {
            "kind": self.kind,
            "architecture": self.architecture,
            "weights": self.digest,
            "preprocessing": self.preprocessing.describe(),
            "precision": self.precision,
            "runtime": self.runtime,
        }

    def logits(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Classify prepared pictures: uint8 [N, H, W, 3] to float32 [N, C].

        Raises:
            VloodError: not even one picture fits in memory, or logits are not finite.
        """
        if len(pixels) == 0:
            return np.zeros((0, self.outputs), np.float32)

        def run(rows: slice) -> NDArray[np.float32]:
            images = self.preprocessing.normalise(pixels[rows], self.device)
            return self._run(images).float().cpu().numpy()

        with torch.inference_mode():
            found = np.concatenate(list(self._images.map(len(pixels), run)))
        if not np.isfinite(found).all():
            raise VloodError(
                f"--classifier {self.name}: its logits are not finite numbers in {self.precision}; "
                "use --precision fp32, or check the weights"
            )
        return found

    def with_names(self, values: NDArray[np.float32]) -> ClassifierLogits:
        """Return logits [N, C] with the names of their columns."""
        return ClassifierLogits(values, self.names)


def count_outputs(run: Run, input: ClassifierInput, device: str, where: str) -> int:
    """Show a blank picture to a classifier; return how many logits it gives.

    Raises:
        UsageError: it does not take such a picture, or gives something else than logits.
    """
    height, width = input.size
    blank = torch.zeros(1, 3, height, width, device=device)
    try:
        with torch.inference_mode():
            found: Any = run(blank)
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = (lines[-1] if lines else type(error).__name__).strip()[:200]
        raise UsageError(
            f"{where}: does not take pictures [N, 3, {height}, {width}] ({reason}); give "
            "--classifier-set size=N, or export it anew"
        ) from error
    if not isinstance(found, torch.Tensor) or found.ndim != 2 or len(found) != 1:
        told = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise UsageError(
            f"{where}: gives {told} for one picture; expected logits [1, C], one for each class"
        )
    if not found.shape[1]:
        raise UsageError(f"{where}: gives no logits at all; expected one for each class")
    return int(found.shape[1])
