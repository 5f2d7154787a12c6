"""What an imported file is brought together with: classes, and the model it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlood.detector.importing.checkpoint import Checkpoint
from vlood.detector.saved import Learned, SavedDetector
from vlood.errors import UsageError
from vlood.features.cache import FeatureCache
from vlood.features.texts import encode_texts
from vlood.methods.contract import Detector
from vlood.negatives.negative_features import NegativeRow
from vlood.prompts.classes import ClassName

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone

# The widths of CLIP models: of their token embeddings, and of their features.
_TOKEN_WIDTHS = {512: "a ViT-B", 640: "RN50x4", 768: "ViT-L-14", 1024: "ViT-H-14"}
_FEATURE_WIDTHS = {512: "a ViT-B", 640: "RN50x4", 768: "ViT-L-14", 1024: "ViT-H-14 or RN50"}


class Target:
    """The classes and the model; the model is loaded when it is first needed.

    Attributes:
        model: what ``--model`` takes, or None where there is no model.
        cache: keeps text embeddings, or None.
        provenance: what the provenance of what is made says first, such as a version.
    """

    def __init__(
        self,
        classes: Sequence[ClassName] | None = None,
        load: Callable[[], Backbone] | None = None,
        *,
        model: str | None = None,
        cache: FeatureCache | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.provenance = dict(provenance or {})
        self.cache = cache
        self.given_classes = None if classes is None else tuple(classes)
        self._load = load

    @classmethod
    def of(cls, backbone: Backbone, classes: Sequence[ClassName] | None = None) -> Target:
        """Return the target of a model that is loaded already."""
        return cls(classes, lambda: backbone, model=backbone.name)

    @property
    def has_model(self) -> bool:
        """Whether there is a model at all."""
        return self._load is not None

    @cached_property
    def backbone(self) -> Backbone:
        """The model.

        Raises:
            UsageError: there is none.
        """
        if self._load is None:
            raise UsageError("--model is missing: name the model that the file was made with")
        return self._load()

    @property
    def classes(self) -> tuple[ClassName, ...]:
        """The classes.

        Raises:
            UsageError: none were given.
        """
        if self.given_classes is None:
            raise UsageError(
                "--classes is missing: a file of tensors holds no names; give those it was "
                "trained with, in their order"
            )
        return self.given_classes

    @property
    def names(self) -> list[str]:
        """The names of the classes, as data has them."""
        return [each.name for each in self.classes]

    @property
    def prompts(self) -> list[str]:
        """The names of the classes, as prompts have them."""
        return [each.prompt for each in self.classes]

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Encode texts with the model, through the cache: raw features [n, D]."""
        return encode_texts(texts, self.backbone, self.cache)

    def check_count(self, checkpoint: Checkpoint, what: str, count: int) -> None:
        """Refuse another number of classes than a tensor has.

        Raises:
            UsageError: naming both.
        """
        if count != len(self.classes):
            raise UsageError(
                f"{checkpoint.path}: {what} is for {count} classes and --classes names "
                f"{len(self.classes)}; give the classes that it was trained with, in their order"
            )

    def check_token_width(self, checkpoint: Checkpoint, name: str, width: int) -> None:
        """Refuse prompt vectors of another width than the model's token embeddings.

        Raises:
            UsageError: naming both and a likely model; or the model's text tower is not causal.
        """
        from vlood.prompts.contexts import prompt_tower

        own = int(prompt_tower(self.backbone).module.token_embedding.weight.shape[1])
        self._check(checkpoint, name, width, own, "token embeddings", _TOKEN_WIDTHS)

    def check_feature_width(self, checkpoint: Checkpoint, name: str, width: int) -> None:
        """Refuse features of another width than the model's.

        Raises:
            UsageError: naming both and a likely model.
        """
        own = self.backbone.embed_dim
        self._check(checkpoint, name, width, own, "embeddings", _FEATURE_WIDTHS)

    def _check(
        self,
        checkpoint: Checkpoint,
        name: str,
        width: int,
        own: int,
        what: str,
        known: Mapping[int, str],
    ) -> None:
        if width == own:
            return
        likely = f" ({width} is the width of {known[width]})" if width in known else ""
        raise UsageError(
            f"{checkpoint.path}: {name} is {width} wide and the {what} of --model "
            f"{self.backbone.name} are {own}: it was made with another model{likely}; name that one"
        )

    def saved(
        self,
        detector: Detector,
        source: Mapping[str, Any],
        *,
        classes: tuple[ClassName, ...] | None = None,
        templates: tuple[str, ...] = (),
        negatives: tuple[NegativeRow, ...] = (),
        learned: Learned | None = None,
    ) -> SavedDetector:
        """Gather everything a folder holds of an imported detector.

        Args:
            detector: it.
            source: where it is from, for the provenance.
            classes: other classes than the target's.
            templates: of the classes.
            negatives: what is known of its negatives.
            learned: what was trained.
        """
        return SavedDetector(
            detector=detector,
            classes=self.classes if classes is None else classes,
            templates=templates,
            backbone=self.backbone.identity() if self.has_model else None,
            model_name=self.backbone.name if self.has_model else None,
            negatives=negatives,
            learned=learned,
            provenance={**self.provenance, **source},
        )


def source_of(checkpoint: Checkpoint, format: str) -> dict[str, Any]:
    """Return what the provenance says of a file."""
    return {"imported": format, "file": checkpoint.path.name, "file_sha256": checkpoint.sha256}
