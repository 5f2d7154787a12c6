"""The formats that become detectors, and one function for them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlood.detector.importing.checkpoint import read_checkpoint
from vlood.detector.importing.report import Imported
from vlood.detector.importing.target import Target
from vlood.errors import UsageError
from vlood.negatives.bank import NegativeBank

DETECTORS = (
    "coop",
    "locoop",
    "local-prompt",
    "lapt",
    "clipn",
    "cooked-probe",
    "clip-benchmark",
    "embeddings",
)


@dataclass(frozen=True, eq=False)
class ImportOptions:
    """What only some formats take.

    Attributes:
        position: of class names among learned contexts: ``end``, ``middle`` or ``front``.
        templates: of the classes; none leaves the choice to the format.
        negatives: the words that LAPT's second contexts stand before.
        names: a file with a name a row of embeddings.
        method: the score of class embeddings.
        keep_learned: also keep CLIPN's "no" tower.
    """

    position: str = "end"
    templates: tuple[str, ...] = ()
    negatives: NegativeBank | None = None
    names: Path | None = None
    method: str = "mcm"
    keep_learned: bool = False


def import_detector(
    format: str,
    paths: Sequence[Path],
    target: Target,
    options: ImportOptions | None = None,
) -> Imported:
    """Make a detector of what others have published.

    Args:
        format: one of ``DETECTORS``.
        paths: its file; several for ``embeddings``.
        target: the classes, and the model it was made with.
        options: what the format takes besides.

    Raises:
        UsageError: the file is damaged, of another format, or does not fit the classes or the
            model; or something is missing.
    """
    options = options or ImportOptions()
    if format == "embeddings":
        return _embeddings(paths, target, options)
    checkpoint = read_checkpoint(only(paths))
    if format in ("coop", "locoop"):
        from vlood.detector.importing.coop import import_contexts

        return import_contexts(checkpoint, target, format=format, position=options.position)
    if format == "local-prompt":
        from vlood.detector.importing.local_prompt import import_local_prompt

        return import_local_prompt(checkpoint, target, templates=options.templates)
    if format == "lapt":
        from vlood.detector.importing.lapt import import_lapt

        if options.negatives is None:
            raise UsageError(
                "--negatives is missing: LAPT's second contexts stand before negative labels; give "
                "a bank made by `vlood mine` or `vlood import neglabel-txt`"
            )
        return import_lapt(checkpoint, target, options.negatives)
    if format == "clipn":
        from vlood.detector.importing.clipn import import_clipn

        return import_clipn(
            checkpoint, target, templates=options.templates, keep_learned=options.keep_learned
        )
    if format == "cooked-probe":
        from vlood.detector.importing.linear_probe import import_probe

        return import_probe(checkpoint, target)
    if format == "clip-benchmark":
        from vlood.detector.importing.clip_benchmark import import_classifier

        return import_classifier(checkpoint, target)
    raise UsageError(f"{format}: is no format of detectors; expected {', '.join(DETECTORS)}")


def only(paths: Sequence[Path]) -> Path:
    """Return the one file.

    Raises:
        UsageError: there are several.
    """
    if len(paths) != 1:
        raise UsageError(
            f"{len(paths)} files were named, and this format is one file; only embeddings are "
            "joined from several"
        )
    return paths[0]


def _embeddings(paths: Sequence[Path], target: Target, options: ImportOptions) -> Imported:
    from vlood.detector.importing.embeddings import import_embeddings

    return import_embeddings(paths, target, names=options.names, method=options.method)
