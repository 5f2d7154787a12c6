"""``vlood corpora``: the word lists that negatives are mined from."""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlood.cli import options as opt
from vlood.cli.guard import guarded
from vlood.cli.talk import note, start_logging
from vlood.errors import UsageError

if TYPE_CHECKING:
    from vlood.negatives.corpora import CorpusInfo
    from vlood.negatives.corpus import Corpus

_FIRST = 10


@guarded
def corpora(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="CORPUS",
            help="Read one: imagenet21k, bundled, wordnet:DIR, wordnet:download, a .txt, .csv or "
            ".parquet file (FILE:COLUMN), or a folder of files like noun.act.txt.",
            show_default=False,
        ),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Words as they are written.")] = False,
    exclude_lex: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="WordNet lexicographer files to leave out, such as noun.animal,noun.food.",
        ),
    ] = None,
    all_lemmas: Annotated[
        bool, typer.Option("--all-lemmas", help="Every name of a synset, not only the first.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write the terms to a .txt, .csv or .parquet file."),
    ] = None,
    json_lines: opt.JsonLines = False,
) -> None:
    """List the word lists for negatives, or read one and say what is in it.

    Examples:

      vlood corpora

      vlood corpora bundled

      vlood corpora wordnet:dict/ --exclude-lex noun.animal,noun.food -o words.csv
    """
    start_logging(quiet=False)
    from vlood.negatives.corpora import all_infos, describe, read_corpus
    from vlood.negatives.term_files import check_output, write_corpus

    as_json = json_lines or not sys.stdout.isatty()
    if name is None:
        if output is not None or raw or all_lemmas or exclude_lex is not None:
            raise UsageError("these options read a corpus; name one, such as imagenet21k")
        infos = all_infos()
        if as_json:
            for info in infos:
                sys.stdout.write(json.dumps(dataclasses.asdict(info)) + "\n")
        else:
            _print_table(infos)
        return
    if output is not None:
        check_output(output)
    excluded = [each.strip() for each in (exclude_lex or "").split(",") if each.strip()]
    corpus = read_corpus(name, raw=raw, exclude_lex=excluded, all_lemmas=all_lemmas)
    if output is not None:
        write_corpus(output, corpus)
        note(f"{len(corpus)} terms written to {output}")
    facts = _facts(corpus, describe(name))
    if as_json:
        sys.stdout.write(json.dumps(facts) + "\n")
    else:
        _print_facts(facts)


def _facts(corpus: Corpus, info: CorpusInfo) -> dict[str, Any]:
    lengths = [len(term.split()) for term in corpus.terms]
    longest = max(range(len(corpus)), key=lengths.__getitem__)
    return {
        "name": corpus.name,
        "what": info.what,
        "licence": info.licence,
        "terms": len(corpus),
        "sha256": corpus.sha256(),
        "parts": dict(Counter(part or "unknown" for part in corpus.parts)),
        "lex_files": dict(sorted(Counter(filter(None, corpus.lex_files)).items())),
        "words_median": statistics.median(lengths),
        "words_longest": lengths[longest],
        "longest": corpus.terms[longest],
        "cleaning": dataclasses.asdict(corpus.report),
        "first": list(corpus.terms[:_FIRST]),
    }


def _print_table(infos: tuple[CorpusInfo, ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("corpus", "what", "terms", "licence", "offline"):
        table.add_column(column, overflow="fold")
    for info in infos:
        table.add_row(
            info.name,
            info.what,
            "" if info.terms is None else str(info.terms),
            info.licence,
            "yes" if info.offline else "no",
        )
    Console(highlight=False).print(table)
    typer.echo(
        "Or a list of your own: a .txt file, a .csv or .parquet file (FILE:COLUMN), or a folder "
        "of files like noun.act.txt. 'vlood corpora CORPUS' reads one.",
        err=True,
    )


def _print_facts(facts: dict[str, Any]) -> None:
    cleaning = facts["cleaning"]
    changed = [f"{before} -> {after}" for before, after in cleaning["changed_examples"]]
    lines = [
        f"{facts['name']}: {facts['what']}",
        f"licence: {facts['licence']}",
        f"terms: {facts['terms']} ({_counts(facts['parts'])})",
        f"lexicographer files: {_counts(facts['lex_files'])}" if facts["lex_files"] else "",
        f"words a term: {facts['words_median']:g} in the median, {facts['words_longest']} in "
        f"the longest: {facts['longest']}",
        f"read: {cleaning['read']}"
        + (f"; left out with their file: {cleaning['excluded']}" if cleaning["excluded"] else ""),
        f"changed by cleaning: {cleaning['changed']}{_examples(changed)}",
        f"unusable: {cleaning['unusable']}{_examples(cleaning['unusable_examples'])}",
        f"duplicates: {cleaning['duplicates']}{_examples(cleaning['duplicate_examples'])}",
        f"first: {', '.join(facts['first'])}",
        f"SHA-256 of the ordered terms: {facts['sha256']}",
    ]
    from vlood.engines.printable import printable

    for line in filter(None, lines):
        sys.stdout.write(f"{printable(line)}\n")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _examples(examples: list[str]) -> str:
    return f" ({', '.join(examples)})" if examples else ""
