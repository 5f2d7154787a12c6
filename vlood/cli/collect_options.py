"""Options of ``vlood collect`` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_FROM = "Where images are from"
_CHOICE = "Which are taken"
_MAKING = "Synthesis"
_OUTPUT = "Output"

Output = Annotated[
    Path,
    typer.Option(
        "-o",
        "--output",
        help="Folder for collected.txt (a list that --train reads), records, images, a contact "
        "sheet and provenance.json.",
        rich_help_panel=_OUTPUT,
    ),
]
Pool = Annotated[
    list[str] | None,
    typer.Option(
        metavar="IN",
        help="Images to search: files, folders, globs, lists, .tar shards or - for stdin; or "
        "stored embeddings; repeat for more.",
        show_default=False,
        rich_help_panel=_FROM,
    ),
]
FromFolder = Annotated[
    list[str] | None,
    typer.Option(
        metavar="IN",
        help="Labelled images, a folder a class or a list: taken for their own label, before "
        "those of the pool; repeat for more.",
        show_default=False,
        rich_help_panel=_FROM,
    ),
]
Synthesize = Annotated[
    bool,
    typer.Option("--synthesize", help="Make images with diffusers instead.", rich_help_panel=_FROM),
]
Negatives = Annotated[
    str | None,
    typer.Option(
        help="A bank made by vlood mine, or a word list: its words compete for the images and "
        "get some of their own, as LAPT trains with.",
        show_default=False,
        rich_help_panel=_FROM,
    ),
]
NegativeLabels = Annotated[
    int | None,
    typer.Option(
        help="The first so many of them; 1,000 by default.",
        show_default=False,
        rich_help_panel=_FROM,
    ),
]
ClassesOnly = Annotated[
    bool,
    typer.Option("--classes-only", help="No images for the negatives.", rich_help_panel=_FROM),
]
PerLabel = Annotated[
    int | None,
    typer.Option(
        help="Images a label, at most. Default: 32; 8 of those made, as LAPT's filter keeps.",
        show_default=False,
        rich_help_panel=_CHOICE,
    ),
]
Filter = Annotated[
    str | None,
    typer.Option(
        help="An image is taken for a label only if: label-wins (no other label is more "
        "similar), above-chance (likelier than a guess), or none. Default: label-wins; "
        "none for --from-folder.",
        show_default=False,
        rich_help_panel=_CHOICE,
    ),
]
Fill = Annotated[
    bool | None,
    typer.Option(
        "--fill/--no-fill",
        help="Where too few pass the filter, take the likeliest of the others. Default: of "
        "made images, as LAPT does; not of a pool.",
        show_default=False,
        rich_help_panel=_CHOICE,
    ),
]
MinSimilarity = Annotated[
    float | None,
    typer.Option(
        min=-1.0,
        max=1.0,
        help="The smallest cosine of an image with its label's text.",
        show_default=False,
        rich_help_panel=_CHOICE,
    ),
]
MinConfidence = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        help="The smallest probability of the label among all labels.",
        show_default=False,
        rich_help_panel=_CHOICE,
    ),
]
Duplicates = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.01,
        help="Pictures so alike are copies, of which one is taken; above 1: only the same "
        "bytes. Default: 0.9 of pictures, 0.98 of stored embeddings.",
        show_default=False,
        rich_help_panel=_CHOICE,
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Fail where a label gets no image or one, or the pool is too small.",
        rich_help_panel=_CHOICE,
    ),
]
Pipeline = Annotated[
    str | None,
    typer.Option(
        help="A text-to-image pipeline: a folder in diffusers' layout, or its name on the hub. "
        "Default: stabilityai/stable-diffusion-xl-base-1.0 (7 GB); with --inpaint "
        "stabilityai/stable-diffusion-2-inpainting.",
        show_default=False,
        rich_help_panel=_MAKING,
    ),
]
Made = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Images made a label. Default: 32; 50 a class with --inpaint, as SynOOD.",
        show_default=False,
        rich_help_panel=_MAKING,
    ),
]
Prompt = Annotated[
    str | None,
    typer.Option(
        help="Prompt, with {} for the label. Default: the label; with --inpaint, SynOOD's, and "
        "{} is the context.",
        show_default=False,
        rich_help_panel=_MAKING,
    ),
]
Inpaint = Annotated[
    list[str] | None,
    typer.Option(
        metavar="IN",
        help="Paint over parts of these images of the classes (a folder a class, or lists): "
        "near-boundary images for `vlood tune synood --synthetic`, in near/CLASS/.",
        show_default=False,
        rich_help_panel=_MAKING,
    ),
]
Mask = Annotated[
    str | None,
    typer.Option(
        metavar="centre|all|DIR",
        help="What is painted over: a box of half the area, all, or masks of a folder, white "
        "there. Default: centre.",
        show_default=False,
        rich_help_panel=_MAKING,
    ),
]
Strength = Annotated[
    float | None,
    typer.Option(
        help="How much of it may change, up to 1. Default: 0.6, as SynOOD.",
        show_default=False,
        rich_help_panel=_MAKING,
    ),
]
Contexts = Annotated[
    Path | None,
    typer.Option(
        help="What remains of an image without its class: `class or path<TAB>words` a line. "
        "Default: the background.",
        show_default=False,
        rich_help_panel=_MAKING,
    ),
]
NegativePrompt = Annotated[
    str | None,
    typer.Option(help="What not to show.", show_default=False, rich_help_panel=_MAKING),
]
Steps = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Denoising steps. Default: the pipeline's own.",
        show_default=False,
        rich_help_panel=_MAKING,
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        help="Guidance scale. Default: 7.5 with the default pipeline, as LAPT; else its own.",
        show_default=False,
        rich_help_panel=_MAKING,
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        help="SIDE or WIDTHxHEIGHT in pixels. Default: the pipeline's own.",
        show_default=False,
        rich_help_panel=_MAKING,
    ),
]
Copy = Annotated[
    bool,
    typer.Option(
        "--copy",
        help="Copy images to images/LABEL/; otherwise the list names the pool's files.",
        rich_help_panel=_OUTPUT,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Go on; made images are not made again.", rich_help_panel=_OUTPUT
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace a collection.", rich_help_panel=_OUTPUT),
]
Index = Annotated[
    str,
    typer.Option(
        help="FAISS index of the pool: auto (by size), flat, hnsw or ivfpq.",
        rich_help_panel=_CHOICE,
    ),
]
