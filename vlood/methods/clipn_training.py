"""How CLIPN's "no" tower is trained from images with captions, and what it compiles to.

Images and "yes" texts never change: they are encoded once, and a step runs the "no" tower alone.
Wang et al. 2023, "CLIPN for Zero-Shot OOD Detection: Teaching CLIP to Say No".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import unit
from vlood.errors import UsageError
from vlood.methods.clipn_settings import CLIPNSettings
from vlood.methods.contract import Learned
from vlood.prompts.templates import class_features, fill, read_no_templates
from vlood.training.captioned import CaptionedFeatures
from vlood.training.draws import ShuffledRows, generator
from vlood.training.labelled import LabelledFeatures

if TYPE_CHECKING:
    import torch

    from vlood.backbone.backbone import Backbone
    from vlood.backbone.no_tower import NoTextTower
    from vlood.prompts.classes import ClassName
    from vlood.training.steps import Loss, Rows, StepInputs
    from vlood.training.tuning import Tuning

ADAPTER = "adapter."


@dataclass(frozen=True, eq=False)
class Texts:
    """What images are said to show.

    Attributes:
        yes: distinct texts of the "yes" tower.
        no: what the "no" tower is given in the place of each.
        index: int64 [N, V], the texts of each image, of which a step draws one.
        same: int64 [N], alike where images have the same captions.
        by_template: whether captions were made from labels.
    """

    yes: tuple[str, ...]
    no: tuple[str, ...]
    index: NDArray[np.int64]
    same: NDArray[np.int64]
    by_template: bool


def texts_of(
    images: LabelledFeatures, prompts: Sequence[str], settings: CLIPNSettings, seed: int
) -> Texts:
    """Return the texts of images: their captions, or templates around the names of their classes.

    Captions from labels are vlood's own; the paper has captions alone.

    Args:
        images: with captions, or with labels, indices of ``prompts``.
        prompts: K names, as prompts hold them.
        settings: with the variant and the templates.
        seed: of the pairs that are drawn.
    """
    pairs = read_no_templates(settings.no_templates)
    learned = settings.variant == "learned"
    captioned = isinstance(images, CaptionedFeatures)
    words: Sequence[str] = prompts
    if isinstance(images, CaptionedFeatures):
        first = np.unique(images.labels, return_index=True)[1]
        words = [images.captions[row] for row in first.tolist()]
    if captioned and learned:
        return Texts(tuple(words), tuple(words), images.labels[:, None], images.labels, False)
    numbers: dict[tuple[int, int], int] = {}
    count = len(pairs) if not captioned else min(settings.pairs, len(pairs))
    index = np.empty((len(images), count), np.int64)
    for row, word in enumerate(images.labels.tolist()):
        drawn = range(len(pairs))
        if captioned:
            drawn = generator(seed, "pairs", row).permutation(len(pairs))[:count].tolist()
        for column, pair in enumerate(drawn):
            index[row, column] = numbers.setdefault((word, pair), len(numbers))
    yes = tuple(fill(pairs[pair][0], words[word]) for word, pair in numbers)
    no = yes if learned else tuple(fill(pairs[pair][1], words[word]) for word, pair in numbers)
    return Texts(yes, no, index, images.labels, not captioned)


class ByLength:
    """The rows of a step with texts of a length beside each other, so that chunks hold little air.

    Attributes:
        order: gives the rows.
        lengths: int [N], tokens of each row's longest text.
    """

    def __init__(self, order: ShuffledRows, lengths: NDArray[np.int64]) -> None:
        self.order, self.lengths = order, lengths

    @property
    def per_epoch(self) -> int:
        """Return the steps of an epoch."""
        return self.order.per_epoch

    def batch(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Return the rows of a step of an epoch, int64 [at most batch_size]."""
        rows = self.order.batch(epoch, step)
        return rows[np.argsort(self.lengths[rows], kind="stable")]


@dataclass(frozen=True, eq=False)
class _Step:
    """What all parts of a step share: its rows, what is drawn for them, and their images."""

    number: int
    rows: NDArray[np.int64]
    order: NDArray[np.int64]
    texts: NDArray[np.int64]
    prompts: NDArray[np.int64] | None
    same: NDArray[np.int64]
    pairs: int | None
    images: torch.Tensor


