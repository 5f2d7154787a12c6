"""Options of ``vlood mine`` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_CHOICE = "Choice"
_WORDS = "Words"
_OUTPUT = "Output"

Output = Annotated[
    Path,
    typer.Option("-o", "--output", help="Folder of the bank.", rich_help_panel=_OUTPUT),
]
Corpus = Annotated[
    list[str] | None,
    typer.Option(
        help="Where the words are from: imagenet21k, bundled, wordnet:DIR, wordnet:download, a "
        "word list (.txt, .csv, .parquet, or FILE:COLUMN), a folder of lists, or embeddings "
        "with names in a .txt beside them; repeat to join. Default: imagenet21k (bundled with "
        "--model bundled).",
        show_default=False,
        rich_help_panel=_WORDS,
    ),
]
Preset = Annotated[
    str,
    typer.Option(
        help="vlood, or a published way for parity: neglabel, openood-vlm, csp. Other options "
        "override what it sets.",
        rich_help_panel=_CHOICE,
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        help="How many negatives: a number, or auto: ten a class, from 1,000 to 10,000, at "
        "most half of the words.",
        show_default=False,
        rich_help_panel=_CHOICE,
    ),
]
Keep = Annotated[
    float | None,
    typer.Option(
        help="Or the share kept of the nouns and of the adjectives (NegLabel: 0.15).",
        show_default=False,
        rich_help_panel=_CHOICE,
    ),
]
Rule = Annotated[
    str | None,
    typer.Option(
        help="How the quantile is read: linear (NegLabel) or index (OpenOOD-VLM).",
        show_default=False,
        rich_help_panel=_CHOICE,
    ),
]
Quantile = Annotated[
    float | None,
    typer.Option(
        help="Of a word's cosines with the classes; 0.95 by default.",
        show_default=False,
        rich_help_panel=_CHOICE,
    ),
]
Together = Annotated[
    bool,
    typer.Option("--together", help="Let nouns and adjectives compete.", rich_help_panel=_CHOICE),
]
Leaks = Annotated[
    str | None,
    typer.Option(
        help="Words left out because they collide with a class: some of exact, lemma, wordnet, "
        "similarity; or none. Default: all.",
        show_default=False,
        rich_help_panel=_CHOICE,
    ),
]
Similarity = Annotated[
    float | None,
    typer.Option(
        help="The cosine with a class from which a word collides; 0.95 by default.",
        show_default=False,
        rich_help_panel=_CHOICE,
    ),
]
NearDuplicates = Annotated[
    float | None,
    typer.Option(
        help="The cosine with a chosen word from which another is left out; above 1: never. "
        "0.95 by default.",
        show_default=False,
        rich_help_panel=_CHOICE,
    ),
]
Wordnet = Annotated[
    Path | None,
    typer.Option(
        help="WordNet folder whose hypernyms and hyponyms of classes are left out.",
        show_default=False,
        rich_help_panel=_CHOICE,
    ),
]
ExcludeLex = Annotated[
    str | None,
    typer.Option(
        help="WordNet lexicographer files to leave out, such as noun.animal,noun.food.",
        show_default=False,
        rich_help_panel=_WORDS,
    ),
]
Raw = Annotated[
    bool, typer.Option("--raw", help="Words as they are written.", rich_help_panel=_WORDS)
]
AllLemmas = Annotated[
    bool,
    typer.Option(
        "--all-lemmas", help="Every name of a synset, not only the first.", rich_help_panel=_WORDS
    ),
]
NounTemplate = Annotated[
    list[str] | None,
    typer.Option(
        help='Of nouns; repeat to average. Default: --template, else "the nice {}".',
        show_default=False,
        rich_help_panel=_WORDS,
    ),
]
AdjectiveTemplate = Annotated[
    list[str] | None,
    typer.Option(
        help='Of adjectives; repeat to average. Default: "This is a {} photo".',
        show_default=False,
        rich_help_panel=_WORDS,
    ),
]
Index = Annotated[
    str,
    typer.Option(
        help="FAISS index of the bank: auto, flat, hnsw, ivfpq or none.",
        rich_help_panel=_OUTPUT,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace a bank.", rich_help_panel=_OUTPUT),
]
