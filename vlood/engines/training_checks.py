"""Refuse a training before its images are read, and say why a class was left without any."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vlood.engines.detectors import settings_by_method
from vlood.engines.printable import printable
from vlood.engines.text_side import TextSide
from vlood.engines.training_images import LabelledBatch
from vlood.errors import UsageError
from vlood.methods import registry
from vlood.methods.contract import make_settings

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone


def check_settings(method: str, side: TextSide, settings: Mapping[str, str]) -> None:
    """Refuse settings and classes that a method cannot be trained with; needs no model.

    Args:
        method: its name.
        side: the classes.
        settings: values by ``name`` or ``method.name``, as typed.

    Raises:
        UsageError: a setting is wrong, or does not go with so many classes.
    """
    chosen = registry.get(method)
    made = make_settings(chosen, settings_by_method([chosen], settings)[chosen.name])
    if chosen.check_training is not None:
        chosen.check_training(made, len(side.names()))


def check_model(method: str, backbone: Backbone) -> None:
    """Refuse a model that lacks what a method trains with, before it encodes anything.

    Raises:
        UsageError: its image tower has no local path, its text tower is no causal one, or it was
            tuned already where a method tunes it.
    """
    needs = registry.get(method).record.needs
    if "local" in needs and backbone.local_refusal is not None:
        raise UsageError(f"--model {backbone.name}: {backbone.local_refusal}")
    if "pixels" in needs and backbone.base_name != backbone.name:
        raise UsageError(
            f"--model {backbone.name}: is a tuned model already; tune its base again, or merge it "
            "first with `vlood export --format open-clip` and tune that"
        )
    if "text-tower" in needs:
        from vlood.prompts.contexts import prompt_tower

        prompt_tower(backbone)


@dataclass
class ReadErrors:
    """Which training images could not be read, for whoever misses the images of a class.

    Attributes:
        reasons: by path.
    """

    reasons: dict[str, str] = field(default_factory=dict)

    def noted(self, batches: Iterable[LabelledBatch]) -> Iterator[LabelledBatch]:
        """Pass batches on and keep their errors."""
        for batch in batches:
            self.reasons.update({batch.ids[row]: reason for row, reason in batch.errors.items()})
            yield batch

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Add to a refusal that images could not be read, where some could not.

        Raises:
            UsageError: the one raised inside, with the first of the reasons behind it.
        """
        try:
            yield
        except UsageError as error:
            if not self.reasons:
                raise
            path, reason = next(iter(self.reasons.items()))
            count = len(self.reasons)
            images = "image" if count == 1 else "images"
            raise UsageError(
                f"{error}; {count} training {images} could not be read, such as "
                f"{printable(path)}: {printable(reason)}"
            ) from error
