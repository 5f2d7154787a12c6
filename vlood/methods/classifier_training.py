"""Train a closed-world classifier on pictures: cross-entropy, a cosine, augmented views."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from vlood.backbone.preprocess import Preprocessing
from vlood.errors import UsageError
from vlood.methods.classifier_settings import ClassifierSettings
from vlood.training.checkpoints import RunFolder
from vlood.training.costs import CostProbe
from vlood.training.draws import ShuffledRows, held_out
from vlood.training.loop import Loss, StepInputs, StepReport, train
from vlood.training.tuning import unwatched

_EVALUATED = 64

Pictures = Callable[[NDArray[np.int64], int], NDArray[np.uint8]]
"""Rows and a pass to augmented pictures, uint8 [n, H, W, 3]."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """What there is to learn from, and what is kept aside.

    Attributes:
        pictures: gives the pictures of rows as they are seen in a pass.
        labels: int64 [N], indices of K classes.
        rows: those to train on.
        aside: those kept aside, none where there are none.
        plain: the pictures of ``aside`` as the finished classifier will see them.
        upcoming: told which rows of which pass come next, so that they can be made ready.
    """

    pictures: Pictures
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]
    aside: NDArray[np.int64]
    plain: NDArray[np.uint8]
    upcoming: Callable[[NDArray[np.int64], int], None] = field(default=lambda rows, epoch: None)


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A network that was trained.

    Attributes:
        weights: by name, buffers included, on the CPU.
        steps: how many were made.
        epochs: how many were begun.
        accuracy: share of the pictures kept aside that it names right, or None.
    """

    weights: Mapping[str, torch.Tensor]
    steps: int
    epochs: int
    accuracy: float | None


def split(
    labels: NDArray[np.int64], share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows to train on and those kept aside, a share of each class of labels [N].

    Raises:
        UsageError: every class has a single image.
    """
    if not share:
        return np.arange(len(labels)), np.zeros(0, np.int64)
    try:
        return held_out(labels, share, seed)
    except UsageError:
        raise UsageError(
            "classifier: every class has a single image, and none can be kept aside; give more, or "
            "--set held_out=0"
        ) from None


def train_network(
    network: Any,
    lesson: Lesson,
    settings: ClassifierSettings,
    preprocessing: Preprocessing,
    *,
    from_weights: bool,
    device: str,
    precision: str,
    seed: int,
    run: RunFolder | None = None,
    about: Mapping[str, Any] | None = None,
    on_step: Callable[[StepReport], None] = unwatched,
    probe: CostProbe | None = None,
) -> TrainedNetwork:
    """Train a network; a run that was stopped goes on to the same bytes on one CPU.

    Args:
        network: in single precision; its weights change in place.
        lesson: what there is to learn from.
        settings: its settings.
        preprocessing: normalises pictures.
        from_weights: whether the network has been trained before.
        device: where it trains.
        precision: what ``auto`` means.
        seed: of the order, the views and everything drawn.
        run: keeps the run's state, or None.
        about: what else decides its course, JSON-able.
        on_step: told after every step.
        probe: measure the run instead of making it; the weights then mean nothing.

    Raises:
        UsageError: the folder holds another run.
        VloodError: the loss is not finite.
    """
    batches = ShuffledRows(len(lesson.rows), settings.batch_size, seed)
    labels = torch.from_numpy(lesson.labels)
    network = network.to(device).train()

    def loss(step: StepInputs) -> Loss:
        _announce(lesson, batches, step)
        rows = lesson.rows[step.rows]
        images = preprocessing.normalise(lesson.pictures(rows, step.epoch), device)
        own = labels[torch.from_numpy(rows)].to(device)
        with _seeded(step.random, device):
            logits = network(images)
        value = F.cross_entropy(logits.float(), own, label_smoothing=settings.label_smoothing)
        right = (logits.detach().argmax(dim=1) == own).float().mean()
        return Loss(value, {"accuracy": right})

    def held_out_loss() -> float:
        found = _logits(network, lesson.plain, preprocessing, device)
        return float(F.cross_entropy(found, labels[torch.from_numpy(lesson.aside)]))

    done = train(
        dict(network.named_parameters()),
        loss,
        batches,
        settings.loop(from_weights=from_weights, per_epoch=batches.per_epoch),
        seed=seed,
        held_out=held_out_loss if settings.patience else None,
        run=run,
        about=about,
        on_step=on_step,
        probe=probe,
        model_precision=precision,
        buffers=dict(network.named_buffers()),
    )
    state = network.state_dict()
    weights = {name: done.tensors[name] for name in state}
    accuracy = None
    if len(lesson.aside) and probe is None:
        network.load_state_dict(weights)
        found = _logits(network, lesson.plain, preprocessing, device)
        right = found.argmax(dim=1).numpy() == lesson.labels[lesson.aside]
        accuracy = float(right.mean())
    return TrainedNetwork(weights, done.steps, done.epochs, accuracy)


def _announce(lesson: Lesson, batches: ShuffledRows, step: StepInputs) -> None:
    """Let the pictures of this step and the next two be made while the network is busy."""
    for later in range(3):
        epoch, at = divmod(step.step + later, batches.per_epoch)
        lesson.upcoming(lesson.rows[batches.batch(epoch, at)], epoch)


def _logits(
    network: Any, pictures: NDArray[np.uint8], preprocessing: Preprocessing, device: str
) -> torch.Tensor:
    """Return the logits of pictures, on the CPU, and leave the network in training mode."""
    network.eval()
    with torch.no_grad():
        parts = [
            network(preprocessing.normalise(pictures[start : start + _EVALUATED], device)).cpu()
            for start in range(0, len(pictures), _EVALUATED)
        ]
    network.train()
    return torch.cat(parts).float()


@contextmanager
def _seeded(random: np.random.Generator, device: str) -> Iterator[None]:
    """Let dropout draw from the step's own chance, and leave torch's generators as they were."""
    devices = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(random.integers(2**31)))
        yield
