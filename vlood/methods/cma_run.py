"""CMA's training run: the loss of a step's images on the towers that are tuned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from vlood.backbone.tuned_folder import TunedWeights
from vlood.errors import VloodError
from vlood.images.augment import Augmentation
from vlood.methods.cma_settings import CMASettings
from vlood.methods.cma_towers import Towers
from vlood.methods.cma_training import (
    FeatureGradients,
    Objective,
    UniqueTexts,
    cached_part,
    feature_gradients,
    fused_step,
    text_span,
)
from vlood.training.draws import ShuffledRows, generator, held_out
from vlood.training.pixels import PixelSource
from vlood.training.steps import Loss, StepInputs, Trained
from vlood.training.workers import workers

if TYPE_CHECKING:
    from vlood.training.tuning import Tuning

_WHOLE = Augmentation()


@dataclass(frozen=True)
class RowsOf:
    """The rows of steps, among some rows only.

    Attributes:
        order: gives places among them.
        chosen: int64, the rows.
    """

    order: ShuffledRows
    chosen: NDArray[np.int64]

    @property
    def per_epoch(self) -> int:
        """Return the steps of an epoch."""
        return self.order.per_epoch

    def batch(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Return the rows of a step of an epoch, int64 [at most batch_size]."""
        return self.chosen[self.order.batch(epoch, step)]


class _Part(NamedTuple):
    """A part's features, those of its share of the distinct texts, and where these are."""

    images: torch.Tensor
    texts: torch.Tensor | None
    words: slice


@dataclass(frozen=True, eq=False)
class _Step:
    """What all parts of a step share; of the part that comes first, its features too."""

    number: int
    rows: NDArray[np.int64]
    pictures: NDArray[Any]
    tokens: torch.Tensor
    unique: UniqueTexts
    gradients: FeatureGradients | None
    first: dict[int, _Part]


