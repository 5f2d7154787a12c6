"""Turn parsed options into the objects a command works with."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vlood.cli.talk import warn
from vlood.errors import UsageError

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone
    from vlood.detector.saved import SavedDetector
    from vlood.engines.classifiers import ClassifierChoice
    from vlood.engines.fitted import Fitted
    from vlood.engines.mining import Encoder
    from vlood.engines.negatives import NegativesChoice
    from vlood.engines.scoring import ScoredBatch, Scorer
    from vlood.engines.text_side import TextSide
    from vlood.engines.training_images import LabelledBatch
    from vlood.features.cache import FeatureCache
    from vlood.features.embeddings import Embeddings
    from vlood.features.stream import StreamSettings
    from vlood.images.sources import ImageItem
    from vlood.methods.contract import Detector
    from vlood.prompts.classes import ClassName


@dataclass(frozen=True)
class ModelOptions:
    """How the model is chosen and run."""

    model: str
    device: str
    precision: str
    batch_size: int
    workers: int | None
    cache: Path | None
    no_cache: bool
    classifier: ClassifierChoice | None = None


@dataclass(frozen=True)
class ReadOptions:
    """How inputs are read."""

    root: Path | None = None
    null_separated: bool = False
    fast_decode: bool = False
    background: str = "255,255,255"


@dataclass(frozen=True)
class ClassOptions:
    """What is in-distribution, and with which methods to score; read, so no file decides later."""

    side: TextSide
    negatives: NegativesChoice
    methods: list[str]
    settings: dict[str, str]

    @classmethod
    def read(
        cls,
        classes: str | tuple[ClassName, ...] | None,
        templates: list[str] | None,
        class_embeddings: list[Path] | None,
        logit_scale: float | None,
        methods: list[str],
        settings: list[str] | None,
        negatives: str | None = None,
        negative_embeddings: list[Path] | None = None,
        *,
        training: bool = False,
    ) -> ClassOptions:
        """Read the option values, before a model is loaded: that takes seconds, a typo needs none.

        ``training`` says that there are labelled images for methods that learn.

        Raises:
            UsageError: there are no classes, a value is wrong, a method has nothing to learn from,
                or no method learns.
        """
        from vlood.engines.few_shot import check_learns
        from vlood.engines.method_needs import needs_training
        from vlood.engines.negatives import NegativesChoice
        from vlood.engines.text_side import TextSide
        from vlood.methods import registry
        from vlood.prompts.classes import read_classes
        from vlood.prompts.templates import read_templates

        if classes is None and not class_embeddings:
            raise UsageError(
                "--classes is missing: name the known classes, e.g. --classes cats,dogs, a .txt "
                "file, a library name such as cifar10, or a labelled folder"
            )
        named = (registry.comparable() if name == "all" else (name,) for name in methods)
        methods = list(dict.fromkeys(name for names in named for name in names))
        for name in methods:
            method = registry.get(name)
            if "detectors" in method.record.needs:
                method.fit()
            if method.record.trains and not method.learns:
                raise UsageError(
                    f"--method {name}: is not made from class names alone; `vlood import` what was "
                    "trained elsewhere and use --detector FOLDER"
                )
            if method.learns and not training:
                raise UsageError(needs_training(name))
        if training and not any(registry.get(name).learns for name in methods):
            check_learns(methods[0])
        return cls(
            TextSide(
                classes=read_classes(classes) if isinstance(classes, str) else classes,
                templates=tuple(
                    text for value in templates or [] for text in read_templates(value)
                ),
                class_embeddings=tuple(class_embeddings or []),
                logit_scale=logit_scale,
            ),
            NegativesChoice(negatives, tuple(negative_embeddings or [])),
            methods=methods,
            settings=settings_of(settings),
        )

    @classmethod
    def of_saved(
        cls,
        saved: SavedDetector,
        classes: str | None,
        negatives: str | None,
        negative_embeddings: list[Path] | None,
        folder: Path | None,
    ) -> ClassOptions:
        """Take classes and method from a saved detector; a class list given must be its own.

        Raises:
            UsageError: other classes were given.
        """
        from vlood.detector.saved import check_class_list
        from vlood.engines.negatives import NegativesChoice
        from vlood.engines.text_side import TextSide
        from vlood.prompts.classes import read_classes

        if classes is not None:
            check_class_list(saved, read_classes(classes), f"--detector {folder}")
        return cls(
            TextSide(saved.classes, saved.templates, logit_scale=saved.detector.logit_scale),
            NegativesChoice(negatives, tuple(negative_embeddings or [])),
            [saved.detector.method],
            {},
        )


@dataclass(frozen=True)
class Source:
    """One set of inputs: images to encode, or embeddings that are there already."""

    inputs: list[str]
    embeddings: list[Embeddings] | None

    def items(self, read: ReadOptions) -> Iterator[ImageItem]:
        """Yield the images, in order; inputs that cannot be images are refused at the call."""
        from vlood.images.sources import find_images

        return find_images(
            self.inputs,
            root=read.root,
            stdin=sys.stdin.buffer,
            null_separated=read.null_separated,
        )

    def check(self, read: ReadOptions) -> None:
        """Refuse wrong inputs now, before anything slow is done.

        Raises:
            UsageError: an input does not exist or holds no images.
        """
        if self.embeddings is None:
            self.items(read)

    def count(self, read: ReadOptions) -> int | None:
        """Return how many inputs there are; None where only reading them would tell."""
        if self.embeddings is not None:
            return sum(len(one.ids) for one in self.embeddings)
        if "-" in self.inputs:
            return None
        return sum(1 for _ in self.items(read))


def sources_of(inputs: Sequence[str]) -> Source:
    """Tell images from embeddings.

    Raises:
        UsageError: the two are mixed.
    """
    from vlood.features.embeddings import looks_like_embeddings, read_embeddings

    if not inputs:
        raise UsageError("no inputs; name image files, folders, lists, embeddings, or - for stdin")
    stored = [text for text in inputs if text != "-" and looks_like_embeddings(Path(text))]
    if not stored:
        return Source(list(inputs), None)
    if len(stored) < len(inputs):
        other = next(text for text in inputs if text not in stored)
        raise UsageError(
            f"{stored[0]} holds embeddings and {other} does not; score images and embeddings apart"
        )
    return Source(list(inputs), [read_embeddings(Path(text)) for text in stored])


def open_cache(options: ModelOptions) -> FeatureCache | None:
    """Open the embedding cache, unless it is switched off."""
    from vlood.features.cache import FeatureCache, default_cache_folder

    if options.no_cache:
        return None
    return FeatureCache(options.cache or default_cache_folder())


def load_model(options: ModelOptions) -> Backbone:
    """Load the model the options name, and the classifier beside it where they name one."""
    from vlood.backbone.load import load_backbone

    backbone = load_backbone(options.model, device=options.device, precision=options.precision)
    if options.classifier is not None:
        options.classifier.add_to(backbone, options.device, options.precision)
    return backbone


def stream_settings(options: ModelOptions, read: ReadOptions) -> StreamSettings:
    """Gather how images are decoded and batched."""
    from vlood.features.stream import StreamSettings
    from vlood.images.decode import DecodeSettings

    return StreamSettings(
        batch_size=options.batch_size,
        workers=options.workers or min(16, os.cpu_count() or 1),
        decode=DecodeSettings(fast=read.fast_decode, background=_colour(read.background)),
    )


def scored(
    source: Source,
    detectors: Sequence[Detector] | Scorer,
    backbone: Backbone | None,
    options: ModelOptions,
    read: ReadOptions,
    cache: FeatureCache | None,
) -> Iterator[ScoredBatch]:
    """Yield the scored batches of a source, whichever it holds; images need the backbone."""
    from vlood.engines.scoring import score_embeddings, score_images

    if source.embeddings is not None:
        for one in source.embeddings:
            yield from score_embeddings(one, detectors)
        return
    assert backbone is not None
    settings = stream_settings(options, read)
    yield from score_images(source.items(read), backbone, detectors, settings, cache=cache)


def with_labels(source: Source, path: Path, option: str) -> Source:
    """Give the rows of one embedding file the labels of another file.

    Raises:
        UsageError: the source is not one file of embeddings, or has another number of rows.
    """
    from vlood.features.row_names import read_labels

    if source.embeddings is None or len(source.embeddings) != 1:
        raise UsageError(
            f"{option}: goes with one file of embeddings; images take their labels from folders or "
            "lists"
        )
    labels = read_labels(path)
    stored = source.embeddings[0]
    if len(labels) != len(stored.ids):
        raise UsageError(
            f"{option} {path}: {len(labels)} labels for the {len(stored.ids)} rows of "
            f"{source.inputs[0]}; give one a row, in the same order"
        )
    return replace(source, embeddings=[replace(stored, labels=labels)])


def labelled(
    source: Source,
    backbone: Backbone | None,
    options: ModelOptions,
    read: ReadOptions,
    cache: FeatureCache | None,
    *,
    local: bool = False,
) -> Iterator[LabelledBatch]:
    """Yield the embeddings of training images with their labels; images need the backbone."""
    from vlood.engines.training_images import labelled_embeddings, labelled_images

    if source.embeddings is not None:
        for one in source.embeddings:
            yield from labelled_embeddings(one, local=local)
        return
    assert backbone is not None
    settings = stream_settings(options, read)
    yield from labelled_images(source.items(read), backbone, settings, cache=cache, local=local)


def split_names(values: Sequence[str]) -> list[str]:
    """Split repeated and comma-separated option values into names."""
    names = [name.strip() for value in values for name in value.split(",")]
    return [name for name in names if name]


def detectors_of(
    options: ClassOptions,
    backbone: Backbone | None,
    cache: FeatureCache | None,
    *,
    quiet: bool = False,
) -> list[Detector]:
    """Fit the methods the options name; what is done unasked, such as mining, is said."""
    from vlood.engines.mining import Encoder

    encoder = None if backbone is None else Encoder(backbone, cache)
    return [one.detector for one in fitted_of(options, encoder, quiet=quiet)]


def fitted_of(
    options: ClassOptions, encoder: Encoder | None, *, quiet: bool = False
) -> list[Fitted]:
    """Fit the methods the options name, with what they were fitted from."""
    from vlood.engines.detectors import fit_all

    return fit_all(
        options.methods,
        options.side,
        options.negatives,
        encoder,
        options.settings,
        announce=lambda text: warn(text, quiet=quiet),
    )


def open_detector(folder: Path) -> SavedDetector:
    """Load a saved detector.

    Raises:
        UsageError: it is none, is damaged, or needs a newer vlood.
    """
    from vlood.detector.folder import load_detector

    return load_detector(folder)


def with_global_prompts_of(saved: SavedDetector, folder: Path | None) -> SavedDetector:
    """Put the prompts of --global-prompts, where it is given, into a Local-Prompt detector.

    Raises:
        UsageError: the two do not fit.
    """
    if folder is None:
        return saved
    from vlood.engines.global_prompts import with_global_prompts

    return with_global_prompts(saved, open_detector(folder), str(folder), option="--global-prompts")


def check_together(held: Sequence[SavedDetector], folders: Sequence[Path]) -> None:
    """Refuse to compare detectors that do not look at the same thing in the same way.

    Raises:
        UsageError: two have the same name, other classes, or another model.
    """
    from vlood.detector.saved import check_backbone, check_class_list

    names = [folder.resolve().name for folder in folders]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"--detector: two folders are named {twice}; rename one to compare them")
    for one, folder in zip(held[1:], folders[1:], strict=True):
        where = f"--detector {folder}"
        check_class_list(one, held[0].classes, where)
        if held[0].backbone is not None and one.backbone is not None:
            check_backbone(one, held[0].backbone, where)


def refuse_with_detector(options: dict[str, object]) -> None:
    """Refuse options that a saved detector has settled."""
    for name, value in options.items():
        if value:
            raise UsageError(f"{name}: is settled by --detector; leave one of them out")


def check_decidable(
    saved: SavedDetector, folder: Path | None, alpha: float | None, must_decide: bool
) -> None:
    """Refuse to decide by a detector that has not been calibrated, or not with enough images."""
    from vlood.detector.calibration import threshold_at_alpha

    decides = saved.calibration is not None or (alpha is None and saved.threshold is not None)
    if not decides and (alpha is not None or must_decide):
        option = "--alpha" if alpha is not None else "--fail-on-ood"
        raise UsageError(
            f"{option}: {folder} is not calibrated; run `vlood calibrate {folder} --id IN...` first"
            + ("" if alpha is not None else ", or give --threshold")
        )
    if saved.calibration is not None and alpha is not None:
        threshold_at_alpha(saved.calibration, alpha)


def embedding_width(detector: Detector) -> int:
    """Return the width of the embeddings a detector scores."""
    from vlood.methods import registry

    return registry.width(detector)


def check_width(embeddings: Sequence[Embeddings], inputs: Sequence[str], width: int) -> None:
    """Refuse embeddings that are not as wide as the class embeddings."""
    for one, name in zip(embeddings, inputs, strict=True):
        if one.features.shape[1] != width:
            raise UsageError(
                f"{name}: rows have {one.features.shape[1]} numbers, but the class embeddings have "
                f"{width}; both must come from the same model"
            )


def settings_of(values: Sequence[str] | None) -> dict[str, str]:
    """Read repeated NAME=VALUE options.

    Raises:
        UsageError: one has another form.
    """
    settings = {}
    for value in values or []:
        name, equals, text = value.partition("=")
        if not equals:
            raise UsageError(f"--set {value}: expected NAME=VALUE, e.g. --set temperature=0.5")
        settings[name.strip()] = text.strip()
    return settings


def _colour(text: str) -> tuple[int, int, int]:
    parts = text.split(",")
    if len(parts) == 3 and all(part.strip().isdigit() and int(part) <= 255 for part in parts):
        return (int(parts[0]), int(parts[1]), int(parts[2]))
    raise UsageError(f"--background {text}: expected R,G,B with numbers from 0 to 255")
