"""What a method is: a record, settings, a way to fit a detector and a pure scoring function."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from vlood.backbone.image_features import ImageFeatures
from vlood.errors import UsageError

# A method's author finds all that a method is made of here.
from vlood.methods.settings import check_choice as check_choice
from vlood.methods.settings import check_positive as check_positive
from vlood.methods.settings import check_share as check_share
from vlood.methods.settings import check_whole as check_whole
from vlood.methods.settings import setting as setting
from vlood.methods.settings import settings_from
from vlood.prompts.templates import ClassFeatures

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vlood.backbone.backbone import Backbone
    from vlood.negatives.negative_features import NegativeFeatures

NEEDS = (
    "classes", "local", "negatives", "noise", "images", "captioned-images", "text-tower",
    "view-regions", "detectors", "layers", "pixels",
)  # fmt: skip
# What a method can learn from, and the name that ``fit`` is given it with.
DATA = {"images": "images", "captioned-images": "captions"}
ORDER_DEPENDENT = "order-dependent"
TRANSDUCTIVE = "transductive"
PRESET = "preset"


@dataclass(frozen=True)
class MethodRecord:
    """What a reader wants to know of a method before using it.

    Attributes:
        name: what ``--method`` takes.
        title: its name in print.
        paper: the title of the paper that proposed it.
        year: of that paper.
        venue: where it appeared.
        url: of the paper.
        summary: the score in one line.
        score_note: which temperature is on what; two different scores are called MCM.
        needs: of ``classes``, ``local``, ``negatives``, ``noise``, ``images`` (with labels),
            ``captioned-images`` (or labelled ones), ``text-tower`` (in training alone),
            ``view-regions`` (in training alone: regional maps of augmented views, instead of those
            of whole images), ``detectors`` (saved ones, which it combines),
            ``layers`` (a ``layers:`` model, whose embeddings are those of all its layers),
            ``pixels`` (in training alone: it tunes the model itself).
        trains: whether it learns anything.
        licence: of the reference code.
        stream: "" where an image's score is its own; ``order-dependent`` where it depends on the
            images that came before, ``transductive`` where on those beside it.
        template: the class template that the paper scores with, for users who choose none.
        whole_corpus: whether its negatives are a whole corpus rather than mined ones.
        names_only: whether the classes' names are enough, without their text features.
        negative_images: whether images of negative labels are learned from too.
        synthetic_images: whether those are made images, which ``--synthetic`` gives without labels
            and of which ``--shots`` draws none away.
        loops: whether training is a run of the loop on embeddings alone, which can be stopped,
            watched and measured: ``fit`` is given ``looping``.
    """

    name: str
    title: str
    paper: str
    year: int
    venue: str
    url: str
    summary: str
    score_note: str
    needs: tuple[str, ...] = ("classes",)
    trains: bool = False
    licence: str = "-"
    stream: str = ""
    template: str | None = None
    whole_corpus: bool = False
    names_only: bool = False
    negative_images: bool = False
    synthetic_images: bool = False
    loops: bool = False

    def __post_init__(self) -> None:
        if self.stream not in ("", ORDER_DEPENDENT, TRANSDUCTIVE):
            raise ValueError(f"{self.name}: stream is {self.stream!r}")
        unknown = set(self.needs) - set(NEEDS)
        if unknown:
            raise ValueError(f"{self.name}: needs {sorted(unknown)}, expected some of {NEEDS}")


@dataclass(frozen=True, eq=False)
class Detector:
    """A fitted method: small arrays and a formula's settings. It never sees pixels or text.

    Attributes:
        method: the method's name.
        settings: its frozen settings.
        class_names: K names.
        tensors: its arrays by name; ``class_features`` is float32 [K, D] of unit rows.
        logit_scale: the backbone's, exponentiated (about 100 for CLIP).
        negative_names: M names, of the rows of ``negative_features`` where it has them.
        members: the detectors by name that an ensemble combines, in the order of its tensors' rows.
    """

    method: str
    settings: Any
    class_names: tuple[str, ...]
    tensors: Mapping[str, NDArray[Any]]
    logit_scale: float
    negative_names: tuple[str, ...] = ()
    members: Mapping[str, Detector] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Learned:
    """What was learned, kept beside what it compiles to, so that it can be applied again.

    Attributes:
        kind: ``contexts`` (prompt vectors), ``no-text`` (CLIPN's tower), ``negative-labels``
            (vectors of negative labels, whose names are ``about["labels"]``) or ``weights`` (a
            tuned CLIP).
        arrays: by name; contexts are ``ctx`` and, of negatives, ``negative_ctx``.
        about: how they are used, JSON-able: the position of the class name, the format they came
            in.
    """

    kind: str
    arrays: Mapping[str, NDArray[Any]]
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class TunedDetector(Detector):
    """A detector as ``fit`` gives it where something was learned that must be kept beside it.

    It may be one of another method, whose formula scores: learned prompts make one of MCM.

    Attributes:
        learned: what was learned.
        backbone: the tuned model that it is of, or None where that is the one it was fitted with.
        negatives: those it scores with, where the tuned model found others.
    """

    learned: Learned | None = None
    backbone: Backbone | None = None
    negatives: NegativeFeatures | None = None

    def compiled(self) -> Detector:
        """Return what scores, alone."""
        own = {each.name: getattr(self, each.name) for each in dataclasses.fields(Detector)}
        return Detector(**own)


@dataclass(frozen=True, eq=False)
class Scores:
    """What a detector says of N images.

    Attributes:
        score: float64 [N], higher = more in-distribution.
        label: int64 [N], index of the nearest class.
        confidence: float64 [N] in [0, 1], the softmax probability of that class among the
            detector's classes at the backbone's logit scale.
    """

    score: NDArray[np.float64]
    label: NDArray[np.int64]
    confidence: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.score)


class Fit(Protocol):
    """Build a detector."""

    def __call__(self, *positional: Any, **given: Any) -> Detector:
        """Build a detector from ``(classes, settings, logit_scale)``.

        What else the record needs comes by its name: ``negatives``
        (:class:`~vlood.negatives.negative_features.NegativeFeatures`), ``noise`` (float32
        [n, D], raw features of noise pictures) and ``images``
        (:class:`~vlood.training.labelled.LabelledFeatures`, every class among them; with
        ``negative_images`` also negatives, the one in row m as K + m). With images come ``seed``,
        of everything random in training, and ``device``, where torch trains. Where the record says
        ``captioned-images``, they come as ``captions``, perhaps with captions
        (:class:`~vlood.training.captioned.CaptionedFeatures`). The features of ``classes`` are
        [K, 0] where the record says ``names_only``.

        With ``text-tower`` comes ``tuning`` (:class:`~vlood.training.tuning.Tuning`): the model,
        the names that prompts hold, and the run whose loop can be stopped, watched and measured.
        Where the record ``loops``, ``looping`` (:class:`~vlood.training.looping.Looping`) is that
        run without a model. A setting named ``views`` asks for so many augmented views of each
        image, as ``images.views``. What was learned is returned with the detector: a
        :class:`TunedDetector`.
        """
        ...


class Score(Protocol):
    """Score images; pure: the same arrays give the same scores."""

    def __call__(self, detector: Detector, images: ImageFeatures) -> Scores:
        """Score N images."""
        ...


State = Mapping[str, "NDArray[Any]"]
"""What a test-time method has learned of its stream so far: arrays by name, never changed."""


@dataclass(frozen=True)
class Stream:
    """How a test-time method goes through a stream of images.

    Attributes:
        start: the state before the first image.
        step: scores of the next batch of images, and the state after them.
    """

    start: Callable[[Detector], State]
    step: Callable[[Detector, ImageFeatures, State], tuple[Scores, State]]


@dataclass(frozen=True)
class Regional:
    """How a method looks at the regions of an image, for a map of where it sees its classes.

    Attributes:
        score: the ID-ness [n], in [0, 1], of n regions that come as if each were an image.
        ends: the least and the largest value that a map's colours tell apart; of the detector
            alone, so that maps of two images compare.
        meaning: what the value is, in a few words.
    """

    score: Callable[[Detector, ImageFeatures], NDArray[np.float64]]
    ends: Callable[[Detector], tuple[float, float]]
    meaning: str


@dataclass(frozen=True)
class Method:
    """A published method, as the entry-point group ``vlood.methods`` offers it.

    ``score`` of a test-time method is that of one batch at the start of a stream.

    Attributes:
        record: what it is.
        settings: its frozen settings, a dataclass.
        fit: makes a detector.
        score: scores images.
        stream: how a test-time method goes through a stream, or None.
        optional: those of ``arrays`` that a detector may lack, all of them at once.
        arrays: the shapes of a detector's tensors by name, as letters: K classes, M negatives, D
            numbers an embedding; any other letter is a length of its own. ``int`` marks whole
            numbers, as in ``M int``. A stored detector is held against it before it is used.
        check: what else must hold of a stored detector's tensors; raises UsageError.
        logits: gives the logits [N, K] that labels and confidences are made of; None: the cosines
            with ``class_features`` at the logit scale.
        classifier: says whether a detector with these settings may read a closed-world
            classifier's logits; None: none of the method does.
        decide: says which images are OOD without a threshold, bool [N], where the method has a rule
            of its own for that; None where it has none.
        regional: how it looks at regions; None: by the largest softmax probability of those
            logits.
        presets: settings of published recipes by their name, which the setting ``preset`` takes;
            others that are given beside it go first.
        check_training: refuses settings and a number of classes that cannot be trained with,
            before any image is encoded; raises UsageError.
    """

    record: MethodRecord
    settings: type[Any]
    fit: Fit
    score: Score
    stream: Stream | None = None
    arrays: Mapping[str, str] = field(default_factory=lambda: {"class_features": "K D"})
    check: Callable[[Detector], None] | None = None
    logits: Callable[[Detector, ImageFeatures], NDArray[np.float64]] | None = None
    regional: Regional | None = None
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    check_training: Callable[[Any, int], None] | None = None
    optional: tuple[str, ...] = ()
    decide: Callable[[Detector, ImageFeatures], NDArray[np.bool_]] | None = None
    classifier: Callable[[Any], bool] | None = None

    @property
    def name(self) -> str:
        """Return what ``--method`` takes."""
        return self.record.name

    def setting_names(self) -> tuple[str, ...]:
        """Return the settings it can be given, ``preset`` among them where it has some."""
        own = tuple(each.name for each in dataclasses.fields(self.settings))
        return (PRESET, *own) if self.presets else own

    @property
    def learns(self) -> bool:
        """Say whether it is fitted from images, with labels or with captions."""
        return self.data is not None

    @property
    def data(self) -> str | None:
        """Return what it learns from: ``images``, ``captioned-images`` or None."""
        return next((name for name in DATA if name in self.record.needs), None)

    @property
    def learns_from_whole_regions(self) -> bool:
        """Say whether training looks at the regions of whole images."""
        return "local" in self.record.needs and "view-regions" not in self.record.needs

    def arrays_of(self, tensors: Mapping[str, Any]) -> dict[str, str]:
        """Return the shapes that a detector with these tensors must have."""
        lacks = not set(self.optional) & set(tensors)
        return {
            name: shape
            for name, shape in self.arrays.items()
            if not (lacks and name in self.optional)
        }


def make_settings(method: Method, values: Mapping[str, Any]) -> Any:
    """Build a method's settings from values as typed (text) or as stored (JSON).

    ``preset`` takes a published recipe.

    Raises:
        UsageError: a name the method does not have, or a value of the wrong kind or range.
    """
    if PRESET in values and method.presets:
        name = str(values[PRESET])
        check_choice(method.name, PRESET, name, tuple(method.presets))
        given = {key: value for key, value in values.items() if key != PRESET}
        values = {**method.presets[name], **given}
    return settings_from(method.name, method.settings, values, known=method.setting_names())


def class_detector(
    record: MethodRecord,
    classes: ClassFeatures,
    settings: Any,
    logit_scale: float,
    *,
    least_classes: int = 1,
) -> Detector:
    """Build the detector of a method that needs class features and nothing else.

    Raises:
        UsageError: fewer classes than the score can compare, or a logit scale that is not positive.
    """
    if len(classes) < least_classes:
        raise UsageError(
            f"{record.name} compares classes with each other and needs at least {least_classes}, "
            f"but got {len(classes)}: every image would score the same; add classes, or use "
            "--method max-logit"
        )
    check_positive(record.name, "logit_scale", logit_scale)
    tensors = {"class_features": classes.features}
    return Detector(record.name, settings, classes.names, tensors, float(logit_scale))


def check_unit_rows(detector: Detector, *names: str) -> None:
    """Refuse tensors of a stored detector [n, D] whose rows are not of length 1.

    Raises:
        UsageError: naming the tensor.
    """
    for name in names:
        lengths = ((detector.tensors[name].astype(float) ** 2).sum(axis=1)) ** 0.5
        # Half precision keeps three digits. Written so that a NaN fails.
        if not (abs(lengths - 1) < 1e-2).all():
            raise UsageError(f"{name} must have rows of length 1")
