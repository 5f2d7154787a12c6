"""Starting points of context vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.backbone.conftest import build
from tests.prompts.test_contexts import NAMES, WIDTH, reference, stand_in
from vlood.errors import UsageError
from vlood.prompts.contexts import Contexts, encode_prompts, prompt_tower
from vlood.prompts.starting import INIT_STD, random_contexts, word_contexts


@pytest.fixture(scope="module")
def backbone() -> Any:
    return stand_in(build())


def drawn(*shape: int, seed: int = 0, **more: Any) -> torch.Tensor:
    return random_contexts(*shape, generator=torch.Generator().manual_seed(seed), **more)


def words(backbone: Any, text: str, **more: Any) -> torch.Tensor:
    return word_contexts(prompt_tower(backbone), backbone.tokenizer, text, **more)


def test_random_vectors_are_normal_and_of_their_seed() -> None:
    many = drawn(16, 512, blocks=20)
    assert many.shape == (20, 16, 512)
    assert many.dtype == torch.float32
    assert float(many.std()) == pytest.approx(INIT_STD, rel=0.02)
    assert abs(float(many.mean())) < 2e-4
    assert drawn(4, 8).shape == (4, 8)
    assert torch.equal(drawn(4, 8), drawn(4, 8))
    assert not torch.equal(drawn(4, 8), drawn(4, 8, seed=1))
    assert not torch.equal(many[0], many[1])


def test_one_generator_gives_two_different_sides_and_the_global_one_is_left_alone() -> None:
    before = torch.get_rng_state()
    generator = torch.Generator().manual_seed(3)
    first, second = (random_contexts(4, 8, generator=generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("text", ["a photo of a", "a_photo  of_a"])
def test_words_encode_like_their_text(backbone: Any, text: str) -> None:
    vectors = words(backbone, text, length=4)
    assert vectors.shape == (4, WIDTH)
    found = encode_prompts(backbone, Contexts(vectors.numpy()), NAMES)
    texts = [f"a photo of a {name.replace('_', ' ')}." for name in NAMES]
    np.testing.assert_allclose(found, reference(backbone, texts), rtol=0, atol=1e-5)
    blocks = words(backbone, text, blocks=3)
    assert blocks.shape == (3, 4, WIDTH)
    assert torch.equal(blocks[2], vectors)


def test_training_does_not_move_the_models_own_words(backbone: Any) -> None:
    vectors = words(backbone, "photo")
    kept = prompt_tower(backbone).module.token_embedding.weight.clone()
    vectors += 1
    assert torch.equal(prompt_tower(backbone).module.token_embedding.weight, kept)


@pytest.mark.parametrize(
    ("text", "length", "sentence"),
    [
        ("a photo of a", 16, "'a photo of a'.* have 4 tokens, and there are 16 vectors; set"),
        ("leonberger", 1, "'leonberger'.* have [2-9] tokens, and there are 1 vectors"),
        (" _ ", None, "' _ ' for context vectors are none"),
        ("dog " * 75, None, "75 tokens or more and leave no room for a name in the model's 77"),
        ("dog " * 300, None, "75 tokens or more and leave no room"),
    ],
)
def test_words_that_do_not_fit_are_refused(
    backbone: Any, text: str, length: int | None, sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        words(backbone, text, length=length)
