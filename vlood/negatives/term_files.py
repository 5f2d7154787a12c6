"""Word lists on disk: plain text, a folder in NegLabel's style, CSV and Parquet."""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from vlood.errors import UsageError, VloodError
from vlood.features.atomic import write_atomically
from vlood.negatives.corpus import Corpus, Entry
from vlood.prompts.library_files import read_lines

logger = logging.getLogger(__name__)

TABLES = (".csv", ".parquet")
OUTPUTS = (".txt", *TABLES)
TERM_COLUMNS = ("term", "word", "name")
MAX_CHARACTERS = 200
_LEX_FILE = re.compile(r"(noun|adj)\.[^.]+")
_ADJECTIVE = ("adj", "adjective", "a", "s")
_PARTS = {"": "", "noun": "noun", "n": "noun", **dict.fromkeys(_ADJECTIVE, "adj")}
_SYNONYMS = "; "


def read_text_list(path: Path) -> list[Entry]:
    """Read one term a line, with a tab and ``noun`` or ``adj`` behind it where that is known.

    Blank lines and lines that begin with ``#`` are skipped. A file named as WordNet's, such as
    ``noun.act.txt``, says the lexicographer file and the part of speech of its terms.

    Raises:
        UsageError: the file cannot be read, or a line is no term.
    """
    named = _LEX_FILE.fullmatch(path.stem) if path.suffix == ".txt" else None
    lex_file, known = (named[0], named[1]) if named else ("", "")
    entries = []
    for number, line in read_lines(path, "corpus"):
        where = f"corpus {path}, line {number}"
        term, tab, part = line.partition("\t")
        checked = check_term(term.strip(), where)
        entries.append(Entry(checked, _part(part, where) if tab else known, lex_file))
    return entries


