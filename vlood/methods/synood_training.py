"""Train SynOOD's two stages on cached embeddings, each by itself, as the authors do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlood.methods.synood_head import GAIN, head_loss, label_loss, starting_head

if TYPE_CHECKING:
    import torch

    from vlood.methods.synood_settings import SynoodSettings
    from vlood.training.loop import StepInputs
    from vlood.training.looping import Looping
    from vlood.training.steps import Loss

_ROWS_AT_ONCE = 4096


def train_head(
    rows: NDArray[np.float32],
    labels: NDArray[np.int64],
    texts: NDArray[np.float32],
    settings: SynoodSettings,
    logit_scale: float,
    looping: Looping,
    *,
    seed: int,
    device: str,
) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
    """Train the residual head.

    Args:
        rows: embeddings [N, D] of images of classes and of made ones.
        labels: int64 [N], columns of ``texts``.
        texts: unit [C + L, D], frozen.
        settings: its settings; where only labels are tuned the head changes nothing.
        logit_scale: s.
        looping: the run.
        seed: of the start and the order.
        device: where torch trains.

    Returns:
        The head's arrays, and facts: steps, and the mean loss before and after.
    """
    from vlood.training.draws import generator
    from vlood.training.heads import fixed, leaf

    idle = settings.tuned == "labels"
    zero = settings.zero_start or idle
    start = starting_head(rows.shape[1], generator(seed, "head"), zero=zero)
    if idle:
        return start, {}
    tensors = {name: leaf(each, device) for name, each in start.items()}
    trained = dict(tensors)
    if not settings.zero_start:
        tensors[GAIN].requires_grad_(False)
        del trained[GAIN]
    features, targets, columns = (fixed(each, device) for each in (rows, labels, texts))

    def loss(some: torch.Tensor) -> torch.Tensor:
        return head_loss(tensors, features[some], targets[some], columns, logit_scale)

    found, facts = _run(loss, trained, len(rows), settings, looping, "head", seed, device)
    return {**start, **found}, facts


def train_labels(
    rows: NDArray[np.float32],
    labels: NDArray[np.int64],
    start: NDArray[np.float32],
    settings: SynoodSettings,
    logit_scale: float,
    looping: Looping,
    *,
    seed: int,
    device: str,
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Tune the vectors of the made images' labels.

    Args:
        rows: unit embeddings [N, D] of made images, which no head has moved.
        labels: int64 [N], rows of ``start``.
        start: unit [L, D], the labels' text features.
        settings: its settings.
        logit_scale: s.
        looping: the run.
        seed: of the order.
        device: where torch trains.

    Returns:
        Unit vectors [L, D], and facts: steps, and the mean loss before and after.
    """
    from vlood.backbone.image_features import unit
    from vlood.training.heads import fixed, leaf

    # With a single label the loss is 0 whatever its vector.
    if settings.tuned == "head" or len(start) < 2:
        return start, {}
    vectors = leaf(start, device)
    features, targets = fixed(rows, device), fixed(labels, device)

    def loss(some: torch.Tensor) -> torch.Tensor:
        return label_loss(vectors, features[some], targets[some], logit_scale)

    found, facts = _run(
        loss, {"labels": vectors}, len(rows), settings, looping, "label", seed, device
    )
    return unit(found["labels"]), facts


def _run(
    loss: Callable[[torch.Tensor], torch.Tensor],
    trained: dict[str, torch.Tensor],
    rows: int,
    settings: SynoodSettings,
    looping: Looping,
    stage: str,
    seed: int,
    device: str,
) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
    """Run a stage; return what was trained and its facts."""
    import torch

    from vlood.training.draws import ShuffledRows
    from vlood.training.steps import Loss

    def of(inputs: StepInputs) -> Loss:
        return Loss(loss(torch.from_numpy(inputs.rows).to(device)))

    def mean() -> float:
        total = 0.0
        with torch.no_grad():
            for start in range(0, rows, _ROWS_AT_ONCE):
                some = torch.arange(start, min(rows, start + _ROWS_AT_ONCE), device=device)
                total += float(loss(some)) * len(some)
        return total / rows

    loop = settings.head_loop() if stage == "head" else settings.label_loop()
    # The first stage that runs has the run's folder itself.
    inner = "labels" if stage == "label" and settings.tuned == "both" else ""
    order = ShuffledRows(rows, settings.batch_size, seed, drop_last=False)
    before = mean()
    made = looping.train(trained, of, order, loop, seed=seed, stage=inner)
    facts = {f"{stage}_steps": made.steps, f"{stage}_loss": [before, mean()]}
    return {name: each.numpy() for name, each in made.tensors.items()}, facts
