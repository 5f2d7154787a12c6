"""The methods' formulas as torch modules, for graphs. The NumPy forms stay the reference.

Each module takes raw image features float32 [N, D] and regional ones [N, R, D] (or nothing) and
gives the score and the logits [N, K] that the label and its probability are made of.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vlood.detector.export.torch_ensemble import EnsembleForm
from vlood.detector.export.torch_feature_space import FORMULAS, refuse
from vlood.errors import UsageError
from vlood.methods import registry
from vlood.methods.neglabel import NegLabelSettings
from vlood.methods.synood_head import projected

if TYPE_CHECKING:
    from vlood.methods.contract import Detector

# (settings, logit scale, tensors, features, local features) to (score [N], logits [N, K]).
Formula = Callable[[Any, float, dict[str, Tensor], Tensor, Tensor], tuple[Tensor, Tensor]]


class Scoring(nn.Module):
    """A detector's score [N] and logits [N, K] as a torch module.

    Raises:
        UsageError: the method's score of an image is not its own, or it has no torch form.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        check_torch_form(detector)
        self._formula = _FORMULAS[detector.method]
        self._settings = detector.settings
        self._scale = detector.logit_scale
        self._classes = len(detector.class_names)
        self._names = tuple(detector.tensors)
        for name, array in detector.tensors.items():
            if name == "group_sizes":
                continue
            self.register_buffer(name, torch.from_numpy(array))
        sizes = detector.tensors.get("group_sizes")
        self._sizes: list[int] = [] if sizes is None else sizes.tolist()

    def forward(self, features: Tensor, local: Tensor) -> tuple[Tensor, Tensor]:
        """Return score [N] and logits [N, K]."""
        tensors: dict[str, Any] = {
            name: getattr(self, name) for name in self._names if name != "group_sizes"
        }
        tensors["classes"] = self._classes
        if self._sizes:
            tensors["group_sizes"] = self._sizes
        return self._formula(self._settings, self._scale, tensors, features, local)


class TorchForm(nn.Module):
    """A detector as a torch module.

    Raises:
        UsageError: the method's score of an image is not its own, or it has no torch form.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.scoring = _scoring(detector)

    def forward(self, features: Tensor, local: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return score [N], label int64 [N] and confidence [N]."""
        score, logits = self.scoring(features, local)
        return score.float(), logits.argmax(1), logits.softmax(1).amax(1).float()


def _scoring(detector: Detector) -> nn.Module:
    if detector.members:
        return EnsembleForm(detector, [_scoring(one) for one in detector.members.values()])
    return Scoring(detector)


def check_torch_form(detector: Detector) -> None:
    """Refuse a detector that has no torch form; of an ensemble, each member is asked.

    Raises:
        UsageError: saying why.
    """
    for member in detector.members.values():
        check_torch_form(member)
    method = detector.method
    if detector.members or method in _FORMULAS:
        refuse(detector)
        return
    if registry.get(method).record.stream:
        raise UsageError(
            f"--format onnx: the score of {method} depends on the images around it, and a graph "
            "scores each by itself; export a detector of another method, such as neglabel"
        )
    raise UsageError(
        f"--format onnx: {method} has no form for graphs; graphs are made of {', '.join(_FORMULAS)}"
    )


def needs_local(detector: Detector) -> bool:
    """Tell whether a detector's formula reads regional features."""
    return "local" in registry.needs(detector)


def _unit(vectors: Tensor) -> Tensor:
    lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    unit: Tensor = vectors / lengths.clamp(min=1e-12)
    return unit


def _cosines(tensors: dict[str, Tensor], features: Tensor) -> Tensor:
    classes: Tensor = tensors["class_features"]
    return _unit(features) @ classes.T


def _mcm(
    settings: Any, scale: float, tensors: dict[str, Tensor], features: Tensor, local: Tensor
) -> tuple[Tensor, Tensor]:
    cosines = _cosines(tensors, features)
    return (cosines / settings.temperature).softmax(1).amax(1), cosines * scale


def _msp(
    settings: Any, scale: float, tensors: dict[str, Tensor], features: Tensor, local: Tensor
) -> tuple[Tensor, Tensor]:
    logits = _cosines(tensors, features) * scale
    return (logits / settings.temperature).softmax(1).amax(1), logits


def _max_logit(
    settings: Any, scale: float, tensors: dict[str, Tensor], features: Tensor, local: Tensor
) -> tuple[Tensor, Tensor]:
    logits = _cosines(tensors, features) * scale
    return logits.amax(1), logits


def _energy(
    settings: Any, scale: float, tensors: dict[str, Tensor], features: Tensor, local: Tensor
) -> tuple[Tensor, Tensor]:
    logits = _cosines(tensors, features) * scale
    T = settings.temperature
    return T * (logits / T).logsumexp(1), logits


