"""SynOOD's learned label vectors: a bare tensor that means something only with its label list."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlood.detector.importing.checkpoint import BARE, Checkpoint
from vlood.detector.importing.found import check_dimensions, described, lacks, left_out
from vlood.detector.importing.report import ImportReport
from vlood.detector.importing.target import source_of
from vlood.errors import UsageError
from vlood.features.row_names import read_names
from vlood.negatives.bank import NegativeBank
from vlood.negatives.negative_features import NegativeFeatures
from vlood.prompts.classes import ClassName

FORMAT = "synood-labels"


def import_labels(
    checkpoint: Checkpoint,
    names: Path | None,
    *,
    classes: tuple[ClassName, ...] = (),
    seed: int = 0,
    provenance: Mapping[str, Any] | None = None,
) -> tuple[NegativeBank, ImportReport]:
    """Make a bank of learned negative labels.

    Args:
        checkpoint: holds one tensor (n, D).
        names: the labels in the order of its rows, one a line.
        classes: those the bank is for; none for any.
        seed: of the groups.
        provenance: what the bank's record says first, such as a version.

    Raises:
        UsageError: it holds something else, there is no label list, or it is of another length.
    """
    if BARE not in checkpoint.tensors:
        raise lacks(checkpoint, "bare tensor (n, D)", FORMAT)
    check_dimensions(checkpoint, BARE, (2,), "(n, D), a row a label")
    count, width = checkpoint.shape(BARE)
    if names is None:
        raise UsageError(
            f"{checkpoint.path}: the tensor {checkpoint.shape(BARE)} is meaningless without its "
            "label list, whose order differs from run to run; give it with --names FILE, one label "
            "a line"
        )
    side = NegativeFeatures.of(read_names(names, count=count), checkpoint.array(BARE), seed=seed)
    bank = NegativeBank(
        terms=side.names,
        parts=("",) * count,
        lex_files=("",) * count,
        closeness=np.full(count, np.nan, np.float32),
        templates=((),) * count,
        sources=(FORMAT,) * count,
        features=side.features,
        permutation=side.permutation,
        classes=classes,
        made={**(provenance or {}), **source_of(checkpoint, FORMAT)},
    )
    report = ImportReport(
        found=described(checkpoint, [BARE]),
        ignored=left_out(checkpoint, [BARE]),
        missing=(),
        matched=f"{count} label vectors of {width} numbers are a bank for --negatives",
        notes=(
            "nothing in the file tells its model: score with the one it was learned with",
            f"the names are those of {names.name}, in its order, which nothing in the file can "
            "confirm",
        ),
    )
    return bank, report
