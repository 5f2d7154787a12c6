"""Graphs of the methods of feature space and of ensembles: the same scores as in NumPy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.methods.feature_world import KNOWN, OTHERS, STRANGE, TRAINING, fit
from vlood.backbone.image_features import ImageFeatures
from vlood.detector.export.torch_feature_space import FORMULAS
from vlood.detector.export.torch_form import TorchForm
from vlood.errors import UsageError
from vlood.methods import registry
from vlood.methods.contract import Detector
from vlood.methods.ensemble import EnsembleSettings, combined

BOTH = ImageFeatures(np.concatenate([KNOWN.raw, STRANGE.raw]))


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Detector]:
    others = tmp_path_factory.mktemp("outliers") / "others.npy"
    np.save(others, OTHERS)
    given: dict[str, dict[str, Any]] = {"mixoe": {"outliers": str(others)}}
    return {name: fit(name, **given.get(name, {})) for name in FORMULAS}


def check(one: Detector) -> None:
    wanted = registry.score(one, BOTH)
    raw = torch.from_numpy(BOTH.raw)
    score, label, confidence = TorchForm(one)(raw, raw[:, None])
    size = np.maximum(1, np.abs(wanted.score))
    np.testing.assert_allclose(score.numpy() / size, wanted.score / size, atol=2e-5)
    np.testing.assert_array_equal(label.numpy(), wanted.label)
    np.testing.assert_allclose(confidence.numpy(), wanted.confidence, atol=2e-5)


@pytest.mark.parametrize("method", FORMULAS)
def test_torch_forms_are_the_methods(method: str, members: dict[str, Detector]) -> None:
    check(members[method])


@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("gen", {"largest": 2, "gamma": 0.5}),
        ("ash", {"shape": "b"}),
        ("ash", {"shape": "p"}),
        ("mahalanobis", {"embeddings": "raw"}),
        ("gmm", {"components": 2, "directions": 5, "covariance": "full"}),
        ("gmm", {"components": 1, "directions": 5, "covariance": "diag"}),
        ("tip-adapter", {"score": "entropy", "alpha": 2.0}),
        ("cooked", {"score": "entropy", "clip_weight": 3.0, "probe_temperature": 0.5}),
        ("cooked", {"members": "probe"}),
        ("palm", {"prototypes": 2}),
        ("knn", {"k": 1}),
    ],
)
def test_torch_forms_follow_the_settings(method: str, values: dict[str, Any]) -> None:
    check(fit(method, **values))


@pytest.mark.parametrize("how", ["rank", "p-values", "platt", "isotonic"])
def test_torch_forms_of_ensembles(how: str, members: dict[str, Detector]) -> None:
    some = {name: members[name] for name in ("knn", "gen", "mahalanobis")}
    known = [registry.score(one, ImageFeatures(TRAINING.raw + 0.3)).score for one in some.values()]
    strange = [registry.score(one, STRANGE).score for one in some.values()]
    if how in ("platt", "isotonic"):
        one = combined(some, EnsembleSettings("probability", how), known, strange, [1, 2, 3])
    else:
        combine = "rank" if how == "rank" else "probability"
        one = combined(some, EnsembleSettings(combine), known, weights=[1, 2, 3])
    check(one)


def test_what_cannot_be_a_graph(members: dict[str, Detector]) -> None:
    one = members["knn"]
    lists = {**one.tensors, "centroids": np.ones((2, 24), np.float32)}
    with pytest.raises(UsageError, match="searched list by list.*tar"):  # noqa: RUF043
        TorchForm(replace(one, tensors=lists))
    cooked = members["cooked"]
    with_classifier = replace(cooked.settings, members="classifier+clip")
    with pytest.raises(UsageError, match="logits come from outside the model"):
        TorchForm(replace(cooked, settings=with_classifier))
    deep = SimpleNamespace(chosen=lambda: ())
    inside = replace(cooked, method="mahalanobis-layers", settings=deep)
    known = [np.arange(4.0), np.arange(4.0)]
    pair = combined({"a": one, "b": members["gen"]}, EnsembleSettings(), known)
    with pytest.raises(UsageError, match="mahalanobis-layers has no form for graphs"):
        TorchForm(replace(pair, members={"a": one, "b": inside}))


@pytest.mark.slow
def test_a_graph_of_several_runs_in_onnxruntime(
    members: dict[str, Detector], tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    members = {name: members[name] for name in ("knn", "gmm")}
    known = [
        registry.score(one, ImageFeatures(TRAINING.raw + 0.3)).score for one in members.values()
    ]
    whole = combined(members, EnsembleSettings(), known)
    raw = torch.from_numpy(BOTH.raw)
    program = torch.onnx.export(
        TorchForm(whole).eval(), (raw[:2], raw[:2, None]), dynamo=True, verbose=False,
        input_names=["features", "local"], output_names=["score", "label", "confidence"],
        dynamic_shapes=({0: torch.export.Dim("N", min=1)}, {0: torch.export.Dim("N", min=1)}),
    )  # fmt: skip
    assert program is not None
    program.save(tmp_path / "whole.onnx")
    session = onnxruntime.InferenceSession(
        tmp_path / "whole.onnx", providers=["CPUExecutionProvider"]
    )
    given = {"features": BOTH.raw, "local": BOTH.raw[:, None]}
    names = {each.name for each in session.get_inputs()}
    score, label, _ = session.run(None, {k: v for k, v in given.items() if k in names})
    wanted = registry.score(whole, BOTH)
    np.testing.assert_allclose(score, wanted.score, atol=1e-5)
    np.testing.assert_array_equal(label, wanted.label)