class ImageTextLoss:
    """CMA's loss of a step's images on towers that are tuned.

    Args:
        towers: them.
        labels: int64 [N], of the training images.
        texts: K class names in each of T templates: text ``label * T + template``.
        pixels: gives the images.
        rows: gives the rows of each step.
        settings: of the method.
        parts: that the loop makes a step in.
        seed: of the templates, the views and dropout.
        classes: K.
    """

    def __init__(
        self,
        towers: Towers,
        tokenizer: Any,
        labels: NDArray[np.int64],
        texts: Sequence[str],
        pixels: PixelSource,
        rows: RowsOf,
        settings: CMASettings,
        parts: int,
        seed: int,
        classes: int,
    ) -> None:
        self._towers, self._labels, self._pixels, self._rows = towers, labels, pixels, rows
        self._settings, self._parts, self._seed = settings, parts, seed
        self._tokens: torch.Tensor = tokenizer(list(texts))
        self._classes, self._templates = classes, len(texts) // classes
        self._step: _Step | None = None
        batch = rows.order.batch_size
        self.objective = Objective(settings.lambda_value, settings.multi_positive(batch, classes))

    def of(self, inputs: StepInputs) -> Loss:
        """Return the loss of a part of a step: with one part the plain one, else from the cache.

        Raises:
            VloodError: the images of a chunk do not fit into the memory.
        """
        try:
            return self._of(inputs)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise self._too_large() from error
        except RuntimeError as error:
            if "not enough memory" in str(error) or "out of memory" in str(error):
                raise self._too_large() from error
            raise

    def held_out(self, rows: NDArray[np.int64]) -> float:
        """Return the loss, or the share of wrong answers, of images kept aside among all classes.

        Args:
            rows: of the images.
        """
        towers, chunk = self._towers, self._settings.chunk
        tokens = self._tokens[:: self._templates]
        at = range(0, len(tokens), chunk)
        texts = torch.cat([towers.encode_texts(tokens[row : row + chunk]) for row in at])
        unit = F.normalize(texts.float(), dim=-1)
        wrong = total = 0.0
        for start in range(0, len(rows), chunk):
            some = rows[start : start + chunk]
            pictures = self._pixels.of(some, 0, self._seed, _WHOLE)
            images = F.normalize(towers.encode_pictures(pictures).float(), dim=-1)
            logits = towers.log_scale.exp() * images @ unit.T
            labels = torch.from_numpy(self._labels[some]).to(logits.device)
            total += float(F.cross_entropy(logits, labels, reduction="sum"))
            wrong += float((logits.argmax(dim=1) != labels).sum())
        return (total if self._settings.watch == "loss" else wrong) / max(1, len(rows))

    def _of(self, inputs: StepInputs) -> Loss:
        step = self._step_of(inputs.epoch, inputs.step)
        towers = self._towers
        own = torch.from_numpy(step.unique.own).to(towers.log_scale.device)
        if step.gradients is None:
            with self._dropout(inputs.step, 0):
                return Loss(
                    *fused_step(
                        lambda _: towers.encode_pictures(step.pictures),
                        towers.encode_texts,
                        step.tokens,
                        step.tokens,
                        own,
                        towers.log_scale.exp(),
                        self.objective,
                    )
                )
        start = int(np.flatnonzero(step.rows == inputs.rows[0])[0])
        rows = slice(start, start + len(inputs.rows))
        part = step.first.pop(start, None)
        if part is None:
            part = self._encoded(step.pictures, step.tokens, rows, inputs.step)
        total = cached_part(
            step.gradients,
            part.images,
            part.texts,
            rows,
            part.words,
            towers.log_scale,
            len(inputs.rows) / len(step.rows),
        )
        return Loss(total, step.gradients.parts)

    def _encoded(
        self, pictures: NDArray[Any], tokens: torch.Tensor, rows: slice, step: int
    ) -> _Part:
        """Encode a part's images and its share of the distinct texts."""
        words = text_span(len(tokens), len(pictures), rows)
        with self._dropout(step, rows.start):
            images = self._towers.encode_pictures(pictures[rows])
            texts = None
            if words.stop > words.start:
                texts = self._towers.encode_texts(tokens[words])
        return _Part(images, texts, words)

    def _step_of(self, epoch: int, number: int) -> _Step:
        """Return what all parts of a step share; kept until another step is asked for."""
        if self._step is not None and self._step.number == number:
            return self._step
        self._step = None
        rows = self._rows.batch(epoch, number % self._rows.per_epoch)
        pictures = self._pictures(rows, epoch, number)
        template = int(generator(self._seed, "template", number).integers(self._templates))
        unique = UniqueTexts.of(self._labels[rows])
        tokens = self._tokens[unique.texts * self._templates + template]
        gradients: FeatureGradients | None = None
        first: dict[int, _Part] = {}
        if self._parts > 1:
            gradients, first = self._gradients(pictures, tokens, unique, number)
        self._step = _Step(number, rows, pictures, tokens, unique, gradients, first)
        self._expect(number + 1)
        return self._step

    def _gradients(
        self, pictures: NDArray[Any], tokens: torch.Tensor, unique: UniqueTexts, step: int
    ) -> tuple[FeatureGradients, dict[int, _Part]]:
        """Encode all parts, and differentiate the loss of their features.

        Of the parts only the one that the loop takes first is encoded with its graph, after the
        others, so that it need not be encoded again.

        Returns:
            The loss and gradients, and the first part of this process by its first row.
        """
        log_scale, joined = self._towers.log_scale, workers()
        width = self._towers.width
        images = torch.zeros(len(pictures), width, device=log_scale.device)
        texts = torch.zeros(len(tokens), width, device=log_scale.device)
        parts = np.array_split(np.arange(len(pictures)), self._parts)
        own_parts = [some for some in parts[joined.rank :: joined.count] if len(some)]
        first: dict[int, _Part] = {}
        for some in reversed(own_parts):
            rows = slice(int(some[0]), int(some[-1]) + 1)
            is_first = some is own_parts[0]
            with torch.set_grad_enabled(is_first):
                part = self._encoded(pictures, tokens, rows, step)
            images[rows] = part.images.detach().float()
            if part.texts is not None:
                texts[part.words] = part.texts.detach().float()
            if is_first:
                first[rows.start] = part
        joined.sum_([images, texts])
        own = torch.from_numpy(unique.own).to(images.device)
        return feature_gradients(images, texts, own, log_scale, self.objective), first

    def _pictures(self, rows: NDArray[np.int64], epoch: int, number: int) -> NDArray[Any]:
        """Return a step's pictures: views, a share of them whole."""
        way, share = self._settings.augmentation, self._settings.augmented
        if way.is_none or share == 0:
            return self._pixels.of(rows, 0, self._seed, _WHOLE)
        pictures = self._pixels.of(rows, epoch, self._seed, way)
        if share < 1:
            drawn = generator(self._seed, "augmented", number).random(len(rows)) >= share
            whole = np.flatnonzero(drawn)
            if len(whole):
                pictures = pictures.copy()
                pictures[whole] = self._pixels.of(rows[whole], 0, self._seed, _WHOLE)
        return pictures

    def _expect(self, number: int) -> None:
        """Let the pictures of the next step be read while this one is computed."""
        epoch, at = divmod(number, self._rows.per_epoch)
        way = self._settings.augmentation
        if self._settings.augmented == 0:
            way = _WHOLE
        number = 0 if way.is_none else epoch
        self._pixels.expect(self._rows.batch(epoch, at), number, self._seed, way)

    @contextmanager
    def _dropout(self, step: int, place: int) -> Iterator[None]:
        """Give dropout a generator of its own, the same both times that a part is encoded."""
        if not self._settings.dropout:
            yield
            return
        device = self._towers.log_scale.device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(int(generator(self._seed, "dropout", step, place).integers(1 << 62)))
            yield

    def _too_large(self) -> VloodError:
        chunk = min(self._settings.chunk, self._rows.order.batch_size)
        return VloodError(
            f"cma: {chunk} images at once do not fit into the memory; use --set "
            f"chunk={max(1, chunk // 2)}, which gives the same step"
        )


