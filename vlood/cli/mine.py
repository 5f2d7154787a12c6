"""``vlood mine``: negative labels for a class list, into a bank."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlood.cli import options as opt
from vlood.cli.guard import guarded
from vlood.cli.talk import note, progress, start_logging
from vlood.errors import UsageError

if TYPE_CHECKING:
    from vlood.negatives.bank import NegativeBank
    from vlood.negatives.index import SearchIndex
    from vlood.negatives.leaks import Relations
    from vlood.negatives.mining import MiningSettings
    from vlood.negatives.prompting import Prompting

_CHOICE = "Choice"
_WORDS = "Words"


@guarded
def mine(
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="Folder of the bank.", rich_help_panel="Output"),
    ],
    classes: opt.Classes = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            help="Where the words are from: imagenet21k, bundled, wordnet:DIR, wordnet:download, a "
            "word list (.txt, .csv, .parquet, or FILE:COLUMN), a folder of lists, or embeddings "
            "with names in a .txt beside them; repeat to join. Default: imagenet21k (bundled with "
            "--model bundled).",
            show_default=False,
            rich_help_panel=_WORDS,
        ),
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            help="vlood, or a published way for parity: neglabel, openood-vlm, csp. Other options "
            "override what it sets.",
            rich_help_panel=_CHOICE,
        ),
    ] = "vlood",
    size: Annotated[
        str | None,
        typer.Option(
            help="How many negatives: a number, or auto: ten a class, from 1,000 to 10,000, at "
            "most half of the words.",
            show_default=False,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    keep: Annotated[
        float | None,
        typer.Option(
            help="Or the share kept of the nouns and of the adjectives (NegLabel: 0.15).",
            show_default=False,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option(
            help="How the quantile is read: linear (NegLabel) or index (OpenOOD-VLM).",
            show_default=False,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    quantile: Annotated[
        float | None,
        typer.Option(
            help="Of a word's cosines with the classes; 0.95 by default.",
            show_default=False,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    together: Annotated[
        bool,
        typer.Option(
            "--together", help="Let nouns and adjectives compete.", rich_help_panel=_CHOICE
        ),
    ] = False,
    leaks: Annotated[
        str | None,
        typer.Option(
            help="Words left out because they collide with a class: some of exact, lemma, wordnet, "
            "similarity; or none. Default: all.",
            show_default=False,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    similarity: Annotated[
        float | None,
        typer.Option(
            help="The cosine with a class from which a word collides; 0.95 by default.",
            show_default=False,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    near_duplicates: Annotated[
        float | None,
        typer.Option(
            help="The cosine with a chosen word from which another is left out; above 1: never. "
            "0.95 by default.",
            show_default=False,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    wordnet: Annotated[
        Path | None,
        typer.Option(
            help="WordNet folder whose hypernyms and hyponyms of classes are left out.",
            show_default=False,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    exclude_lex: Annotated[
        str | None,
        typer.Option(
            help="WordNet lexicographer files to leave out, such as noun.animal,noun.food.",
            show_default=False,
            rich_help_panel=_WORDS,
        ),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Words as they are written.", rich_help_panel=_WORDS)
    ] = False,
    all_lemmas: Annotated[
        bool,
        typer.Option(
            "--all-lemmas",
            help="Every name of a synset, not only the first.",
            rich_help_panel=_WORDS,
        ),
    ] = False,
    template: opt.Template = None,
    noun_template: Annotated[
        list[str] | None,
        typer.Option(
            help='Of nouns; repeat to average. Default: --template, else "the nice {}".',
            show_default=False,
            rich_help_panel=_WORDS,
        ),
    ] = None,
    adjective_template: Annotated[
        list[str] | None,
        typer.Option(
            help='Of adjectives; repeat to average. Default: "This is a {} photo".',
            show_default=False,
            rich_help_panel=_WORDS,
        ),
    ] = None,
    class_embeddings: opt.ClassEmbeddings = None,
    index: Annotated[
        str,
        typer.Option(
            help="FAISS index of the bank: auto, flat, hnsw, ivfpq or none.",
            rich_help_panel="Output",
        ),
    ] = "auto",
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace a bank.", rich_help_panel="Output"),
    ] = False,
    model: opt.Model = opt.DEFAULT_MODEL,
    device: opt.DeviceOption = opt.Device.auto,
    precision: opt.PrecisionOption = opt.Precision.auto,
    seed: opt.Seed = 0,
    cache: opt.CacheFolder = None,
    no_cache: opt.NoCache = False,
    quiet: opt.Quiet = False,
) -> None:
    """Mine negative labels for a class list into a bank with a FAISS index.

    Examples:

      vlood mine --classes cats,dogs -o bank

      vlood score photos/ --classes cats,dogs --method neglabel --negatives bank

      vlood mine --classes imagenet-1k --corpus wordnet:download --preset neglabel -o parity
    """
    start_logging(quiet)
    from vlood.cli.prepare import ModelOptions, load_model, open_cache
    from vlood.engines.mining import (
        Encoder,
        choose_model_corpus,
        mine_embeddings,
        mine_words,
        prepare_corpus,
    )
    from vlood.negatives.bank_folder import check_new, save_bank
    from vlood.negatives.presets import read_preset
    from vlood.prompts.classes import ClassName, read_classes

    check_new(output, overwrite=overwrite)
    if classes is None and not class_embeddings:
        raise UsageError(
            "--classes is missing: negatives are mined for a class list, e.g. --classes cats,dogs"
        )
    named = None if classes is None else read_classes(classes)
    way = read_preset(preset)
    settings = _settings(
        way.settings, size, keep, rule, quantile, together, leaks, similarity, near_duplicates, seed
    )
    prompting = _prompting(way.prompting, template, noun_template, adjective_template)
    names = corpus or [choose_model_corpus(model)]
    embedded = _embedded(names)
    run = ModelOptions(model, device.value, precision.value, 32, None, cache, no_cache)
    relations = _relations(wordnet, names)
    provenance: dict[str, Any] = {"preset": preset}
    started = time.monotonic()
    if embedded:
        if not class_embeddings:
            raise UsageError(
                f"--corpus {names[0]}: holds embeddings, so the classes must be embeddings of the "
                "same model too; give --class-embeddings"
            )
        from vlood.engines.text_side import classes_from_files

        ids = classes_from_files(class_embeddings, named)
        with progress("comparing", None, quiet=quiet) as bar:
            bank = mine_embeddings(
                embedded,
                named or tuple(map(ClassName.of, ids.names)),
                ids,
                settings,
                relations=relations,
                provenance=provenance,
                on_progress=_steps(bar.advance),
            )
    else:
        if class_embeddings or named is None:
            raise UsageError(
                "--class-embeddings: go with --corpus embeddings; words are compared with --classes"
            )
        words = prepare_corpus(
            names,
            raw=raw or way.raw,
            exclude_lex=_split(exclude_lex) or _held_lex(way.exclude_lex, names),
            all_lemmas=all_lemmas,
            superclasses=way.superclasses,
            seed=seed,
        )
        encoder = Encoder(load_model(run), open_cache(run))
        note(f"{len(words):,} words, {len(named)} classes", quiet=quiet)
        with progress("encoding and comparing", len(words), quiet=quiet) as bar:
            bank = mine_words(
                words,
                named,
                prompting,
                settings,
                encoder,
                relations=relations,
                provenance=provenance,
                on_progress=_steps(bar.advance),
            )
    built = _index(bank, index, seed, quiet)
    save_bank(output, bank, built)
    sides = {"--classes": classes, "--class-embeddings": class_embeddings or []}
    if not embedded and model != opt.DEFAULT_MODEL:
        sides["--model"] = model
    _report(bank, built, output, time.monotonic() - started, _next_command(sides, output))


def _steps(advance: Any) -> Any:
    """Turn (done, all) into the steps a progress line takes."""
    last = 0

    def step(done: int, _: int) -> None:
        nonlocal last
        advance(done - last)
        last = done

    return step


def _settings(
    base: MiningSettings,
    size: str | None,
    keep: float | None,
    rule: str | None,
    quantile: float | None,
    together: bool,
    leaks: str | None,
    similarity: float | None,
    near_duplicates: float | None,
    seed: int,
) -> MiningSettings:
    """Lay the options over a preset's settings."""
    from dataclasses import replace

    given: dict[str, Any] = {"seed": seed}
    if size is not None:
        given["size"], given["keep"] = _size(size), keep
    elif keep is not None:
        given["keep"], given["size"] = keep, None
    if leaks is not None:
        given["leaks"] = () if leaks == "none" else tuple(_split(leaks))
    if near_duplicates is not None:
        given["near_duplicate"] = None if near_duplicates > 1 else near_duplicates
    if together:
        given["together"] = True
    plain = {"rule": rule, "quantile": quantile, "similarity": similarity}
    given.update({name: value for name, value in plain.items() if value is not None})
    return replace(base, **given)


