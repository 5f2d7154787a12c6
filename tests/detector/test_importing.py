"""Files of exactly the published keys and shapes become detectors; anything else is a sentence."""

from __future__ import annotations

import copy
import json
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.backbone.conftest import TEXT, VIT, build, write_folder
from vlood.backbone.backbone import Backbone
from vlood.backbone.image_features import ImageFeatures
from vlood.backbone.load import load_backbone
from vlood.backbone.no_text import encode_no_texts
from vlood.detector.folder import load_detector, save_detector
from vlood.detector.importing import cma
from vlood.detector.importing.checkpoint import BARE, Checkpoint, read_checkpoint
from vlood.detector.importing.formats import DETECTORS, ImportOptions, import_detector
from vlood.detector.importing.linear_probe import KNOWN, recognise
from vlood.detector.importing.report import Imported
from vlood.detector.importing.synood import import_labels
from vlood.detector.importing.target import Target
from vlood.detector.saved import SavedDetector
from vlood.errors import UsageError
from vlood.methods import registry
from vlood.negatives.bank import NegativeBank
from vlood.negatives.bank_folder import load_bank, save_bank
from vlood.prompts.classes import ClassName
from vlood.prompts.contexts import Contexts, encode_prompts
from vlood.prompts.templates import class_features, read_no_templates

W, D = 32, 24  # of token embeddings and of features, of the tiny model
CLASSES = (ClassName("n01", "great white shark"), *map(ClassName.of, ("tench", "dog", "sea_lion")))
PROMPTS = [each.prompt for each in CLASSES]
K, L, M = 4, 16, 6
TERMS = ("harp", "tuba", "lute", "drum", "shiny", "bell")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = write_folder(tmp_path_factory.mktemp("tiny"), build(), VIT)
    return load_backbone(f"local-dir:{folder}", device="cpu")


@pytest.fixture(scope="module")
def target(backbone: Backbone) -> Target:
    return Target.of(backbone, CLASSES)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.3


def dassl(state: dict[str, Any]) -> dict[str, Any]:
    """The envelope of CoOp, LoCoOp and Local-Prompt."""
    return {
        "state_dict": OrderedDict(state),
        "epoch": 50,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.002, "params": [0]}]},
        "scheduler": {"last_epoch": 50, "base_lrs": [0.002]},
        "val_result": None,
    }


def coop(*shape: int, classes: int = K) -> dict[str, Any]:
    return {
        "ctx": normal(*shape, W),
        "token_prefix": normal(classes, 1, W),
        "token_suffix": normal(classes, 76 - shape[-1], W),
    }


def write(path: Path, stored: Any, **options: Any) -> Path:
    torch.save(stored, path, **options)
    return path


def images(count: int = 5, regions: int = 4) -> ImageFeatures:
    rng = np.random.default_rng(3)
    return ImageFeatures(
        rng.normal(size=(count, D)).astype(np.float32),
        rng.normal(size=(count, regions, D)).astype(np.float32),
        (2, 2),
    )


def back(made: Imported, folder: Path) -> SavedDetector:
    """Save, load and score: the same numbers come out, and all that can be read is the same."""
    save_detector(folder, made.saved)
    held = load_detector(folder)
    for name, array in made.saved.detector.tensors.items():
        np.testing.assert_array_equal(held.detector.tensors[name], array)
    before, after = (registry.score(each.detector, images()) for each in (made.saved, held))
    np.testing.assert_array_equal(after.score, before.score)
    assert np.isfinite(after.score).all()
    assert held.classes == CLASSES
    assert held.model_name is not None
    assert held.provenance["file_sha256"]
    assert json.loads(json.dumps(made.report.to_json()))["found"] == list(made.report.found)
    assert all(isinstance(each, str) for each in made.report.sentences())
    return held


