"""Chance in training: every draw has a generator of its own, made from the seed and its place.

So any step can be repeated without those before it: a run that was stopped goes on as if it never
had been, and no global generator is touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError


def generator(seed: int, *place: object) -> np.random.Generator:
    """Return the generator of one draw, the same on every machine.

    Args:
        seed: of the run, any whole number.
        place: what is drawn and where, such as ``"order", epoch``.
    """
    text = " ".join(map(str, (seed, *place)))
    digest = blake2b(text.encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


@dataclass(frozen=True)
class ShuffledRows:
    """Batches of rows, in another order every epoch; a pure function of seed, epoch and step.

    Attributes:
        rows: how many there are.
        batch_size: rows a step.
        seed: of the order.
        drop_last: leave an epoch's last rows out where they fill no batch (another few each epoch),
            as Dassl, CoOp's trainer, does; with fewer rows than a batch they are one.
    """

    rows: int
    batch_size: int
    seed: int = 0
    drop_last: bool = True

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise UsageError("training: there is nothing to learn from; give training images")
        if self.batch_size < 1:
            raise UsageError(
                f"training: batch_size is {self.batch_size}; expected a whole number, 1 or more"
            )

    @property
    def per_epoch(self) -> int:
        """Return the steps of an epoch."""
        whole = self.rows // self.batch_size
        return max(1, whole if self.drop_last else -(-self.rows // self.batch_size))

    def batch(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Return the rows of a step of an epoch, int64 [at most batch_size]."""
        order = generator(self.seed, "order", epoch).permutation(self.rows)
        return order[step * self.batch_size : (step + 1) * self.batch_size].astype(np.int64)


@dataclass(frozen=True)
class RepeatedRows:
    """Every batch several times in a row, a step each: ``step % times`` says which time it is.

    Attributes:
        batches: the batches of one time.
        times: steps a batch.
    """

    batches: ShuffledRows
    times: int

    @property
    def per_epoch(self) -> int:
        """Return the steps of an epoch."""
        return self.batches.per_epoch * self.times

    def batch(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Return the rows of a step of an epoch, int64 [at most batch_size]."""
        return self.batches.batch(epoch, step // self.times)


def held_out(
    labels: NDArray[np.int64], share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Keep a share of each class's training images aside, to decide when to stop.

    A class keeps at least one image on each side; one with a single image has it for training.

    Args:
        labels: int64 [N].
        share: of each class, in (0, 1).
        seed: of the draw.

    Returns:
        The rows to train on and the rows kept aside, each in ascending order.

    Raises:
        UsageError: no class has two images.
    """
    aside: list[int] = []
    for label in np.unique(labels).tolist():
        own = np.flatnonzero(labels == label)
        count = min(len(own) - 1, max(1, round(share * len(own))))
        aside += generator(seed, "held out", label).permutation(own)[:count].tolist()
    if not aside:
        raise UsageError(
            "training: patience needs images to be kept aside, and every class has a single one; "
            "use 2 images a class or more, or --set patience=0"
        )
    kept = np.array(sorted(aside), np.int64)
    return np.setdiff1d(np.arange(len(labels)), kept).astype(np.int64), kept