def _size(text: str) -> int | None:
    if text == "auto":
        return None
    if text.isdecimal():
        return int(text)
    raise UsageError(f"--size {text}: expected a whole number from 1, or auto")


def _prompting(
    base: Prompting,
    template: list[str] | None,
    noun: list[str] | None,
    adjective: list[str] | None,
) -> Prompting:
    """Lay the options over a preset's templates."""
    from vlood.negatives.prompting import Prompting
    from vlood.prompts.templates import read_templates

    def read(values: list[str] | None) -> tuple[str, ...]:
        return tuple(text for value in values or [] for text in read_templates(value))

    of_classes = read(template)
    return Prompting(
        of_classes or base.classes,
        read(noun) or of_classes or base.nouns,
        read(adjective) or base.adjectives,
    )


def _embedded(names: list[str]) -> list[Path]:
    """Return the corpora as embedding files, if that is what they are.

    Raises:
        UsageError: some are and some are not.
    """
    from vlood.engines.negatives import holds_embeddings

    held = [name for name in names if holds_embeddings(Path(name))]
    if held and len(held) < len(names):
        other = next(name for name in names if name not in held)
        raise UsageError(
            f"--corpus: {held[0]} holds embeddings and {other} words; mine from one kind at a time"
        )
    return [Path(name) for name in held]


