"""Fit a method from a few images of every class, as often as a learning curve needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from vlood.detector.calibration import set_digest
from vlood.engines.detectors import fit_all
from vlood.engines.fitted import Fitted, TrainedOn
from vlood.engines.mining import Encoder
from vlood.engines.negatives import Announce, NegativesChoice
from vlood.engines.text_side import TextSide
from vlood.errors import UsageError
from vlood.methods import registry
from vlood.training.few_shot import sample_shots
from vlood.training.labelled import LabelledFeatures, with_label_noise

if TYPE_CHECKING:
    from vlood.engines.tuning import TuningRun


def fit_from_images(
    method: str,
    side: TextSide,
    images: LabelledFeatures,
    *,
    shots: int | None = None,
    seed: int = 0,
    settings: Mapping[str, str] | None = None,
    encoder: Encoder | None = None,
    negatives: NegativesChoice | None = None,
    announce: Announce = lambda text: None,
    run: TuningRun | None = None,
    label_noise: float = 0.0,
) -> Fitted:
    """Fit a method that learns from labelled images, with all of them or with some of each class.

    The same arguments give the same detector: call it with every number of shots and every seed,
    and the images are encoded once.

    Args:
        method: its name.
        side: the classes, of which ``images.labels`` are indices.
        images: training images of every class, and of ``negatives`` where the method takes them.
        shots: images a class, drawn by ``seed`` (see :mod:`vlood.training.few_shot`); None: all.
        seed: of the draw and of everything random in training.
        settings: values by ``name`` or ``method.name``, as typed.
        encoder: the model, for methods that need class features; None where none is needed.
        negatives: for methods that need them.
        announce: told of what is done without being asked for.
        run: how a run of the training loop is kept, watched or measured.
        label_noise: share of the labels that are made wrong, drawn by ``seed``.

    Raises:
        UsageError: the method does not learn from images, a class has too few of them, or a
            setting is wrong.
    """
    check_learns(method)
    used, names = images, side.names()
    if shots is not None:
        beyond = 0
        if registry.get(method).record.negative_images:
            beyond = max(0, int(images.labels.max()) + 1 - len(names))
        rows = sample_shots(images.labels, shots, seed, names, negatives=beyond)
        if registry.get(method).record.synthetic_images:
            # Made images are not drawn from: their labels were found, and are rare or many.
            made = np.flatnonzero(images.labels >= len(names))
            rows = np.concatenate([rows[images.labels[rows] < len(names)], made])
        used = images.rows(rows)
    used = with_label_noise(used, label_noise, names, seed)
    fitted = fit_all(
        [method],
        side,
        negatives or NegativesChoice(),
        encoder,
        settings or {},
        announce=announce,
        images=used,
        seed=seed,
        run=run,
    )[0]
    return replace(
        fitted,
        trained=TrainedOn(
            images=len(used),
            shots=shots,
            seed=seed,
            sampled=used.ids if shots is not None else (),
            digest=features_digest(used),
            label_noise=label_noise,
        ),
    )


def check_learns(method: str) -> None:
    """Refuse a method that learns nothing from images.

    Raises:
        UsageError: it needs none, or cannot be trained here.
    """
    found = registry.get(method)
    if found.learns:
        return
    if found.record.trains:
        raise UsageError(
            f"--train: --method {found.name} cannot be trained here yet; bring in a trained one "
            "with `vlood import`"
        )
    raise UsageError(
        f"--train: --method {found.name} learns nothing from images; leave --train out"
    )


def features_digest(images: LabelledFeatures) -> str:
    """Return one hex digest of the embeddings, in whatever order: what calibration compares with.

    Calibration on the same images gives the same digest, and is warned of.
    """
    return set_digest(blake2b(row.tobytes(), digest_size=16).digest() for row in images.raw)
