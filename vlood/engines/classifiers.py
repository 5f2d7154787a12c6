"""The classifier beside the model: which one a command runs, and whether it may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlood.detector.classifier import RecordedClassifier
from vlood.errors import UsageError
from vlood.methods import registry

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone
    from vlood.backbone.classifier.spec import ClassifierSpec
    from vlood.detector.saved import SavedDetector
    from vlood.methods.contract import Detector


@dataclass(frozen=True)
class ClassifierChoice:
    """A classifier that a command will run, not loaded yet.

    Attributes:
        spec: which one.
        recorded: the one that a saved detector was made with, which it must be, or None.
        where: names that detector.
    """

    spec: ClassifierSpec
    recorded: RecordedClassifier | None = None
    where: str = ""
    classes: tuple[str, ...] = field(default=())

    def add_to(self, backbone: Backbone, device: str, precision: str) -> None:
        """Load it, and let it see the same images as a model.

        Raises:
            UsageError: it cannot be loaded, or is not the detector's, or is one of other classes.
            VloodError: its file is damaged.
        """
        from vlood.backbone.classifier.load import load_classifier

        classifier = load_classifier(self.spec, device=device, precision=precision)
        if self.recorded is not None:
            self.recorded.check(classifier, self.where)
        elif self.classes:
            from vlood.methods.cooked import check_classifier

            check_classifier(classifier.with_names(classifier.logits(_nothing())), self.classes)
        backbone.classifier = classifier


def choose(
    text: str | None, settings: Sequence[str] | None, methods: Sequence[str], names: Sequence[str]
) -> ClassifierChoice | None:
    """Read ``--classifier`` and ``--classifier-set``, before anything slow is done.

    Args:
        text: the value, or None.
        settings: NAME=VALUE each.
        methods: those that are fitted.
        names: of the K classes, which the outputs are taken to be where nothing states theirs.

    Raises:
        UsageError: none of the methods reads a classifier, or a value is wrong.
    """
    if text is None:
        if settings:
            raise UsageError("--classifier-set: goes with --classifier, whose input it describes")
        return None
    if all(registry.get(name).classifier is None for name in methods):
        raise UsageError(
            f"--classifier: {', '.join(methods)} has no use for one; leave it out, or use "
            f"{' or '.join(_readers())}, which has"
        )
    return ClassifierChoice(_spec(text, settings, tuple(names)), classes=tuple(names))


def choose_for(
    held: Sequence[SavedDetector],
    folders: Sequence[Path],
    text: str | None = None,
    settings: Sequence[str] | None = None,
) -> ClassifierChoice | None:
    """Return the classifier that saved detectors read, or None where none does.

    Args:
        held: the detectors.
        folders: where they are.
        text: another place of the same classifier, or None for the one recorded.
        settings: NAME=VALUE each, of its input; by default as recorded.

    Raises:
        UsageError: it is not there, two detectors have different ones, or none reads one.
    """
    from vlood.detector.classifier import check_one

    readers = [
        (one, folder) for one, folder in zip(held, folders, strict=True) if reads(one.detector)
    ]
    known = [(one.classifier, folder) for one, folder in readers if one.classifier is not None]
    check_one([one for one, _ in known], [str(folder) for _, folder in known])
    if not known:
        if text is not None and readers:
            classes = readers[0][0].detector.class_names
            return ClassifierChoice(_spec(text, settings, classes), classes=classes)
        if text is not None or settings:
            raise UsageError("--classifier: the detector has no use for one; leave it out")
        return None
    recorded, folder = known[0]
    assert recorded is not None
    where = f"--detector {folder}"
    if text is None and settings:
        raise UsageError("--classifier-set: goes with --classifier, whose input it describes")
    return ClassifierChoice(_spec_of(recorded, text, settings, where), recorded, where)


def add_classifier(backbone: Backbone, saved: SavedDetector, where: str) -> None:
    """Load the classifier that a saved detector reads, where it reads one.

    Raises:
        UsageError: it is not there, or is another one now.
    """
    if saved.classifier is None or not reads(saved.detector):
        return
    spec = _spec_of(saved.classifier, None, None, where)
    choice = ClassifierChoice(spec, saved.classifier, where)
    choice.add_to(backbone, backbone.device, backbone.precision)


def reads(detector: Detector) -> bool:
    """Say whether a detector reads a classifier's logits."""
    asks = registry.get(detector.method).classifier
    return asks is not None and asks(detector.settings)