class Objective:
    """The loss of some captions against the images of their whole step.

    What is drawn for a caption does not depend on how a step is cut into chunks, or spread over
    processes.

    Args:
        tower: what is trained, on its device.
        images: float32 [N, D], not normalised.
        texts: what they show.
        yes: float32 [U, D], features of ``texts.yes``, not normalised.
        tokens: int [U, L], ids of ``texts.no``.
        rows: gives the rows of each step.
        settings: of the method.
        scale: factor on cosines.
        seed: of the prompts and the templates that are drawn.
    """

    def __init__(
        self,
        tower: NoTextTower,
        images: NDArray[np.float32],
        texts: Texts,
        yes: NDArray[np.float32],
        tokens: torch.Tensor,
        rows: Rows,
        settings: CLIPNSettings,
        scale: float,
        seed: int,
    ) -> None:
        self._tower, self._texts, self._rows = tower, texts, rows
        self._images, self._yes, self._tokens = images, unit(yes), tokens
        self._settings, self._scale, self._seed = settings, scale, seed
        automatic = settings.same == "auto" and texts.by_template
        self._step: _Step | None = None
        self._leaves_out = settings.same == "leave-out" or automatic

    def of(self, inputs: StepInputs) -> Loss:
        """Return the loss of a part of a step."""
        import torch
        import torch.nn.functional as F

        from vlood.methods.clipn_loss import losses
        from vlood.training.steps import Loss

        step = self._step_of(inputs.epoch, inputs.step)
        own = step.order[np.searchsorted(step.rows, inputs.rows, sorter=step.order)]
        device = step.images.device
        texts = step.texts[own]
        tokens = self._tokens[torch.from_numpy(texts)].to(device)
        prompts = None
        if step.prompts is not None:
            prompts = torch.from_numpy(step.prompts[own]).to(device)
        no = F.normalize(self._tower(tokens, prompts).float(), dim=-1)
        left_out = None
        if self._leaves_out:
            left_out = torch.from_numpy(step.same[:, None] == step.same[None, own]).to(device)
        # Cosines keep their digits in single precision, whatever the tower computes in.
        with torch.autocast(device.type, enabled=False):
            parts = losses(
                step.images,
                torch.from_numpy(self._yes[texts]).to(device),
                no,
                self._scale,
                own=torch.from_numpy(own).to(device),
                left_out=left_out,
                pairs=step.pairs,
            )
        return Loss(parts.total(self._settings.recipe.weight), parts._asdict())

    def _step_of(self, epoch: int, number: int) -> _Step:
        """Return what all parts of a step share; kept until another step is asked for."""
        import torch

        if self._step is not None and self._step.number == number:
            return self._step
        rows = self._rows.batch(epoch, number % self._rows.per_epoch)
        texts, prompts = self._draws(rows, number)
        same = self._texts.same[rows]
        pairs = None
        if self._leaves_out:
            counts = np.unique(same, return_counts=True)[1]
            pairs = int(len(rows) ** 2 - (counts**2).sum())
        device = next(self._tower.parameters()).device
        images = torch.from_numpy(unit(self._images[rows])).to(device)
        order = np.argsort(rows)
        self._step = _Step(number, rows, order, texts, prompts, same, pairs, images)
        return self._step

    def _draws(
        self, rows: NDArray[np.int64], step: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """Draw a text for each row of a step, and its prompt where there are some: int64 [N]."""
        random = generator(self._seed, "no", step)
        index = self._texts.index[rows]
        chosen = index[:, 0]
        if index.shape[1] > 1:
            chosen = index[np.arange(len(rows)), random.integers(index.shape[1], size=len(rows))]
        if self._tower.prompt_no is None:
            return chosen, None
        count = len(self._tower.prompt_no) + self._settings.recipe.average
        return chosen, random.integers(count, size=len(rows)).astype(np.int64)


def train(
    images: LabelledFeatures,
    tuning: Tuning,
    settings: CLIPNSettings,
    scale: float,
    *,
    seed: int,
    device: str,
) -> Learned:
    """Train a "no" tower; return what was learned of it.

    Raises:
        UsageError: a model without a causal text tower, or too few images.
        VloodError: the loss is not finite.
    """
    import torch

    from vlood.prompts.contexts import prompt_tower

    if len(images) < 2:
        raise UsageError(
            f"clipn: {len(images)} image with a caption; its losses compare images with each "
            "other, so give at least 2, and some thousand to learn from"
        )
    backbone = tuning.backbone
    yes_tower = prompt_tower(backbone)
    texts = texts_of(images, tuning.prompts, settings, seed)
    yes = tuning.encode(texts.yes)
    tokens = backbone.tokenizer(list(texts.no))
    lengths = yes_tower.ends(tokens).numpy() + 1
    tokens = tokens[:, : int(lengths.max())]
    tower, adapter = starting_tower(yes_tower, settings, seed)
    tower.to(torch.device(device))
    order = ShuffledRows(len(images), settings.batch_of(len(images)), seed)
    rows = ByLength(order, lengths[texts.index].max(axis=1))
    objective = Objective(tower, images.raw, texts, yes, tokens, rows, settings, scale, seed)
    loop = settings.loop(len(images))
    made = tuning.train(tower.trainable(), objective.of, rows, loop, seed=seed)
    about: dict[str, Any] = {
        "format": "clipn",
        "variant": settings.variant,
        "no_train": settings.no_train,
        "captions": "templates" if texts.by_template else "captions",
        "texts": len(texts.yes),
        "epochs": made.epochs,
        "steps": made.steps,
        "settings": asdict(settings),
    }
    if adapter is not None:
        about["adapter"] = adapter
    # A whole tower is kept in half precision: what scores is compiled from what is kept.
    kept = np.float16 if settings.no_train == "full" else np.float32
    arrays = {
        _kept_name(name): np.asarray(tensor.numpy(), kept) for name, tensor in made.tensors.items()
    }
    return Learned("no-text", arrays, about)


def starting_tower(
    yes_tower: Any, settings: CLIPNSettings, seed: int
) -> tuple[NoTextTower, dict[str, Any] | None]:
    """Return the tower that training starts from, and the description of its adapter if any."""
    from vlood.backbone.no_adapter import add_adapter
    from vlood.backbone.no_tower import NoTextTower

    tower = NoTextTower(yes_tower, prompts=settings.prompts if settings.variant == "learned" else 0)
    if settings.no_train == "full":
        return tower, None
    tower.side.requires_grad_(False)
    if settings.no_train == "prompts":
        return tower, None
    start = generator(seed, "adapter")
    return tower, add_adapter(tower, rank=settings.rank, alpha=settings.alpha, random=start)


def no_state(learned: Learned, backbone: Backbone) -> Mapping[str, torch.Tensor]:
    """Return the "no" tower of what was learned, whole, as ``encode_no_texts`` takes it.

    Raises:
        UsageError: an array is missing or of another model's shape.
    """
    import torch

    from vlood.backbone.no_adapter import merged_state, with_adapter
    from vlood.backbone.no_text import PROMPTS
    from vlood.backbone.no_tower import NoTextTower
    from vlood.prompts.contexts import prompt_tower

    tensors = {
        name: torch.from_numpy(np.asarray(array, np.float32))
        for name, array in learned.arrays.items()
    }
    if learned.about.get("no_train", "full") == "full":
        return tensors
    pool = tensors.get(PROMPTS)
    tower = NoTextTower(prompt_tower(backbone), prompts=0 if pool is None else len(pool))
    if pool is not None and tower.prompt_no is not None:
        if pool.shape != tower.prompt_no.shape:
            raise UsageError(
                f"{PROMPTS} has shape {tuple(pool.shape)}, expected {tuple(tower.prompt_no.shape)};"
                " use the model that it was trained on"
            )
        with torch.no_grad():
            tower.prompt_no.copy_(pool)
    if "adapter" not in learned.about:
        return tower.state()
    own = {
        name.removeprefix(ADAPTER): tensor
        for name, tensor in tensors.items()
        if name.startswith(ADAPTER)
    }
    return merged_state(with_adapter(tower, learned.about["adapter"], own))


def _kept_name(name: str) -> str:
    """Return what a trained tensor is kept as: an adapter's go into a folder of their own."""
    from vlood.backbone.no_adapter import peft_name

    own = peft_name(name)
    return name if own is None else ADAPTER + own


def no_templates(learned: Learned, templates: Sequence[str]) -> tuple[str, ...]:
    """Return the templates of the "no" tower: the others', or those it was trained with."""
    if learned.about.get("variant", "learned") == "learned":
        return tuple(templates)
    kept = learned.about.get("no_templates")
    if kept:
        return tuple(map(str, kept))
    return tuple(negation for _, negation in read_no_templates())


def compiled_no_features(
    learned: Learned, backbone: Backbone, classes: Sequence[ClassName], templates: Sequence[str]
) -> NDArray[np.float32]:
    """Encode class names with the "no" tower: unit rows [K, D]."""
    from vlood.backbone.no_text import encode_no_texts

    state = no_state(learned, backbone)
    own = no_templates(learned, templates)
    return class_features(
        lambda texts: encode_no_texts(backbone, state, texts), classes, own
    ).features
