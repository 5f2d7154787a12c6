"""Look tensors up in a checkpoint, and say in one sentence why one is not there."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from vlood.detector.importing.checkpoint import Checkpoint
from vlood.errors import UsageError

# A name that only files of one format have, tried in this order.
_TELLING = (
    ("ood_ctx", "lapt"),
    ("local_ctx", "local-prompt"),
    ("positional_embedding_no", "clipn"),
    ("ctx", "coop or locoop"),
    ("fc", "cooked-probe"),
    ("token_embedding", "cma"),
)
_SHOWN = 5


def find(checkpoint: Checkpoint, ending: str, format: str) -> str:
    """Return the name of the tensor whose last part is ``ending``, as in ``prompt_learner.ctx``.

    Raises:
        UsageError: there is none, or there are several that differ.
    """
    names = [name for name in checkpoint.tensors if name.rpartition(".")[2] == ending]
    if not names:
        raise lacks(checkpoint, ending, format)
    # The shortest name is the module's own; a model that is stored twice says the same twice.
    names.sort(key=len)
    first = checkpoint.tensors[names[0]]
    for other in names[1:]:
        tensor = checkpoint.tensors[other]
        if tensor.shape != first.shape or not torch.equal(tensor, first):
            raise UsageError(
                f"{checkpoint.path}: has two different tensors called {ending} ({names[0]} and "
                f"{other}); save the one that was trained in a file of its own"
            )
    return names[0]


def lacks(checkpoint: Checkpoint, name: str, format: str) -> UsageError:
    """Return the refusal of a file without a tensor that the format has."""
    shown = ", ".join(described(checkpoint, list(checkpoint.tensors)[:_SHOWN]))
    guess = likely_format(checkpoint)
    hint = "use a checkpoint of this kind"
    if guess is not None and format not in guess:
        hint = f"it looks like {guess}"
    return UsageError(
        f"{checkpoint.path}: holds no {name}, which files of the format {format} have, but "
        f"{shown}; {hint}"
    )


def likely_format(checkpoint: Checkpoint) -> str | None:
    """Return the format that a file's names are those of, or None."""
    parts = {part for name in checkpoint.tensors for part in name.split(".")}
    return next((format for part, format in _TELLING if part in parts), None)


def described(checkpoint: Checkpoint, names: Collection[str]) -> tuple[str, ...]:
    """Return names with their shapes, as ``ctx (16, 512)``."""
    return tuple(f"{name} {checkpoint.shape(name)}" for name in names)


def left_out(checkpoint: Checkpoint, used: Sequence[str]) -> tuple[str, ...]:
    """Return what a file holds besides the tensors that were used."""
    others = [name for name in checkpoint.tensors if name not in set(used)]
    return (*described(checkpoint, others), *checkpoint.beside)


def check_dimensions(
    checkpoint: Checkpoint, name: str, allowed: Sequence[int], expected: str
) -> None:
    """Refuse a tensor with another number of axes, or with an axis of no length.

    Raises:
        UsageError: naming both shapes.
    """
    shape = checkpoint.shape(name)
    if len(shape) not in allowed or 0 in shape:
        raise UsageError(
            f"{checkpoint.path}: {name} has shape {shape}; expected {expected}; use a checkpoint "
            "of this kind"
        )