def _entropy(
    settings: Any, scale: float, tensors: dict[str, Tensor], features: Tensor, local: Tensor
) -> tuple[Tensor, Tensor]:
    logits = _cosines(tensors, features) * scale
    return _negative_entropy(logits / settings.temperature), logits


def _neglabel(
    settings: Any, scale: float, tensors: dict[str, Any], features: Tensor, local: Tensor
) -> tuple[Tensor, Tensor]:
    logits = _cosines(tensors, features) * scale
    negative = _unit(features) @ tensors["negative_features"].T * (scale / settings.temperature)
    evidence = (logits / settings.temperature).logsumexp(1, keepdim=True)
    against, start = [], 0
    # At most two sizes follow each other: each run of equal groups is one array [N, g, m].
    for size, run in groupby(tensors["group_sizes"]):
        groups = len(list(run))
        stop = start + size * groups
        against.append(negative[:, start:stop].reshape(-1, groups, size).logsumexp(2))
        start = stop
    return (evidence - torch.cat(against, 1)).sigmoid().mean(1), logits


def _synood(
    settings: Any, scale: float, tensors: dict[str, Any], features: Tensor, local: Tensor
) -> tuple[Tensor, Tensor]:
    rows = _unit(features) if settings.embeddings == "unit" else features
    return _neglabel(settings, scale, tensors, projected(tensors, rows), local)


def _gl_mcm(
    settings: Any, scale: float, tensors: dict[str, Tensor], features: Tensor, local: Tensor
) -> tuple[Tensor, Tensor]:
    cosines = _cosines(tensors, features)
    regions = _unit(local) @ tensors["class_features"].T
    T = settings.temperature
    best = (regions / T).softmax(2).amax((1, 2))
    return (cosines / T).softmax(1).amax(1) + settings.lambda_local * best, cosines * scale


def _local_prompt(
    settings: Any, scale: float, tensors: dict[str, Tensor], features: Tensor, local: Tensor
) -> tuple[Tensor, Tensor]:
    cosines = _cosines(tensors, features)
    T = settings.temperature
    unit = _unit(local)
    known = unit @ tensors["local_features"].T / T
    negative = unit @ tensors["local_negative_features"].T / T
    classes = known.shape[2]
    share = torch.cat([known, negative], 2).softmax(2)[:, :, :classes].flatten(1)
    regional = share.topk(min(settings.top_k, share.shape[1]), 1).values.mean(1)
    best = known.topk(min(settings.top_k, known.shape[1]), 1).values
    evidence = cosines + best.logsumexp(1) - torch.tensor(float(best.shape[1])).log()
    score = (cosines / T).softmax(1).amax(1) + regional
    if settings.neglabel and "negative_features" in tensors:
        bank = {**tensors, "class_features": tensors["bank_class_features"]}
        mass, _ = _neglabel(NegLabelSettings(), scale, bank, features, local)
        score = score + settings.neglabel * mass
    return score, evidence * scale


def _clipn(
    settings: Any, scale: float, tensors: dict[str, Tensor], features: Tensor, local: Tensor
) -> tuple[Tensor, Tensor]:
    cosines = _cosines(tensors, features)
    own = settings.logit_scale or scale
    yes = cosines * own
    no = _unit(features) @ tensors["no_features"].T * own
    agrees = (yes - no).sigmoid()
    if settings.rule == "atd":
        return (agrees * yes.softmax(1)).sum(1), cosines * scale
    return agrees.gather(1, yes.argmax(1, keepdim=True))[:, 0], cosines * scale


def _linear_probe(
    settings: Any, scale: float, tensors: dict[str, Tensor], features: Tensor, local: Tensor
) -> tuple[Tensor, Tensor]:
    rows = _unit(features) if settings.embeddings == "unit" else features
    logits = rows @ tensors["weight"].T + tensors["bias"]
    if settings.score == "entropy":
        return _negative_entropy(logits), logits
    return logits.softmax(1).amax(1), logits


def _negative_entropy(logits: Tensor) -> Tensor:
    logs = logits.log_softmax(1)
    return (logs.exp() * logs).sum(1)


_FORMULAS: dict[str, Formula] = {
    "mcm": _mcm,
    "msp": _msp,
    "max-logit": _max_logit,
    "energy": _energy,
    "entropy": _entropy,
    "neglabel": _neglabel,
    "synood": _synood,
    "gl-mcm": _gl_mcm,
    "local-prompt": _local_prompt,
    "clipn": _clipn,
    "linear-probe": _linear_probe,
    **FORMULAS,
}