def classifier_digest(detector: Detector, backbone: Backbone | None) -> str:
    """Return what identifies the classifier that a detector scores with, "" where there is none."""
    if backbone is None or backbone.classifier is None or not reads(detector):
        return ""
    found = backbone.classifier
    return f" {sorted(found.identity().items())} {found.names}"


def check_images(choice: ClassifierChoice | None, option: str, *, embeddings: bool) -> None:
    """Refuse a classifier where there are embeddings, of whose images it sees nothing.

    Raises:
        UsageError: naming the option that holds them.
    """
    if choice is not None and choice.recorded is None and embeddings:
        raise UsageError(
            f"--classifier: looks at images, and {option} holds embeddings; give images, or put "
            "its logits beside the embeddings (X.logits.npy, X.logits.txt)"
        )


def with_classifier(saved: SavedDetector, backbone: Backbone | None) -> SavedDetector:
    """Record the classifier that a detector was just fitted with, where it reads one."""
    if backbone is None or backbone.classifier is None or not reads(saved.detector):
        return saved
    return replace(saved, classifier=RecordedClassifier.of(backbone.classifier))


def _spec_of(
    recorded: RecordedClassifier, text: str | None, settings: Sequence[str] | None, where: str
) -> ClassifierSpec:
    """Return where the recorded classifier is, with the input and classes it was used with."""
    from vlood.backbone.classifier.input import ClassifierInput, InputChoice
    from vlood.backbone.classifier.spec import ClassifierForm, ClassifierSpec

    if text is None and recorded.folder is not None:
        spec = ClassifierSpec(str(recorded.folder), ClassifierForm.FOLDER, recorded.folder)
    else:
        try:
            spec = _spec(text or recorded.source, settings, ())
        except UsageError as error:
            if text is not None:
                raise
            raise UsageError(
                f"{where}: its classifier {recorded.source} is not there any more; name the place "
                "of the same one with --classifier"
            ) from error
    try:
        seen = recorded.input
        height, width = seen["size"]
        known = ClassifierInput(
            (int(height), int(width)),
            int(seen["resize"]),
            str(seen["interpolation"]),
            _three(seen["mean"]),
            _three(seen["std"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{where}: the detector is damaged (classifier input); copy or make it again"
        ) from error
    choice = spec.choice.over(InputChoice.of_input(known))
    return replace(spec, choice=choice, classes=spec.classes or recorded.classes)


def _spec(text: str, settings: Sequence[str] | None, listed: tuple[str, ...]) -> ClassifierSpec:
    from vlood.backbone.classifier.spec import ClassifierSpec
    from vlood.prompts.classes import read_classes

    values: dict[str, str] = {}
    for one in settings or ():
        name, equals, value = one.partition("=")
        if not equals:
            raise UsageError(
                f"--classifier-set {one}: expected NAME=VALUE, e.g. --classifier-set size=224"
            )
        values[name.strip()] = value.strip()
    spec = ClassifierSpec.parse(text, values)
    named: tuple[str, ...] = ()
    if "classes" in values:
        named = tuple(each.name for each in read_classes(values["classes"]))
    return replace(spec, classes=named, listed=listed)


def _readers() -> list[str]:
    return [one.name for one in registry.all_methods() if one.classifier is not None]


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)


def _nothing() -> Any:
    import numpy as np

    return np.zeros((0, 1, 1, 3), np.uint8)
