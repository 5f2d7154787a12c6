"""The loop for methods that train on cached embeddings alone: no model, a stage or several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vlood.training.loop import Loss, Rows, StepInputs, StepReport, Trained, train
from vlood.training.tuning import unwatched

if TYPE_CHECKING:
    import torch

    from vlood.training.checkpoints import RunFolder
    from vlood.training.costs import CostProbe
    from vlood.training.settings import LoopSettings


@dataclass(frozen=True, eq=False)
class Looping:
    """The circumstances of a run whose loss needs no model.

    Attributes:
        run: the folder that keeps the run's state, or None.
        about: what decides the run's course beside the method's part, JSON-able.
        on_step: told after every step.
        probe: given, the run is measured and not made; what ``fit`` returns then means nothing.
    """

    run: RunFolder | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    on_step: Callable[[StepReport], None] = unwatched
    probe: CostProbe | None = None

    def train(
        self,
        tensors: Mapping[str, torch.Tensor],
        loss: Callable[[StepInputs], Loss],
        rows: Rows,
        settings: LoopSettings,
        *,
        seed: int,
        stage: str = "",
    ) -> Trained:
        """Minimise a loss under these circumstances, as :func:`vlood.training.loop.train`.

        Args:
            tensors: what is trained.
            loss: of the tensors and some rows.
            rows: the rows of each step.
            settings: of the loop.
            seed: of everything that the loss draws.
            stage: a later stage's name: its state lies in a folder inside the run's. A stage whose
                steps are all made is taken from there when the run goes on.
        """
        run = self.run
        if run is not None and stage:
            run = run.stage(stage)
        return train(
            tensors,
            loss,
            rows,
            settings,
            seed=seed,
            run=run,
            about=self.about,
            on_step=self.on_step,
            probe=self.probe,
        )
