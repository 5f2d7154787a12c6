"""``vlood negatives``: look into banks of negative labels, clean them, join them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlood.cli import options as opt
from vlood.cli.guard import guarded
from vlood.cli.import_ import import_
from vlood.cli.talk import note, start_logging
from vlood.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vlood.cli.model_options import ModelOptions
    from vlood.engines.mining import Encoder
    from vlood.negatives.bank import NegativeBank

app = typer.Typer(
    help="Look into banks of negative labels: show, search, leaks, merge, import.",
    no_args_is_help=True,
    epilog="Example:  vlood negatives search bank 'a striped cat'",
)
app.command("import")(import_)

Bank = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a bank.")]
BankModel = Annotated[
    str | None,
    typer.Option("--model", help="By default the one the bank was made with.", show_default=False),
]


@app.command()
@guarded
def show(
    bank: Bank,
    terms: Annotated[
        bool, typer.Option("--terms", help="List the negatives, a record each.")
    ] = False,
    dropped: Annotated[
        bool, typer.Option("--dropped", help="List what mining left out, and why.")
    ] = False,
    json_lines: opt.JsonLines = False,
) -> None:
    """Say what a bank holds: words, classes, model, how it was made, its index and its recall.

    Examples:

      vlood negatives show bank

      vlood negatives show bank --dropped
    """
    start_logging(quiet=False)
    from vlood.negatives.bank_folder import load_bank

    held = load_bank(bank)
    piped = json_lines or not sys.stdout.isatty()
    if dropped:
        _write([vars(each) for each in held.dropped], piped, "term", "reason", "other", "detail")
    elif terms:
        _write(_terms(held), piped, "term", "part_of_speech", "lex_file", "closeness", "source")
    else:
        show_bank(bank, held, piped)


def show_bank(path: Path, held: NegativeBank, piped: bool) -> None:
    """Print what a bank holds, as JSON or for a person."""
    from collections import Counter

    from vlood.negatives.bank_folder import describe_bank

    described = describe_bank(path)
    index = described["index"] or {}
    facts: dict[str, Any] = {
        "what": "negatives",
        "negatives": len(held),
        "parts of speech": dict(Counter(part or "unknown" for part in held.parts)),
        "classes": [each.name for each in held.classes],
        "class templates": list(held.class_templates),
        "model": held.model_name,
        "embedding width": None if held.features is None else int(held.features.shape[1]),
        "closeness": _range(held),
        "dropped": dict(Counter(each.reason for each in held.dropped)),
        "index": index.get("kind"),
        "index recall@10": index.get("recall"),
        "index parameters": index.get("parameters"),
        "made": dict(held.made),
        "first": list(held.terms[:10]),
    }
    if piped:
        sys.stdout.write(json.dumps(facts) + "\n")
        return
    from vlood.engines.printable import printable

    told = {name: _plain(value) for name, value in facts.items()}
    told["classes"] = told["classes"] or "any"
    width = max(len(name) for name in told)
    for name, text in told.items():
        shown = text if len(text) <= 300 else text[:299] + "…"
        if shown:
            sys.stdout.write(f"{name:<{width}}  {printable(shown)}\n")


def _plain(value: Any) -> str:
    """Write a fact for a person; nothing where there is nothing to say."""
    if isinstance(value, dict):
        told = {name: _plain(inner) for name, inner in value.items()}
        return ", ".join(f"{name} {text}" for name, text in told.items() if text)
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return "" if value is None else str(value)


@app.command()
@guarded
def search(
    bank: Bank,
    queries: Annotated[list[str], typer.Argument(metavar="QUERY", help="Texts, or image files.")],
    top: Annotated[int, typer.Option(min=1, max=10_000, help="How many a query.")] = 10,
    template: Annotated[
        str | None,
        typer.Option(
            help="Template that texts are put into; by default texts are taken as they are.",
            show_default=False,
        ),
    ] = None,
    model: BankModel = None,
    device: opt.DeviceOption = opt.Device.auto,
    precision: opt.PrecisionOption = opt.Precision.auto,
    cache: opt.CacheFolder = None,
    no_cache: opt.NoCache = False,
    json_lines: opt.JsonLines = False,
) -> None:
    """Find the negatives nearest to texts or images.

    Examples:

      vlood negatives search bank 'a striped cat' photo.jpg

      vlood negatives search bank drum --template 'the nice {}' --top 20
    """
    start_logging(quiet=False)
    from vlood.cli.model_options import ModelOptions
    from vlood.engines.bank_search import open_nearest
    from vlood.negatives.bank_folder import load_bank

    held = load_bank(bank)
    run = ModelOptions(
        _model_of(held, model), device.value, precision.value, 32, None, cache, no_cache
    )
    encoder = _encoder(run)
    nearest = open_nearest(bank, held, encoder)
    for query in queries:
        rows = _query(query, template, encoder)
        cosines, index = nearest.search(rows, min(top, len(held)))
        found = [
            {"term": nearest.names[row], "similarity": round(float(cosine), 7)}
            for row, cosine in zip(index[0].tolist(), cosines[0].tolist(), strict=True)
        ]
        if json_lines or not sys.stdout.isatty():
            sys.stdout.write(json.dumps({"query": query, "nearest": found}) + "\n")
            continue
        sys.stdout.write(f"{query}\n")
        for each in found:
            sys.stdout.write(f"  {each['similarity']:>8.4f}  {each['term']}\n")


@app.command()
@guarded
def leaks(
    bank: Bank,
    classes: opt.Classes = None,
    wordnet: Annotated[
        Path | None,
        typer.Option(help="WordNet folder, for hypernyms and hyponyms.", show_default=False),
    ] = None,
    similarity: Annotated[
        float, typer.Option(help="The cosine with a class from which a word collides.")
    ] = 0.95,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write the bank without them.", show_default=False),
    ] = None,
    json_lines: opt.JsonLines = False,
    quiet: opt.Quiet = False,
) -> None:
    """List the negatives that collide with class names: the bank's own, or others.

    Examples:

      vlood negatives leaks bank

      vlood negatives leaks bank --classes imagenet-1k -o cleaned
    """
    start_logging(quiet)
    from vlood.engines.bank_search import bank_leaks
    from vlood.negatives.bank_folder import check_new, load_bank, save_bank
    from vlood.negatives.wordnet import WordNetRelations
    from vlood.prompts.classes import read_classes

    if output is not None:
        check_new(output)
    held = load_bank(bank)
    named = held.classes if classes is None else read_classes(classes)
    if not named:
        raise UsageError(f"{bank}: was made for no classes; name some with --classes")
    relations = None if wordnet is None else WordNetRelations.open(wordnet)
    found = bank_leaks(held, named, similarity=similarity, relations=relations)
    rows = [
        {"term": e.term, "reason": e.reason, "class": e.class_name, "detail": e.detail}
        for e in found
    ]
    piped = json_lines or not sys.stdout.isatty()
    _write(rows, piped, "term", "reason", "class", "detail")
    if output is None:
        note(f"{len(found)} of {len(held)} negatives collide with a class", quiet=quiet)
        return
    leaking = {each.row for each in found}
    kept = [row for row in range(len(held)) if row not in leaking]
    if not kept:
        raise UsageError(f"{bank}: every negative collides with a class; nothing is left to write")
    cleaned = held.only(kept)
    save_bank(output, cleaned, _rebuilt(cleaned))
    note(f"{len(kept)} negatives in {output}, {len(found)} left out", quiet=quiet)


@app.command()
@guarded
def merge(
    banks: Annotated[list[Path], typer.Argument(metavar="DIR", help="Folders of banks.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the new bank.")],
    seed: Annotated[int, typer.Option(help="Seed of the groups.")] = 0,
    quiet: opt.Quiet = False,
) -> None:
    """Join banks of one model and one class list; a word that several hold is kept once.

    Example:

      vlood negatives merge bank cleaned -o joined
    """
    start_logging(quiet)
    from vlood.negatives.bank import merge as merged
    from vlood.negatives.bank_folder import check_new, load_bank, save_bank

    check_new(output)
    if len(banks) < 2:
        raise UsageError("merge: name two banks or more")
    both = merged([load_bank(path) for path in banks], [str(path) for path in banks], seed=seed)
    save_bank(output, both, _rebuilt(both))
    note(f"{len(both)} negatives in {output}", quiet=quiet)
    if not sys.stdout.isatty():
        sys.stdout.write(json.dumps({"bank": str(output), "negatives": len(both)}) + "\n")


def _rebuilt(bank: NegativeBank) -> Any:
    from vlood.engines.mining import index_bank

    return index_bank(bank, "auto", seed=0, announce=lambda text: note(text))


def _terms(held: NegativeBank) -> list[dict[str, Any]]:
    import math

    return [
        {
            "term": term,
            "part_of_speech": part,
            "lex_file": lex_file,
            "closeness": None if math.isnan(closeness) else round(closeness, 6),
            "template": list(templates),
            "source": source,
        }
        for term, part, lex_file, closeness, templates, source in zip(
            held.terms,
            held.parts,
            held.lex_files,
            held.closeness.tolist(),
            held.templates,
            held.sources,
            strict=True,
        )
    ]


def _range(held: NegativeBank) -> list[float] | None:
    import numpy as np

    known = held.closeness[np.isfinite(held.closeness)]
    return None if not len(known) else [round(float(known.min()), 4), round(float(known.max()), 4)]


def _write(rows: list[dict[str, Any]], piped: bool, *columns: str) -> None:
    if piped:
        for row in rows:
            sys.stdout.write(json.dumps(row, ensure_ascii=True) + "\n")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if row[name] is None else str(row[name])) for name in columns))
    Console(highlight=False).print(table)


def _model_of(held: NegativeBank, asked: str | None) -> str:
    return asked or held.model_name or opt.DEFAULT_MODEL


def _encoder(run: ModelOptions) -> Encoder:
    from vlood.cli.model_options import load_model, open_cache
    from vlood.engines.mining import Encoder

    return Encoder(load_model(run), open_cache(run))


def _query(text: str, template: str | None, encoder: Encoder) -> NDArray[np.float32]:
    """Encode a query: an image where a file has that name, a text elsewhere."""
    import numpy as np

    from vlood.engines.bank_search import encode_image_file
    from vlood.prompts.templates import fill, read_templates

    if Path(text).is_file():
        return encode_image_file(text, encoder)
    templates = ("{}",) if template is None else read_templates(template)
    rows = encoder.encode([fill(one, text) for one in templates])
    return np.asarray(rows.mean(axis=0, keepdims=True))
