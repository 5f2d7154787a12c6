"""Settings of SynOOD, and how its two stages are trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vlood.methods.contract import check_choice, check_positive, check_whole, setting
from vlood.methods.neglabel import REMAINDERS
from vlood.methods.rows import RowSettings

if TYPE_CHECKING:
    from vlood.training.settings import LoopSettings

TUNED = ("both", "head", "labels")
_CODE = "the authors' code"
_FLOOR = 1e-5


@dataclass(frozen=True)
class SynoodSettings(RowSettings):
    """Settings of SynOOD."""

    method: ClassVar[str] = "synood"

    embeddings: str = setting(
        "raw",
        help="raw: the head moves embeddings as the tower gives them; unit: of length 1",
        unit="-",
        source=_CODE,
    )
    tuned: str = setting(
        "both", help="what is trained: both, head or labels", unit="-", source="the paper: both"
    )
    zero_start: bool = setting(
        False,
        help="start with a head that changes nothing, its gain at zero and trained",
        unit="-",
        source="vlood's own; the paper has no gain, that is 1",
    )
    head_epochs: int = setting(
        3, help="passes over classes' and made images, for the head", unit="passes", source=_CODE
    )
    head_rate: float = setting(1e-3, help="learning rate of the head, Adam", unit="-", source=_CODE)
    label_epochs: int = setting(
        5, help="passes over the made images, for the labels", unit="passes", source=_CODE
    )
    label_rate: float = setting(
        2e-2,
        help="learning rate of the labels' vectors, SGD with momentum 0.9",
        unit="-",
        source=_CODE,
    )
    batch_size: int = setting(128, help="images a step", unit="images", source=_CODE)
    weight_decay: float = setting(1e-5, help="L2 penalty of both stages", unit="-", source=_CODE)
    groups: int = setting(
        0,
        help="groups the negatives are split into, as in neglabel; 0: groups of about 100",
        unit="groups",
        source="NegLabel",
    )
    remainder: str = setting(
        "spread",
        help="what happens to negatives that do not fill the groups evenly: spread or drop",
        unit="-",
        source="NegLabel",
    )
    temperature: float = setting(
        1.0, help="divides the scaled logits", unit="logit", source="NegLabel"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in (("tuned", TUNED), ("remainder", REMAINDERS)):
            check_choice("synood", name, getattr(self, name), choices)
        for name in ("head_epochs", "label_epochs", "batch_size"):
            check_whole("synood", name, getattr(self, name), 1)
        for name in ("head_rate", "label_rate", "temperature"):
            check_positive("synood", name, getattr(self, name))
        check_positive("synood", "weight_decay", self.weight_decay, or_zero=True)
        check_whole("synood", "groups", self.groups, 0)

    def head_loop(self) -> LoopSettings:
        """Return how the head is trained."""
        from vlood.training.schedules import Schedule
        from vlood.training.settings import LoopSettings

        return LoopSettings(
            epochs=self.head_epochs,
            learning_rate=self.head_rate,
            optimizer="adam",
            eps=1e-8,
            weight_decay=self.weight_decay,
            schedule=Schedule(floor=min(1.0, _FLOOR / self.head_rate)),
            precision="fp32",
        )

    def label_loop(self) -> LoopSettings:
        """Return how the labels' vectors are trained."""
        from vlood.training.settings import LoopSettings

        return LoopSettings(
            epochs=self.label_epochs,
            learning_rate=self.label_rate,
            momentum=0.9,
            weight_decay=self.weight_decay,
            precision="fp32",
        )
