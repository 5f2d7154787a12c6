"""What CoOp and LoCoOp share: the start of the vectors, the schedule, the settings' limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from vlood.errors import UsageError
from vlood.methods import registry
from vlood.methods.context_training import loop_settings, starting_contexts
from vlood.methods.contract import make_settings
from vlood.methods.coop import CoOpSettings
from vlood.methods.locoop import LoCoOpSettings

METHODS = ("coop", "locoop")


class Tower:
    """A token-embedding table of ten words, each its own number."""

    def __init__(self) -> None:
        self.module = self
        self.token_embedding = torch.nn.Embedding.from_pretrained(torch.arange(30.0).reshape(10, 3))

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.token_embedding(tokens)

    def ends(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.argmax(1)


def tokenize(texts: list[str]) -> torch.Tensor:
    words = [[8, *(int(word) for word in text.split()), 9] for text in texts]
    return torch.tensor([row + [0] * (12 - len(row)) for row in words])


def start(**values: Any) -> torch.Tensor:
    settings = CoOpSettings(**values)
    return starting_contexts(Tower(), tokenize, settings, 5, seed=1)  # type: ignore[arg-type]


def test_contexts_start_from_chance_or_words() -> None:
    drawn = start(context_length=200)
    assert drawn.shape == (200, 3)
    assert drawn.dtype == torch.float32
    assert drawn.std().item() == pytest.approx(0.02, rel=0.1)
    assert torch.equal(drawn, start(context_length=200))
    each = start(context_length=4, class_specific=True)
    assert each.shape == (5, 4, 3)
    assert not torch.equal(each[0], each[1])
    words = start(init="3 1_2")
    np.testing.assert_array_equal(words, [[9, 10, 11], [3, 4, 5], [6, 7, 8]])
    copies = start(init="3 1", class_specific=True)
    assert copies.shape == (5, 2, 3)
    assert torch.equal(copies[0], copies[4])


@pytest.mark.parametrize("settings", [CoOpSettings(), LoCoOpSettings()])
def test_the_schedule_is_the_published_one(settings: Any) -> None:
    loop = loop_settings(settings, 50)
    rates = [loop.schedule.rate(loop.learning_rate, step, 2, 50) for step in (0, 1, 2, 98)]
    assert rates[:3] == [1e-5, 1e-5, 0.002]
    assert rates[3] == pytest.approx(0.001 * (1 + np.cos(np.pi * 48 / 50)))
    assert (loop.optimizer, loop.momentum, loop.weight_decay) == ("sgd", 0.9, 5e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"learning_rate": "0"}, "learning_rate is 0.0; expected a finite number, more than zero"),
        ({"learning_rate": "nan"}, "learning_rate is nan; expected a finite number"),
        ({"position": "left"}, "{}: position is 'left'; expected one of end, middle, front"),
        ({"score": "energy"}, "{}: score is 'energy'"),
        ({"context_length": "0"}, "{}: context_length is 0"),
        ({"epochs": "-1"}, "{}: epochs is -1"),
        ({"held_out": "2"}, "{}: held_out is 2"),
        ({"init": " "}, "{}: init is empty"),
        ({"optimizer": "lion"}, "optimizer is 'lion'"),
        ({"accumulate": "0"}, "accumulate is 0; expected a whole number, 1 or more"),
        ({"epoch": "3"}, "{} has no setting 'epoch'; did you mean epochs"),
    ],
)
def test_wrong_settings_are_one_sentence(method: str, values: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words.format(method)):
        make_settings(registry.get(method), values)