def read_folder(folder: Path) -> list[Entry]:
    """Read the files ``noun.*.txt`` and ``adj.*.txt`` of a folder, sorted by name.

    Raises:
        UsageError: there is no such file, or one cannot be read.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix == ".txt")
    except OSError as error:
        raise UsageError(
            f"corpus {folder}: cannot be read ({error.strerror or error}); check its permissions"
        ) from error
    named = [path for path in files if _LEX_FILE.fullmatch(path.stem)]
    if not named:
        raise UsageError(
            f"corpus {folder}: holds no file named like noun.act.txt or adj.all.txt; "
            "give such a folder, or one .txt file"
        )
    others = [path.name for path in files if path not in named]
    if others:
        logger.warning(
            "corpus %s: left out %s: a folder's files are named like noun.act.txt or adj.all.txt",
            folder,
            ", ".join(others[:5]) + (" and others" if len(others) > 5 else ""),
        )
    return [entry for path in named for entry in read_text_list(path)]


def read_table(path: Path, column: str | None) -> list[Entry]:
    """Read a ``.csv`` or ``.parquet`` file.

    Terms are in ``column``, or in the first there is of ``term``, ``word`` and ``name``. Columns
    ``part_of_speech``, ``lex_file`` and ``synonyms`` are read where they are; empty terms are
    skipped.

    Raises:
        UsageError: the file cannot be read, the column is missing or not text, or a cell is no
            term.
    """
    rows = _parquet_rows(path, column) if path.suffix == ".parquet" else _csv_rows(path, column)
    entries = []
    for place, cells in rows:
        term, part, lex_file, synonyms = cells
        if term.strip():
            where = f"corpus {path}, {place}"
            checked = check_term(term, where)
            entries.append(Entry(checked, _part(part, where), lex_file.strip(), synonyms))
    return entries


def check_term(term: str, where: str) -> str:
    """Return the term.

    Raises:
        UsageError: it has a NUL in it, or is longer than 200 characters.
    """
    if "\0" in term:
        raise UsageError(f"{where}: has a NUL character in it; give plain UTF-8 text")
    if len(term) > MAX_CHARACTERS:
        raise UsageError(
            f"{where}: has {len(term)} characters, longer than any class name; "
            "if this is running text, write one word or name a line"
        )
    return term


def write_corpus(path: Path, corpus: Corpus) -> None:
    """Write a corpus whole or not at all, as its ending says: ``.txt``, ``.csv``, ``.parquet``.

    What is written is read again as the same terms and parts; tables keep the lexicographer files
    and synonyms too.

    Raises:
        UsageError: another ending, or a term that a text file cannot hold.
        VloodError: the place cannot be written.
    """
    check_output(path)
    data = {".txt": _as_text, ".csv": _as_csv, ".parquet": _as_parquet}[path.suffix](corpus)
    try:
        write_atomically(path, data)
    except OSError as error:
        raise VloodError(
            f"{path}: cannot be written ({error.strerror or error}); "
            "choose a folder that exists and that you can write to"
        ) from error


def check_output(path: Path) -> None:
    """Do nothing for a name that a corpus can be written to.

    Raises:
        UsageError: the ending is not one of ``.txt``, ``.csv`` and ``.parquet``.
    """
    if path.suffix not in OUTPUTS:
        raise UsageError(f"{path}: the ending says the format; use one of {', '.join(OUTPUTS)}")


def _part(text: str, where: str) -> str:
    part = _PARTS.get(text.strip().lower())
    if part is None:
        raise UsageError(
            f"{where}: the part of speech is {text.strip()[:40]!r}; write noun or adj, or none"
        )
    return part


_Cells = tuple[str, str, str, tuple[str, ...]]


def _csv_rows(path: Path, column: str | None) -> list[tuple[str, _Cells]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"corpus {path}: is not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UsageError(
            f"corpus {path}, line {line}: has a NUL character in it; give plain UTF-8 text"
        )
    reader = csv.DictReader(io.StringIO(text, newline=""))
    rows = []
    try:
        chosen = _term_column(path, reader.fieldnames or (), column)
        for row in reader:
            synonyms = (row.get("synonyms") or "").split(_SYNONYMS)
            cells = (
                row[chosen] or "",
                row.get("part_of_speech") or "",
                row.get("lex_file") or "",
                tuple(filter(None, synonyms)),
            )
            rows.append((f"line {reader.line_num}", cells))
    except csv.Error as error:
        raise UsageError(
            f"corpus {path}, line {reader.line_num}: is not CSV ({error}); check its quotes"
        ) from error
    return rows


def _parquet_rows(path: Path, column: str | None) -> list[tuple[str, _Cells]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Opened here, because what Arrow says of a file it cannot open is not a sentence.
        with path.open("rb") as stream, pq.ParquetFile(stream) as file:
            names = file.schema_arrow.names
            chosen = _term_column(path, names, column)
            extra = [name for name in ("part_of_speech", "lex_file", "synonyms") if name in names]
            table = file.read(columns=list(dict.fromkeys((chosen, *extra))))
    except (pa.ArrowException, ValueError) as error:
        raise UsageError(
            f"corpus {path}: is no Parquet file that can be read; write it again"
        ) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    terms, parts, lex_files = (
        _text_cells(path, table, name) for name in (chosen, "part_of_speech", "lex_file")
    )
    synonyms = table["synonyms"].to_pylist() if "synonyms" in extra else [None] * len(terms)
    return [
        (f"row {number}", (term, part, lex_file, _names(others)))
        for number, (term, part, lex_file, others) in enumerate(
            zip(terms, parts, lex_files, synonyms, strict=True), start=1
        )
    ]


def _text_cells(path: Path, table: object, name: str) -> list[str]:
    if name not in table.column_names:  # type: ignore[attr-defined]
        return [""] * len(table)  # type: ignore[arg-type]
    cells = table[name].to_pylist()  # type: ignore[index]
    for cell in cells:
        if not isinstance(cell, str | None):
            raise UsageError(
                f"corpus {path}: the column {name!r} holds {type(cell).__name__} values, not text; "
                "name another as FILE:COLUMN"
            )
    return [cell or "" for cell in cells]


def _names(cell: object) -> tuple[str, ...]:
    if isinstance(cell, str):
        return tuple(filter(None, cell.split(_SYNONYMS)))
    return tuple(str(name) for name in cell) if isinstance(cell, list) else ()


def _term_column(path: Path, names: Sequence[str], column: str | None) -> str:
    for wanted in (column,) if column else TERM_COLUMNS:
        if wanted in names:
            return wanted
    missing = f"named {column!r}" if column else f"named {', '.join(TERM_COLUMNS)}"
    shown = ", ".join(map(repr, names[:8])) + (" and others" if len(names) > 8 else "")
    has = f"there are {shown[:300]}" if names else "the file is empty"
    raise UsageError(
        f"corpus {path}: has no column {missing}; {has}: name the column of terms as FILE:COLUMN"
    )


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"corpus {path}: cannot be read ({error.strerror or error}); check the name")


def _as_text(corpus: Corpus) -> bytes:
    lines = []
    for term, part in zip(corpus.terms, corpus.parts, strict=True):
        if term.startswith(("#", "\ufeff")) or "\t" in term or term != term.strip(" \r"):
            raise UsageError(
                f"the term {term!r} would not be read again from a .txt file; "
                "write .csv or .parquet"
            )
        lines.append(f"{term}\t{part}\n" if part else f"{term}\n")
    return "".join(lines).encode()


def _as_csv(corpus: Corpus) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("term", "part_of_speech", "lex_file", "synonyms"))
    for term, part, lex_file, synonyms in _rows(corpus):
        writer.writerow((term, part, lex_file, _SYNONYMS.join(synonyms)))
    return buffer.getvalue().encode()


def _as_parquet(corpus: Corpus) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "term": pa.array(corpus.terms, pa.string()),
            "part_of_speech": pa.array(corpus.parts, pa.string()),
            "lex_file": pa.array(corpus.lex_files, pa.string()),
            "synonyms": pa.array([list(names) for names in corpus.synonyms], pa.list_(pa.string())),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _rows(corpus: Corpus) -> Iterable[tuple[str, str, str, tuple[str, ...]]]:
    return zip(corpus.terms, corpus.parts, corpus.lex_files, corpus.synonyms, strict=True)
