"""CoOp: learned context vectors before the class names, trained on a few labelled images.

The prompts "[V] name." are trained by cross-entropy at the logit scale over image embeddings that
are encoded once; the text side is encoded anew every step. What comes out is a detector of MCM (or
MSP) on the learned prompts' features, the same as `vlood import coop` makes of a checkpoint.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures, unit
from vlood.errors import UsageError
from vlood.methods import mcm, msp
from vlood.methods.contract import (
    Detector,
    Learned,
    Method,
    MethodRecord,
    Scores,
    TunedDetector,
    check_choice,
    check_positive,
    check_share,
    check_whole,
    setting,
)
from vlood.methods.regional import CONCEPT_MATCH
from vlood.prompts.templates import ClassFeatures
from vlood.training.labelled import LabelledFeatures, check_every_class, class_counts

if TYPE_CHECKING:
    import torch

    from vlood.backbone.text import CausalTextTower
    from vlood.training.settings import LoopSettings
    from vlood.training.tuning import Tuning

RECORD = MethodRecord(
    name="coop",
    title="CoOp",
    paper="Learning to Prompt for Vision-Language Models",
    year=2022,
    venue="IJCV",
    url="https://arxiv.org/abs/2109.01134",
    summary="MCM (or MSP) on prompts whose context vectors are learned from labelled images",
    score_note="max softmax(cos), T = 1 on cosines of learned prompts (--set score=msp: on logits)",
    needs=("classes", "images", "text-tower"),
    trains=True,
    licence="MIT",
)

SCORES = ("mcm", "msp")
RANDOM = "random"
_CODE = "CoOp's code, its configurations"
_DASSL = "Dassl, CoOp's trainer: its default"
_OURS = "vlood's own"
# Epochs by images a class, and of ImageNet's thousand classes (the paper, section 4.1).
_EPOCHS = ((8, 200), (2, 100), (1, 50))
_MANY_CLASSES, _EPOCHS_OF_MANY = 1000, 50


@dataclass(frozen=True)
class CoOpSettings:
    """Settings of CoOp."""

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
        "end", help="where the name stands: end, middle or front", unit="-", source=_CODE
    )
    init: str = setting(
        RANDOM,
        help='random: normal, standard deviation 0.02; or words, such as "a photo of a"',
        unit="-",
        source=_CODE,
    )
    score: str = setting(
        "mcm",
        help="mcm: softmax of cosines; msp: of logits",
        unit="-",
        source="LoCoOp's code scores CoOp with MCM",
    )
    epochs: int = setting(
        0,
        help="passes over the images; 0: 200 from 8 images a class on, 100 from 2, 50 with 1, and "
        "50 from 1000 classes on",
        unit="passes",
        source="the paper, section 4.1",
    )
    batch_size: int = setting(32, help="images a step", unit="images", source=_CODE)
    learning_rate: float = setting(
        0.002, help="after the warm-up, then by a cosine", unit="-", source=_CODE
    )
    warmup_epochs: int = setting(
        1, help="epochs at warmup_rate before", unit="epochs", source=_CODE
    )
    warmup_rate: float = setting(1e-5, help="learning rate of the warm-up", unit="-", source=_CODE)
    optimizer: str = setting("sgd", help="sgd or adamw", unit="-", source=_CODE)
    momentum: float = setting(0.9, help="of sgd", unit="-", source=_DASSL)
    weight_decay: float = setting(5e-4, help="L2 penalty", unit="-", source=_DASSL)
    views: int = setting(
        0,
        help="augmented views of each image (random resized crop and flip), one drawn a step; 0: "
        "the whole image alone",
        unit="views",
        source=f"{_OURS}; CoOp's code makes a new one every epoch, and encodes it anew",
    )
    accumulate: int = setting(
        1, help="parts that a step is made in, to save memory", unit="parts", source=_OURS
    )
    clip: float = setting(0.0, help="longest gradient; 0: any", unit="-", source=_CODE)
    precision: str = setting(
        "auto",
        help="of training: fp32, bf16, fp16, or auto, that of the model",
        unit="-",
        source=f"{_CODE}: fp16",
    )
    patience: int = setting(
        0,
        help="epochs without a better loss on training images kept aside before training stops; 0: "
        "train to the end",
        unit="epochs",
        source=f"{_CODE}: to the end",
    )
    held_out: float = setting(
        0.2,
        help="patience: share of each class's training images kept aside",
        unit="share",
        source=_OURS,
    )

    def __post_init__(self) -> None:
        name = "coop"
        check_choice(name, "position", self.position, ("end", "middle", "front"))
        check_choice(name, "score", self.score, SCORES)
        for whole, least in (
            ("context_length", 1),
            ("epochs", 0),
            ("batch_size", 1),
            ("warmup_epochs", 0),
            ("views", 0),
        ):
            check_whole(name, whole, getattr(self, whole), least)
        check_positive(name, "warmup_rate", self.warmup_rate, or_zero=True)
        check_share(name, "held_out", self.held_out)
        if not self.init.strip():
            raise UsageError("coop: init is empty; expected random, or words")
        # What the loop takes is checked by its own settings, before anything is encoded.
        loop_settings(self, 1)


def loop_settings(settings: CoOpSettings, epochs: int) -> LoopSettings:
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


def epochs_of(settings: CoOpSettings, shots: int, classes: int) -> int:
    """Return how many epochs are trained: those set, or the paper's for so many images a class."""
    if settings.epochs:
        return settings.epochs
    if classes >= _MANY_CLASSES:
        return _EPOCHS_OF_MANY
    return next(epochs for least, epochs in _EPOCHS if shots >= least)


