"""The verdict in words: who is best, how sure that is, what it costs, what to beware of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlood.evaluation.report.inputs import ReportInputs, ReportSet
from vlood.evaluation.report.standings import Standing, id_set, main_rows, ood_sets, standings
from vlood.evaluation.report.wording import (
    finite,
    hundred_text,
    listed,
    p_text,
    percent,
    score_text,
    shown_name,
)
from vlood.evaluation.results import ResultRow
from vlood.evaluation.significance import PairedRow

FEW_IMAGES = 100
"""Sets smaller than this get a warning: one image is then more than a point."""

CHANCE_BAND = 0.05
"""AUROCs this near to 50 % are called guessing."""


@dataclass(frozen=True)
class Verdict:
    """What the report says before its tables.

    Attributes:
        headline: one sentence.
        sentences: how sure it is and what it costs.
        warnings: what limits it, each a sentence or two.
        best: the winner's name, "" where none is declared.
        tied: names of the detectors that are not told apart from the best.
        standings: the detectors, the largest mean AUROC first.
    """

    headline: str
    sentences: tuple[str, ...]
    warnings: tuple[str, ...]
    best: str
    tied: tuple[str, ...]
    standings: tuple[Standing, ...]


def verdict(inputs: ReportInputs) -> Verdict:
    """Judge the detectors by their mean AUROC, near and far OOD counting the same.

    Detectors whose scores depend on other images are reported but never win.
    """
    ranked = standings(inputs)
    fair = [each for each in ranked if not each.stream]
    warnings = _warnings(inputs, ranked)
    if not ranked:
        headline = "No detector was measured against an OOD set, so there is nothing to compare."
        return Verdict(headline, (), warnings, "", (), ())
    if not fair:
        first = ranked[0]
        headline = (
            f"No winner: {_quantity(first)} of {_name(first)} is {percent(first.mean)} %, but its "
            "scores depend on the other images."
            if len(ranked) == 1
            else "No winner: the scores of every detector here depend on the other images."
        )
        return Verdict(headline, _cost(first), warnings, "", (), tuple(ranked))
    best, others = fair[0], fair[1:]
    if not others:
        headline = (
            f"{_name(best)} tells OOD from ID images with {_quantity(best)} of "
            f"{percent(best.mean)} %."
        )
        return Verdict(
            headline, (*_alone(best), *_cost(best)), warnings, best.name, (), tuple(ranked)
        )
    tied = _tied(best, others, inputs.comparisons)
    headline = _headline(best, others, tied, inputs.comparisons)
    sentences = (*_sure(best, others, inputs.comparisons), *_cost(best))
    return Verdict(
        headline, sentences, warnings, best.name, tuple(each.name for each in tied), tuple(ranked)
    )


def comparison(
    rows: Sequence[PairedRow], first: Standing, second: Standing
) -> tuple[PairedRow, float, float, float] | None:
    """Return the test of two detectors on all their OOD sets, and `first`'s lead with its interval.

    Where there is one OOD set only, its own test is the test of the mean.
    """
    names = {first.name, second.name}
    sets = set(first.sets) & set(second.sets)
    wanted = "mean" if len(sets) > 1 else next(iter(sets), "mean")
    for row in rows:
        if row.ood == wanted and {row.first, row.second} == names:
            if row.first == first.name:
                return row, row.difference, row.low, row.high
            return row, -row.difference, -row.high, -row.low
    return None


def beats(rows: Sequence[PairedRow], first: Standing, second: Standing) -> bool:
    """Whether a test found `first` better, on the plain mean and on the balanced one alike."""
    found = comparison(rows, first, second)
    return found is not None and found[0].significant and found[1] > 0 and first.mean > second.mean


def _name(standing: Standing) -> str:
    return shown_name(standing.name)


def _quantity(standing: Standing) -> str:
    if len(standing.sets) == 1:
        return f"an AUROC on {shown_name(next(iter(standing.sets)))}"
    return "a mean AUROC"


def _tied(best: Standing, others: Sequence[Standing], rows: Sequence[PairedRow]) -> list[Standing]:
    return [each for each in others if comparison(rows, best, each) and not beats(rows, best, each)]


def _headline(
    best: Standing,
    others: Sequence[Standing],
    tied: Sequence[Standing],
    rows: Sequence[PairedRow],
) -> str:
    second = others[0]
    lead = 100 * (best.mean - second.mean)
    if tied:
        names = [_name(each) for each in (best, *tied)]
        return (
            f"{listed(names)} are tied: {_quantity(best)} of {percent(best.mean)} % for "
            f"{names[0]} is not significantly better."
        )
    if comparison(rows, best, second) is None:
        return (
            f"{_name(best)} has the highest figure, {_quantity(best)} of {percent(best.mean)} %, "
            "but the difference was not tested."
        )
    return (
        f"{_name(best)} is best: {_quantity(best)} of {percent(best.mean)} %, "
        f"{lead:.1f} points above {_name(second)}."
    )


def _alone(best: Standing) -> tuple[str, ...]:
    if finite(best.low) and finite(best.high):
        return (f"The 95 % interval is {percent(best.low)} to {percent(best.high)} %.",)
    if len(best.sets) > 1:
        worst = min(best.sets, key=lambda name: best.sets[name])
        top = max(best.sets, key=lambda name: best.sets[name])
        return (
            f"It ranges from {percent(best.sets[worst])} % on {shown_name(worst)} to "
            f"{percent(best.sets[top])} % on {shown_name(top)}.",
        )
    return ()


def _sure(best: Standing, others: Sequence[Standing], rows: Sequence[PairedRow]) -> tuple[str, ...]:
    second = others[0]
    found = comparison(rows, best, second)
    if found is None:
        return (
            f"No paired test of {_name(best)} and {_name(second)} was made, so the "
            f"{100 * (best.mean - second.mean):.1f} points between them may be chance.",
        )
    row, lead, low, high = found
    over = f"over the {len(best.sets)} OOD sets" if len(best.sets) > 1 else "on this OOD set"
    p = p_text(row.p_holm) + (" after Holm’s correction" if row.p_holm != row.p_value else "")
    interval = f"95 % interval {_points(low)} to {_points(high)}; {p}"
    if lead < 0:
        text = (
            f"Sets counted one by one, {_name(second)} leads by {-100 * lead:.1f} points {over} "
            f"({interval}): which of the two is ahead depends on how near and far OOD are weighed."
        )
    elif row.significant:
        text = (
            f"On the same images, its lead over the runner-up {_name(second)} is "
            f"{100 * lead:.1f} points {over} ({interval}): more than chance explains."
        )
    else:
        text = (
            f"On the same images, {_name(best)} is {100 * lead:.1f} points ahead of "
            f"{_name(second)} {over} ({interval}): chance explains that."
        )
    return (text,)


def _points(difference: float) -> str:
    return f"{100 * difference:.1f}".replace("-", "−")


def _cost(best: Standing) -> tuple[str, ...]:
    """Say what the threshold lets through and turns away."""
    if best.ood_accepted is None:
        return ()
    text = (
        f"At its threshold of {score_text(best.threshold)}, {_name(best)} accepts "
        f"{hundred_text(best.ood_accepted)} of each 100 OOD images"
    )
    if best.id_accepted is not None:
        text += f" and {hundred_text(best.id_accepted)} of each 100 ID images"
    if best.threshold_note:
        text += f"; the threshold {best.threshold_note.rstrip('.')}"
    sentences = [f"{text}."]
    if len(best.ood_accepted_sets) > 1:
        shares = best.ood_accepted_sets
        least, most = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
        if shares[least] != shares[most]:
            sentences.append(
                f"The OOD images accepted range from {hundred_text(shares[least])} of 100 on "
                f"{shown_name(least)} to {hundred_text(shares[most])} of 100 on {shown_name(most)}."
            )
    return tuple(sentences)


def _warnings(inputs: ReportInputs, ranked: Sequence[Standing]) -> tuple[str, ...]:
    rows = main_rows(inputs.rows)
    return (
        *_stream_warnings(ranked),
        *_size_warnings([id_set(inputs.sets), *ood_sets(inputs.sets)]),
        *_chance_warnings(rows),
        *_unmeasured(inputs, ranked),
        *(shown_name(note, 600) for note in inputs.notes),
    )


def _stream_warnings(ranked: Sequence[Standing]) -> list[str]:
    fair = [each.mean for each in ranked if not each.stream]
    texts = []
    for each in ranked:
        if not each.stream:
            continue
        text = (
            f"{_name(each)} is {each.stream}: its scores depend on which other images it saw"
            f"{' and in which order' if each.stream == 'order-dependent' else ''}. Its figures are "
            "not comparable with the others and it is never declared the winner"
        )
        higher = bool(fair) and each.mean > max(fair)
        texts.append(text + (", though its mean AUROC is the highest here." if higher else "."))
    return texts


def _size_warnings(sets: Sequence[ReportSet]) -> list[str]:
    small = [each for each in sets if len(each) < FEW_IMAGES]
    if not small:
        return []
    named = [f"{shown_name(each.name)} ({len(each):,})" for each in small[:6]]
    if len(small) > 6:
        named.append(f"{len(small) - 6} more")
    return [
        f"Few images: {listed(named)}. With fewer than {FEW_IMAGES} images a single one moves a "
        "rate by more than a point; read the intervals, not the figures."
    ]


def _chance_warnings(rows: Sequence[ResultRow]) -> list[str]:
    near: dict[str, list[str]] = {}
    below: dict[str, list[str]] = {}
    for row in rows:
        if row.group not in ("near", "far", "-"):
            continue
        text = f"{shown_name(row.ood)} ({percent(row.metrics.auroc)} %)"
        if row.metrics.auroc < 0.5 - CHANCE_BAND:
            below.setdefault(row.detector, []).append(text)
        elif row.metrics.auroc <= 0.5 + CHANCE_BAND:
            near.setdefault(row.detector, []).append(text)
    texts = [
        f"{shown_name(name)} does no better than guessing on {listed(sets)}: an AUROC of 50 % is "
        "a coin toss."
        for name, sets in near.items()
    ]
    texts += [
        f"{shown_name(name)} is worse than guessing on {listed(sets)}: it finds these OOD images "
        "more in-distribution than the ID images. Check that the sets are what they are called."
        for name, sets in below.items()
    ]
    return texts


def _unmeasured(inputs: ReportInputs, ranked: Sequence[Standing]) -> list[str]:
    known = {each.name for each in ranked}
    missing = [shown_name(each.name) for each in inputs.detectors if each.name not in known]
    if not missing or not ranked:
        return []
    return [f"Not ranked, because it has no single result on the OOD sets: {listed(missing)}."]
