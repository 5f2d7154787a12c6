"""Learning rates over a run: a warm-up, then constant or a cosine, by epochs or by steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vlood.errors import UsageError

SHAPES = ("cosine", "constant")
WARMUPS = ("constant", "linear")


@dataclass(frozen=True)
class Schedule:
    """How the learning rate moves.

    The published recipes in these terms:

    - CoOp, LoCoOp, Local-Prompt (Dassl): ``warmup=1``, everything else as it is here
    - LAPT: ``per="step", warmup=0, floor=1e-8``
    - CLIPN: ``per="step", warmup=0``
    - CMA: ``per="step", warmup=500, warmup_shape="linear", warmup_rate=0, over="rest"``

    Attributes:
        shape: after the warm-up, ``cosine`` from the learning rate down, or ``constant``.
        per: the rate changes every ``epoch`` or every ``step``; the unit of ``warmup``.
        warmup: how many epochs or steps; 0 for none.
        warmup_shape: ``constant`` at ``warmup_rate``, or ``linear`` from there to the learning
            rate.
        warmup_rate: the rate at its beginning.
        over: what the cosine's half period is as long as: ``all`` epochs or steps, of which the
            last ones are then never reached (Dassl), or the ``rest`` behind the warm-up.
        floor: share of the learning rate that the cosine ends at.
    """

    shape: str = "cosine"
    per: str = "epoch"
    warmup: int = 0
    warmup_shape: str = "constant"
    warmup_rate: float = 1e-5
    over: str = "all"
    floor: float = 0.0

    def __post_init__(self) -> None:
        choices = {
            "shape": SHAPES,
            "per": ("epoch", "step"),
            "warmup_shape": WARMUPS,
            "over": ("all", "rest"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UsageError(
                    f"schedule: {name} is {getattr(self, name)!r}; expected {' or '.join(allowed)}"
                )
        if self.warmup < 0:
            raise UsageError(f"schedule: warmup is {self.warmup}; expected 0 or more")
        for name in ("warmup_rate", "floor"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise UsageError(
                    f"schedule: {name} is {getattr(self, name)}; expected a finite number, 0 or "
                    "more"
                )

    def rate(self, base: float, step: int, per_epoch: int, epochs: int) -> float:
        """Return the learning rate of a step.

        Args:
            base: the learning rate.
            step: counted from 0 over the whole run.
            per_epoch: steps an epoch.
            epochs: of the run.
        """
        at, total = step, per_epoch * epochs
        if self.per == "epoch":
            at, total = step // per_epoch, epochs
        if at < self.warmup:
            if self.warmup_shape == "constant":
                return self.warmup_rate
            return self.warmup_rate + (base - self.warmup_rate) * at / self.warmup
        if self.shape == "constant":
            return base
        length = total if self.over == "all" else total - self.warmup
        share = (1 + math.cos(math.pi * (at - self.warmup) / max(1, length))) / 2
        return base * (self.floor + (1 - self.floor) * share)