def _relations(wordnet: Path | None, names: list[str]) -> Relations | None:
    """Open WordNet's relations, from its own option or from the corpus."""
    from vlood.negatives.wordnet import WordNetRelations

    if wordnet is not None:
        return WordNetRelations.open(str(wordnet))
    for name in names:
        head, colon, place = name.partition(":")
        if head == "wordnet" and colon:
            return WordNetRelations.open(place)
    return None


def _held_lex(excluded: tuple[str, ...], names: list[str]) -> tuple[str, ...]:
    """Return those of a preset's lexicographer files that every corpus has.

    WordNet has all; a folder in NegLabel's style those it has files of; other corpora none.
    """
    held = set(excluded)
    for name in names:
        if not name.startswith("wordnet:"):
            held &= {path.stem for path in Path(name).glob("*.*.txt")}
    return tuple(name for name in excluded if name in held)


def _split(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _index(bank: NegativeBank, kind: str, seed: int, quiet: bool) -> SearchIndex | None:
    from vlood.engines.mining import index_bank

    return index_bank(bank, kind, seed=seed, announce=lambda text: note(text, quiet=quiet))


def _report(
    bank: NegativeBank, index: SearchIndex | None, output: Path, seconds: float, following: str
) -> None:
    """Say what was mined: a sentence for a person, an object for a pipe."""
    from collections import Counter

    reasons = Counter(each.reason for each in bank.dropped)
    facts = {
        "bank": str(output),
        "negatives": len(bank),
        "classes": len(bank.classes),
        "corpus_terms": bank.made["corpus_terms"],
        "corpus_sha256": bank.made["corpus_sha256"],
        "dropped": dict(reasons),
        "index": None if index is None else index.kind,
        "seconds": round(seconds, 2),
    }
    if not sys.stdout.isatty():
        sys.stdout.write(json.dumps(facts) + "\n")
        return
    left_out = ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "none"
    sys.stdout.write(
        f"{len(bank):,} negatives of {bank.made['corpus_terms']:,} words for {len(bank.classes)} "
        f"classes in {output} ({seconds:.1f} s)\n"
        f"left out: {left_out} (dropped.parquet, or `vlood negatives show {output}`)\n"
        f"farthest: {', '.join(bank.terms[:8])}\n"
        f"next: {following}\n"
    )


def _next_command(sides: dict[str, Any], output: Path) -> str:
    """Return the command that scores with a bank, for the same classes and model."""
    words = ["vlood", "score", "IN"]
    for name, given in sides.items():
        for value in given if isinstance(given, list) else [given] if given else []:
            words += [name, str(value)]
    return shlex.join([*words, "--method", "neglabel", "--negatives", str(output)])
