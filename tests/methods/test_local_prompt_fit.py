"""Local-Prompt's settings: presets, sizes by classes and regions, the schedule, wrong values."""

from __future__ import annotations

from typing import Any

import pytest

from vlood.errors import UsageError
from vlood.methods import registry
from vlood.methods.contract import make_settings
from vlood.methods.local_prompt_settings import (
    LocalPromptSettings,
    Sizes,
    default_negatives,
    loop_settings,
    sizes_of,
)
from vlood.training.draws import RepeatedRows, ShuffledRows


def sizes(regions: int = 196, classes: int = 1000, images: int = 4000, **values: Any) -> Sizes:
    return sizes_of(LocalPromptSettings(**values), regions=regions, classes=classes, images=images)


@pytest.mark.parametrize("preset", ["scaled", "local-prompt"])
def test_both_presets_are_the_published_figures_on_imagenet(preset: str) -> None:
    assert sizes(preset=preset) == Sizes(50, 300)


def test_k_and_m_follow_regions_and_classes() -> None:
    assert sizes(64, 12, 48) == Sizes(16, 4)
    assert sizes(49, 100, 400) == Sizes(12, 30)
    assert sizes(4, 10, 40).top_k == 1
    assert [default_negatives(count) for count in (1, 13, 100)] == [4, 4, 30]


def test_more_than_there_are_regions_is_clamped_and_said() -> None:
    found = sizes(49, 12, 12, preset="local-prompt", top_k=60)
    assert (found.top_k, found.negatives) == (49, 300)
    assert found.notes == (
        "local-prompt: train_top_k is 50 and the model has 49 regions: 49 is used",
        "local-prompt: top_k is 60 and the model has 49 regions: all are used for a class's "
        "evidence",
    )
    few = sizes(4, 3, 3, negative_prompts=20)
    assert few.negatives == 3
    assert "there are 3 regions to learn them from (1 of each image): 3 is used" in few.notes[-1]
    with pytest.raises(UsageError, match="has a single region, the whole image"):
        sizes(1)


def test_the_schedule_is_the_published_one() -> None:
    loop = loop_settings(LocalPromptSettings())
    rows = RepeatedRows(ShuffledRows(4000, 256), 8)
    assert rows.per_epoch * loop.epochs == 3600
    rates = [
        loop.schedule.rate(loop.learning_rate, epoch * rows.per_epoch, rows.per_epoch, loop.epochs)
        for epoch in range(30)
    ]
    assert rates[0] == 1e-5
    assert rates[1:4] == pytest.approx([2.000e-3, 1.995e-3, 1.978e-3], abs=5e-7)
    assert rates[29] == pytest.approx(2.185e-5, abs=5e-9)
    assert (loop.optimizer, loop.momentum, loop.nesterov, loop.weight_decay) == (
        "sgd",
        0.9,
        False,
        5e-4,
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"views": "1"}, "views is 1; expected a whole number, 2 or more"),
        ({"positive_views": "16"}, "positive_views is 16 and views is 16; one view must be left"),
        ({"preset": "paper"}, "preset is 'paper'; expected scaled or local-prompt"),
        ({"train_top_k": "-1"}, "train_top_k is -1"),
        ({"negative_prompts": "-2"}, "negative_prompts is -2"),
        ({"weight_negative": "-1"}, "weight_negative is -1.0"),
        ({"neglabel": "nan"}, "neglabel is nan"),
        ({"learning_rate": "0"}, "learning_rate is 0.0"),
        ({"precision": "int8"}, "precision is 'int8'"),
        ({"init": ""}, "init is empty"),
        ({"train_temperature": "0"}, "train_temperature is 0.0"),
    ],
)
def test_wrong_settings_are_one_sentence(values: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make_settings(registry.get("local-prompt"), values)


def test_a_weight_of_zero_is_a_weight() -> None:
    made = make_settings(
        registry.get("local-prompt"), {"weight_negative": "0", "weight_diversity": "0"}
    )
    assert (made.weight_negative, made.weight_diversity) == (0, 0)
