"""Options of ``vlood score`` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_CLASSES = "Classes and method"
_DECIDE = "Decide"
_OUTPUT = "Output"

Detector = Annotated[
    Path | None,
    typer.Option(
        help="A saved detector's folder: it needs no other option.",
        rich_help_panel=_CLASSES,
        show_default=False,
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        help="Which score; `vlood methods` lists them. Default: mcm.",
        rich_help_panel=_CLASSES,
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "-o", "--output", help="Write to a file.", rich_help_panel=_OUTPUT, show_default=False
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        help="Call images that score below it OOD.",
        rich_help_panel=_DECIDE,
        show_default=False,
    ),
]
ThresholdFree = Annotated[
    bool,
    typer.Option(
        "--threshold-free",
        help="clipn: decide by its own rule, without a threshold. ATD: OOD where none of the "
        'classes is likelier than each (atd_compare says of what); CTW: where the "no" of the '
        "likeliest class wins.",
        rich_help_panel=_DECIDE,
    ),
]
Alpha = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        help="Call images OOD whose p-value is at most this: of images like the calibration's, "
        "at most this share is. For calibrated detectors.",
        rich_help_panel=_DECIDE,
        show_default=False,
    ),
]
Tpr = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        help="Find the threshold that keeps this share of the --calibrate-on images; "
        "0.95 by default.",
        rich_help_panel=_DECIDE,
        show_default=False,
    ),
]
CalibrateOn = Annotated[
    list[str] | None,
    typer.Option(
        help="Images known to be in-distribution; repeatable.",
        rich_help_panel=_DECIDE,
        show_default=False,
    ),
]
FailOnOod = Annotated[
    bool,
    typer.Option("--fail-on-ood", help="Exit 4 when anything is OOD.", rich_help_panel=_DECIDE),
]
Explain = Annotated[
    bool,
    typer.Option(
        "--explain",
        help="Add the likeliest classes, the nearest negatives and a sentence to each record.",
        rich_help_panel=_OUTPUT,
    ),
]
Heatmap = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Draw for each image where in it the detector sees its classes, as a PNG in this "
        "folder, and name it in the record. Violet is OOD, yellow ID; a colour stands for the "
        "same value in all pictures of a detector, so pictures compare. A picture is named by "
        "its record's number and replaces only another heat map. Needs images and a CLIP ViT "
        "or ResNet.",
        rich_help_panel=_OUTPUT,
        show_default=False,
    ),
]
HeatmapLimit = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Draw the first so many inputs only; 0: all. Default: 200.",
        rich_help_panel=_OUTPUT,
        show_default=False,
    ),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with an interrupted -o file.", rich_help_panel=_OUTPUT),
]
State = Annotated[
    Path | None,
    typer.Option(
        "--state",
        help="State of a test-time method (.safetensors): gone on with if it is there, "
        "written at the end.",
        rich_help_panel=_CLASSES,
        show_default=False,
    ),
]
