from __future__ import annotations

import json
import logging
import pickle
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from vlood.backbone import hub
from vlood.backbone.hub import NotDownloadedError, fetch, why_unreachable
from vlood.backbone.load import _shared_preprocessing, load_backbone, quiet_libraries
from vlood.backbone.weights import read_weights, weights_digest
from vlood.errors import UsageError, VloodError

WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture
def folder(vit_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(vit_folder, tmp_path / "model"))


def load(folder: Path) -> Any:
    return load_backbone(f"local-dir:{folder}", device="cpu")


def message(folder: Path) -> str:
    with pytest.raises(VloodError) as caught:
        load(folder)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.bin", "w.ckpt", "w.safetensors"])
def test_weights_load_from_every_kind_of_file(folder: Path, name: str) -> None:
    expected = load(folder)
    state = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    if name.endswith(".safetensors"):
        save_file(state, folder / name)
    else:
        torch.save(
            {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, folder / name
        )
    loaded = load(folder)
    assert loaded.digest == expected.digest
    assert loaded.identity() == expected.identity()
    pixels = np.full((1, 32, 32, 3), 100, np.uint8)
    assert np.array_equal(loaded.encode_pixels(pixels).raw, expected.encode_pixels(pixels).raw)


def test_an_architecture_takes_weights_from_a_file(
    vit_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads((vit_folder / "open_clip_config.json").read_text())["model_cfg"]
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny-ViT", config)
    loaded = load_backbone(f"Tiny-ViT:{vit_folder / WEIGHTS}", device="cpu")
    assert loaded.architecture == "Tiny-ViT"
    in_folder = load(vit_folder)
    assert in_folder.architecture == "Tiny-ViT"
    assert (loaded.digest, loaded.config_digest) == (in_folder.digest, in_folder.config_digest)
    assert loaded.preprocessing.mean == pytest.approx(open_clip.OPENAI_DATASET_MEAN)
    with pytest.raises(UsageError, match=r"no file .*absent\.pt"):
        load_backbone(f"Tiny-ViT:{vit_folder / 'absent.pt'}", device="cpu")


def test_a_file_is_preprocessed_as_all_tags_of_its_architecture_are() -> None:
    assert _shared_preprocessing("ViT-B-16-SigLIP")["mean"] == (0.5, 0.5, 0.5)
    assert _shared_preprocessing("ViT-B-32")["mean"] == open_clip.OPENAI_DATASET_MEAN
    assert _shared_preprocessing("ViT-L-14") == {}


def test_the_digest_is_of_what_is_stored() -> None:
    weights = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(1.5)}
    digest = weights_digest(weights)
    assert len(digest) == 32
    assert int(digest, 16) >= 0
    assert weights_digest(dict(reversed(weights.items()))) == digest
    assert weights_digest({**weights, "b": weights["b"].T.contiguous().T}) == digest
    others = [
        {**weights, "b": weights["b"].reshape(3, 2)},
        {**weights, "b": weights["b"].half()},
        {**weights, "b": weights["b"] + 1e-6},
        {"b": weights["b"], "c": weights["a"]},
        {**weights, "b": weights["b"].to(torch.bfloat16)},
    ]
    assert len({digest, *map(weights_digest, others)}) == 6


def test_the_activation_is_part_of_the_identity(folder: Path) -> None:
    plain = load(folder).identity()
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["quick_gelu"] = True
    path.write_text(json.dumps(config))
    quick = load(folder).identity()
    assert quick["weights"] == plain["weights"]
    assert quick["config"] != plain["config"]


def test_weights_of_another_architecture(folder: Path, resnet_folder: Path) -> None:
    shutil.copy(resnet_folder / WEIGHTS, folder / WEIGHTS)
    text = message(folder)
    assert "does not hold weights of ViT of 3 blocks" in text
    assert "are missing (such as visual." in text


def test_weights_of_another_width(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    state["text_projection"] = torch.zeros(32, 48)
    save_file(state, folder / WEIGHTS)
    assert "text_projection is 32x48 in the file, 32x24 in the model" in message(folder)


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 500, b"this is a text", b"PK\x03\x04 not a zip"]
)
@pytest.mark.parametrize("name", [WEIGHTS, "weights.pt"])
def test_damaged_files(folder: Path, name: str, content: bytes) -> None:
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(content)
    assert "cannot be read as weights" in message(folder)


