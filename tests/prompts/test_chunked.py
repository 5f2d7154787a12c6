"""Prompts encoded in chunks: the same features and gradients as all together, in less memory."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.backbone.conftest import build
from tests.prompts.test_contexts import NAMES, POSITIONS, WIDTH, stand_in, vectors
from vlood.backbone.text import CausalTextTower
from vlood.errors import UsageError
from vlood.prompts.chunked import PromptEncoder
from vlood.prompts.contexts import assemble, prepare, prompt_tower

MANY = [*NAMES, "cat", "a_rather long name of a thing", "cup"]


@pytest.fixture(scope="module")
def backbone() -> Any:
    return stand_in(build())


def prepared(backbone: Any, length: int, **layout: str) -> Any:
    return prepare(prompt_tower(backbone), backbone.tokenizer, MANY, length, **layout)


def loss_of(features: torch.Tensor) -> torch.Tensor:
    """Anything that ties the prompts together, as a softmax does."""
    unit = torch.nn.functional.normalize(features, dim=-1)
    return (unit @ unit[1]).logsumexp(0) + (unit * torch.linspace(-1, 1, unit.shape[1])).sum()


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("shape", [(3,), (7, 3)], ids=["shared", "class-specific"])
@pytest.mark.parametrize("chunk", [1, 3, 6, 7])
def test_values_and_gradients_are_those_of_all_together(
    backbone: Any, chunk: int, shape: tuple[int, ...], position: str
) -> None:
    tower = prompt_tower(backbone)
    plain = torch.from_numpy(vectors(*shape)).requires_grad_()
    embedded, ends = assemble(tower, backbone.tokenizer, plain, MANY, position=position)
    expected = tower.encode_embedded(embedded, ends)
    loss_of(expected).backward()

    ours = plain.detach().clone().requires_grad_()
    encode = PromptEncoder(tower, prepared(backbone, 3, position=position), chunk=chunk)
    features = encode(ours)
    loss_of(features).backward()
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)
    assert plain.grad is not None
    assert ours.grad is not None
    scale = float(plain.grad.abs().max())
    torch.testing.assert_close(ours.grad / scale, plain.grad / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(3,), (7, 3)], ids=["shared", "class-specific"])
def test_the_gradient_is_the_slope(shape: tuple[int, ...]) -> None:
    model = copy.deepcopy(build()).double()
    tower = CausalTextTower.of(model)
    assert tower is not None
    encode = PromptEncoder(tower, prepared(stand_in(model), 3), chunk=2)
    contexts = torch.from_numpy(vectors(*shape)).double().requires_grad_()
    loss_of(encode(contexts)).backward()
    assert contexts.grad is not None
    direction = torch.from_numpy(vectors(*shape, seed=1)).double()
    step = 1e-5
    with torch.no_grad():
        up, down = (loss_of(encode(contexts + s * direction)) for s in (step, -step))
    slope = (up - down) / (2 * step)
    torch.testing.assert_close((contexts.grad * direction).sum(), slope, rtol=1e-5, atol=1e-9)


def test_steps_see_the_vectors_as_they_are_now(backbone: Any) -> None:
    encode = PromptEncoder(prompt_tower(backbone), prepared(backbone, 3), chunk=2)
    contexts = torch.from_numpy(vectors(3)).requires_grad_()
    optimizer = torch.optim.SGD([contexts], lr=0.05)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = loss_of(encode(contexts))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.01


def test_two_sides_each_get_their_own_gradient(backbone: Any) -> None:
    tower = prompt_tower(backbone)
    encode = PromptEncoder(tower, prepared(backbone, 3), chunk=2)
    one, other = (torch.from_numpy(vectors(3, seed=seed)).requires_grad_() for seed in (0, 1))
    both = torch.cat([encode(one), encode(other)])
    both[len(MANY) :].square().sum().backward()
    assert one.grad is None or not one.grad.any()
    assert other.grad is not None
    assert other.grad.abs().sum(dim=1).gt(0).all()


def test_each_block_gets_the_gradient_of_its_own_prompt(backbone: Any) -> None:
    encode = PromptEncoder(prompt_tower(backbone), prepared(backbone, 3), chunk=2)
    contexts = torch.from_numpy(vectors(7, 3)).requires_grad_()
    encode(contexts)[5].square().sum().backward()
    assert contexts.grad is not None
    assert contexts.grad.abs().sum(dim=(1, 2)).nonzero().flatten().tolist() == [5]


def test_no_gradient_asked_no_graph_kept(backbone: Any) -> None:
    encode = PromptEncoder(prompt_tower(backbone), prepared(backbone, 3), chunk=2)
    assert not encode(torch.from_numpy(vectors(3))).requires_grad
    with torch.no_grad():
        assert not encode(torch.from_numpy(vectors(3)).requires_grad_()).requires_grad


@pytest.mark.parametrize("chunk", [2, 100])
def test_autocast_holds_in_both_passes(backbone: Any, chunk: int) -> None:
    tower = prompt_tower(backbone)
    results = []
    for each in (chunk, 7):
        contexts = torch.from_numpy(vectors(3)).requires_grad_()
        encode = PromptEncoder(tower, prepared(backbone, 3), chunk=each)
        with torch.autocast("cpu", torch.bfloat16):
            features = encode(contexts)
        loss_of(features.float()).backward()
        assert contexts.grad is not None
        results.append((features, contexts.grad))
    (chunked, chunked_grad), (whole, whole_grad) = results
    assert chunked.dtype == whole.dtype
    torch.testing.assert_close(chunked, whole, rtol=0.02, atol=0.05)
    # Single precision in the second pass would agree far less with what bfloat16 gives.
    scale = float(whole_grad.abs().max())
    torch.testing.assert_close(chunked_grad / scale, whole_grad / scale, rtol=0, atol=0.05)


def test_memory_holds_one_chunk_of_activations(backbone: Any) -> None:
    """What autograd keeps until the backward pass, and the work that sparing it costs."""
    tower, prompts = prompt_tower(backbone), prepared(backbone, 3)
    kept: dict[int, int] = {}
    work: dict[int, int] = {}
    for chunk in (1, 7):
        sizes: list[int] = []

        def pack(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        contexts = torch.from_numpy(vectors(3)).requires_grad_()
        counter = FlopCounterMode(display=False)
        with counter, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            features = PromptEncoder(tower, prompts, chunk=chunk)(contexts)
            kept[chunk] = sum(sizes)
            features.sum().backward()
        work[chunk] = counter.get_total_flops()
    # Chunked, only the contexts and the order of the prompts wait for the backward pass.
    assert kept[1] <= 3 * WIDTH + 3 * len(MANY)
    assert kept[7] > 50 * kept[1]
    # Forward, forward, backward instead of forward, backward; shorter padding saves some of it.
    assert work[7] < work[1] * 1.2
    assert work[1] < 1.6 * work[7]


def test_memory_that_runs_out_halves_the_chunks(
    backbone: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tower = prompt_tower(backbone)
    contexts = torch.from_numpy(vectors(3)).requires_grad_()
    expected = PromptEncoder(tower, prepared(backbone, 3))(contexts)
    whole = CausalTextTower.encode_embedded

    def small(self: Any, embedded: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        if len(embedded) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, embedded, ends)

    monkeypatch.setattr(CausalTextTower, "encode_embedded", small)
    encode = PromptEncoder(tower, prepared(backbone, 3), chunk=5)
    torch.testing.assert_close(encode(contexts), expected, rtol=0, atol=1e-5)
    assert "going on with 2" in caplog.text
    caplog.clear()
    encode(contexts).sum().backward()
    assert contexts.grad is not None
    assert not caplog.text


def test_contexts_that_do_not_fit_are_refused(backbone: Any) -> None:
    encode = PromptEncoder(prompt_tower(backbone), prepared(backbone, 3), chunk=2)
    with pytest.raises(UsageError, match=r"4 context vectors a prompt.*places for 3"):
        encode(torch.from_numpy(vectors(4)))
    with pytest.raises(UsageError, match="2 blocks of context vectors and 7 names"):
        encode(torch.from_numpy(vectors(2, 3)))
    with pytest.raises(UsageError, match="9 wide and the token embeddings of the model 32"):
        encode(torch.zeros(3, 9))


def test_a_long_name_is_refused_before_training(backbone: Any) -> None:
    with pytest.raises(UsageError, match=r"'dog dog .*16 context vectors leave room for 58"):
        prepare(prompt_tower(backbone), backbone.tokenizer, ["cat", "dog " * 60], 16)
