"""``vlood tune classifier``: train a closed-world classifier, for `--classifier DIR`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from vlood.cli.class_options import settings_of
from vlood.cli.guard import SOME_UNREADABLE
from vlood.cli.model_options import ModelOptions, ReadOptions, stream_settings
from vlood.cli.talk import progress, warn, warn_unreadable
from vlood.cli.training_inputs import training_source
from vlood.cli.tuning_run import print_cost, run_folder, shown
from vlood.engines.classifier_tuning import (
    Circumstances,
    check_new_classifier,
    plan_of,
    save_classifier,
    tune_classifier,
)
from vlood.engines.picture_feed import read_pictures
from vlood.engines.training_images import Candidates
from vlood.engines.tuning_costs import RunCost
from vlood.errors import UsageError
from vlood.prompts.classes import read_classes
from vlood.training.costs import CostProbe
from vlood.training.few_shot import sample_shots
from vlood.training.labelled import check_every_class
from vlood.training.workers import workers

if TYPE_CHECKING:
    from vlood.engines.classifier_tuning import TunedClassifier

NAME = "classifier"


def run(
    output: Path,
    classes: str | None,
    train: list[str] | None,
    settings: list[str] | None,
    init: Path | None,
    model: ModelOptions,
    read: ReadOptions,
    *,
    shots: int | None,
    label_noise: float,
    seed: int,
    resume: bool,
    dry_run: bool,
    log: Path | None,
    overwrite: bool,
    quiet: bool,
    command: str,
    refused: Mapping[str, object],
) -> None:
    """Train a classifier and write its folder.

    Raises:
        UsageError: an option has no part in it, or something named is wrong.
        typer.Exit: some images could not be read (3).
    """
    from vlood.backbone.device import choose_device, choose_precision

    for name, value in refused.items():
        if value:
            raise UsageError(f"{name}: has no part in tuning a classifier; leave it out")
    if classes is None or not train:
        raise UsageError(
            "tune classifier: needs --classes, and --train IN..., a labelled folder or lists"
        )
    folder = run_folder(output, resume=resume, log=log)
    if not dry_run:
        check_new_classifier(output, overwrite=overwrite)
        folder.check(overwrite=overwrite)
    named = read_classes(classes)
    source = training_source(train, None, [] if shots is None else [shots], read)
    assert source is not None
    if source.embeddings is not None:
        raise UsageError(
            f"--train {source.inputs[0]}: holds embeddings, and a classifier learns from images; "
            "give images"
        )
    plan = plan_of([each.name for each in named], settings_of(settings), init, seed)
    device = choose_device(model.device)
    precision = choose_precision(model.precision, device).name
    candidates = Candidates.of(source.items(read), named)
    rows = list(range(len(candidates.items)))
    if shots is not None:
        rows = sample_shots(candidates.labels, shots, seed, list(plan.names)).tolist()
    items = [candidates.items[row] for row in rows]
    stream = stream_settings(model, read)
    with progress("reading images", len(items), quiet=quiet) as bar:
        found = read_pictures(items, plan.settings.size, stream, advance=bar.advance)
    _tell(candidates, found.errors, quiet)
    label_of = {id(candidates.items[row]): candidates.labels[row] for row in rows}
    labels = np.array([label_of[id(item)] for item in found.items], np.int64)
    check_every_class(labels, list(plan.names))
    how = Circumstances(device, precision, seed)
    if dry_run:
        probe = CostProbe()
        tune_classifier(
            plan, found, labels, stream, replace(how, probe=probe), label_noise=label_noise
        )
        print_cost(_cost(probe, device, len(plan.names), len(labels)))
        return
    try:
        with progress("training", None, quiet=quiet) as bar:
            watched = replace(how, run=folder, on_step=shown(bar))
            tuned = tune_classifier(plan, found, labels, stream, watched, label_noise=label_noise)
    except KeyboardInterrupt:
        if folder.path.exists():
            warn(f"the run is kept in {folder.path}; the same command with --resume goes on")
        raise
    if not workers().is_main:
        return
    provenance: dict[str, Any] = {"command": command, "seed": seed, "train": source.inputs}
    if label_noise:
        provenance["label_noise"] = label_noise
    save_classifier(output, tuned, provenance, folder.log_path)
    folder.remove()
    _report(output, tuned)
    if found.errors:
        raise typer.Exit(SOME_UNREADABLE)


def _tell(candidates: Candidates, errors: Mapping[str, str], quiet: bool) -> None:
    """Say which images are not used."""
    others = sum(candidates.unmatched.values()) + candidates.unlabelled
    if others:
        warn(f"--train: {others} images left out, whose labels are no class", quiet=quiet)
    warn_unreadable(errors, f"{len(errors)} training images could not be read", quiet=quiet)


def _cost(probe: CostProbe, device: str, classes: int, images: int) -> RunCost:
    assert probe.cost is not None
    cost = probe.cost
    return RunCost(
        method=NAME,
        device=device,
        classes=classes,
        images=images,
        views=0,
        region_views=0,
        to_encode=0,
        cached=0,
        encode_seconds=0.0,
        trainable=cost.trainable,
        steps=cost.steps,
        step_seconds=cost.step_seconds,
        train_seconds=cost.steps * cost.step_seconds,
        peak_memory_bytes=cost.peak_memory_bytes,
        cache_bytes=0,
        store_bytes=0,
        state_bytes=cost.state_bytes,
    )


def _report(output: Path, tuned: TunedClassifier) -> None:
    plan, trained = tuned.plan, tuned.trained
    if not sys.stdout.isatty():
        facts = {
            "classifier": str(output),
            "arch": plan.architecture,
            "classes": len(plan.names),
            "images": tuned.images,
            "held_out": tuned.aside,
            "accuracy": trained.accuracy,
            "steps": trained.steps,
            "epochs": trained.epochs,
        }
        sys.stdout.write(json.dumps(facts) + "\n")
        return
    right = "none kept aside"
    if trained.accuracy is not None:
        right = f"{trained.accuracy:.1%} of {tuned.aside:,} held-out images right"
    sys.stdout.write(
        f"{output}: {plan.architecture}, {len(plan.names)} classes, {tuned.images:,} training "
        f"images, {right}\n"
        f"next: vlood tune cooked --classes C --train IN --classifier {output} -o DIR\n"
    )
