"""Learned contexts in the layout of CoOp's and LoCoOp's trainers (Dassl), keys as the authors'."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vlood.errors import UsageError
from vlood.features.atomic import atomic_folder
from vlood.prompts.contexts import Contexts, assemble, prompt_tower

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone
    from vlood.detector.saved import SavedDetector

NETWORK = "prompt_learner"
MARK = f"{NETWORK}/checkpoint"
# What LAPT calls the contexts of its negative labels; CoOp's loader passes over it.
_STORED = {"ctx": "ctx", "negative_ctx": "ood_ctx"}


def contexts_of(saved: SavedDetector) -> Contexts:
    """Return a detector's learned contexts.

    Raises:
        UsageError: it has none.
    """
    learned = saved.learned
    if learned is not None and "local_ctx" in learned.arrays:
        raise UsageError(
            "--format coop: the contexts of local-prompt are of regions, which that layout has no "
            "place for; use --format safetensors or tar, which keep them"
        )
    if learned is None or learned.kind != "contexts" or "ctx" not in learned.arrays:
        raise UsageError(
            "--format coop: this detector has no learned contexts (its prompts are "
            f"{'templates' if saved.templates else 'not known'}); use --format txt or safetensors"
        )
    vectors = np.asarray(learned.arrays["ctx"], np.float32)
    return Contexts(vectors, str(learned.about.get("position", "end")))


def write_coop(saved: SavedDetector, backbone: Backbone, folder: Path) -> dict[str, Any]:
    """Write ``prompt_learner/model.pth.tar-N`` and the file ``checkpoint`` that names it.

    Args:
        saved: the detector, with learned contexts.
        backbone: its model, whose token embeddings surround them.
        folder: the run's folder, replaced whole.

    Returns:
        What was written: ``epoch``, the shape of ``ctx``, the ``position`` of the name (LAPT's
        contexts of negatives lie beside it as ``ood_ctx``, where there are some); and the
        learned arrays that the layout has no place for, ``left_out``.

    Raises:
        UsageError: no contexts, contexts of another model, or a name that is too long.
    """
    contexts = contexts_of(saved)
    epoch = _epoch(saved)
    state = _state(saved, contexts, backbone)
    with atomic_folder(folder) as partial:
        place = partial / NETWORK
        place.mkdir()
        checkpoint = {
            "state_dict": state,
            "epoch": epoch,
            "optimizer": None,
            "scheduler": None,
            "val_result": None,
        }
        torch.save(checkpoint, place / f"model.pth.tar-{epoch}")
        (partial / MARK).write_text(f"model.pth.tar-{epoch}\n", encoding="utf-8")
    others = () if saved.learned is None else sorted(set(saved.learned.arrays) - set(_STORED))
    return {
        "epoch": epoch,
        "ctx": list(contexts.vectors.shape),
        "position": contexts.position,
        "left_out": list(others),
    }


def _state(saved: SavedDetector, contexts: Contexts, backbone: Backbone) -> dict[str, Any]:
    """Return the contexts and what stands around them when the name comes last.

    The trainer stores that layout whatever the position of the name, and takes it apart itself.
    """
    tower = prompt_tower(backbone)
    names = [" ".join(each.prompt.replace("_", " ").split()) for each in saved.classes]
    vectors = torch.from_numpy(contexts.vectors)
    with torch.inference_mode():
        # Refuses names that leave no room, and vectors of another width.
        assemble(tower, backbone.tokenizer, vectors.to(backbone.device), names)
        placeholders = " ".join(["X"] * contexts.length)
        tokens = backbone.tokenizer([f"{placeholders} {name}." for name in names])
        embedded = tower.embed(tokens.to(backbone.device)).float().cpu()
    state = {
        "ctx": vectors.clone(),
        "token_prefix": embedded[:, :1].clone(),
        "token_suffix": embedded[:, 1 + contexts.length :].clone(),
    }
    assert saved.learned is not None
    for name, stored in _STORED.items():
        if name != "ctx" and name in saved.learned.arrays:
            state[stored] = torch.from_numpy(np.array(saved.learned.arrays[name], np.float32))
    return state


def _epoch(saved: SavedDetector) -> int:
    """Return how many epochs it was trained, as far as that is known; else 1."""
    about = {} if saved.learned is None else saved.learned.about
    for told in (about, saved.provenance):
        for name in ("epoch", "epochs"):
            value = told.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return 1