def unit(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


# CoOp and LoCoOp


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("shape", [(L,), (4,), (K, L)])
def test_coop(target: Target, tmp_path: Path, shape: tuple[int, ...], position: str) -> None:
    state = coop(*shape)
    file = write(tmp_path / "model.pth.tar-50", dassl(state))
    made = import_detector("coop", [file], target, ImportOptions(position=position))
    held = back(made, tmp_path / "made")
    contexts = Contexts(state["ctx"].numpy(), position)
    expected = unit(encode_prompts(target.backbone, contexts, PROMPTS))
    np.testing.assert_allclose(held.detector.tensors["class_features"], expected, atol=1e-6)
    assert held.detector.method == "mcm"
    assert held.detector.logit_scale == pytest.approx(target.backbone.logit_scale)
    assert held.learned is not None
    assert held.learned.about == {"format": "coop", "position": position, "names": True}
    np.testing.assert_array_equal(held.learned.arrays["ctx"], state["ctx"].numpy())
    assert held.provenance["file"] == "model.pth.tar-50"
    assert made.report.found == (f"ctx {(*shape, W)}",)
    assert {"epoch", "optimizer", "scheduler"} < set(made.report.ignored)
    # The contexts that were kept give the same features again.
    again = Contexts(held.learned.arrays["ctx"], held.learned.about["position"])
    np.testing.assert_array_equal(
        encode_prompts(target.backbone, again, PROMPTS),
        encode_prompts(target.backbone, contexts, PROMPTS),
    )


def test_locoop_scores_with_gl_mcm(target: Target, tmp_path: Path) -> None:
    file = write(tmp_path / "model-best.pth.tar", dassl(coop(L, classes=1000)))
    made = import_detector("locoop", [file], target)
    held = back(made, tmp_path / "made")
    assert held.detector.method == "gl-mcm"
    assert held.detector.settings.lambda_local == 1.0
    assert any("trained with 1000 class names" in note for note in made.report.notes)


def test_half_precision_prefixes_and_other_files(target: Target, tmp_path: Path) -> None:
    state = coop(L)
    expected = import_detector(
        "coop", [write(tmp_path / "plain.pt", state)], target
    ).saved.detector.tensors["class_features"]
    halves = {f"module.{name}": tensor.half() for name, tensor in state.items()}
    nested = {f"module.prompt_learner.{name}": tensor for name, tensor in state.items()}
    save_file(state, tmp_path / "ctx.safetensors")
    files = {
        "halves": (write(tmp_path / "halves.pth.tar-5", dassl(halves)), 2e-2),
        "prefixed": (write(tmp_path / "nested.ckpt", {"model_state_dict": nested}), 0),
        "legacy": (
            write(tmp_path / "legacy.pth", dassl(state), _use_new_zipfile_serialization=False),
            0,
        ),
        "parameter": (write(tmp_path / "p.bin", {"ctx": torch.nn.Parameter(state["ctx"])}), 0),
        "safetensors": (tmp_path / "ctx.safetensors", 0),
    }
    for file, tolerance in files.values():
        made = import_detector("coop", [file], target)
        found = made.saved.detector.tensors["class_features"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
        assert made.saved.learned is not None
        assert made.saved.learned.arrays["ctx"].dtype == np.float32


def test_tensors_saved_on_a_gpu(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda _: "cuda:3")
        file = write(tmp_path / "gpu.pth", dassl(coop(L)))
    assert b"cuda:3" in file.read_bytes()
    import_detector("coop", [file], target)


def test_extra_tensors_are_reported_and_not_fatal(target: Target, tmp_path: Path) -> None:
    file = write(tmp_path / "more.pth", {**coop(L), "bias_vectors": normal(3), "note": "hello"})
    made = import_detector("coop", [file], target)
    assert "bias_vectors (3,)" in made.report.ignored
    assert "note" in made.report.ignored


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ({"weights": normal(3)}, "holds no ctx, .* coop have, but weights"),
        ({"local_ctx": normal(K, L, W)}, "holds no ctx.*it looks like local-prompt"),
        ({"ctx": normal(W)}, r"ctx has shape \(32,\); expected \(L, W\)"),
        ({"ctx": normal(0, W)}, r"ctx has shape \(0, 32\)"),
        ({"ctx": normal(3, L, W)}, "ctx is for 3 classes and --classes names 4"),
        ({"ctx": normal(L, 512)}, r"512 wide .* are 32: .*512 is the width of a ViT-B"),
        ({"ctx": normal(L, 768)}, "768 is the width of ViT-L-14"),
        ({"ctx": normal(L, 31)}, "31 wide .* another model; name that one"),
        ({"ctx": torch.full((L, W), torch.nan)}, "not finite"),
        ({"a.ctx": normal(L, W), "b.ctx": normal(L, W, seed=1)}, "two different tensors called"),
        ({"ctx": normal(75, W)}, "leave room for"),
        ({"ctx": torch.zeros(L, W).to_sparse()}, "holds no tensors"),
        ({"ctx": torch.zeros(L, W, device="meta")}, "holds no tensors"),
        ({"epoch": 3}, "holds no tensors"),
        ([normal(L, W)], "holds a list"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    target: Target, tmp_path: Path, stored: Any, said: str
) -> None:
    file = write(tmp_path / "odd.pth", stored)
    with pytest.raises(UsageError, match=said) as caught:
        import_detector("coop", [file], target)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_classes_and_a_model_are_needed(backbone: Backbone, tmp_path: Path) -> None:
    file = write(tmp_path / "ctx.pth", coop(L))
    with pytest.raises(UsageError, match="--classes is missing"):
        import_detector("coop", [file], Target.of(backbone))
    with pytest.raises(UsageError, match="--model is missing"):
        import_detector("coop", [file], Target(CLASSES))
    with pytest.raises(UsageError, match="2 files were named"):
        import_detector("coop", [file, file], Target.of(backbone, CLASSES))
    with pytest.raises(UsageError, match=f"no format of detectors.*{DETECTORS[0]}"):
        import_detector("nosuch", [file], Target.of(backbone, CLASSES))


# Files that are no files of tensors


class Evil:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return (open, (str(self.place), "w"))


class EvilSystem(Evil):
    def __reduce__(self) -> Any:
        import os

        return (os.system, (f"touch {self.place}",))


@pytest.mark.parametrize("kind", [Evil, EvilSystem])
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "protocol 0"])
def test_code_in_a_file_is_never_run(
    tmp_path: Path, form: str, kind: Callable[[Path], Any]
) -> None:
    place, file = tmp_path / "owned", tmp_path / "evil.pth"
    stored = {"state_dict": {"ctx": normal(L, W)}, "scheduler": kind(place)}
    if form == "pickle":
        file.write_bytes(pickle.dumps(stored["scheduler"]))
    elif form == "protocol 0":
        file.write_bytes(pickle.dumps(stored["scheduler"], protocol=0))
    else:
        write(file, stored, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(UsageError) as caught:
        read_checkpoint(file)
    assert not place.exists()
    assert "\n" not in str(caught.value)
    if form in ("zip", "legacy"):
        assert "Python objects besides tensors" in str(caught.value)
        assert "never run" in str(caught.value)


def test_training_state_beside_the_tensors_is_left_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of the Dassl codes hold schedulers, an optimizer inside them, and NumPy numbers."""
    module = types.ModuleType("dassl.optim.lr_scheduler")

    class ConstantWarmupScheduler(torch.optim.lr_scheduler.LRScheduler):
        def __init__(self, optimizer: Any, successor: Any) -> None:
            self.successor = successor
            super().__init__(optimizer)

        def get_lr(self) -> list[float | torch.Tensor]:
            return [1e-5 for _ in self.base_lrs]

    ConstantWarmupScheduler.__module__ = module.__name__
    ConstantWarmupScheduler.__qualname__ = "ConstantWarmupScheduler"
    vars(module)["ConstantWarmupScheduler"] = ConstantWarmupScheduler
    for name in ("dassl", "dassl.optim"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    ctx = torch.nn.Parameter(normal(L, W))
    optimizer = torch.optim.SGD([ctx], lr=0.1, momentum=0.9)
    ctx.grad = torch.ones_like(ctx)
    optimizer.step()
    inner = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    outer = ConstantWarmupScheduler(optimizer, inner)
    stored = {
        **dassl({"ctx": ctx.detach()}),
        "optimizer": optimizer.state_dict(),
        "scheduler": outer.state_dict(),
        "whole scheduler": outer,
        "val_result": np.float64(71.5),
        "history": np.arange(3.0),
    }
    files = [
        write(tmp_path / "model.pth.tar-50", stored),
        write(tmp_path / "old.pth.tar-50", stored, _use_new_zipfile_serialization=False),
    ]
    for name in ("dassl", "dassl.optim", module.__name__):
        monkeypatch.delitem(sys.modules, name)
    for file in files:
        held = read_checkpoint(file)
        torch.testing.assert_close(held.tensors["ctx"], ctx.detach(), rtol=0, atol=0)
        assert "val_result" in held.beside
    assert not any(name.startswith("dassl") for name in sys.modules)
    # Nothing stays allowed for others.
    with pytest.raises(pickle.UnpicklingError):
        torch.load(files[0], weights_only=True)


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.npy", "x.tar-50"])
@pytest.mark.parametrize(
    "content", [b"", b"hello\n", b"<!DOCTYPE html>", b"\0\1\2" * 50, b"\x80\2"]
)
def test_files_of_something_else(tmp_path: Path, name: str, content: bytes) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"empty|text|no file of tensors|cannot be read") as caught:
        read_checkpoint(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_files(tmp_path: Path, zipped: bool) -> None:
    whole = write(
        tmp_path / "a.pth", dassl(coop(L)), _use_new_zipfile_serialization=zipped
    ).read_bytes()
    for part in (0.1, 0.5, 0.99):
        file = tmp_path / "cut.pth"
        file.write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(UsageError, match=r"cut off|cannot be read"):
            read_checkpoint(file)
    save_file(coop(L), tmp_path / "cut.safetensors")
    content = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match="damaged"):
        read_checkpoint(tmp_path / "cut.safetensors")


def test_places_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is a folder; name the checkpoint file in it"):
        read_checkpoint(tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        read_checkpoint(tmp_path / "none.pth")
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(UsageError, match=r"numpy\.save"):
        read_checkpoint(tmp_path / "objects.npy")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    module = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    torch.jit.save(module, str(tmp_path / "ViT-B-16.pt"))
    with pytest.raises(UsageError, match="TorchScript program"):
        read_checkpoint(tmp_path / "ViT-B-16.pt")


# Local-Prompt


def local_prompt() -> dict[str, Any]:
    return {
        "local_ctx": normal(K, L, W),
        "neg_ctx": normal(M, L, W, seed=1),
        "token_prefix": normal(K, 1, W),
        "token_suffix": normal(K, 60, W),
        "neg_token_prefix": normal(M, 1, W),
        "neg_token_suffix": normal(M, 60, W),
    }


def test_local_prompt(target: Target, tmp_path: Path) -> None:
    state = local_prompt()
    file = write(tmp_path / "model.pth.tar-30", dassl(state))
    held = back(import_detector("local-prompt", [file], target), tmp_path / "made")
    tensors, backbone = held.detector.tensors, target.backbone
    local = encode_prompts(backbone, Contexts(state["local_ctx"].numpy()), PROMPTS)
    nameless = Contexts(state["neg_ctx"].numpy(), names=False)
    plain = class_features(target.encode, CLASSES, ["a photo of a {}."]).features
    np.testing.assert_allclose(tensors["class_features"], plain, atol=1e-6)
    np.testing.assert_allclose(tensors["local_features"], unit(local), atol=1e-6)
    np.testing.assert_allclose(
        tensors["local_negative_features"],
        unit(encode_prompts(backbone, nameless, None)),
        atol=1e-6,
    )
    assert held.templates == ("a photo of a {}.",)
    assert held.learned is not None
    assert set(held.learned.arrays) == {"local_ctx", "neg_ctx"}


def test_local_prompt_refuses(target: Target, tmp_path: Path) -> None:
    whole = local_prompt()
    file = tmp_path / "a.pth"
    for change, said in (
        ({"neg_ctx": None}, "holds no neg_ctx"),
        ({"local_ctx": normal(L, W)}, r"local_ctx has shape .*expected \(K, L, W\)"),
        ({"local_ctx": normal(5, L, W)}, "is for 5 classes and --classes names 4"),
        ({"neg_ctx": normal(M, L, 512)}, "neg_ctx is 512 wide"),
    ):
        state = {name: each for name, each in {**whole, **change}.items() if each is not None}
        with pytest.raises(UsageError, match=said):
            import_detector("local-prompt", [write(file, dassl(state))], target)


# LAPT


def a_bank(terms: tuple[str, ...] = TERMS, **more: Any) -> NegativeBank:
    return NegativeBank(
        terms=terms,
        parts=("noun",) * len(terms),
        lex_files=("",) * len(terms),
        closeness=np.full(len(terms), np.nan, np.float32),
        templates=(("the nice {}",),) * len(terms),
        sources=("test",) * len(terms),
        features=None,
        permutation=np.random.default_rng(0).permutation(len(terms)),
        **more,
    )


def lapt(*, own: tuple[int, ...] = (4,), other: tuple[int, ...] = (4,)) -> dict[str, Any]:
    """A whole network: two learned tensors among hundreds."""
    state: dict[str, Any] = {
        "model.prompt_learner.ctx": normal(*own, W).half(),
        "model.prompt_learner.ood_ctx": normal(*other, W, seed=1).half(),
        "model.prompt_learner.token_prefix": normal(1000, 1, W).half(),
        "model.prompt_learner.token_suffix": normal(1000, 72, W).half(),
        "model.prompt_learner.ood_token_prefix": normal(1000, 1, W).half(),
        "model.prompt_learner.ood_token_suffix": normal(1000, 72, W).half(),
        "model.logit_scale": torch.tensor(4.6),
    }
    for block in range(12):
        for part in ("ln_1.weight", "ln_1.bias", "mlp.c_fc.weight", "mlp.c_fc.bias"):
            for tower in ("image_encoder", "text_encoder", "vanilla_clip.visual"):
                state[f"model.{tower}.transformer.resblocks.{block}.{part}"] = normal(8).half()
    return state


@pytest.mark.parametrize("shapes", [((4,), (4,)), ((K, 4), (M, 2)), ((2,), (M, 4))])
def test_lapt(target: Target, tmp_path: Path, shapes: tuple[Any, Any]) -> None:
    state = lapt(own=shapes[0], other=shapes[1])
    file, bank = write(tmp_path / "best.ckpt", state), a_bank()
    made = import_detector("lapt", [file], target, ImportOptions(negatives=bank))
    held = back(made, tmp_path / "made")
    assert held.detector.method == "neglabel"
    ctx, ood = (state[f"model.prompt_learner.{n}"].float().numpy() for n in ("ctx", "ood_ctx"))
    np.testing.assert_allclose(
        held.detector.tensors["class_features"],
        unit(encode_prompts(target.backbone, Contexts(ctx), PROMPTS)),
        atol=1e-6,
    )
    rows = unit(encode_prompts(target.backbone, Contexts(ood), TERMS))
    order = [TERMS.index(name) for name in held.detector.negative_names]
    assert order == bank.permutation.tolist()
    np.testing.assert_allclose(held.detector.tensors["negative_features"], rows[order], atol=1e-6)
    assert [row.term for row in held.negatives] == list(held.detector.negative_names)
    assert {row.template for row in held.negatives} == {""}
    assert held.learned is not None
    assert set(held.learned.arrays) == {"ctx", "negative_ctx"}
    assert len(made.report.ignored) == len(state) - 2
    assert len(made.report.sentences()[1]) < 600


def test_lapt_refuses(target: Target, tmp_path: Path) -> None:
    bank = ImportOptions(negatives=a_bank())
    file = write(tmp_path / "best.ckpt", lapt(other=(5, 4)))
    with pytest.raises(UsageError, match="is for 5 negative labels and --negatives has 6"):
        import_detector("lapt", [file], target, bank)
    with pytest.raises(UsageError, match="--negatives is missing"):
        import_detector("lapt", [file], target)
    with pytest.raises(UsageError, match=r"holds no ood_ctx.*looks like coop"):
        import_detector("lapt", [write(tmp_path / "c.pth", dassl(coop(L)))], target, bank)
    others = ImportOptions(negatives=a_bank(classes=(ClassName.of("harp"), ClassName.of("cat"))))
    with pytest.raises(UsageError, match="--negatives: was mined for other classes"):
        import_detector("lapt", [write(tmp_path / "d.pth", lapt())], target, others)


# CLIPN


HALVES = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")


def clipn(model: Any, *, prompts: bool = True, prefix: str = "module.") -> dict[str, Any]:
    """The state dict of a CLIPN run on a model, the "no" half away from the "yes" half."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for number, (name, tensor) in enumerate(list(state.items())):
        head, dot, rest = name.partition(".")
        if head in HALVES:
            state[f"{head}_no{dot}{rest}"] = tensor + 0.05 * normal(*tensor.shape, seed=number)
    if prompts:
        state["prompt_no"] = normal(16, 77, W, seed=99)
    return {
        "epoch": 10,
        "name": "run",
        "state_dict": OrderedDict((prefix + name, each) for name, each in state.items()),
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": []},
        "scaler": {"scale": 65536.0},
    }


def test_the_no_half_of_the_published_architecture_is_150_tensors() -> None:
    text = {name for name in cma._expected("ViT-B-16") if not name.startswith("visual.")}
    assert len(text - {"logit_scale"}) + 1 == 150
    assert len(cma._expected("ViT-B-16")) + 150 == 452


def test_a_checkpoint_of_the_452_published_keys(tmp_path: Path) -> None:
    """As deep as ViT-B/16, so with its very keys, and narrow."""
    deep = build({"layers": 12}, {"layers": 12})
    folder = write_folder(
        tmp_path / "deep", deep, {**VIT, "layers": 12}, text={**TEXT, "layers": 12}
    )
    target = Target.of(load_backbone(f"local-dir:{folder}", device="cpu"), CLASSES)
    stored = clipn(deep)
    assert len(stored["state_dict"]) == 452
    assert set(stored["state_dict"]) == {
        *(f"module.{name}" for name in cma._expected("ViT-B-16")),
        *(f"module.{name}" for name in clipn_no_names(stored)),
    }
    file = write(tmp_path / "epoch_10.pt", stored)
    held = back(import_detector("clipn", [file], target), tmp_path / "made")
    assert held.detector.tensors["no_features"].shape == (K, D)
    assert held.detector.settings.rule == "atd"
    assert held.provenance["yes_tower"] == "model"
    assert held.learned is None


def clipn_no_names(stored: dict[str, Any]) -> set[str]:
    names = {name.removeprefix("module.") for name in stored["state_dict"]}
    return {name for name in names if name.partition(".")[0].endswith("_no")}


def without(*names: str) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        for name in names:
            del state[name]

    return change


def with_tensor(name: str, value: torch.Tensor) -> Callable[[dict[str, Any]], None]:
    return lambda state: state.update({name: value})


def with_number(name: str, number: float) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        state[name] = state[name].clone()
        state[name].view(-1)[-1] = number

    return change


BLOCK = "transformer_no.resblocks.1"
DEEP = "visual.transformer.resblocks.2.mlp.c_proj.weight"
BROKEN: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a norm is missing": (without("ln_final_no.bias"), r"lacks ln_final_no\.bias"),
    "a layer is missing": (without(f"{BLOCK}.mlp.c_fc.weight"), "lacks transformer_no"),
    "attention is missing": (without(f"{BLOCK}.attn.in_proj_weight"), "lacks transformer_no"),
    "tokens are missing": (without("token_embedding_no.weight"), "lacks token_embedding_no"),
    "positions are missing": (without("positional_embedding_no"), "lacks positional_embedding"),
    "the projection is missing": (without("text_projection_no"), "lacks text_projection_no"),
    "a layer too many": (
        with_tensor("transformer_no.resblocks.7.ln_1.bias", normal(W)),
        "has unknown transformer_no",
    ),
    "fewer positions": (with_tensor("positional_embedding_no", normal(76, W)), "has shape"),
    "wider tokens": (with_tensor("token_embedding_no.weight", normal(49408, 512)), "512 wide"),
    "fewer tokens": (with_tensor("token_embedding_no.weight", normal(400, W)), "has shape"),
    "another projection": (with_tensor("text_projection_no", normal(W, D + 1)), "has shape"),
    "wider prompts": (with_tensor("prompt_no", normal(16, 77, W + 1)), "prompt_no has shape"),
    "shorter prompts": (with_tensor("prompt_no", normal(16, 70, W)), "prompt_no has shape"),
    "one flat prompt": (with_tensor("prompt_no", normal(77, W)), "prompt_no has shape"),
    "an empty pool": (with_tensor("prompt_no", normal(0, 77, W)), "prompt_no has shape"),
    "NaN in a layer": (with_number("ln_final_no.weight", float("nan")), "not finite"),
    "infinity in the pool": (with_number("prompt_no", float("inf")), "not finite"),
    "another image": (with_tensor("visual.proj", normal(64, D)), "image tower is not that of"),
    "an image of another shape": (with_tensor("visual.proj", normal(64, 9)), "image tower"),
    "one other number deep in the image tower": (with_number(DEEP, 9.0), "image tower is not"),
    "half an image tower": (without(DEEP), "image tower is not that of --model"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_checkpoint_is_refused_in_a_sentence(
    target: Target, tmp_path: Path, what: str
) -> None:
    change, said = BROKEN[what]
    state = clipn(target.backbone.module, prefix="")["state_dict"]
    change(state)
    with pytest.raises(UsageError, match=said) as caught:
        import_detector("clipn", [write(tmp_path / "a.pt", state)], target)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_one_class_is_scored_by_ctw(target: Target, tmp_path: Path) -> None:
    file = write(tmp_path / "a.pt", clipn(target.backbone.module))
    made = import_detector("clipn", [file], Target.of(target.backbone, CLASSES[:1]))
    save_detector(tmp_path / "made", made.saved)
    held = load_detector(tmp_path / "made")
    assert held.detector.settings.rule == "ctw"
    assert np.isfinite(registry.score(held.detector, images()).score).all()
    assert any("scores by CTW" in note for note in made.report.notes)


@pytest.mark.parametrize("prefix", ["module.", ""])
@pytest.mark.parametrize("prompts", [True, False])
def test_clipn(target: Target, tmp_path: Path, prompts: bool, prefix: str) -> None:
    backbone = target.backbone
    stored = clipn(backbone.module, prompts=prompts, prefix=prefix)
    made = import_detector("clipn", [write(tmp_path / "epoch_10.pt", stored)], target)
    held = back(made, tmp_path / "made")
    pairs = read_no_templates()
    positives = [positive for positive, _ in pairs]
    negations = positives if prompts else [negation for _, negation in pairs]
    state = {name.removeprefix("module."): each for name, each in stored["state_dict"].items()}
    no = class_features(lambda texts: encode_no_texts(backbone, state, texts), CLASSES, negations)
    tensors = held.detector.tensors
    np.testing.assert_allclose(
        tensors["class_features"],
        class_features(target.encode, CLASSES, positives).features,
        atol=1e-6,
    )
    np.testing.assert_allclose(tensors["no_features"], no.features, atol=1e-6)
    assert held.learned is None
    assert ("prompt_no" in made.report.missing) is not prompts
    assert any("--keep-learned" in note for note in made.report.notes)
    assert any("is that of --model" in note for note in made.report.notes)
    assert set(made.report.ignored) == {"epoch", "name", "optimizer", "scaler", "logit_scale ()"}


def test_clipn_keeps_its_tower_in_half_precision(target: Target, tmp_path: Path) -> None:
    stored = clipn(target.backbone.module)
    file = write(tmp_path / "epoch_10.pt", stored)
    options = ImportOptions(keep_learned=True, templates=("a {}.",))
    held = back(import_detector("clipn", [file], target, options), tmp_path / "made")
    assert held.templates == ("a {}.",)
    assert held.learned is not None
    assert held.learned.kind == "no-text"
    wanted = {n.removeprefix("module.") for n in stored["state_dict"] if "_no" in n}
    assert set(held.learned.arrays) == wanted
    assert {array.dtype for array in held.learned.arrays.values()} == {np.dtype(np.float16)}
    kept = {name: torch.from_numpy(array) for name, array in held.learned.arrays.items()}
    again = class_features(
        lambda texts: encode_no_texts(target.backbone, kept, texts), CLASSES, ("a {}.",)
    )
    np.testing.assert_allclose(held.detector.tensors["no_features"], again.features, atol=0.02)


def test_clipn_uses_the_yes_tower_of_the_file_where_it_differs(
    target: Target, tmp_path: Path
) -> None:
    changed = copy.deepcopy(target.backbone.module)
    with torch.no_grad():
        changed.text_projection += 0.2 * normal(*changed.text_projection.shape)
        changed.ln_final.weight += 0.1
    before = {name: each.clone() for name, each in target.backbone.module.state_dict().items()}
    file = write(tmp_path / "epoch_10.pt", clipn(changed))
    made = import_detector("clipn", [file], target, ImportOptions(templates=("a {}.",)))
    tokens = target.backbone.tokenizer([f"a {prompt}." for prompt in PROMPTS])
    expected = unit(changed.encode_text(tokens, normalize=False).numpy())
    found = made.saved.detector.tensors["class_features"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert any("is not that of --model" in note for note in made.report.notes)
    for name, each in target.backbone.module.state_dict().items():
        torch.testing.assert_close(each, before[name], rtol=0, atol=0)


def test_clipn_with_its_no_half_alone(target: Target, tmp_path: Path) -> None:
    state = clipn(target.backbone.module, prefix="")["state_dict"]
    file = write(tmp_path / "no.pt", {name: each for name, each in state.items() if "_no" in name})
    made = import_detector("clipn", [file], target)
    assert made.report.missing == ('the "yes" text tower', "the image tower")
    whole = import_detector("clipn", [write(tmp_path / "whole.pt", state)], target)
    for name, array in made.saved.detector.tensors.items():
        np.testing.assert_array_equal(array, whole.saved.detector.tensors[name])


def test_clipn_refuses(target: Target, tmp_path: Path) -> None:
    file = tmp_path / "a.pt"

    def said(state: dict[str, Any], said: str, **options: Any) -> None:
        with pytest.raises(UsageError, match=said) as caught:
            import_detector("clipn", [write(file, state)], target, ImportOptions(**options))
        assert "\n" not in str(caught.value)

    model = target.backbone.module
    whole = clipn(model, prefix="")["state_dict"]
    lacking = {name: each for name, each in whole.items() if name != "ln_final_no.bias"}
    said(lacking, r"lacks ln_final_no\.bias")
    said({**whole, "positional_embedding_no": normal(76, W)}, "positional_embedding_no has shape")
    said({**whole, "token_embedding_no.weight": normal(49408, 512)}, "512 wide.*ViT-B")
    said(dict(model.state_dict()), 'holds no "no" tower.*it looks like cma')
    said(clipn(build(seed=5)), r"image tower is not that of --model.*ViT-B-16:laion2b_s34b_b88k")
    said(clipn(model, prompts=False), "hand-crafted", templates=("a {}.",))


# CMA


@pytest.fixture
def architecture(tmp_path: Path) -> Iterator[str]:
    """Make the tiny model one of open_clip's architectures for a while."""
    import open_clip
    from open_clip import factory

    before = dict(factory._MODEL_CONFIGS), list(factory._MODEL_CONFIG_PATHS)
    path = tmp_path / "vlood-test-tiny.json"
    path.write_text(json.dumps({"embed_dim": D, "vision_cfg": VIT, "text_cfg": TEXT}))
    open_clip.add_model_config(path)
    yield path.stem
    factory._MODEL_CONFIGS.clear()
    factory._MODEL_CONFIGS.update(before[0])
    factory._MODEL_CONFIG_PATHS[:] = before[1]


@pytest.mark.parametrize("prefix", ["module.", ""])
def test_cma_becomes_a_model(tmp_path: Path, architecture: str, prefix: str) -> None:
    tuned = build(seed=9)
    state = {prefix + name: each for name, each in tuned.state_dict().items()}
    stored = {"epoch": 3, "model_state_dict": state, "optimizer_state_dict": {"state": {}}}
    file, folder = write(tmp_path / "CMA-ckpt.pt", stored), tmp_path / "model"
    report = cma.import_cma(read_checkpoint(file), folder, architecture=architecture)
    assert f"vlood tune neglabel --model local-dir:{folder}" in report.notes[0]
    assert report.ignored == ("epoch", "optimizer_state_dict")
    made = load_backbone(f"local-dir:{folder}", device="cpu")
    assert made.preprocessing.size == (32, 32)
    expected = tuned.encode_text(made.tokenizer(["a dog"]), normalize=False).numpy()
    np.testing.assert_allclose(made.encode_texts(["a dog"]), expected, atol=1e-5)
    with pytest.raises(UsageError, match="--overwrite"):
        cma.check_new(folder)
    cma.check_new(folder, overwrite=True)
    with pytest.raises(UsageError, match="no model"):
        cma.check_new(tmp_path, overwrite=True)


def test_cma_is_strict(tmp_path: Path, architecture: str) -> None:
    whole = dict(build(seed=9).state_dict())
    folder = tmp_path / "model"
    for change, said in (
        ({"ln_final.bias": None}, "lacks ln_final.bias"),
        ({"adapter.weight": normal(2)}, r"unknown adapter\.weight"),
        ({"text_projection": normal(W, 25)}, r"text_projection has shape \(32, 25\), expected"),
    ):
        state = {name: each for name, each in {**whole, **change}.items() if each is not None}
        with pytest.raises(UsageError, match=said):
            cma.import_cma(Checkpoint(tmp_path / "a.pt", state), folder, architecture=architecture)
    with pytest.raises(UsageError, match="is not a ViT-B-16-quickgelu"):
        cma.import_cma(Checkpoint(tmp_path / "a.pt", whole), folder)
    with pytest.raises(UsageError, match="no such architecture"):
        cma.import_cma(Checkpoint(tmp_path / "a.pt", whole), folder, architecture="nosuch")
    with pytest.raises(UsageError, match="it looks like coop"):
        cma.import_cma(Checkpoint(tmp_path / "a.pt", coop(L)), folder)
    assert not folder.exists()


def test_the_published_cma_is_the_default_architecture(tmp_path: Path) -> None:
    expected = cma._expected(cma.ARCHITECTURE)
    assert len(expected) == 302
    assert expected["visual.proj"] == (768, 512)
    assert cma._config(cma.ARCHITECTURE)["quick_gelu"] is True


# COOkeD's probes


def probe(classes: int = K) -> dict[str, Any]:
    return {"fc.weight": normal(classes, D), "fc.bias": normal(classes, seed=1)}


def test_linear_probe(target: Target, tmp_path: Path) -> None:
    state = probe()
    made = import_detector("cooked-probe", [write(tmp_path / "p.ckpt", state)], target)
    held = back(made, tmp_path / "made")
    assert held.detector.method == "linear-probe"
    assert held.detector.settings.solver == "imported"
    np.testing.assert_array_equal(held.detector.tensors["weight"], state["fc.weight"].numpy())
    assert "same shape" in made.report.notes[0]
    renamed = {
        "module.classifier.w": state["fc.weight"].half(),
        "module.classifier.b": (state["fc.bias"].double()),
    }
    other = import_detector("cooked-probe", [write(tmp_path / "q.ckpt", renamed)], target)
    np.testing.assert_allclose(
        other.saved.detector.tensors["weight"], state["fc.weight"].numpy(), atol=1e-3
    )
    assert other.saved.detector.tensors["bias"].dtype == np.float32
    backed = {"backbone.conv.weight": normal(2, 2), **state}
    extra = import_detector("cooked-probe", [write(tmp_path / "r.ckpt", backed)], target)
    assert extra.report.ignored == ("backbone.conv.weight (2, 2)",)


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ({"fc.weight": normal(K, D)}, "no bias beside it"),
        ({"fc.weight": normal(K, D), "fc.bias": normal(3)}, "expected one bias a class"),
        (probe(3), "is for 3 classes and --classes names 4"),
        ({"fc.weight": normal(K, 512), "fc.bias": normal(K)}, "512 wide.*a ViT-B"),
        ({"a": normal(K, D), "b": normal(K, D), "c": normal(K)}, r"holds no fc\.weight"),
        ({"fc.weight": normal(K, D, 1), "fc.bias": normal(K)}, "fc.weight has shape"),
    ],
)
def test_linear_probe_refuses(target: Target, tmp_path: Path, stored: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        import_detector("cooked-probe", [write(tmp_path / "p.ckpt", stored)], target)


def test_the_authors_probes_are_recognised(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(KNOWN) == 24
    assert len({each.timestamp for each in KNOWN}) == len({each.sha256 for each in KNOWN}) == 24
    file = write(tmp_path / "run_20250222-211559_acc_0.8080.ckpt", probe())
    known = recognise(read_checkpoint(file))
    assert known is not None
    assert (known.data, known.model) == ("cifar100", "ViT-B-16-quickgelu:openai")

    def refuse() -> Backbone:
        raise AssertionError("no model needs to be loaded")

    for name in ("ViT-B-32-quickgelu:openai", "ViT-B-16:laion2b_s34b_b88k"):
        named = Target(CLASSES, refuse, model=name)
        with pytest.raises(UsageError, match="use --model ViT-B-16-quickgelu:openai"):
            import_detector("cooked-probe", [file], named)
    # A folder tells its architecture only when it is read.
    with pytest.raises(UsageError, match="is the authors' probe of cifar100 on"):
        import_detector("cooked-probe", [file], Target.of(backbone, CLASSES))
    monkeypatch.setattr(backbone, "architecture", "ViT-B-16-quickgelu")
    made = import_detector("cooked-probe", [file], Target.of(backbone, CLASSES))
    assert "authors' probe of cifar100" in made.report.notes[0]


# CLIP benchmark, embeddings, SynOOD


def test_clip_benchmark(target: Target, tmp_path: Path) -> None:
    classifier = normal(D, K)
    for stored in (classifier, classifier.half(), torch.nn.Parameter(classifier)):
        made = import_detector("clip-benchmark", [write(tmp_path / "c.pt", stored)], target)
        np.testing.assert_allclose(
            made.saved.detector.tensors["class_features"], unit(classifier.numpy().T), atol=2e-3
        )
    back(made, tmp_path / "made")
    for stored, said in (
        (normal(D, 3), "is for 3 classes and --classes names 4"),
        (normal(K, D), "has a row a class"),
        (normal(512, K), "512 wide.*a ViT-B"),
        (normal(K), "has shape"),
        (coop(L), "holds no bare tensor.*looks like coop"),
    ):
        with pytest.raises(UsageError, match=said):
            import_detector("clip-benchmark", [write(tmp_path / "c.pt", stored)], target)


def test_embeddings_need_no_model(target: Target, tmp_path: Path) -> None:
    rows = normal(K + 1, D).numpy()
    np.save(tmp_path / "e.npy", rows)
    file = tmp_path / "e.npy"
    with pytest.raises(UsageError, match="has no names"):
        import_detector("embeddings", [file], Target())
    (tmp_path / "e.txt").write_text("tench\nsea lion\ngreat white shark\ncat\ndog\n")
    made = import_detector("embeddings", [file], Target())
    assert (made.saved.backbone, made.saved.model_name) == (None, None)
    assert [each.name for each in made.saved.classes][1] == "sea lion"
    assert made.saved.detector.logit_scale == 100
    save_detector(tmp_path / "made", made.saved)
    held = load_detector(tmp_path / "made")
    np.testing.assert_allclose(held.detector.tensors["class_features"], unit(rows), atol=1e-6)
    picked = import_detector("embeddings", [file], target, ImportOptions(method="max-logit"))
    assert picked.saved.detector.method == "max-logit"
    assert picked.saved.classes == CLASSES
    assert picked.saved.detector.logit_scale == pytest.approx(target.backbone.logit_scale)
    np.testing.assert_allclose(
        picked.saved.detector.tensors["class_features"], unit(rows)[[2, 0, 4, 1]], atol=1e-6
    )
    assert picked.report.ignored == ("cat",)
    (tmp_path / "other.txt").write_text("a\nb\nc\nd\ne\n")
    named = import_detector(
        "embeddings", [file], Target(), ImportOptions(names=tmp_path / "other.txt")
    )
    assert named.saved.detector.class_names == ("a", "b", "c", "d", "e")


def test_embeddings_refuse(target: Target, tmp_path: Path) -> None:
    for name, width in (("a", D), ("b", 25)):
        np.save(tmp_path / f"{name}.npy", normal(2, width).numpy())
        (tmp_path / f"{name}.txt").write_text(f"{name}1\n{name}2\n")
    a, b = tmp_path / "a.npy", tmp_path / "b.npy"
    for files, where, method, said in (
        ([a, b], Target(), "mcm", "different widths"),
        ([a, a], Target(), "mcm", "more than once"),
        ([a], target, "mcm", "4 of 4 are not among the names"),
        ([b], Target.of(target.backbone), "mcm", "rows have 25 numbers"),
        ([a], Target(), "neglabel", "--method neglabel: needs negatives"),
        ([a], Target(), "clipn", "--method clipn: needs captioned-images"),
        ([a], Target(), "nosuch", "no such method"),
    ):
        with pytest.raises(UsageError, match=said):
            import_detector("embeddings", files, where, ImportOptions(method=method))


def test_synood_labels_are_meaningless_without_names(tmp_path: Path) -> None:
    file = write(tmp_path / "epoch_3.pth", torch.nn.Parameter(normal(M, D).half()))
    held = read_checkpoint(file)
    assert list(held.tensors) == [BARE]
    with pytest.raises(UsageError, match=r"meaningless without its label list.*--names"):
        import_labels(held, None)
    (tmp_path / "labels.txt").write_text("\n".join(TERMS))
    bank, report = import_labels(held, tmp_path / "labels.txt")
    save_bank(tmp_path / "bank", bank)
    again = load_bank(tmp_path / "bank")
    assert again.terms == TERMS
    assert again.features is not None
    np.testing.assert_allclose(again.features, unit(held.array(BARE)), atol=1e-6)
    assert again.negative_features().names == TERMS
    assert "labels.txt" in report.notes[1]
    (tmp_path / "labels.txt").write_text("harp\n")
    with pytest.raises(UsageError, match="holds 1 names for 6"):
        import_labels(held, tmp_path / "labels.txt")
