from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlood.backbone.batches import ShrinkingBatches
from vlood.backbone.text import CausalTextTower, _buckets, encode_texts

TEXTS = [
    "a photo of a dog.",
    "",
    "the nice cat",
    "a photo of a very long and winding road through the mountains at night, with stars",
    "the nice cat",
    "tench",
    "é ü 漢字 🙂",
]
EOT = 49407


def reference(model: Any, tokenizer: Any, texts: list[str]) -> np.ndarray:
    with torch.inference_mode():
        return model.encode_text(tokenizer(texts), normalize=False).numpy()


def encode(model: Any, tokenizer: Any, texts: list[str], **options: Any) -> np.ndarray:
    options = {"device": "cpu", "batch_tokens": 64, **options}
    return encode_texts(model, tokenizer, texts, **options)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ({}, {}),
        ({"proj_bias": True}, {}),
        ({"proj_type": "none", "width": 32}, {}),
        ({"ls_init_value": 0.3}, {"quick_gelu": True}),
        ({}, {"custom_text": True}),
        ({"pool_type": "eos", "eos_id": EOT}, {"custom_text": True}),
        ({"pool_type": "eos", "eos_id": EOT}, {}),
    ],
)
def test_causal_towers_are_cut_and_exact(
    make_model: Callable[..., Any], tokenizer: Any, text: dict[str, Any], options: dict[str, Any]
) -> None:
    model = make_model(text=text, **options)
    assert CausalTextTower.of(model) is not None
    seen: list[int] = []
    holder = model.text if options.get("custom_text") else model
    hook = holder.transformer.register_forward_pre_hook(
        lambda _, args: seen.append(args[0].shape[1])
    )
    features = encode(model, tokenizer, TEXTS)
    hook.remove()
    assert max(seen) < 30
    np.testing.assert_allclose(features, reference(model, tokenizer, TEXTS), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ({"pool_type": "last"}, {"custom_text": True}),
        ({"pool_type": "first"}, {"custom_text": True}),
        ({"no_causal_mask": True}, {"custom_text": True}),
        ({"embed_cls": True, "context_length": 77}, {"custom_text": True}),
    ],
)
def test_other_towers_run_at_full_length(
    make_model: Callable[..., Any], tokenizer: Any, text: dict[str, Any], options: dict[str, Any]
) -> None:
    model = make_model(text=text, **options)
    assert CausalTextTower.of(model) is None
    features = encode(model, tokenizer, TEXTS, batch_tokens=77 * 3)
    np.testing.assert_allclose(features, reference(model, tokenizer, TEXTS), atol=1e-5, rtol=0)


def test_coca_runs_at_full_length_and_is_not_normalised() -> None:
    import open_clip
    from open_clip.coca_model import CoCa

    tower = {"width": 32, "heads": 2, "layers": 2}
    model = CoCa(
        24,
        multimodal_cfg={**tower, "context_length": 76, "vocab_size": 49408},
        text_cfg={
            **tower,
            "context_length": 76,
            "vocab_size": 49408,
            "embed_cls": True,
            "output_tokens": True,
        },
        vision_cfg={
            "image_size": 32,
            "patch_size": 8,
            "width": 64,
            "layers": 1,
            "head_width": 16,
            "attentional_pool": True,
            "attn_pooler_heads": 4,
            "output_tokens": True,
        },
    ).eval()
    assert CausalTextTower.of(model) is None
    tokenizer = open_clip.SimpleTokenizer(context_length=76)
    features = encode(model, tokenizer, TEXTS)
    np.testing.assert_allclose(features, reference(model, tokenizer, TEXTS), atol=1e-5, rtol=0)
    assert np.abs(np.linalg.norm(features, axis=1) - 1).min() > 0.01


def test_cut_features_pass_gradients_like_full_ones(
    make_model: Callable[..., Any], tokenizer: Any
) -> None:
    model = make_model()
    tower = CausalTextTower.of(model)
    assert tower is not None
    tokens = tokenizer(TEXTS[:3])
    ends = tower.ends(tokens)
    gradients = []
    for length in (int(ends.max()) + 1, 77):
        embedded = tower.embed(tokens[:, :length]).clone().requires_grad_()
        features = tower.encode_embedded(embedded, ends)
        (features * torch.linspace(-1, 1, features.shape[1])).sum().backward()
        assert embedded.grad is not None
        gradients.append(embedded.grad)
    short, full = gradients
    torch.testing.assert_close(full[:, : short.shape[1]], short, atol=1e-5, rtol=1e-4)
    assert not full[:, short.shape[1] :].any()
    assert short[0, 1:4].abs().sum() > 0


def test_token_ids_and_their_embeddings_agree(vit: Any, tokenizer: Any) -> None:
    tower = CausalTextTower.of(vit)
    assert tower is not None
    tokens = tokenizer(TEXTS)
    direct = tower.encode_tokens(tokens)
    embedded = tower.encode_embedded(tower.embed(tokens), tower.ends(tokens))
    torch.testing.assert_close(direct, embedded, atol=1e-5, rtol=0)


@given(
    lengths=st.lists(st.integers(2, 77), max_size=60).map(sorted), batch_tokens=st.integers(1, 400)
)
def test_buckets_cover_all_within_the_budget(lengths: list[int], batch_tokens: int) -> None:
    array = np.array(lengths)
    buckets = _buckets(array, batch_tokens)
    assert np.concatenate([np.arange(len(lengths))[b] for b in buckets] or [[]]).tolist() == list(
        range(len(lengths))
    )
    for bucket in buckets:
        members = array[bucket]
        assert len(members) == 1 or len(members) * members.max() <= batch_tokens


def test_progress_reaches_the_total(vit: Any, tokenizer: Any) -> None:
    told: list[tuple[int, int]] = []
    encode(vit, tokenizer, TEXTS * 3, on_progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (21, 21)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert len(told) > 2


def test_overlong_texts_are_cut_as_open_clip_does_with_one_warning(
    vit: Any, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    just_fits = "dog " * 75
    texts = ["dog", "cat " * 76, just_fits, "bird " * 300]
    with caplog.at_level(logging.WARNING):
        features = encode(vit, tokenizer, texts)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert messages[0].startswith("2 of 4 texts are longer than the model's 77 tokens")
    np.testing.assert_allclose(features, reference(vit, tokenizer, texts), atol=1e-5, rtol=0)


def test_no_texts_give_no_rows(vit: Any, tokenizer: Any) -> None:
    assert encode(vit, tokenizer, []).shape == (0, 24)


def test_texts_survive_a_full_device(
    make_model: Callable[..., Any], tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model(seed=4)
    expected = encode(model, tokenizer, TEXTS)

    def full(_: Any, args: tuple[torch.Tensor, ...]) -> None:
        if len(args[0]) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    model.transformer.register_forward_pre_hook(full)
    batches = ShrinkingBatches("text")
    features = encode(model, tokenizer, TEXTS, batch_tokens=10_000, batches=batches)
    np.testing.assert_allclose(features, expected, atol=1e-5)
    assert batches.limit in (1, 2)
    assert "going on with" in caplog.text