def test_a_truncated_file(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    assert "cannot be read as weights" in message(folder)


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (exec, ("raise SystemExit('code of a weight file was run')",))


def test_code_in_a_weight_file_is_never_run(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({"state_dict": Bomb()}, folder / "weights.pt")
    assert "never run" in message(folder)
    (folder / "weights.pt").write_bytes(pickle.dumps(Bomb(), protocol=2))
    assert "weights.pt" in message(folder)


def test_a_file_without_tensors(tmp_path: Path) -> None:
    torch.save({"epoch": 1}, tmp_path / "w.pt")
    with pytest.raises(VloodError, match="holds no tensors"):
        read_weights(tmp_path / "w.pt")


def test_folders_that_are_no_model(folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS).rename(folder / "one.pt")
    (folder / "two.pt").write_bytes(b"")
    assert "found one.pt, two.pt" in message(folder)
    (folder / "one.pt").unlink()
    (folder / "two.pt").unlink()
    assert "found none" in message(folder)
    for text in ("{", "[]", "{}", '{"model_cfg": {"embed_dim": 3}}'):
        (folder / "open_clip_config.json").write_text(text)
        assert "not an open_clip configuration" in message(folder)
    (folder / "open_clip_config.json").unlink()
    with pytest.raises(UsageError, match=r"no open_clip_config\.json"):
        load(folder)
    with pytest.raises(UsageError, match="nowhere"):
        load(tmp_path / "nowhere")


def test_a_configuration_open_clip_cannot_build(folder: Path) -> None:
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["vision_cfg"]["flux_capacitor"] = 1
    path.write_text(json.dumps(config))
    assert "flux_capacitor" in message(folder)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    def refuse(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("model", ["ViT-B-32-quickgelu:openai", "hf-hub:somebody/some-clip"])
def test_missing_weights_without_network_are_one_quick_sentence(model: str) -> None:
    with pytest.raises(NotDownloadedError) as caught:
        load_backbone(model, device="cpu")
    text = str(caught.value)
    for part in (model, "looked in", "no network", "--model bundled", "local-dir:"):
        assert part in text
    assert "\n" not in text


@pytest.mark.usefixtures("no_network")
def test_weights_in_the_hubs_cache_need_no_network(vit_folder: Path, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--somebody--some-clip"
    shutil.copytree(vit_folder, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert fetch("somebody/some-clip", ["open_clip_config.json"], model="x").is_file()
    assert load_backbone("hf-hub:somebody/some-clip", device="cpu").embed_dim == 24


def test_the_hubs_refusals_are_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def answer(error: Exception) -> Any:
        def download(*_: Any, local_files_only: bool = False, **__: Any) -> str:
            raise LocalEntryNotFoundError("not cached") if local_files_only else error

        return download

    monkeypatch.setattr(hub, "why_unreachable", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", answer(EntryNotFoundError("404")))
    with pytest.raises(VloodError, match=r"has none of a\.bin, b\.bin"):
        fetch("o/n", ["a.bin", "b.bin"], model="hf-hub:o/n")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", answer(PermissionError("gated\nmore")))
    with pytest.raises(VloodError, match=r"hf-hub:o/n \(gated\)"):
        fetch("o/n", ["a.bin"], model="hf-hub:o/n")


def test_offline_by_setting_is_said() -> None:
    assert why_unreachable("https://huggingface.co", offline=True) == "HF_HUB_OFFLINE is set"
    assert "no network" in (why_unreachable("http://127.0.0.1:9") or "")


def test_libraries_are_quiet_and_logging_is_left_as_it_was(vit_folder: Path) -> None:
    code = (
        "import logging\n"
        "from vlood.backbone.load import load_backbone\n"
        f"model = load_backbone({f'local-dir:{vit_folder}'!r}, device='cpu')\n"
        "model.encode_texts(['a dog'])\n"
        "assert logging.getLogger().handlers == [], logging.getLogger().handlers\n"
        "assert logging.getLogger().filters == []\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_our_own_warnings_pass_while_libraries_are_quiet(caplog: pytest.LogCaptureFixture) -> None:
    with quiet_libraries():
        logging.warning("from open_clip, on the root logger")
        logging.getLogger("vlood.backbone").warning("from vlood")
    assert [record.getMessage() for record in caplog.records] == ["from vlood"]


def test_naming_a_model_imports_no_torch() -> None:
    code = (
        "import sys, vlood.backbone.spec, vlood.backbone.device, vlood.backbone.image_features\n"
        "print([name for name in ('torch', 'open_clip') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_bundled_model_loads_and_has_local_features() -> None:
    from importlib import resources

    if not (resources.files("vlood.backbone") / "bundled" / WEIGHTS).is_file():
        pytest.skip("the bundled model is not in this checkout; scripts/train-bundled makes it")
    bundled = load_backbone("bundled", device="cpu")
    assert bundled.local_refusal is None
    side = bundled.preprocessing.size[0]
    features = bundled.encode_pixels(np.zeros((2, side, side, 3), np.uint8), local=True)
    assert features.raw.shape == (2, bundled.embed_dim)
    assert bundled.encode_texts(["a red umbrella"]).shape == (1, bundled.embed_dim)
