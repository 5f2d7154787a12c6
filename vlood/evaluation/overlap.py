"""Find images that are on both sides of an evaluation, which no detector can tell apart.

Such an image counts once as ID and once as OOD, a floor under every error rate. It happens in
published lists: in COOkeD's lists of DTD, matching folders by the name "dotted" also took
"polka-dotted", and 40 of its images are both ID and OOD.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlood.errors import UsageError
from vlood.evaluation.report_files import printable


@dataclass(frozen=True)
class Overlap:
    """The images on both sides.

    Attributes:
        paths: the places named on both sides, as the OOD side writes them, each once, in order.
        digests: the contents on both sides, each once, in the order of the OOD side.
        id_rows: positions on the ID side of what is also on the OOD side, by either, rising.
        ood_rows: the same of the OOD side.
        n_id: images of the ID side.
        n_ood: images of the OOD side.
        examples: the first few such paths of the OOD side.
    """

    paths: tuple[str, ...]
    digests: tuple[Hashable, ...]
    id_rows: tuple[int, ...]
    ood_rows: tuple[int, ...]
    n_id: int
    n_ood: int
    examples: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many rows of the OOD side are on the ID side too."""
        return len(self.ood_rows)

    def __bool__(self) -> bool:
        return self.count > 0


def find_overlap(
    id_paths: Sequence[str | os.PathLike[str]],
    ood_paths: Sequence[str | os.PathLike[str]],
    *,
    id_digests: Sequence[Hashable | None] | None = None,
    ood_digests: Sequence[Hashable | None] | None = None,
    by_path: bool = True,
    examples: int = 3,
) -> Overlap:
    """Return the images of an ID set [N] that are also in an OOD set [M].

    Two paths are one place when they are the same once absolute and normalised; no file is touched,
    so links and copies are only found by content. Pass places of images only: rows of an embedding
    file may be named alike without being the same image.

    Args:
        id_paths: where each ID image lies [N].
        ood_paths: where each OOD image lies [M].
        id_digests: of each ID image's bytes [N]; None where it is not known, which matches nothing.
        ood_digests: the same of each OOD image [M], by the same hash.
        by_path: whether paths are compared; not where they are names of rows.
        examples: how many paths to name.

    Raises:
        UsageError: digests of one side only, or not one for each path.
    """
    id_places, ood_places = _places(id_paths), _places(ood_paths)
    id_contents = _checked_digests(id_digests, len(id_places), "ID")
    ood_contents = _checked_digests(ood_digests, len(ood_places), "OOD")
    if (id_digests is None) != (ood_digests is None):
        raise UsageError("Digests are given for one side only; give them for both or for neither.")
    places = set(id_places) & set(ood_places) if by_path else set()
    contents = (set(id_contents) & set(ood_contents)) - {None}

    def rows(named: list[str], held: Sequence[Hashable | None]) -> tuple[int, ...]:
        both = enumerate(zip(named, held, strict=True))
        return tuple(row for row, (at, what) in both if at in places or what in contents)

    ood_rows = rows(ood_places, ood_contents)
    first = {at: os.fspath(ood_paths[row]) for row, at in reversed(list(enumerate(ood_places)))}
    return Overlap(
        paths=tuple(first[at] for at in dict.fromkeys(ood_places) if at in places),
        digests=tuple(what for what in dict.fromkeys(ood_contents) if what in contents),
        id_rows=rows(id_places, id_contents),
        ood_rows=ood_rows,
        n_id=len(id_places),
        n_ood=len(ood_places),
        examples=tuple(os.fspath(ood_paths[row]) for row in ood_rows[: max(0, examples)]),
    )


def overlap_told(overlap: Overlap, *, id_name: str = "ID", ood_name: str = "OOD") -> str:
    """Return one sentence on an overlap: how many images, by what they were found, which for one.

    Empty without an overlap.
    """
    if not overlap:
        return ""
    found = [
        f"{len(matched):,} by {how}"
        for matched, how in ((overlap.paths, "path"), (overlap.digests, "content"))
        if matched
    ]
    be = "is" if overlap.count == 1 else "are"
    shown = ", ".join(printable(path) for path in overlap.examples)
    example = f"; for example {shown}" if shown else ""
    return (
        f"{overlap.count:,} of {overlap.n_ood:,} images of {printable(ood_name)} {be} also images "
        f"of {printable(id_name)} ({', '.join(found)}{example}), and no detector can get both "
        "right; take them out of one side."
    )


def _places(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return each path absolute and normalised; following links would ask for every file."""
    here = str(Path.cwd())
    return [os.path.normpath(os.path.join(here, path)) for path in paths]  # noqa: PTH118


def _checked_digests(
    digests: Sequence[Hashable | None] | None, count: int, side: str
) -> Sequence[Hashable | None]:
    if digests is None:
        return [None] * count
    if len(digests) != count:
        raise UsageError(
            f"{count} {side} paths meet {len(digests)} digests; one for each image was expected."
        )
    return digests
