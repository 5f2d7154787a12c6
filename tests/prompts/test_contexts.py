"""Learned prompts: assembled like text where the vectors are words, cut exactly, and readable."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray

from tests.backbone.conftest import build
from vlood.backbone.backbone import Backbone
from vlood.backbone.text import CausalTextTower
from vlood.errors import UsageError
from vlood.prompts.contexts import Contexts, assemble, encode_prompts, nearest_words, prompt_tower

NAMES = ["dog", "great_white shark", "tench", "leonberger"]
WIDTH = 32
WORDS = "a photo of a"
POSITIONS = ("end", "middle", "front")


@pytest.fixture(scope="module", params=[False, True], ids=["CLIP", "separate text tower"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return stand_in(build(custom_text=request.param))


def stand_in(model: Any, name: str = "tiny") -> Backbone:
    """What the prompts ask of a backbone."""
    tokenizer = open_clip.SimpleTokenizer(context_length=77)
    tower = CausalTextTower.of(model)
    return cast(
        Backbone,
        SimpleNamespace(
            name=name, module=model, text_tower=tower, tokenizer=tokenizer, device="cpu"
        ),
    )


def vectors(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(*shape, WIDTH)).astype(np.float32) * 0.3


def words_as_vectors(backbone: Backbone, words: str = WORDS) -> torch.Tensor:
    ids = backbone.tokenizer.encode(words)
    return prompt_tower(backbone).embed(torch.tensor(ids)).detach()


def reference(backbone: Backbone, texts: list[str]) -> NDArray[np.float32]:
    """open_clip's own encoder, at full length."""
    with torch.inference_mode():
        tokens = backbone.tokenizer(texts)
        return cast(Any, backbone.module.encode_text(tokens, normalize=False).numpy())


def rows_of(
    backbone: Backbone, contexts: torch.Tensor, names: list[str], position: str
) -> list[torch.Tensor]:
    """Stated anew, row by row and without padding: prefix, name and contexts, rest."""
    tower, tokenizer = prompt_tower(backbone), backbone.tokenizer
    rows = []
    for row, name in enumerate(names):
        plain = name.replace("_", " ")
        own = contexts if contexts.ndim == 2 else contexts[row]
        word = tokenizer.encode(plain)
        behind = tokenizer.encode(f"{plain}.")[len(word) :]
        ids = torch.tensor([49406, *word, *behind, 49407])
        embedded = tower.embed(ids)
        first, named, rest = embedded[:1], embedded[1 : 1 + len(word)], embedded[1 + len(word) :]
        half = len(own) // 2
        order = {
            "end": [first, own, named, rest],
            "middle": [first, own[:half], named, own[half:], rest],
            "front": [first, named, own, rest],
        }[position]
        rows.append(torch.cat(order))
    return rows


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("shape", [(5,), (1,), (4, 5)])
def test_layouts(backbone: Backbone, position: str, shape: tuple[int, ...]) -> None:
    contexts, tower = torch.from_numpy(vectors(*shape)), prompt_tower(backbone)
    embedded, ends = assemble(tower, backbone.tokenizer, contexts, NAMES, position=position)
    expected = rows_of(backbone, contexts, NAMES, position)
    assert embedded.shape == (4, max(map(len, expected)), WIDTH)
    assert ends.tolist() == [len(row) - 1 for row in expected]
    for row, (own, end) in enumerate(zip(expected, ends.tolist(), strict=True)):
        torch.testing.assert_close(embedded[row, : end + 1], own, rtol=0, atol=0)


@pytest.mark.parametrize("position", POSITIONS)
def test_a_name_whose_full_stop_melts_into_it_keeps_the_reference_layout(
    backbone: Backbone, position: str
) -> None:
    contexts, names = torch.from_numpy(vectors(3)), ["mt.", "dog"]
    embedded, _ = assemble(
        prompt_tower(backbone), backbone.tokenizer, contexts, names, position=position
    )
    ids = backbone.tokenizer.encode("mt..")
    assert len(ids) == len(backbone.tokenizer.encode("mt."))  # ".." is one word
    named = prompt_tower(backbone).embed(torch.tensor(ids))
    start = {"end": 4, "middle": 2, "front": 1}[position]
    torch.testing.assert_close(embedded[0, start : start + 2], named, rtol=0, atol=0)


