"""Training a classifier: it learns, resumes bit for bit, and leaves global chance alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vlood.backbone.classifier.input import MEANS, ClassifierInput
from vlood.errors import UsageError
from vlood.methods.classifier_settings import ClassifierSettings
from vlood.methods.classifier_training import Lesson, TrainedNetwork, split, train_network
from vlood.methods.settings import settings_from
from vlood.training.checkpoints import RunFolder
from vlood.training.loop import StepReport

LABELS = np.arange(48) % 3
COLOURS = np.array([[200, 30, 30], [30, 180, 40], [30, 40, 200]])
INPUT = ClassifierInput((8, 8), 8, "bilinear", *MEANS["imagenet"])
QUICK = {"size": "8", "epochs": "6", "batch_size": "8", "learning_rate": "0.05"}


def pictures(rows: np.ndarray, epoch: int) -> np.ndarray:
    made = []
    for row in rows.tolist():
        noise = np.random.default_rng([row, epoch]).normal(0, 25, (8, 8, 3))
        made.append(np.clip(COLOURS[LABELS[row]] + noise, 0, 255).astype(np.uint8))
    return np.stack(made)


def network(dropout: float = 0.2) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 6, 3),
            torch.nn.BatchNorm2d(6),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Dropout(dropout),
            torch.nn.Linear(6, 3),
        )


def trained(
    values: dict[str, str] | None = None,
    run: RunFolder | None = None,
    dropout: float = 0.2,
    **options: Any,
) -> tuple[TrainedNetwork, Any]:
    settings = settings_from("classifier", ClassifierSettings, {**QUICK, **(values or {})})
    rows, aside = split(LABELS, settings.held_out, 1)
    lesson = Lesson(pictures, LABELS, rows, aside, pictures(aside, 99) if len(aside) else rows[:0])
    made = network(dropout)
    done = train_network(
        made,
        lesson,
        settings,
        INPUT.preprocessing(),
        from_weights=False,
        device="cpu",
        precision="fp32",
        seed=1,
        run=run,
        **options,
    )
    return done, made


def test_it_learns_and_says_how_well() -> None:
    before = torch.random.get_rng_state()
    done, made = trained({"epochs": "20"})
    assert done.accuracy == 1.0
    assert set(done.weights) == set(made.state_dict())
    assert int(done.weights["1.num_batches_tracked"]) == done.steps
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """Batch statistics and dropout are a part of it."""
    whole, _ = trained()

    def stop(report: StepReport) -> None:
        if report.step == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(run=RunFolder(tmp_path / "run"), on_step=stop)
    again, _ = trained(run=RunFolder(tmp_path / "run", resume=True))
    assert again.steps == whole.steps
    assert again.accuracy == whole.accuracy
    for name, tensor in whole.weights.items():
        assert torch.equal(tensor, again.weights[name]), name


def test_patience_takes_the_best_statistics_with_the_best_weights() -> None:
    done, _ = trained({"patience": "1", "epochs": "40", "learning_rate": "0.5", "held_out": "0.2"})
    steps = int(done.weights["1.num_batches_tracked"])
    assert 0 < steps < done.steps


def test_label_smoothing_is_the_smoothed_cross_entropy() -> None:
    losses: list[float] = []

    def note(report: StepReport) -> None:
        losses.append(report.loss)

    one_step = {"label_smoothing": "0.3", "held_out": "0", "epochs": "1", "batch_size": "48"}
    trained(one_step, dropout=0.0, on_step=note)
    images = INPUT.preprocessing().normalise(pictures(np.arange(48), 0))
    log = F.log_softmax(network(0.0).train()(images), dim=1).detach()
    soft = 0.7 * F.one_hot(torch.from_numpy(LABELS), 3) + 0.1
    assert losses[0] == pytest.approx(float(-(soft * log).sum(dim=1).mean()), rel=1e-4)


def test_a_split_keeps_some_of_every_class() -> None:
    rows, aside = split(LABELS, 0.25, 3)
    assert sorted([*rows, *aside]) == list(range(48))
    assert np.bincount(LABELS[aside]).tolist() == [4, 4, 4]
    assert len(split(LABELS, 0.0, 3)[1]) == 0
    with pytest.raises(UsageError, match="every class has a single image"):
        split(np.arange(3), 0.1, 3)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"optimizer": "adam"}, "optimizer is 'adam'"),
        ({"arch_": "x"}, "did you mean arch"),
        ({"size": "4"}, "size is 4"),
        ({"label_smoothing": "1"}, "label_smoothing"),
        ({"smallest_crop": "0"}, "smallest_crop"),
        ({"held_out": "0", "patience": "2"}, "patience needs images kept aside"),
        ({"warmup": "6"}, "warmup is 6 of 6 epochs"),
        ({"normalisation": "x"}, "normalisation is 'x'"),
        ({"epochs": "many"}, "epochs is 'many'"),
    ],
)
def test_wrong_settings_are_one_sentence(values: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        settings_from("classifier", ClassifierSettings, {**QUICK, **values})


def test_rates_are_those_of_cookeds_classifiers() -> None:
    loop: Callable[..., Any] = ClassifierSettings().loop
    assert loop(from_weights=False, per_epoch=5).learning_rate == 0.1
    assert loop(from_weights=True, per_epoch=5).learning_rate == 0.01
    warm = ClassifierSettings(warmup=2, epochs=10).loop(from_weights=False, per_epoch=5)
    rates = [warm.schedule.rate(warm.learning_rate, step, 5, 10) for step in range(50)]
    assert rates[0] == pytest.approx(0.001)
    assert rates[10] == pytest.approx(0.1)
    assert np.argmax(rates) == 10
    assert rates[-1] < 0.001
