"""What the small trained heads share: settings of their training, and checks of their inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError
from vlood.methods.contract import check_positive, check_whole, setting
from vlood.methods.rows import RowSettings, training_rows
from vlood.training.heads import HeadSchedule
from vlood.training.labelled import LabelledFeatures


@dataclass(frozen=True)
class TrainedHeadSettings(RowSettings):
    """The settings of a head's training."""

    epochs: int = setting(30, help="passes over the images", unit="passes", source="chosen here")
    batch_size: int = setting(128, help="images a step", unit="images", source="chosen here")
    learning_rate: float = setting(
        0.001,
        help="of AdamW at the start, then by a cosine to zero",
        unit="-",
        source="chosen here",
    )
    weight_decay: float = setting(0.01, help="of AdamW", unit="-", source="torch's default")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self.method, "epochs", self.epochs, 1)
        check_whole(self.method, "batch_size", self.batch_size, 2)
        check_positive(self.method, "learning_rate", self.learning_rate)
        check_positive(self.method, "weight_decay", self.weight_decay, or_zero=True)

    def schedule(self) -> HeadSchedule:
        """Return how the head is trained."""
        return HeadSchedule(self.epochs, self.batch_size, self.learning_rate, self.weight_decay)


def head_training_rows(
    settings: Any, names: Sequence[str], images: LabelledFeatures
) -> tuple[NDArray[np.float32], Any]:
    """Return the rows [N, D] to train a head on, and the settings with what is known of them.

    Raises:
        UsageError: fewer than two classes, a class without images, or embeddings all the same.
    """
    if len(names) < 2:
        raise UsageError(
            f"{settings.method}: learns to tell classes apart and needs at least 2 of them; add "
            "classes, or use --method knn"
        )
    return training_rows(images, settings, names)