class TunedTowers(NamedTuple):
    """What a run gives.

    Attributes:
        weights: what was trained.
        run: what is said of the run.
        trained: how many numbers.
        multi_positive: whether images of a class were right answers together.
    """

    weights: TunedWeights
    run: Trained
    trained: int
    multi_positive: bool


def tune_towers(
    labels: NDArray[np.int64],
    texts: Sequence[str],
    pixels: PixelSource,
    tuning: Tuning,
    settings: CMASettings,
    *,
    classes: int,
    seed: int,
) -> TunedTowers:
    """Tune the towers of a model.

    Args:
        labels: int64 [N], of the images, 0 to K - 1.
        texts: K class names in each of T templates, class by class.
        pixels: gives the images.
        tuning: the model and the run.
        settings: of the method.
        classes: K.
        seed: of everything that is drawn.

    Raises:
        UsageError: a tuned model, or targets that learn nothing.
        VloodError: the loss is not finite, or memory ran out.
    """
    rows, aside = np.arange(len(labels), dtype=np.int64), np.zeros(0, np.int64)
    if settings.patience:
        rows, aside = held_out(labels, settings.held_out, seed)
    batch = settings.batch_of(len(rows))
    towers = Towers(tuning.backbone, settings, seed)
    trained = sum(tensor.numel() for tensor in towers.tensors().values())
    loop = settings.loop(len(rows), trained)
    # A last batch of a few images would compare them with hardly any text.
    order = RowsOf(ShuffledRows(len(rows), batch, seed, drop_last=True), rows)
    parts = loop.accumulate * workers().count
    loss = ImageTextLoss(
        towers, tuning.backbone.tokenizer, labels, texts, pixels, order, settings, parts, seed,
        classes,
    )  # fmt: skip
    made = tuning.train(
        towers.tensors(),
        loss.of,
        order,
        loop,
        seed=seed,
        held_out=(lambda: loss.held_out(aside)) if len(aside) else None,
    )
    weights = towers.weights(dict(made.tensors))
    return TunedTowers(weights, made, trained, loss.objective.multi_positive)
