"""Train the context vectors of prompts "[V] name." over image embeddings encoded once.

What CoOp and the methods that build on it share: where the vectors start, the prompts encoded anew
every step, Dassl's schedule, images kept aside, and what is kept of it all. A method brings a loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError
from vlood.methods.contract import (
    Learned,
    check_choice,
    check_positive,
    check_share,
    check_whole,
    setting,
)
from vlood.methods.loop_fields import accumulate_field, clip_field, precision_field
from vlood.prompts.templates import ClassFeatures
from vlood.training.labelled import LabelledFeatures, check_every_class

if TYPE_CHECKING:
    import torch

    from vlood.backbone.text import CausalTextTower
    from vlood.training.loop import Loss
    from vlood.training.settings import LoopSettings
    from vlood.training.tuning import Tuning

RANDOM = "random"
CODE = "CoOp's code, its configurations"
OURS = "vlood's own"
_DASSL = "Dassl, CoOp's trainer: its default"

ImageLoss = Callable[
    ["torch.Tensor", NDArray[np.int64], "np.random.Generator | None"],
    "Loss",
]
"""Unit text features float32 [K, D] and rows of training images to their loss, with what draws
augmentations, or None where images are looked at as they are."""


@dataclass(frozen=True)
class ContextSettings:
    """Settings of training context vectors; a method adds its epochs and its score."""

    method: ClassVar[str]
    scores: ClassVar[tuple[str, ...]]

    context_length: int = setting(
        16, help="context vectors a prompt; with words in init it is theirs", unit="vectors",
        source="the paper, M = 16",
    )  # fmt: skip
    class_specific: bool = setting(
        False,
        help="vectors of their own for each class; they cannot be applied to other classes",
        unit="-",
        source="the paper: unified context",
    )
    position: str = setting(
        "end", help="where the name stands: end, middle or front", unit="-", source=CODE
    )
    init: str = setting(
        RANDOM,
        help='random: normal, standard deviation 0.02; or words, such as "a photo of a"',
        unit="-",
        source=CODE,
    )
    batch_size: int = setting(32, help="images a step", unit="images", source=CODE)
    learning_rate: float = setting(
        0.002, help="after the warm-up, then by a cosine", unit="-", source=CODE
    )
    warmup_epochs: int = setting(1, help="epochs at warmup_rate before", unit="epochs", source=CODE)
    warmup_rate: float = setting(1e-5, help="learning rate of the warm-up", unit="-", source=CODE)
    optimizer: str = setting("sgd", help="sgd or adamw", unit="-", source=CODE)
    momentum: float = setting(0.9, help="of sgd", unit="-", source=_DASSL)
    weight_decay: float = setting(5e-4, help="L2 penalty", unit="-", source=_DASSL)
    accumulate: int = accumulate_field(OURS)
    clip: float = clip_field(CODE)
    precision: str = precision_field(f"{CODE}: fp16")
    patience: int = setting(
        0,
        help="epochs without a better loss on training images kept aside before training stops; 0: "
        "train to the end",
        unit="epochs",
        source=f"{CODE}: to the end",
    )
    held_out: float = setting(
        0.2,
        help="patience: share of each class's training images kept aside",
        unit="share",
        source=OURS,
    )

    def __post_init__(self) -> None:
        name = self.method
        check_choice(name, "position", self.position, ("end", "middle", "front"))
        check_choice(name, "score", getattr(self, "score", self.scores[0]), self.scores)
        for whole, least in (("context_length", 1), ("batch_size", 1), ("warmup_epochs", 0)):
            check_whole(name, whole, getattr(self, whole), least)
        check_positive(name, "warmup_rate", self.warmup_rate, or_zero=True)
        check_share(name, "held_out", self.held_out)
        check_init(name, self.init)
        # What the loop takes is checked by its own settings, before anything is encoded.
        loop_settings(self, 1)


@dataclass(frozen=True, eq=False)
class TrainedContexts:
    """What a training gave.

    Attributes:
        classes: unit features of the classes' learned prompts.
        learned: the vectors and how they came about.
    """

    classes: ClassFeatures
    learned: Learned


def loop_settings(settings: ContextSettings, epochs: int) -> LoopSettings:
    """Return the settings of the loop: the schedule is Dassl's."""
    from vlood.training.schedules import Schedule
    from vlood.training.settings import LoopSettings

    return LoopSettings(
        epochs=epochs,
        learning_rate=settings.learning_rate,
        optimizer=settings.optimizer,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        schedule=Schedule(warmup=settings.warmup_epochs, warmup_rate=settings.warmup_rate),
        accumulate=settings.accumulate,
        precision=settings.precision,
        clip=settings.clip,
        patience=settings.patience,
    )


def check_init(method: str, init: str) -> None:
    """Refuse to start from nothing.

    Raises:
        UsageError: naming the method.
    """
    if not init.strip():
        raise UsageError(f"{method}: init is empty; expected random, or words")


def check_classes(settings: ContextSettings, classes: int) -> None:
    """Refuse a single class: there is nothing to tell it from.

    Raises:
        UsageError: naming the method.
    """
    if classes < 2:
        raise UsageError(
            f"{settings.method} tells classes apart and needs at least 2 of them; add classes"
        )


