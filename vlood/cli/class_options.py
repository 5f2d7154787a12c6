"""What is in-distribution and by which methods: read from options, and fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlood.cli.talk import warn
from vlood.errors import UsageError

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone
    from vlood.detector.saved import SavedDetector
    from vlood.engines.fitted import Fitted
    from vlood.engines.mining import Encoder
    from vlood.engines.negatives import NegativesChoice
    from vlood.engines.text_side import TextSide
    from vlood.features.cache import FeatureCache
    from vlood.methods.contract import Detector
    from vlood.prompts.classes import ClassName


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
                raise UsageError(needs_training(name))
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


def split_names(values: Sequence[str]) -> list[str]:
    """Split repeated and comma-separated option values into names."""
    names = [name.strip() for value in values for name in value.split(",")]
    return [name for name in names if name]


def settings_of(
    values: Sequence[str] | None, *, example: str = "temperature=0.5"
) -> dict[str, str]:
    """Read repeated NAME=VALUE options.

    Raises:
        UsageError: one has another form.
    """
    settings = {}
    for value in values or []:
        name, equals, text = value.partition("=")
        if not equals:
            raise UsageError(f"--set {value}: expected NAME=VALUE, e.g. --set {example}")
        settings[name.strip()] = text.strip()
    return settings


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
