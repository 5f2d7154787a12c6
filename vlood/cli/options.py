"""Options that several commands share, each defined once."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

DEFAULT_MODEL = "ViT-B-16-quickgelu:openai"

_MODEL = "Model"
_INPUT = "Input"
_CLASSES = "Classes and method"
_OUTPUT = "Output"
_TRAINING = "Training"
_STATISTICS = "Statistics"


class Device(str, Enum):
    """Where the model runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Precision(str, Enum):
    """The numbers the model computes with."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Format(str, Enum):
    """How records are written."""

    jsonl = "jsonl"
    csv = "csv"
    parquet = "parquet"
    table = "table"


class Overlap(str, Enum):
    """What becomes of images that are on both sides of an evaluation."""

    refuse = "refuse"
    drop = "drop"
    keep = "keep"


Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="IN...",
        help="Image files, folders, globs, lists (.txt .csv .jsonl), .tar shards, embeddings "
        "(.npy .npz .safetensors .parquet, or a store made by vlood embed), or - for stdin.",
        show_default=False,
    ),
]
Root = Annotated[
    Path | None,
    typer.Option(help="Folder that the paths of lists are relative to.", rich_help_panel=_INPUT),
]
NullSeparated = Annotated[
    bool,
    typer.Option("-0", "--null", help="Paths on stdin end in NUL.", rich_help_panel=_INPUT),
]
FastDecode = Annotated[
    bool,
    typer.Option(
        "--fast-decode",
        help="Decode large JPEGs at reduced size: several times faster, scores differ slightly; "
        "cached apart from exact ones.",
        rich_help_panel=_INPUT,
    ),
]
Background = Annotated[
    str,
    typer.Option(
        help="Colour behind transparent images, as R,G,B (0-255).", rich_help_panel=_INPUT
    ),
]
Model = Annotated[
    str,
    typer.Option(
        help="ARCH:TAG, ARCH:FILE, hf-hub:ORG/NAME, local-dir:FOLDER, bundled, or tuned:DETECTOR "
        "for the towers that a detector tuned.",
        rich_help_panel=_MODEL,
    ),
]
ModelOrOwn = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="ARCH:TAG, ARCH:FILE, hf-hub:ORG/NAME, local-dir:FOLDER, bundled or tuned:DETECTOR. "
        f"Default: the detector's own, or {DEFAULT_MODEL}.",
        show_default=False,
        rich_help_panel=_MODEL,
    ),
]
DeviceOption = Annotated[
    Device, typer.Option("--device", help="Where to compute.", rich_help_panel=_MODEL)
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        "--precision",
        help="auto: fp32 on the CPU, half precision on a GPU that has it.",
        rich_help_panel=_MODEL,
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(min=1, max=65536, help="Images a batch.", rich_help_panel=_MODEL),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=256,
        help="Decoding threads; by default the number of cores, at most 16.",
        show_default=False,
        rich_help_panel=_MODEL,
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", rich_help_panel=_MODEL)]
CacheFolder = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        help="Folder of the embedding cache; by default the platform's.",
        show_default=False,
        rich_help_panel=_MODEL,
    ),
]
NoCache = Annotated[
    bool,
    typer.Option(
        "--no-cache", help="Neither read nor write the embedding cache.", rich_help_panel=_MODEL
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        "--classes",
        help="The known classes: a .txt file (a name a line, NAME<TAB>PROMPT NAME where they "
        "differ), a library name (imagenet-1k, cifar10, ...), a comma list, or a labelled folder.",
        show_default=False,
        rich_help_panel=_CLASSES,
    ),
]
Template = Annotated[
    list[str] | None,
    typer.Option(
        "--template",
        help="A prompt with {} for the class, a file of them, or a library name; repeat to "
        "average. By default the method's own.",
        show_default=False,
        rich_help_panel=_CLASSES,
    ),
]
ClassEmbeddings = Annotated[
    list[Path] | None,
    typer.Option(
        "--class-embeddings",
        help="Class text embeddings instead of a model, names in a .txt beside them; repeat to "
        "join.",
        show_default=False,
        rich_help_panel=_CLASSES,
    ),
]
Negatives = Annotated[
    str | None,
    typer.Option(
        "--negatives",
        help="Negative labels: a bank made by vlood mine, a word list, embeddings, or a corpus "
        "such as imagenet21k. A method that needs them mines them once when none are given.",
        show_default=False,
        rich_help_panel=_CLASSES,
    ),
]
GlobalPrompts = Annotated[
    Path | None,
    typer.Option(
        "--global-prompts",
        metavar="DIR",
        help="local-prompt: a saved detector of the same classes (of coop, locoop, lapt) whose "
        "tuned prompts stand in for the global ones, in MCM and the class prediction.",
        show_default=False,
        rich_help_panel=_CLASSES,
    ),
]
Classifier = Annotated[
    str | None,
    typer.Option(
        "--classifier",
        metavar="VALUE",
        help="cooked: a closed-world classifier of the same classes, with local weights: a folder "
        "made by vlood tune classifier, timm:ARCH:FILE, timm:ARCH.TAG:FILE, torchvision:ARCH:FILE, "
        "FILE.onnx or FILE.torchscript.",
        show_default=False,
        rich_help_panel=_CLASSES,
    ),
]
ClassifierSetting = Annotated[
    list[str] | None,
    typer.Option(
        "--classifier-set",
        metavar="NAME=VALUE",
        help="What --classifier sees, where nothing states it: normalisation (imagenet, clip, "
        "cifar100, half, none) or mean and std as R,G,B; size, resize (short side, or squash), "
        "interpolation; classes, the names of its outputs. Repeatable.",
        show_default=False,
        rich_help_panel=_CLASSES,
    ),
]
NegativeEmbeddings = Annotated[
    list[Path] | None,
    typer.Option(
        "--negative-embeddings",
        help="Negative text embeddings instead of a model, names in a .txt beside them; repeat to "
        "join.",
        show_default=False,
        rich_help_panel=_CLASSES,
    ),
]
LogitScale = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="Multiplier of cosines; by default the model's own, 100 with --class-embeddings.",
        show_default=False,
        rich_help_panel=_CLASSES,
    ),
]
Setting = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A setting of the method (vlood methods NAME lists them), or METHOD.NAME=VALUE; "
        "repeatable.",
        show_default=False,
        rich_help_panel=_CLASSES,
    ),
]
Quiet = Annotated[
    bool, typer.Option("-q", "--quiet", help="No progress and no notes.", rich_help_panel=_OUTPUT)
]
FormatOption = Annotated[
    Format | None,
    typer.Option(
        "--format",
        help="By default a table on a terminal, the ending of -o, or JSON Lines.",
        show_default=False,
        rich_help_panel=_OUTPUT,
    ),
]
ResumeReport = Annotated[
    bool,
    typer.Option("--resume", help="Go on with a report that was stopped.", rich_help_panel=_OUTPUT),
]
AppendReport = Annotated[
    bool,
    typer.Option(
        "--append",
        help="Add detectors to a report of the same sets and model.",
        rich_help_panel=_OUTPUT,
    ),
]
OverwriteReport = Annotated[
    bool, typer.Option("--overwrite", help="Replace a report.", rich_help_panel=_OUTPUT)
]
OverlapOption = Annotated[
    Overlap,
    typer.Option(
        "--overlap",
        help="Images that are ID and in an OOD set, by path or content: refuse, drop them from "
        "the OOD set, or keep them.",
        rich_help_panel=_INPUT,
    ),
]
OverwriteDetector = Annotated[
    bool, typer.Option("--overwrite", help="Replace a detector.", rich_help_panel=_OUTPUT)
]
JsonLines = Annotated[bool, typer.Option("--json", help="JSON Lines, as when piped.")]
OneJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]
TrainLabels = Annotated[
    Path | None,
    typer.Option(
        "--train-labels",
        help="Labels of --train embeddings (.npy or .txt, one a row).",
        show_default=False,
        rich_help_panel=_TRAINING,
    ),
]
LabelNoise = Annotated[
    float,
    typer.Option(
        "--label-noise",
        metavar="SHARE",
        help="Make this share of the training labels wrong, drawn by --seed, to see what it does.",
        rich_help_panel=_TRAINING,
    ),
]
FprModeOption = Annotated[
    str,
    typer.Option(
        "--fpr-mode",
        help="canonical, interp or nearest: how FPR at 95 % TPR is read off the curve.",
        rich_help_panel=_STATISTICS,
    ),
]
Resamples = Annotated[
    int,
    typer.Option(
        "--resamples",
        min=0,
        help="Bootstrap draws of the 95 % intervals; 0: none.",
        rich_help_panel=_STATISTICS,
    ),
]


def train_of(panel: str) -> Any:
    """Declare --train of a command that compares methods, in its panel for that."""
    return typer.Option(
        "--train",
        metavar="IN",
        help="Labelled images, or embeddings, that methods learn from; repeat to join.",
        rich_help_panel=panel,
        show_default=False,
    )
