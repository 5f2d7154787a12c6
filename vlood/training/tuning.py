"""What a method is given to tune with: the model, the prompts' names, and the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlood.features.texts import encode_texts
from vlood.training.loop import Loss, Rows, StepInputs, StepReport, Trained, train
from vlood.training.pixels import PixelSource
from vlood.training.regional_maps import RegionSource

if TYPE_CHECKING:
    import torch

    from vlood.backbone.backbone import Backbone
    from vlood.features.cache import FeatureCache
    from vlood.prompts.templates import ClassFeatures
    from vlood.training.checkpoints import RunFolder
    from vlood.training.costs import CostProbe
    from vlood.training.settings import LoopSettings


def unwatched(report: StepReport) -> None:
    """Look at no step."""


def unheard(text: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, eq=False)
class Tuning:
    """The circumstances of a run.

    Attributes:
        backbone: the model, frozen.
        prompts: K names as prompts hold them, in the order of the classes.
        run: the folder that keeps the run's state, or None.
        about: what decides the run's course beside the method's part, JSON-able.
        on_step: told after every step.
        probe: given, the run is measured and not made; what ``fit`` returns then means nothing.
        regions: makes regional maps of the images' views, or None where they are not at hand.
        announce: told of what is done without being asked for.
        templates: the class templates that the user chose; none leaves the choice to the method.
        cache: keeps embeddings of texts, or None.
        pixels: gives the training images themselves, or None where there are embeddings alone.
        class_templates: the templates that the classes are scored in.
        mine: finds the negatives anew with a tuned model and the class features it gives.
    """

    backbone: Backbone
    prompts: tuple[str, ...]
    run: RunFolder | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    on_step: Callable[[StepReport], None] = unwatched
    probe: CostProbe | None = None
    regions: RegionSource | None = None
    announce: Callable[[str], None] = unheard
    templates: tuple[str, ...] = ()
    cache: FeatureCache | None = None
    pixels: PixelSource | None = None
    class_templates: tuple[str, ...] = ()
    mine: Callable[[Backbone, ClassFeatures], Any] | None = None

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return raw text embeddings [N, D], each distinct text encoded once.

        Where the run is only measured they are noise: its texts are not worth encoding for that.
        """
        if self.probe is not None:
            shape = (len(texts), self.backbone.embed_dim)
            return np.random.default_rng(0).normal(size=shape).astype(np.float32)
        return encode_texts(texts, self.backbone, self.cache)

    def train(
        self,
        tensors: Mapping[str, torch.Tensor],
        loss: Callable[[StepInputs], Loss],
        rows: Rows,
        settings: LoopSettings,
        *,
        seed: int,
        held_out: Callable[[], float] | None = None,
    ) -> Trained:
        """Minimise a loss under these circumstances, as :func:`vlood.training.loop.train`."""
        return train(
            tensors,
            loss,
            rows,
            settings,
            seed=seed,
            held_out=held_out,
            run=self.run,
            about=self.about,
            on_step=self.on_step,
            probe=self.probe,
            model_precision=self.backbone.precision,
        )
