"""Published selections of negative labels, whose entries carry their template already."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError
from vlood.negatives.term_files import check_term
from vlood.prompts.library_files import read_lines

# The two templates of NegLabel (Jiang et al., ICLR 2024), which CMA uses too.
_FORMS = (
    (re.compile(r"the nice (?P<term>.*\S.*)", re.IGNORECASE), "noun"),
    (re.compile(r"this is an? (?P<term>.*\S.*) photo\.?", re.IGNORECASE), "adj"),
)


@dataclass(frozen=True)
class PublishedLabel:
    """A negative label: its term, "noun", "adj" or "", and the template with ``{}`` for it."""

    term: str
    part: str
    template: str

    @property
    def prompt(self) -> str:
        """Return the text as it was published."""
        return self.template.replace("{}", self.term, 1)


def split_template(line: str) -> PublishedLabel:
    """Take NegLabel's template off one line.

    ``the nice X`` is a noun and ``This is a X photo`` an adjective, in any case; the wording of the
    template is kept as written. Only one template goes: "the nice the nice x" is the noun
    "the nice x". Other lines are terms whose part is not known.
    """
    line = line.strip()
    for form, part in _FORMS:
        found = form.fullmatch(line)
        if found:
            start, end = found.span("term")
            return PublishedLabel(found["term"].strip(), part, f"{line[:start]}{{}}{line[end:]}")
    return PublishedLabel(line, "", "{}")


def parse_neglabel_txt(source: str | Path | Iterable[str]) -> tuple[PublishedLabel, ...]:
    """Read NegLabel's ``selected_neg_labels_in1k_10k.txt``, or lines like it, in their order.

    Blank lines are skipped; duplicates are kept.

    Args:
        source: the file, or its lines.

    Raises:
        UsageError: the file cannot be read, holds nothing, or a line is no label.
    """
    if isinstance(source, str | Path):
        name, lines = str(source), list(read_lines(Path(source), "negative labels"))
    else:
        name, lines = "(lines)", list(enumerate(source, start=1))
    labels = tuple(
        split_template(check_term(line, f"negative labels {name}, line {number}"))
        for number, line in lines
        if line.strip()
    )
    return _some(labels, name)


def parse_cma_npy(path: str | Path) -> tuple[PublishedLabel, ...]:
    """Read CMA's ``neg_label_10000.npy``: texts [N] with NegLabel's templates, adjectives first.

    Duplicates are kept: 234 of the published 10,000 are.

    Raises:
        UsageError: the file cannot be read, or is not a one-dimensional array of text. Pickled
            objects are never loaded.
    """
    try:
        # Mapped, so that a damaged header cannot ask for more memory than the file is large.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise UsageError(
            f"negative labels {path}: cannot be read ({error.strerror or error}); check the name"
        ) from error
    except (ValueError, EOFError) as error:
        raise _no_labels(path, "is no .npy file, or one of pickled objects") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise _no_labels(path, "is an archive of several arrays")
    if array.ndim != 1 or array.dtype.kind != "U":
        shape = " x ".join(map(str, array.shape)) or "scalar"
        raise _no_labels(path, f"holds {array.dtype} of shape {shape}")
    if not _is_text(array):
        raise _no_labels(path, "holds bytes that are no text")
    labels = tuple(
        split_template(check_term(line, f"negative labels {path}, entry {number}"))
        for number, line in enumerate(array.tolist(), start=1)
        if line.strip()
    )
    return _some(labels, str(path))


def _is_text(array: NDArray[np.str_]) -> bool:
    """Tell whether every code point is one; NumPy makes broken strings of others."""
    if not array.dtype.itemsize:
        return True
    native = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("=")))
    codes = native.view(np.uint32)
    return not np.any((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes <= 0xDFFF)))


def _some(labels: tuple[PublishedLabel, ...], name: str) -> tuple[PublishedLabel, ...]:
    if not labels:
        raise UsageError(
            f"negative labels {name}: holds no label; give the file as it was published"
        )
    return labels


def _no_labels(path: str | Path, what: str) -> UsageError:
    return UsageError(
        f"negative labels {path}: {what}; expected an array of text of shape N, as CMA's "
        "neg_label_10000.npy: fetch it again"
    )
