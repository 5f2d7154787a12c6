"""``vlood tune ensemble``: combine saved detectors into one."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlood.cli.class_options import settings_of
from vlood.cli.model_options import ModelOptions, ReadOptions, load_model, open_cache
from vlood.cli.saved_detectors import open_detector
from vlood.cli.sources import Source, check_width, scored, sources_of
from vlood.cli.talk import SHOWN_ERRORS, progress, warn
from vlood.detector.saved import check_backbone
from vlood.engines.ensembling import (
    MemberScores,
    check_combinable,
    ensemble_of,
    member_scores_of,
    names_of,
)
from vlood.engines.printable import printable
from vlood.errors import UsageError
from vlood.methods import registry
from vlood.methods.contract import make_settings

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone
    from vlood.detector.saved import SavedDetector

METHOD = "ensemble"


@dataclass(frozen=True)
class EnsembleOptions:
    """What `vlood tune ensemble` was asked for.

    Attributes:
        folders: the members.
        combine: rank or probability, or None for the default.
        weights: numbers with commas between, or None.
        known: --id, images whose scores make the ranks; none: the members' calibrations.
        strange: --ood, images that probabilities are fitted with too.
    """

    folders: Sequence[Path] = ()
    combine: str | None = None
    weights: str | None = None
    known: Sequence[str] = ()
    strange: Sequence[str] = ()

    def refuse_for(self, method: str) -> None:
        """Refuse these options beside another method.

        Raises:
            UsageError: naming the first that was given.
        """
        given = {
            "--combine": self.combine,
            "--weights": self.weights,
            "--id": self.known,
            "--ood": self.strange,
        }
        for name, value in given.items():
            if value:
                raise UsageError(
                    f"{name}: is for `vlood tune ensemble`, not {method}; leave it out"
                )
        if self.folders:
            raise UsageError(
                f"tune {method}: {self.folders[0]} belongs to no option; an option takes one value "
                "and is repeated for more (--train A --train B), and only `vlood tune ensemble` "
                "takes folders of detectors"
            )


def tune_ensemble(
    asked: EnsembleOptions,
    settings: Sequence[str] | None,
    model: str | None,
    run: ModelOptions,
    read: ReadOptions,
    provenance: dict[str, Any],
    *,
    quiet: bool,
) -> tuple[SavedDetector, bool]:
    """Combine the members; return the detector, and whether some images could not be read.

    Args:
        asked: the members and how.
        settings: --set values.
        model: a --model that was given, or None for the members' own.
        run: how the model is run.
        read: how inputs are read.
        provenance: command and seed.
        quiet: no progress and no notes.

    Raises:
        UsageError: members or values that do not fit together.
    """
    members = dict(zip(names_of(asked.folders), map(open_detector, asked.folders), strict=True))
    check_combinable(members)
    own = make_settings(registry.get(METHOD), _values(asked, settings))
    weights = _weights(asked.weights, len(members))
    if asked.strange and not asked.known:
        raise UsageError("--ood: needs --id too, the known images to tell them from")
    sides = {"--id": asked.known, "--ood": asked.strange}
    sources = {option: sources_of(given) for option, given in sides.items() if given}
    width = next(iter(members.values())).width
    for option, source in sources.items():
        if "-" in source.inputs:
            raise UsageError(f"{option} -: stdin is not read here; name files or folders")
        source.check(read)
        if source.embeddings is not None:
            check_width(source.embeddings, source.inputs, width)
    backbone = None
    if any(source.embeddings is None for source in sources.values()):
        backbone = _model_of(members, model, run)
    found = {
        option: _scores(option, source, members, backbone, run, read, quiet)
        for option, source in sources.items()
    }
    facts = {
        **provenance,
        "members": {name: str(folder) for name, folder in zip(members, asked.folders, strict=True)},
        **{option.strip("-"): list(source.inputs) for option, source in sources.items()},
    }
    made = ensemble_of(
        members,
        own,
        weights=weights,
        known=found.get("--id"),
        strange=found.get("--ood"),
        provenance=facts,
    )
    return made, any(one.unreadable for one in found.values())


def _scores(
    option: str,
    source: Source,
    members: dict[str, SavedDetector],
    backbone: Backbone | None,
    run: ModelOptions,
    read: ReadOptions,
    quiet: bool,
) -> MemberScores:
    total = source.count(read) if sys.stderr.isatty() and not quiet else None
    detectors = [one.detector for one in members.values()]
    shown = 0
    with progress(f"scoring {option}", total, quiet=quiet) as bar:

        def told() -> Iterator[Any]:
            nonlocal shown
            for batch in scored(source, detectors, backbone, run, read, open_cache(run)):
                for position, reason in batch.errors.items():
                    if shown < SHOWN_ERRORS:
                        path = printable(batch.ids[position])
                        warn(f"{path}: {printable(reason)}", quiet=quiet)
                    shown += 1
                yield batch
                bar.advance(len(batch.ids))

        return member_scores_of(told(), len(detectors), option)


def _model_of(members: dict[str, SavedDetector], model: str | None, run: ModelOptions) -> Backbone:
    from dataclasses import replace

    own = next((one.model_name for one in members.values() if one.model_name), None)
    if model is None and own is not None:
        run = replace(run, model=own)
    elif model is None:
        raise UsageError(
            "--id: these detectors were made from embeddings alone; give embeddings, or name the "
            "model with --model"
        )
    backbone = load_model(run)
    for name, one in members.items():
        check_backbone(one, backbone.identity(), name)
    return backbone


def _values(asked: EnsembleOptions, settings: Sequence[str] | None) -> dict[str, str]:
    given = settings_of(settings, example="fit=isotonic")
    values = {name.removeprefix(f"{METHOD}."): value for name, value in given.items()}
    if asked.combine is not None:
        values["combine"] = asked.combine
    return values


def _weights(text: str | None, members: int) -> list[float] | None:
    if text is None:
        return None
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if len(found) != members or not all(0 < one < float("inf") for one in found):
        raise UsageError(
            f"--weights {text}: expected {members} numbers above 0 with commas between, one a "
            "detector, in their order"
        )
    return found