def train_contexts(
    classes: ClassFeatures,
    settings: ContextSettings,
    loss: ImageLoss,
    *,
    images: LabelledFeatures,
    tuning: Tuning,
    epochs: int,
    seed: int,
    device: str,
    about: Mapping[str, Any] | None = None,
) -> TrainedContexts:
    """Minimise a loss over the context vectors and encode the prompts they make.

    Args:
        classes: K names; their features are not looked at.
        settings: of the method.
        loss: of text features and images.
        images: what ``loss`` takes rows of, every class among them.
        tuning: the model, the prompts' names and the run.
        epochs: passes over the images.
        seed: of the vectors' start, the order of images and everything drawn.
        device: where the model is.
        about: what else is kept of it, JSON-able.

    Raises:
        UsageError: a class without images, a model without a causal text tower, or a name that
            leaves no room for the vectors.
        VloodError: the loss is not finite.
    """
    import torch

    from vlood.prompts.contexts import Contexts, encode_prompts, prompt_tower
    from vlood.training.draws import ShuffledRows, held_out

    check_every_class(images.labels, classes.names)
    tower = prompt_tower(tuning.backbone)
    start = starting_contexts(tower, tuning.backbone.tokenizer, settings, len(classes), seed)
    contexts = start.to(device).requires_grad_()
    objective = _Objective(tower, tuning, settings, contexts, loss)
    rows, aside = np.arange(len(images)), np.zeros(0, np.int64)
    if settings.patience:
        rows, aside = held_out(images.labels, settings.held_out, seed)
    made = tuning.train(
        {"ctx": contexts},
        lambda inputs: objective.of(rows[inputs.rows], inputs.random),
        ShuffledRows(len(rows), settings.batch_size, seed),
        loop_settings(settings, epochs),
        seed=seed,
        held_out=(lambda: objective.mean(aside, settings.batch_size)) if len(aside) else None,
    )
    vectors = np.asarray(made.tensors["ctx"].numpy(), np.float32)
    learned = Contexts(vectors, settings.position)
    with torch.inference_mode():
        features = encode_prompts(tuning.backbone, learned, tuning.prompts)
    told = {
        "format": settings.method,
        "position": settings.position,
        "names": True,
        "epochs": made.epochs,
        "steps": made.steps,
        **(about or {}),
        "settings": asdict(settings),
    }
    if made.held_out is not None:
        told["held_out_loss"] = made.held_out
    own = ClassFeatures.of(classes.names, features)
    return TrainedContexts(own, Learned("contexts", {"ctx": vectors}, told))


def starting_contexts(
    tower: CausalTextTower, tokenizer: Any, settings: ContextSettings, classes: int, seed: int
) -> torch.Tensor:
    """Return the vectors that training starts from, float32 [L, W], or [K, L, W] for each class.

    Raises:
        UsageError: the words of ``init`` have no tokens, or leave no room for a name.
    """
    import torch

    from vlood.prompts.starting import INIT_STD, word_contexts
    from vlood.training.draws import generator

    width = int(tower.module.token_embedding.weight.shape[1])
    if settings.init == RANDOM:
        shape: tuple[int, ...] = (settings.context_length, width)
        if settings.class_specific:
            shape = (classes, *shape)
        drawn = generator(seed, "contexts").normal(0, INIT_STD, shape)
        return torch.from_numpy(drawn.astype(np.float32))
    blocks = classes if settings.class_specific else None
    return word_contexts(tower, tokenizer, settings.init, blocks=blocks)


class _Objective:
    """A loss of images as one of context vectors: the prompts of all classes between the two."""

    def __init__(
        self,
        tower: CausalTextTower,
        tuning: Tuning,
        settings: ContextSettings,
        contexts: torch.Tensor,
        loss: ImageLoss,
    ) -> None:
        from vlood.prompts.chunked import PromptEncoder
        from vlood.prompts.contexts import prepare

        length, position = contexts.shape[-2], settings.position
        tokenizer = tuning.backbone.tokenizer
        prompts = prepare(tower, tokenizer, tuning.prompts, length, position=position)
        self._encode = PromptEncoder(tower, prompts.to(contexts.device))
        self._contexts, self._loss = contexts, loss

    def of(self, rows: NDArray[np.int64], random: np.random.Generator | None) -> Loss:
        """Return the loss of some images."""
        import torch

        text = self._text()
        # Cosines keep their digits in single precision, whatever the tower computes in.
        with torch.autocast(text.device.type, enabled=False):
            return self._loss(text, rows, random)

    def mean(self, rows: NDArray[np.int64], batch_size: int) -> float:
        """Return the mean loss of images as they are; a batch at a time, the prompts once."""
        import torch

        text, total = self._text(), 0.0
        with torch.autocast(text.device.type, enabled=False):
            for begin in range(0, len(rows), batch_size):
                some = rows[begin : begin + batch_size]
                total += float(self._loss(text, some, None).total) * len(some)
        return total / len(rows)

    def _text(self) -> torch.Tensor:
        import torch.nn.functional as F

        return F.normalize(self._encode(self._contexts).float(), dim=-1)
