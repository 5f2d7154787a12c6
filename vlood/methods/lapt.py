"""LAPT: context vectors of classes and of negative labels, trained on images of both.

The images come from class names alone: found in a pool or made, by ``vlood collect``. Two blocks
of vectors are trained by classification among all classes and negative labels, of images and of
their mixes; what comes out is a NegLabel detector on the learned prompts' features. Zhang et al.
2024, "LAPT: Label-driven Automated Prompt Tuning for OOD Detection with Vision-Language Models".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures, unit
from vlood.methods import neglabel
from vlood.methods.contract import Detector, Learned, Method, MethodRecord, Scores, TunedDetector
from vlood.methods.lapt_prompts import (
    CLASSES,
    NEGATIVES,
    PromptSides,
    compiled_from,
    starting_contexts,
    text_bank,
    training_negatives,
)
from vlood.methods.lapt_settings import PRESETS, LaptSettings, loop_settings
from vlood.negatives.negative_features import NegativeFeatures
from vlood.prompts.templates import ClassFeatures, read_templates
from vlood.training.labelled import LabelledFeatures, check_every_class

if TYPE_CHECKING:
    import torch

    from vlood.training.loop import Loss, StepInputs
    from vlood.training.tuning import Tuning

RECORD = MethodRecord(
    name="lapt",
    title="LAPT",
    paper=(
        "LAPT: Label-driven Automated Prompt Tuning for OOD Detection with Vision-Language Models"
    ),
    year=2024,
    venue="ECCV",
    url="https://arxiv.org/abs/2407.08966",
    summary="NegLabel on prompts with learned contexts, one for classes and one for negatives",
    score_note="mean over groups of sigmoid(LSE(s cos) - LSE(s cos-)), T = 1 on logits",
    needs=("classes", "negatives", "images", "text-tower"),
    trains=True,
    licence="MIT",
    negative_images=True,
)

TEMPLATES = "tip"
"""The library's templates that images are mixed with: the authors' seven, kept apart."""


def fit(
    classes: ClassFeatures,
    settings: LaptSettings,
    logit_scale: float,
    *,
    negatives: NegativeFeatures,
    images: LabelledFeatures,
    tuning: Tuning,
    seed: int = 0,
    device: str = "cpu",
) -> TunedDetector:
    """Train both sides' context vectors and compile them to a NegLabel detector.

    Args:
        classes: C names; their features are not looked at.
        settings: its settings.
        logit_scale: factor on cosines, in training too.
        negatives: those that are scored with, of which ``train_negatives`` are trained with.
        images: labelled embeddings, every class among them; C + m labels the negative m.
        tuning: the model, the prompts' names and the run.
        seed: of the vectors' start, the order of images and everything drawn.
        device: where the model is.

    Raises:
        UsageError: a class without images, a model without a causal text tower, or a name that
            leaves no room for the vectors.
        VloodError: the loss is not finite.
    """
    import torch

    from vlood.prompts.contexts import prompt_tower
    from vlood.training.draws import ShuffledRows, generator

    count = len(classes)
    check_every_class(images.labels, classes.names, negatives=len(negatives))
    tower, tokenizer = prompt_tower(tuning.backbone), tuning.backbone.tokenizer
    pictured = np.unique(images.labels[images.labels >= count]) - count
    chosen = training_negatives(
        negatives.rows_of(negatives.names), settings.train_negatives, pictured.tolist()
    )
    terms = [negatives.names[row] for row in chosen.tolist()]
    start = starting_contexts(
        settings,
        tower,
        tokenizer,
        count,
        len(chosen),
        torch.Generator().manual_seed(int(generator(seed, "contexts").integers(1 << 62))),
    )
    tensors = {name: each.to(device).requires_grad_() for name, each in start.items()}
    length = start[CLASSES].shape[-2]
    sides = PromptSides(tower, tokenizer, tuning.prompts, terms, length)
    bank = text_bank(tuning.encode, [*tuning.prompts, *terms], read_templates(TEMPLATES))
    examples = Examples.of(images, chosen, count, bank, settings)
    objective = Objective(sides, tensors, examples, settings, logit_scale, device)
    order = ShuffledRows(len(examples), settings.batch_size, seed, drop_last=False)
    made = tuning.train(tensors, objective.of, order, loop_settings(settings), seed=seed)
    vectors = {name: each.numpy() for name, each in made.tensors.items()}
    # Under one name for both, they would not be found where negatives are put behind them.
    vectors.setdefault(NEGATIVES, vectors[CLASSES])
    scored = negatives
    if settings.contexts == "class-specific":
        scored = _only(negatives, chosen)
    compiled = compiled_from(
        tuning.backbone, vectors, classes.names, tuning.prompts, scored, settings, logit_scale
    )
    about = {
        "format": "lapt",
        "position": "end",
        "names": True,
        "epochs": made.epochs,
        "steps": made.steps,
        "train_negatives": len(chosen),
        "pictured_negatives": int(np.isin(pictured, chosen).sum()),
        "notes": examples.notes(len(images), len(pictured)),
        "settings": asdict(settings),
    }
    return TunedDetector(**vars(compiled), learned=Learned("contexts", vectors, about))


def _only(negatives: NegativeFeatures, rows: NDArray[np.int64]) -> NegativeFeatures:
    """Return some negatives, in groups of their own."""
    names = [negatives.names[row] for row in rows.tolist()]
    again = NegativeFeatures.of(names, negatives.features[rows])
    return replace(again, rows=negatives.rows_of(names))


@dataclass(frozen=True, eq=False)
class Examples:
    """What training sees: images, and texts in place of the images that a label lacks.

    Attributes:
        features: unit [N, D], of the images.
        views: unit [N, V, D], or None.
        labels: int64 [N + S]: classes, then the training's negatives from C on; the S texts last.
        classes: C.
        bank: unit [C + M, T, D], every label's texts.
    """

    features: NDArray[np.float32]
    views: NDArray[np.float32] | None
    labels: NDArray[np.int64]
    classes: int
    bank: NDArray[np.float32]

    @classmethod
    def of(
        cls,
        images: LabelledFeatures,
        chosen: NDArray[np.int64],
        classes: int,
        bank: NDArray[np.float32],
        settings: LaptSettings,
    ) -> Examples:
        """Take the images of classes and of the chosen negatives [M], and add the texts."""
        place = np.full(int(max(chosen.max(), (images.labels - classes).max())) + 1, -1, np.int64)
        place[chosen] = classes + np.arange(len(chosen))
        labels = images.labels.copy()
        outside = labels >= classes
        labels[outside] = place[labels[outside] - classes]
        kept = np.flatnonzero(labels >= 0)
        absent = np.setdiff1d(classes + np.arange(len(chosen)), labels[kept])
        views = images.views if settings.views else None
        return cls(
            unit(images.raw[kept]),
            None if views is None else unit(views[kept]),
            np.concatenate([labels[kept], np.repeat(absent, settings.stand_ins)]),
            classes,
            bank,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def draw(self, rows: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.float32]:
        """Return unit features [B, D]: an image or a view of it, or a text of the label."""
        templates = random.integers(self.bank.shape[1], size=len(rows))
        found = self.bank[self.labels[rows], templates]
        pictures = rows < len(self.features)
        own = rows[pictures]
        if self.views is None:
            found[pictures] = self.features[own]
        else:
            found[pictures] = self.views[own, random.integers(self.views.shape[1], size=len(own))]
        return found

    def notes(self, images: int, pictured: int) -> list[str]:
        """Say what is not as in the paper, in sentences.

        Args:
            images: how many there were to learn from.
            pictured: how many negative labels they show.
        """
        said = []
        left_out = images - len(self.features)
        if left_out:
            said.append(
                f"{left_out} of {images} training images show negative labels beyond the "
                "train_negatives that are trained with, and are left out"
            )
        negatives = len(self.bank) - self.classes
        texts = len(np.unique(self.labels[len(self.features) :]))
        if texts:
            said.append(
                f"{texts} of {negatives} negative labels in training have no images; their texts "
                "stand in for them, an extension of LAPT"
            )
        elif not pictured:
            said.append("no negative label has an image or a text to learn from")
        return said


class Objective:
    """LAPT's losses over examples, at the logit scale."""

    def __init__(
        self,
        sides: PromptSides,
        tensors: Mapping[str, torch.Tensor],
        examples: Examples,
        settings: LaptSettings,
        logit_scale: float,
        device: str,
    ) -> None:
        import torch

        self._sides, self._tensors, self._examples = sides, tensors, examples
        self._settings, self._scale, self._device = settings, logit_scale, device
        self._bank = torch.from_numpy(examples.bank).to(device)

    def of(self, inputs: StepInputs) -> Loss:
        """Return the loss of some examples."""
        import torch

        from vlood.methods.lapt_loss import draw_mixing, lapt_loss
        from vlood.training.loop import Loss

        examples, settings = self._examples, self._settings
        labels = examples.labels[inputs.rows]
        features = torch.from_numpy(examples.draw(inputs.rows, inputs.random)).to(self._device)
        templates = self._bank.shape[1]
        mixing = draw_mixing(labels, examples.classes, templates, settings, inputs.random)
        sides = self._sides(self._tensors)
        # Cosines keep their digits in single precision, whatever the tower computes in.
        with torch.autocast(torch.device(self._device).type, enabled=False):
            return Loss(
                *lapt_loss(
                    features,
                    torch.from_numpy(labels).to(self._device),
                    *sides,
                    self._bank,
                    mixing,
                    settings,
                    logit_scale=self._scale,
                )
            )


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images with NegLabel, which it compiles to."""
    return neglabel.score(detector, images)


METHOD = Method(
    RECORD,
    LaptSettings,
    fit,
    score,
    arrays=neglabel.METHOD.arrays,
    check=neglabel.METHOD.check,
    presets=PRESETS,
)
