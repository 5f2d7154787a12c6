"""Options of ``vlood tune`` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_TRAINING = "Training"
_ENSEMBLE = "Ensemble"
_OUTPUT = "Output"

Method = Annotated[
    str | None,
    typer.Argument(
        help="Which method; --list names them. Or classifier, a closed-world one for cooked.",
        show_default=False,
    ),
]
Members = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[DIR]...", help="ensemble: the detectors to combine.", show_default=False
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        help="Folder of the detector.",
        show_default=False,
        rich_help_panel=_OUTPUT,
    ),
]
List = Annotated[bool, typer.Option("--list", help="List the methods and leave.")]
Train = Annotated[
    list[str] | None,
    typer.Option(
        "--train",
        metavar="IN",
        help="Labelled images (a folder a class, or lists) or embeddings that a method learns "
        "from; repeat to join.",
        show_default=False,
        rich_help_panel=_TRAINING,
    ),
]
Captions = Annotated[
    list[str] | None,
    typer.Option(
        "--captions",
        metavar="IN",
        help="Images with captions that clipn learns from: .tar shards (key.jpg, key.txt or "
        "key.json), .csv or .jsonl with path and caption; repeat to join.",
        show_default=False,
        rich_help_panel=_TRAINING,
    ),
]
NoTrain = Annotated[
    str | None,
    typer.Option(
        "--no-train",
        metavar="full|lora|prompts",
        help='clipn: what of the "no" text tower is trained; full by default.',
        show_default=False,
        rich_help_panel=_TRAINING,
    ),
]
Init = Annotated[
    Path | None,
    typer.Option(
        "--init",
        metavar="FILE|DIR",
        help="classifier: local weights to start from, read weights-only, or another "
        "classifier's folder; by default from scratch.",
        show_default=False,
        rich_help_panel=_TRAINING,
    ),
]
TunedPart = Annotated[
    str | None,
    typer.Option(
        "--tune",
        metavar="full|lora|projection|visual|text",
        help="cma: what of the model is tuned; lora by default.",
        show_default=False,
        rich_help_panel=_TRAINING,
    ),
]
Synthetic = Annotated[
    list[str] | None,
    typer.Option(
        "--synthetic",
        metavar="IN",
        help="synood: made images just outside the classes (`vlood collect --synthesize "
        "--inpaint` makes some), or their embeddings; labels are not needed; repeat to join.",
        show_default=False,
        rich_help_panel=_TRAINING,
    ),
]
Lambda = Annotated[
    float | None,
    typer.Option(
        "--lambda",
        help="cma, locoop: what the second part of the loss weighs; with cma 0 is FLYP.",
        show_default=False,
        rich_help_panel=_TRAINING,
    ),
]
Shots = Annotated[
    int | None,
    typer.Option(
        "--shots",
        help="Train on so many images of each class, drawn by --seed; by default on all.",
        show_default=False,
        rich_help_panel=_TRAINING,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with a run that was stopped; its state is in DIR.run.",
        rich_help_panel=_TRAINING,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Measure what training would cost: pictures, steps, time, memory, disk.",
        rich_help_panel=_TRAINING,
    ),
]
Log = Annotated[
    Path | None,
    typer.Option(
        "--log",
        help="CSV with loss, rate and seconds of every step; kept without the seconds in DIR.",
        show_default=False,
        rich_help_panel=_TRAINING,
    ),
]
Combine = Annotated[
    str | None,
    typer.Option(
        "--combine",
        metavar="rank|probability",
        help="Average ranks among known images (the default), or calibrated probabilities.",
        show_default=False,
        rich_help_panel=_ENSEMBLE,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="W,W...",
        help="A weight a detector, in their order; equal by default.",
        show_default=False,
        rich_help_panel=_ENSEMBLE,
    ),
]
Known = Annotated[
    list[str] | None,
    typer.Option(
        "--id",
        metavar="IN",
        help="Held-out known images to rank among; by default those that each detector was "
        "calibrated on.",
        show_default=False,
        rich_help_panel=_ENSEMBLE,
    ),
]
Strange = Annotated[
    list[str] | None,
    typer.Option(
        "--ood",
        metavar="IN",
        help="OOD images to fit probabilities with, for --combine probability.",
        show_default=False,
        rich_help_panel=_ENSEMBLE,
    ),
]