def test_vectors_of_words_encode_like_the_text(backbone: Backbone) -> None:
    contexts = Contexts(words_as_vectors(backbone).numpy())
    plain = [name.replace("_", " ") for name in NAMES]
    for position, texts in {
        "end": [f"{WORDS} {name}." for name in plain],
        "middle": [f"a photo {name} of a." for name in plain],
        "front": [f"{name} {WORDS}." for name in plain],
    }.items():
        found = encode_prompts(backbone, Contexts(contexts.vectors, position), NAMES)
        np.testing.assert_allclose(found, reference(backbone, texts), rtol=0, atol=1e-5)
    nameless = encode_prompts(backbone, Contexts(contexts.vectors, names=False), None)
    np.testing.assert_allclose(nameless, reference(backbone, [f"{WORDS}."]), rtol=0, atol=1e-5)


def test_no_vectors_at_all_leave_the_text(backbone: Backbone) -> None:
    tower = prompt_tower(backbone)
    embedded, ends = assemble(tower, backbone.tokenizer, torch.zeros(0, WIDTH), ["dog", "red cat"])
    tokens = backbone.tokenizer(["dog.", "red cat."])
    torch.testing.assert_close(embedded, tower.embed(tokens[:, : int(ends.max()) + 1]))
    assert ends.tolist() == tower.ends(tokens).tolist()


@pytest.mark.parametrize("position", POSITIONS)
def test_cut_prompts_encode_and_pass_gradients_like_full_ones(
    backbone: Backbone, position: str
) -> None:
    tower = prompt_tower(backbone)
    results = []
    for length in (0, 77):
        contexts = torch.from_numpy(vectors(4)).requires_grad_()
        embedded, ends = assemble(tower, backbone.tokenizer, contexts, NAMES, position=position)
        assert embedded.shape[1] < 16
        if length:
            padding = torch.zeros(len(NAMES), length - embedded.shape[1], dtype=torch.long)
            embedded = torch.cat([embedded, tower.embed(padding)], dim=1)
        features = tower.encode_embedded(embedded, ends)
        (features * torch.linspace(-1, 1, features.shape[1])).sum().backward()
        assert contexts.grad is not None
        results.append((features.detach(), contexts.grad))
    (short, short_grad), (whole, whole_grad) = results
    torch.testing.assert_close(short, whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(short_grad, whole_grad, rtol=1e-3, atol=1e-4)
    assert (short_grad.abs().sum(dim=1) > 0).all()


def test_each_block_of_vectors_gets_the_gradient_of_its_own_name(backbone: Backbone) -> None:
    tower = prompt_tower(backbone)
    contexts = torch.from_numpy(vectors(4, 3)).requires_grad_()
    features = tower.encode_embedded(*assemble(tower, backbone.tokenizer, contexts, NAMES))
    features[2].square().sum().backward()
    assert contexts.grad is not None
    assert (contexts.grad.abs().sum(dim=(1, 2)) > 0).tolist() == [False, False, True, False]


@pytest.mark.parametrize("chunk", [1, 3, 256])
@pytest.mark.parametrize("shape", [(3,), (4, 3)])
def test_chunks_change_nothing_and_keep_the_order(
    backbone: Backbone, chunk: int, shape: tuple[int, ...]
) -> None:
    contexts, tower = Contexts(vectors(*shape)), prompt_tower(backbone)
    found = encode_prompts(backbone, contexts, NAMES, chunk=chunk)
    given = torch.from_numpy(contexts.vectors)
    whole = tower.encode_embedded(*assemble(tower, backbone.tokenizer, given, NAMES))
    np.testing.assert_allclose(found, whole.detach().numpy(), rtol=0, atol=1e-5)
    assert found.dtype == np.float32


def test_nameless_prompts_are_one_a_block(backbone: Backbone) -> None:
    contexts = Contexts(vectors(5, 3), names=False)
    found = encode_prompts(backbone, contexts, None)
    assert found.shape == (5, 24)
    alone = encode_prompts(backbone, Contexts(contexts.vectors[3], names=False), None)
    np.testing.assert_allclose(found[3:4], alone, rtol=0, atol=1e-5)


def test_the_words_nearest_to_words_are_themselves(backbone: Backbone) -> None:
    contexts = words_as_vectors(backbone, "red photo dog")
    shared = nearest_words(backbone, Contexts(contexts.numpy()), 3)
    assert [near[0][0] for near in shared] == ["red", "photo", "dog"]
    assert all(near[0][1] == pytest.approx(0, abs=1e-6) for near in shared)
    for near in shared:
        distances = [distance for _, distance in near]
        assert distances == sorted(distances)
        assert len(near) == 3
    blocks = nearest_words(backbone, Contexts(np.stack([contexts.numpy()] * 2)), 1)
    assert [near[0][0] for near in blocks] == ["red", "photo", "dog"] * 2


def test_nearest_words_agree_with_plain_distances(backbone: Backbone) -> None:
    contexts = Contexts(vectors(2))
    table = prompt_tower(backbone).module.token_embedding.weight.detach().numpy()
    for vector, near in zip(contexts.vectors, nearest_words(backbone, contexts, 4), strict=True):
        distances = np.linalg.norm(table - vector, axis=1)
        np.testing.assert_allclose([each for _, each in near], np.sort(distances)[:4], rtol=1e-4)


def test_shapes_say_what_they_are() -> None:
    shared, own = Contexts(vectors(4)), Contexts(vectors(7, 16), "middle")
    assert (shared.shared, shared.length, shared.width) == (True, 4, WIDTH)
    assert (own.shared, own.length, own.width) == (False, 16, WIDTH)


@pytest.mark.parametrize("shape", [(), (0,), (2, 3, 4), (0, 4), (3, 0)])
def test_vectors_of_no_known_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"context vectors have shape \(.*expected \(L, W\)"):
        Contexts(vectors(*shape))


