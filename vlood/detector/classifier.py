"""The closed-world classifier that a saved detector reads: which one, and where it is.

One of at most ``COPIED_BYTES`` is copied into the detector's folder, so that the folder is all that
is needed; a larger one is found by its path and known by its digest. TorchScript is code: it is
never copied into what people share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlood.detector.described import Described
from vlood.errors import UsageError

if TYPE_CHECKING:
    from vlood.backbone.classifier.classifier import Classifier

FOLDER = "classifier"
COPIED_BYTES = 100 * 10**6
# What must be the same for logits to mean the same; precision and library versions change the last
# digits only.
_SAME = ("kind", "architecture", "weights", "preprocessing")


@dataclass(frozen=True, eq=False)
class RecordedClassifier:
    """A detector's classifier.

    Attributes:
        source: what ``--classifier`` takes to find the original, with an absolute path.
        identity: kind, architecture, digest of the weights and preprocessing.
        input: what it sees of an image: size, resize, interpolation, mean, std.
        classes: of its outputs, in order.
        folder: where a copy of it lies, or None.
        live: the classifier itself, where the detector was just made with it.
    """

    source: str
    identity: Mapping[str, str]
    input: Mapping[str, Any]
    classes: tuple[str, ...]
    folder: Path | None = None
    live: Classifier | None = None

    @classmethod
    def of(cls, classifier: Classifier) -> RecordedClassifier:
        """Describe a classifier that is loaded."""
        return cls(
            classifier.name,
            {name: classifier.identity()[name] for name in _SAME},
            classifier.input.described(),
            classifier.names,
            live=classifier,
        )

    @classmethod
    def read(cls, described: Described, path: Path) -> RecordedClassifier | None:
        """Read a detector's description.

        Raises:
            UsageError: it is damaged.
        """
        if described.optional_mapping("classifier") is None:
            return None
        inside = described.inside("classifier")
        copied = path / FOLDER
        return cls(
            inside.text("source"),
            inside.mapping_of_texts("identity"),
            inside.mapping("input"),
            inside.texts("classes"),
            folder=copied if copied.is_dir() else None,
        )

    def described(self) -> dict[str, Any]:
        """Return it as JSON-able fields."""
        return {
            "source": self.source,
            "identity": dict(self.identity),
            "input": dict(self.input),
            "classes": list(self.classes),
        }

    def write_into(self, folder: Path) -> None:
        """Copy the classifier into a detector's folder, unless it is too large or TorchScript."""
        if self.live is not None:
            _write(self.live, folder / FOLDER)
        elif self.folder is not None:
            import shutil

            shutil.copytree(self.folder, folder / FOLDER)

    @property
    def is_copied(self) -> bool:
        """Say whether a detector's folder holds it."""
        if self.live is not None:
            return 0 < size_of(self.live) <= COPIED_BYTES
        return self.folder is not None

    def check(self, classifier: Classifier, where: str) -> None:
        """Refuse another classifier than the one the detector was made with.

        Raises:
            UsageError: naming what differs.
        """
        identity = classifier.identity()
        differing = [name for name in _SAME if identity.get(name) != self.identity.get(name)]
        if tuple(classifier.names) != self.classes:
            differing.append("classes")
        if differing:
            raise UsageError(
                f"{where}: was made with another classifier than {classifier.name} "
                f"({', '.join(differing)} differ); use its own, {self.source}, or make the "
                "detector again with this one"
            )


def size_of(classifier: Classifier) -> int:
    """Return the bytes of a classifier that may be copied; 0 of one that may not."""
    if classifier.weights is not None:
        return sum(one.numel() * one.element_size() for one in classifier.weights.values())
    return len(classifier.file or b"")


def check_one(held: Sequence[RecordedClassifier], names: Sequence[str]) -> None:
    """Refuse detectors with different classifiers, of which one runs at a time.

    Raises:
        UsageError: two differ.
    """
    for one, name in zip(held[1:], names[1:], strict=True):
        if dict(one.identity) != dict(held[0].identity) or one.classes != held[0].classes:
            raise UsageError(
                f"--detector: {names[0]} and {name} have different classifiers; evaluate one after "
                "the other, and join the reports with --append"
            )


def _write(classifier: Classifier, folder: Path) -> None:
    if not 0 < size_of(classifier) <= COPIED_BYTES:
        return
    from vlood.backbone.classifier.folder import write_classifier

    folder.mkdir()
    write_classifier(
        folder,
        kind=classifier.kind,
        architecture=classifier.architecture,
        names=classifier.names,
        input=classifier.input,
        weights=classifier.weights,
        graph=classifier.file,
    )