def fit(
    classes: ClassFeatures,
    settings: CoOpSettings,
    logit_scale: float,
    *,
    images: LabelledFeatures,
    tuning: Tuning,
    seed: int = 0,
    device: str = "cpu",
) -> TunedDetector:
    """Train the context vectors and compile them to class features.

    Args:
        classes: K names; their features are not looked at.
        settings: its settings.
        logit_scale: factor on cosines, in training too.
        images: labelled embeddings, every class among them.
        tuning: the model, the prompts' names and the run.
        seed: of the vectors' start, the order of images and everything drawn.
        device: where the model is.

    Raises:
        UsageError: fewer than two classes, a class without images, a model without a causal text
            tower, or a name that leaves no room for the vectors.
        VloodError: the loss is not finite.
    """
    import torch

    from vlood.prompts.contexts import Contexts, encode_prompts, prompt_tower
    from vlood.training.draws import ShuffledRows, held_out

    if len(classes) < 2:
        raise UsageError("coop tells classes apart and needs at least 2 of them; add classes")
    check_every_class(images.labels, classes.names)
    tower = prompt_tower(tuning.backbone)
    start = starting_contexts(tower, tuning.backbone.tokenizer, settings, len(classes), seed)
    contexts = start.to(device).requires_grad_()
    objective = Objective(tower, tuning, settings, contexts, images, logit_scale)
    rows, aside = np.arange(len(images)), np.zeros(0, np.int64)
    if settings.patience:
        rows, aside = held_out(images.labels, settings.held_out, seed)
    order = ShuffledRows(len(rows), settings.batch_size, seed)
    shots = int(class_counts(images.labels, len(classes)).min())
    loop = loop_settings(settings, epochs_of(settings, shots, len(classes)))
    made = tuning.train(
        {"ctx": contexts},
        lambda inputs: objective.of(rows[inputs.rows], inputs.random),
        order,
        loop,
        seed=seed,
        held_out=(lambda: float(objective.of(aside, None).total)) if len(aside) else None,
    )
    vectors = np.asarray(made.tensors["ctx"].numpy(), np.float32)
    learned = Contexts(vectors, settings.position)
    with torch.inference_mode():
        features = encode_prompts(tuning.backbone, learned, tuning.prompts)
    about = {
        "format": "coop",
        "position": settings.position,
        "names": True,
        "epochs": made.epochs,
        "steps": made.steps,
        "settings": asdict(settings),
    }
    if made.held_out is not None:
        about["held_out_loss"] = made.held_out
    own = ClassFeatures.of(classes.names, features)
    compiled = compiled_from(own, settings, logit_scale)
    return TunedDetector(**vars(compiled), learned=Learned("contexts", {"ctx": vectors}, about))


def compiled_from(classes: ClassFeatures, settings: CoOpSettings, logit_scale: float) -> Detector:
    """Return the detector of learned prompts' features: one of MCM, or of MSP."""
    if settings.score == "msp":
        return msp.fit(classes, msp.MSPSettings(), logit_scale)
    return mcm.fit(classes, mcm.MCMSettings(), logit_scale)


def starting_contexts(
    tower: CausalTextTower, tokenizer: Any, settings: CoOpSettings, classes: int, seed: int
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


class Objective:
    """Cross-entropy of images against the prompts of all classes, at the logit scale."""

    def __init__(
        self,
        tower: CausalTextTower,
        tuning: Tuning,
        settings: CoOpSettings,
        contexts: torch.Tensor,
        images: LabelledFeatures,
        logit_scale: float,
    ) -> None:
        import torch

        from vlood.prompts.chunked import PromptEncoder
        from vlood.prompts.contexts import prepare

        length, position = contexts.shape[-2], settings.position
        tokenizer = tuning.backbone.tokenizer
        prompts = prepare(tower, tokenizer, tuning.prompts, length, position=position)
        self._encode = PromptEncoder(tower, prompts.to(contexts.device))
        self._contexts, self._scale = contexts, logit_scale
        self._raw = unit(images.raw)
        self._views = images.views if settings.views else None
        self._labels = torch.from_numpy(images.labels)

    def of(self, rows: NDArray[np.int64], random: np.random.Generator | None) -> Any:
        """Return the loss of some images: whole, or a view of each that ``random`` draws."""
        import torch
        import torch.nn.functional as F

        from vlood.training.loop import Loss

        text = F.normalize(self._encode(self._contexts).float(), dim=-1)
        images = self._raw[rows]
        if self._views is not None and random is not None:
            chosen = random.integers(self._views.shape[1], size=len(rows))
            images = unit(self._views[rows, chosen])
        device = self._contexts.device
        labels = self._labels[torch.from_numpy(rows)].to(device)
        # Cosines keep their digits in single precision, whatever the tower computes in.
        with torch.autocast(device.type, enabled=False):
            logits = self._scale * torch.from_numpy(images).to(device) @ text.T
            right = (logits.detach().argmax(dim=1) == labels).float().mean()
            return Loss(F.cross_entropy(logits, labels), {"accuracy": right})


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images with the formula that the detector was compiled to."""
    if detector.method == "msp":
        return msp.score(detector, images)
    return mcm.score(detector, images)


METHOD = Method(RECORD, CoOpSettings, fit, score, regional=CONCEPT_MATCH)
