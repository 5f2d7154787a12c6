"""What the user may type after ``--classifier``, and what it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from vlood.backbone.classifier.input import InputChoice
from vlood.errors import UsageError

OPTION = "--classifier"


class ClassifierForm(Enum):
    """The ways to name a classifier."""

    TIMM = "timm:ARCH:FILE"
    TORCHVISION = "torchvision:ARCH:FILE"
    ONNX = "FILE.onnx"
    TORCHSCRIPT = "FILE.torchscript"
    FOLDER = "DIR"


_LIBRARIES = {"timm": ClassifierForm.TIMM, "torchvision": ClassifierForm.TORCHVISION}
_SUFFIXES = {
    ".onnx": ClassifierForm.ONNX,
    ".torchscript": ClassifierForm.TORCHSCRIPT,
    ".ts": ClassifierForm.TORCHSCRIPT,
}


@dataclass(frozen=True)
class ClassifierSpec:
    """A classifier as the user named it.

    Attributes:
        text: as typed.
        form: which way of naming it.
        path: of its file or folder, which is there.
        architecture: of a network whose weights the file holds, "" for the others.
        tag: timm's or torchvision's name of the published weights, which states what they were
            trained on, or "".
        choice: what the user says of its input, ahead of what is stated.
        classes: the names of its outputs as the user gives them, or none.
        listed: names to give its outputs where nothing states them: those of the class list.
    """

    text: str
    form: ClassifierForm
    path: Path
    architecture: str = ""
    tag: str = ""
    choice: InputChoice = field(default_factory=InputChoice)
    classes: tuple[str, ...] = ()
    listed: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str, settings: Mapping[str, str] | None = None) -> ClassifierSpec:
        """Read one of the forms of ``ClassifierForm``, with the values of ``--classifier-set``.

        Raises:
            UsageError: another form, a file that is not there, or a wrong setting.
        """
        text = text.strip()
        choice = InputChoice.of(settings or {})
        head, colon, rest = text.partition(":")
        if colon and head in _LIBRARIES:
            named, colon, file = rest.partition(":")
            architecture, _, tag = named.partition(".")
            if not (architecture and file):
                raise UsageError(
                    f"{OPTION} {text}: is incomplete; expected {_LIBRARIES[head].value}, such as "
                    f"{head}:resnet18:weights.safetensors"
                )
            path = _existing(text, file)
            if path.is_dir():
                raise UsageError(f"{OPTION} {text}: {path} is a folder; name its weight file")
            return cls(text, _LIBRARIES[head], path, architecture, tag, choice)
        path = _existing(text, text)
        if path.is_dir():
            return cls(text, ClassifierForm.FOLDER, path, choice=choice)
        form = _SUFFIXES.get(path.suffix.lower())
        if form is None:
            raise UsageError(
                f"{OPTION} {text}: weights alone do not say their architecture; expected "
                f"{', '.join(one.value for one in ClassifierForm)}"
            )
        return cls(text, form, path, choice=choice)

    def located(self) -> str:
        """Return the text with an absolute path, by which the classifier is found from anywhere."""
        path = str(self.path.resolve())
        if not self.architecture:
            return path
        dot = f".{self.tag}" if self.tag else ""
        return f"{self.form.value.partition(':')[0]}:{self.architecture}{dot}:{path}"


def _existing(text: str, file: str) -> Path:
    path = Path(file).expanduser()
    if not path.exists():
        forms = ", ".join(one.value for one in ClassifierForm)
        raise UsageError(f"{OPTION} {text}: there is no {path}; expected {forms}")
    return path
