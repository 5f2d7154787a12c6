"""Prompts of CoOp, LoCoOp, LAPT and Local-Prompt: assembly, text features, logits and gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from tests.golden.adapters.local_features import build_clip
from vlood.backbone.local import encode_with_local
from vlood.backbone.text import CausalTextTower
from vlood.methods.locoop_loss import locoop_loss
from vlood.prompts.chunked import PromptEncoder
from vlood.prompts.contexts import assemble, prepare

Arrays = Mapping[str, NDArray[Any]]
Params = Mapping[str, Any]
STOP = 2

NOT_OFFERED: dict[tuple[str, str], str] = {}


class ToyTokenizer:
    """Word ids for words; the full stop, the start and the end of a text are those of the cases."""

    def __init__(self, params: Params) -> None:
        self.length, self.vocabulary = params["context_length"], params["vocab_size"]

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        tokens = torch.zeros(len(texts), self.length, dtype=torch.long)
        for row, text in enumerate(texts):
            words = [int(word) for word in text.replace(".", f" {STOP}").split()]
            ids = [self.vocabulary - 2, *words, self.vocabulary - 1]
            tokens[row, : len(ids)] = torch.tensor(ids)
        return tokens


def frozen_clip(inputs: Arrays, params: Params) -> Any:
    return build_clip(dict(inputs), dict(params)).requires_grad_(False)


def tower_of(model: Any) -> CausalTextTower:
    tower = CausalTextTower.of(model)
    assert tower is not None
    return tower


def names_of(tokens: NDArray[Any], placeholders: int) -> list[str]:
    """Read the names' word ids between the placeholders of the contexts and the full stop."""
    return [
        " ".join(str(word) for word in row[1 + placeholders : row.argmax() - 1]) for row in tokens
    ]


def full(tower: CausalTextTower, embedded: torch.Tensor, length: int) -> torch.Tensor:
    """Put back the padding that was cut off."""
    padding = torch.zeros(len(embedded), length - embedded.shape[1], dtype=torch.long)
    return torch.cat([embedded, tower.embed(padding)], dim=1)


def encoder(
    tower: CausalTextTower,
    params: Params,
    contexts: torch.Tensor,
    names: Sequence[str],
    position: str = "end",
) -> PromptEncoder:
    """Encode as training does, two prompts at a time."""
    prompts = prepare(tower, ToyTokenizer(params), names, contexts.shape[-2], position=position)
    return PromptEncoder(tower, prompts, chunk=2)


def unit(rows: torch.Tensor) -> torch.Tensor:
    return F.normalize(rows, dim=-1)


def learned_prompts(inputs: Arrays, params: Params) -> dict[str, NDArray[Any]]:
    """CoOp and LoCoOp, whose prompts are the same."""
    model = frozen_clip(inputs, params)
    tower, scale = tower_of(model), model.logit_scale.exp()
    label = torch.from_numpy(inputs["label"])
    names = names_of(inputs["tokenized_prompts"], params["n_ctx"])
    features, patches, _ = encode_with_local(model.visual, torch.from_numpy(inputs["image"]))
    outputs: dict[str, NDArray[Any]] = {}
    for position in params["class_token_positions"]:
        contexts = torch.from_numpy(inputs["ctx"]).requires_grad_()
        embedded, _ = assemble(tower, ToyTokenizer(params), contexts, names, position=position)
        text = encoder(tower, params, contexts, names, position=position)(contexts)
        logits = scale * unit(features) @ unit(text).T
        found = {
            "prompt_embeddings": full(tower, embedded, params["context_length"]),
            "text_features": text,
            "logits_global": logits,
            "acc": 100.0 * (logits.argmax(dim=1) == label).double().mean(),
        }
        if "lambda_value" in params:
            local = scale * unit(patches) @ unit(text).T
            loss, parts = locoop_loss(
                logits, local, label, top_k=params["top_k"], weight=params["lambda_value"]
            )
            found["logits_local"], found["loss_id"] = local, parts["cross_entropy"]
            found["loss_en"] = -parts["local_entropy"]
        else:
            loss = F.cross_entropy(logits, label)
        loss.backward()
        assert contexts.grad is not None
        found["loss"], found["ctx_grad"] = loss, contexts.grad
        outputs.update(
            {f"{position}/{name}": each.detach().numpy() for name, each in found.items()}
        )
    return outputs


def lapt_prompt(inputs: Arrays, params: Params) -> dict[str, NDArray[Any]]:
    model = frozen_clip(inputs, params)
    tower = tower_of(model)
    names = names_of(inputs["tokenized_prompts"], params["n_ctx"])
    positive = torch.from_numpy(inputs["ctx"]).requires_grad_()
    negative = positive
    if params["prompttype"] != "unified":
        negative = torch.from_numpy(inputs["ood_ctx"]).requires_grad_()
    sides = ((positive, names[: params["n_id"]]), (negative, names[params["n_id"] :]))
    text = unit(torch.cat([encoder(tower, params, *side)(side[0]) for side in sides]))
    images = unit(model.encode_image(torch.from_numpy(inputs["image"])))
    logits = model.logit_scale.exp() * images @ text.T
    loss = F.cross_entropy(logits, torch.from_numpy(inputs["label"]))
    loss.backward()
    assert positive.grad is not None
    assert negative.grad is not None
    found = {
        "image_features": images,
        "text_features": text,
        "logits": logits,
        "loss": loss,
        "ctx_grad": positive.grad,
        "ood_ctx_grad": negative.grad,
    }
    return {name: each.detach().numpy() for name, each in found.items()}


@torch.inference_mode()
def localprompt_prompt(inputs: Arrays, params: Params) -> dict[str, NDArray[Any]]:
    model = frozen_clip(inputs, params)
    tower, tokenizer, scale = tower_of(model), ToyTokenizer(params), model.logit_scale.exp()
    local_ctx, neg_ctx = (torch.from_numpy(inputs[name]) for name in ("local_ctx", "neg_ctx"))
    names = names_of(inputs["local_tokens"], params["n_ctx"])
    whole = tower.encode_tokens(torch.from_numpy(inputs["global_tokens"]))
    local = tower.encode_embedded(*assemble(tower, tokenizer, local_ctx, names))
    negative = tower.encode_embedded(*assemble(tower, tokenizer, neg_ctx, None))
    features, patches, _ = encode_with_local(model.visual, torch.from_numpy(inputs["image"]))
    found = {
        "global_text_features": whole,
        "local_text_features": local,
        "neg_text_features": negative,
        "logits_global": scale * unit(features) @ unit(whole).T,
        "logits_local": scale * unit(patches) @ unit(local).T,
        "neg_logits_local": scale * unit(patches) @ unit(negative).T,
    }
    return {name: each.numpy() for name, each in found.items()}


FAMILIES = {
    "coop_prompt": learned_prompts,
    "locoop_prompt": learned_prompts,
    "lapt_prompt": lapt_prompt,
    "localprompt_prompt": localprompt_prompt,
}
