"""The sets of a published protocol as an evaluation takes them."""

from __future__ import annotations

from pathlib import Path

from vlood.engines.evaluating.sets import EvalSet
from vlood.errors import UsageError, VloodError
from vlood.evaluation.suites import SetStatus, Suite, SuiteSet, check_suite
from vlood.images.lists import split_joined

_SHOWN = 9


def suite_sets(suite: Suite, root: Path, *, skip_missing: bool = False) -> list[EvalSet]:
    """Return a suite's sets below ``root``, the ID set first and the shifted ID sets last.

    Args:
        suite: it.
        root: the folder of the datasets and lists.
        skip_missing: leave out OOD and shifted sets that are not there whole, instead of refusing.

    Raises:
        VloodError: a set is not there whole.
    """
    statuses = check_suite(suite, root)
    lacking = [one for one in statuses if one.state != "present"]
    if skip_missing:
        lacking = [one for one in lacking if one.set.group == "id"]
    if lacking:
        raise VloodError(_told(suite, root, lacking, len(statuses)))
    whole = [one.set for one in statuses if one.state == "present"]
    known = [one for one in whole if one.group == "id"]
    if len(known) != 1:
        raise UsageError(f"the suite {suite.name} has {len(known)} ID sets; give it one")
    others = [one for one in whole if one.group in ("near", "far")]
    if not others:
        raise VloodError(
            f"no OOD set of {suite.name} is below {root}; see what is missing with --check"
        )
    shifted = [one for one in whole if one.group == "shift"]
    return [_set(one, root) for one in (*known, *others, *shifted)]


def left_out(suite: Suite, sets: list[EvalSet]) -> list[str]:
    """Return a sentence for each set of the suite that is not among those evaluated."""
    there = {one.name for one in sets}
    return [
        f"The suite's {one.group} set {one.name} was not there and is left out: group means are "
        "not those of the published protocol."
        for one in suite.sets
        if one.name not in there
    ]


def licences(suite: Suite, sets: list[EvalSet]) -> dict[str, str]:
    """Return what the origin of each set says of its use."""
    there = {one.name for one in sets}
    return {one.name: f"{one.licence}; {one.origin}" for one in suite.sets if one.name in there}


def _set(one: SuiteSet, root: Path) -> EvalSet:
    if one.list is None:
        return EvalSet(one.name, one.group, (str(root / one.place),))
    lists = tuple(str(root / text) for text in split_joined(one.list))
    return EvalSet(one.name, one.group, lists, root / one.images)


def _told(suite: Suite, root: Path, lacking: list[SetStatus], total: int) -> str:
    first = lacking[0]
    names = ", ".join(one.set.name for one in lacking[:_SHOWN])
    more = f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
    return (
        f"{len(lacking)} of the {total} sets of {suite.name} are not whole below {root} "
        f"({names}{more}; of {first.set.name}, {first.problem}); --check says how they must lie, "
        "--skip-missing goes without those that are not ID"
    )
