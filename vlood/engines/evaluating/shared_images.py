"""Images that are on the ID side and in an OOD set: refused, taken out, or told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vlood.engines.evaluating.collecting import Judged
from vlood.engines.evaluating.sets import EvalSet, SetImages
from vlood.errors import UsageError
from vlood.evaluation.overlap import Overlap, find_overlap, overlap_told

POLICIES = ("refuse", "drop", "keep")
"""What is done: stop with a count, take such images out of the OOD set, or say so and go on."""

_SHIFT = "shift"


class Overlaps:
    """The images each OOD set shares with the ID set.

    Paths are looked at when this is made, before anything is encoded; contents as sets come in.

    Args:
        known: the ID set.
        others: the other sets; shifted ID images are the ID images, and are passed over.
        policy: one of `POLICIES`.

    Raises:
        UsageError: the policy is ``refuse`` and a path is on both sides.
    """

    def __init__(self, known: EvalSet, others: Sequence[EvalSet], policy: str) -> None:
        self.policy = policy
        self.found: dict[str, Overlap] = {}
        self._known_name = known.name
        rivals = [one for one in others if one.group != _SHIFT and one.embeddings is None]
        if policy != "refuse" or known.embeddings is not None:
            return
        places = [item.path for item in known.items()]
        for one in rivals:
            overlap = find_overlap(places, [item.path for item in one.items()])
            if overlap:
                raise _refusal(overlap, known.name, one.name)

    def add(self, known: SetImages, other: SetImages) -> None:
        """Compare the contents of one more set."""
        if other.group == _SHIFT:
            return
        overlap = find_overlap(
            known.paths,
            other.paths,
            id_digests=known.digests,
            ood_digests=other.digests,
            by_path=False,
        )
        if overlap:
            self.found[other.name] = overlap

    def decide(self) -> None:
        """Stop where images are on both sides and the policy is ``refuse``.

        Raises:
            UsageError: naming the first such set.
        """
        if self.policy == "refuse":
            for name, overlap in self.found.items():
                raise _refusal(overlap, self._known_name, name)


def take_out_overlaps(
    overlaps: Overlaps,
    images: Mapping[str, SetImages],
    judged: Mapping[tuple[str, str], Judged],
    known: str,
) -> tuple[dict[str, SetImages], dict[tuple[str, str], Judged], list[str]]:
    """Take shared images out of the OOD sets, or say that they are there.

    Returns:
        The sets, what detectors say of them, and sentences on what was done.

    Raises:
        UsageError: nothing would be left of a set.
    """
    sets, said, notes = dict(images), dict(judged), []
    for name, overlap in overlaps.found.items():
        notes.append(overlap_told(overlap, id_name=known, ood_name=name))
        if overlaps.policy != "drop":
            continue
        if overlap.count == len(sets[name]):
            raise UsageError(
                f"every image of {name} is also an image of {known}, and nothing is left to "
                "compare; leave that set out"
            )
        notes[-1] += f" They are left out of {name}."
        sets[name] = sets[name].without(overlap.ood_rows)
        for key in said:
            if key[1] == name:
                said[key] = said[key].without(overlap.ood_rows)
    return sets, said, notes


def _refusal(overlap: Overlap, known: str, other: str) -> UsageError:
    told = overlap_told(overlap, id_name=known, ood_name=other).rstrip(".")
    return UsageError(f"{told}, or let --overlap drop do so")