def test_bad_vectors_and_positions_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\(4, 32\) must be finite numbers in single precision"):
        Contexts(vectors(4).astype(np.float64))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="finite"):
        Contexts(np.full((2, 3), np.nan, np.float32))
    with pytest.raises(UsageError, match="'back'; expected end, middle or front"):
        Contexts(vectors(4), "back")


def test_bad_names_are_refused(backbone: Backbone) -> None:
    with pytest.raises(UsageError, match="4 blocks of context vectors and 2 names"):
        encode_prompts(backbone, Contexts(vectors(4, 3)), NAMES[:2])
    with pytest.raises(UsageError, match="at least one name"):
        encode_prompts(backbone, Contexts(vectors(3)), [])
    with pytest.raises(UsageError, match="take names, but none were given"):
        encode_prompts(backbone, Contexts(vectors(3)), None)
    with pytest.raises(UsageError, match="without names, but 4 were given"):
        encode_prompts(backbone, Contexts(vectors(3), names=False), NAMES)


@pytest.mark.parametrize("position", POSITIONS)
def test_a_name_may_fill_the_context_and_no_more(backbone: Backbone, position: str) -> None:
    contexts = Contexts(vectors(16), position)
    fits = "dog " * (77 - 16 - 3)
    assert np.isfinite(encode_prompts(backbone, contexts, ["cat", fits])).all()
    for long in (f"{fits}dog", "dog " * 200):
        with pytest.raises(UsageError, match=r"'dog dog .*16 context vectors leave room for 58"):
            encode_prompts(backbone, contexts, ["cat", long])


def test_another_model_is_refused(backbone: Backbone) -> None:
    other = Contexts(np.zeros((4, 7), np.float32))
    with pytest.raises(UsageError, match="7 wide and the token embeddings of the model 32"):
        encode_prompts(backbone, other, NAMES)
    with pytest.raises(UsageError, match="7 wide and the token embeddings of tiny 32"):
        nearest_words(backbone, other, 1)


def test_a_tower_that_is_not_causal_is_refused() -> None:
    backbone = stand_in(build(text={"no_causal_mask": True}, custom_text=True), "siglip")
    for use in (
        lambda: encode_prompts(backbone, Contexts(vectors(3)), NAMES),
        lambda: nearest_words(backbone, Contexts(vectors(3)), 1),
    ):
        with pytest.raises(UsageError, match="--model siglip: its text tower is not a causal one"):
            use()
