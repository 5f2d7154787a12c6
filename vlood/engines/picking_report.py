"""Say what was picked: a record a method, the reasons in words, the commands to do it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlood.engines.picking import Tries
from vlood.engines.picking_sets import Pool
from vlood.evaluation.choosing import LEFT_OUT, NOTHING, OOD_SETS, Choice
from vlood.evaluation.cleaning.keep_lists import list_bytes
from vlood.evaluation.report_files import printable, write_file
from vlood.methods import registry

STATUSES = ("recommended", "tied", "worse", "not measured", "skipped")
_WHAT = {
    OOD_SETS: "AUROC on your OOD sets, their unweighted mean",
    LEFT_OUT: "AUROC with some of your classes left out in turn: an estimate for near-OOD images",
    NOTHING: "nothing: there are no OOD images, and too few labelled classes to leave some out",
}


@dataclass(frozen=True)
class Typed:
    """What the commands say of the user's data.

    Attributes:
        shared: the options of classes, model and negatives.
        fit: inputs to learn from.
        held: ID inputs to measure and to calibrate on.
        others: values of ``--ood``.
        seed: of everything random.
        settings: values of ``--set``.
        exact: whether these inputs are the very images that were used.
    """

    shared: Sequence[str]
    fit: Sequence[str]
    held: Sequence[str]
    others: Sequence[str]
    seed: int
    settings: Sequence[str] = ()
    exact: bool = True


def records(tries: Tries, choice: Choice) -> list[dict[str, Any]]:
    """Return a record a method: the recommended one first, then by AUROC, the skipped last."""

    def status(name: str) -> str:
        if name == choice.chosen:
            return STATUSES[0]
        if choice.best is None:
            return STATUSES[3]
        return STATUSES[1] if name in choice.tied else STATUSES[2]

    def rank(name: str) -> tuple[bool, float]:
        known = choice.aurocs.get(name)
        return name != choice.chosen, 0.0 if known is None else -known.value

    found = []
    for name in sorted(tries.tried, key=rank):
        one, auroc, behind = tries.tried[name], choice.aurocs.get(name), choice.behind.get(name)
        found.append(
            {
                "method": name,
                "status": status(name),
                "measured_on": tries.kind,
                "auroc": None if auroc is None else auroc.value,
                "auroc_ci_low": None if auroc is None else auroc.low,
                "auroc_ci_high": None if auroc is None else auroc.high,
                "behind_best": None if behind is None else behind.value,
                "behind_ci_low": None if behind is None else behind.low,
                "behind_ci_high": None if behind is None else behind.high,
                "id_accuracy": one.accuracy,
                "needs": list(registry.get(name).record.needs),
                "fit_seconds": round(one.fit_seconds, 4),
                "score_microseconds": round(1e6 * one.score_seconds, 2),
                "detector_bytes": one.trial.size,
                "reason": None,
            }
        )
    empty = dict.fromkeys(found[0]) if found else {}
    for name, reason in tries.skipped.items():
        found.append({**empty, "method": name, "status": STATUSES[4], "reason": reason})
    return found


def reasons(tries: Tries, choice: Choice, images: Mapping[str, int], margin: float) -> list[str]:
    """Say why the chosen method is recommended, and how far that can be trusted.

    Args:
        tries: what was measured.
        choice: what came of it.
        images: how many there are of each set, the ID images that were measured on first.
        margin: an AUROC difference that was not counted.
    """
    chosen = choice.chosen
    said = [f"Measured: {_WHAT[tries.kind]}."]
    asks = " and ".join(registry.get(chosen).record.needs)
    if tries.kind == NOTHING:
        said.append(
            f"{chosen} is recommended only because it asks for least ({asks}) and its scores "
            "differ between your images. Give --ood IN, images that you want refused, or three or "
            "more labelled classes, and methods can be told apart."
        )
        return said
    best = str(choice.best)
    top, own = choice.aurocs[best], choice.aurocs[chosen]
    if chosen == best:
        said.append(
            f"{chosen} has the highest AUROC, {_percent(own)}, and needs {asks}; of those not "
            "told apart from it none is simpler."
        )
    else:
        behind = choice.behind[chosen]
        why = (
            "an interval that reaches zero"
            if behind.low <= 0
            else f"no more than the {100 * margin:g} points that are not worth it"
        )
        said.append(
            f"{best} has the highest AUROC, {_percent(top)}, but {chosen}, {_percent(own)}, is "
            f"the simpler one (it needs {asks}): on the same images it lies {_percent(behind)} "
            f"points behind, {why}."
        )
    worse = len(tries.tried) - len(choice.tied)
    said.append(
        f"{len(choice.tied)} of {len(tries.tried)} methods are not told apart, {worse} "
        f"{'is' if worse == 1 else 'are'} worse."
    )
    known, *others = images.values()
    if tries.kind == OOD_SETS:
        said.append(
            f"It was chosen on these {known:,} ID and {sum(others):,} OOD images, so its figure "
            "here is a little too good: measure it on others before you quote it."
        )
    else:
        said.append(
            "Left-out classes are like your classes, so this tells of near-OOD images alone. It "
            "says nothing of images that are like nothing you have, and which classes were left "
            "out decides most of the interval. Give --ood IN to measure what you will meet."
        )
    return said


def commands(chosen: str, typed: Typed, kind: str, detector: str) -> list[str]:
    """Return the commands that make, measure, calibrate and use the chosen detector."""
    learns = registry.get(chosen).learns
    tune = ["vlood", "tune", chosen, *typed.shared]
    if learns:
        tune += [part for one in typed.fit for part in ("--train", one)]
    if learns or typed.seed:
        tune += ["--seed", str(typed.seed)]
    tune += [part for one in typed.settings for part in ("--set", one)]
    known = [part for one in typed.held for part in ("--id", one)]
    lines = [shlex.join([*tune, "-o", detector])]
    if kind == OOD_SETS:
        others = [part for one in typed.others for part in ("--ood", one)]
        lines.append(shlex.join(["vlood", "eval", "--detector", detector, *known, *others]))
    lines.append(shlex.join(["vlood", "calibrate", detector, *known]))
    lines.append(f"vlood score new/ --detector {shlex.quote(detector)}")
    return lines


def labels_of(
    paths: Sequence[str], labels: Sequence[str | None]
) -> Callable[[Pool], list[str | None]]:
    """Return what gives the labels of a pool's images, as the user's data call them."""
    by_path = dict(zip(map(str, paths), labels, strict=True))
    return lambda pool: [by_path[one] for one in pool.ids]


def write_pool(
    folder: Path, name: str, pool: Pool, labels: Sequence[str | None], *, stored: bool
) -> Path:
    """Write which images a pool has, so that commands can name them; return the file.

    Images become a list with labels, and what is no file of its own an ``.npz`` file of embeddings:
    images of a shard, and ``stored`` embeddings.
    """
    if stored or not all(Path(one).is_file() for one in pool.ids):
        path = folder / f"{name}.npz"
        named = np.array([label or "" for label in labels])
        with path.open("wb") as file:
            np.savez(file, features=pool.features, ids=np.array(pool.ids), labels=named)
        return path
    path = folder / f"{name}.jsonl"
    entries = [
        (str(Path(one).resolve()), label) for one, label in zip(pool.ids, labels, strict=True)
    ]
    write_file(path, list_bytes(entries, ".jsonl"))
    return path


def write_report(
    folder: Path,
    found: Sequence[Mapping[str, Any]],
    said: Sequence[str],
    lines: Sequence[str],
    notes: Sequence[str],
    facts: Mapping[str, Any],
) -> None:
    """Write ``pick.json`` and ``pick.md``."""
    data = {
        "recommended": found[0]["method"],
        "reasons": list(said),
        "commands": list(lines),
        "notes": list(notes),
        **facts,
        "methods": list(found),
    }
    write_file(folder / "pick.json", (json.dumps(data, indent=1) + "\n").encode())
    text = [f"# {found[0]['method']}", "", *said, "", "```sh", *lines, "```", ""]
    text += ["| method | status | AUROC | 95 % interval | ID accuracy | fit, s |"]
    text += ["|---|---|---|---|---|---|"]
    for one in found:
        if one["status"] == STATUSES[4]:
            text.append(f"| {one['method']} | skipped: {printable(one['reason'])} | | | | |")
            continue
        auroc = interval = accuracy = "-"
        if one["auroc"] is not None:
            auroc = f"{100 * one['auroc']:.2f}"
            interval = f"{100 * one['auroc_ci_low']:.1f}-{100 * one['auroc_ci_high']:.1f}"
        if one["id_accuracy"] is not None:
            accuracy = f"{100 * one['id_accuracy']:.2f}"
        text.append(
            f"| {one['method']} | {one['status']} | {auroc} | {interval} | {accuracy} | "
            f"{one['fit_seconds']:.2f} |"
        )
    text += ["", *(f"- {printable(one)}" for one in notes)]
    write_file(folder / "pick.md", ("\n".join(text) + "\n").encode())


def _percent(one: Any) -> str:
    return f"{100 * one.value:.2f} [{100 * one.low:.2f}, {100 * one.high:.2f}]"
