"""CMA's training run: the towers that are tuned, and the loss of a step's images on them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from vlood.backbone.backbone import Backbone
from vlood.backbone.text import CausalTextTower
from vlood.backbone.tuned_folder import PREFIX, TunedWeights
from vlood.backbone.tuned_weights import (
    add_adapter,
    check_gradients,
    trainable_names,
    trained_weights,
)
from vlood.errors import UsageError, VloodError
from vlood.methods.cma_settings import CMASettings
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
from vlood.training.pixels import Augmentation, PixelSource
from vlood.training.steps import Loss, StepInputs, Trained
from vlood.training.workers import workers

if TYPE_CHECKING:
    from vlood.training.tuning import Tuning

_WHOLE = Augmentation()


class Towers:
    """A copy of a model in single precision, some of it trainable.

    Args:
        backbone: it; stays as it is.
        settings: what is tuned.
        seed: of an adapter's start.

    Attributes:
        module: the copy.
        names: of the parameters that are trained.

    Raises:
        UsageError: a tuned model, one without such parameters, or targets that learn nothing.
    """

    def __init__(self, backbone: Backbone, settings: CMASettings, seed: int) -> None:
        if backbone.name.startswith(PREFIX):
            raise UsageError(
                f"--model {backbone.name}: is a tuned model already; tune its base again, or merge "
                "it first with `vlood export --format open-clip` and tune that"
            )
        self._backbone, self._device = backbone, backbone.device
        self.module = copy.deepcopy(backbone.module).float().eval().requires_grad_(False)
        self._adapted: Any = None
        self._base: dict[str, torch.Tensor] = {}
        if settings.tune == "lora":
            start = generator(seed, "adapter")
            self._adapted = add_adapter(self.module, settings.lora(), start)
            # Layers of an adapter are new, and new ones are in training.
            self.module.eval()
            self.names = [n for n, one in self.module.named_parameters() if one.requires_grad]
        else:
            self.names = trainable_names(self.module, settings.tune)
        self._parameters = dict(self.module.named_parameters())
        for name in self.names:
            self._parameters[name].requires_grad_()
        self._tower = CausalTextTower.of(self.module)
        self._check(settings, seed)
        for name, layer in self.module.named_modules():
            if name.endswith("lora_dropout.default"):
                layer.train()
        if self._adapted is None:
            self._base = {name: self._parameters[name].detach().clone() for name in self.names}

    def _check(self, settings: CMASettings, seed: int) -> None:
        """Leave out what has no part in the features; refuse an adapter of which some has none."""
        random = generator(seed, "check")
        size = (2, 3, *self._backbone.preprocessing.size)
        pixels = torch.from_numpy(random.normal(size=size).astype(np.float32)).to(self._device)
        tokens = self._backbone.tokenizer(["a photo", "a drawing of it"]).to(self._device)
        width = self._backbone.embed_dim
        towards = torch.from_numpy(random.normal(size=(2, 2, width)).astype(np.float32))
        places = towards.to(self._device)

        def features() -> torch.Tensor:
            images = F.normalize(self.module.encode_image(pixels, normalize=False), dim=-1)
            texts = F.normalize(self.encode_texts(tokens), dim=-1)
            scale: torch.Tensor = self.log_scale.exp()
            return scale * ((images * places[0]).sum() + (texts * places[1]).sum())

        dead = check_gradients(self.module, self.names, features, random)
        if dead and self._adapted is not None:
            raise UsageError(
                f"targets={settings.targets}: {len(dead)} of {len(self.names)} trained tensors get "
                f"no gradient, such as {dead[0]}: the model reads that layer's weights past an "
                "adapter; use targets=auto"
            )
        for name in dead:
            self._parameters[name].requires_grad_(False)
        self.names = [name for name in self.names if name not in set(dead)]

    @property
    def log_scale(self) -> torch.Tensor:
        """Return the logarithm of the factor on cosines, a scalar."""
        scale: torch.Tensor = self.module.logit_scale
        return scale.reshape(())

    @property
    def width(self) -> int:
        """Return the width of the features."""
        return self._backbone.embed_dim

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what is trained, by name."""
        return {name: self._parameters[name] for name in self.names}

    def encode_pictures(self, pictures: NDArray[Any]) -> torch.Tensor:
        """Encode prepared pictures to features [n, D], not normalised."""
        pixels = self._backbone.preprocessing.normalise(pictures, self._device)
        features: torch.Tensor = self.module.encode_image(pixels.float(), normalize=False)
        return features

    def encode_texts(self, tokens: torch.Tensor) -> torch.Tensor:
        """Encode token ids [n, L] to features [n, D], not normalised."""
        if self._tower is not None:
            return self._tower.encode_tokens(tokens.to(self._device))
        features: torch.Tensor = self.module.encode_text(tokens.to(self._device), normalize=False)
        return features

    def weights(self, trained: dict[str, torch.Tensor]) -> TunedWeights:
        """Return what was trained, as it is kept.

        Args:
            trained: the values to keep, by name.
        """
        with torch.no_grad():
            for name, tensor in trained.items():
                self._parameters[name].copy_(tensor)
        return trained_weights(self.module, self._adapted, self._base, self.names)


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


@dataclass(frozen=True, eq=False)
class _Step:
    """What all parts of a step share."""

    number: int
    rows: NDArray[np.int64]
    pictures: NDArray[Any]
    tokens: torch.Tensor
    unique: UniqueTexts
    gradients: FeatureGradients | None


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
        images, texts, words = self._encoded(step.pictures, step.tokens, rows, inputs.step)
        total = cached_part(
            step.gradients,
            images,
            texts,
            rows,
            words,
            towers.log_scale,
            len(inputs.rows) / len(step.rows),
        )
        return Loss(total, step.gradients.parts)

    def _encoded(
        self, pictures: NDArray[Any], tokens: torch.Tensor, rows: slice, step: int
    ) -> tuple[torch.Tensor, torch.Tensor | None, slice]:
        """Encode a part's images and its share of the distinct texts."""
        words = text_span(len(tokens), len(pictures), rows)
        with self._dropout(step, rows.start):
            images = self._towers.encode_pictures(pictures[rows])
            texts = None
            if words.stop > words.start:
                texts = self._towers.encode_texts(tokens[words])
        return images, texts, words

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
        gradients = None
        if self._parts > 1:
            gradients = self._gradients(pictures, tokens, unique, number)
        self._step = _Step(number, rows, pictures, tokens, unique, gradients)
        self._expect(number + 1)
        return self._step

    def _gradients(
        self, pictures: NDArray[Any], tokens: torch.Tensor, unique: UniqueTexts, step: int
    ) -> FeatureGradients:
        """Encode all parts without their graphs, and differentiate the loss of their features."""
        log_scale, joined = self._towers.log_scale, workers()
        width = self._towers.width
        images = torch.zeros(len(pictures), width, device=log_scale.device)
        texts = torch.zeros(len(tokens), width, device=log_scale.device)
        start = 0
        with torch.no_grad():
            for part, some in enumerate(np.array_split(np.arange(len(pictures)), self._parts)):
                rows = slice(start, start + len(some))
                start = rows.stop
                if part % joined.count != joined.rank or not len(some):
                    continue
                found, words, place = self._encoded(pictures, tokens, rows, step)
                images[rows] = found.float()
                if words is not None:
                    texts[place] = words.float()
        joined.sum_([images, texts])
        own = torch.from_numpy(unique.own).to(images.device)
        return feature_gradients(images, texts, own, log_scale, self.objective)

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
