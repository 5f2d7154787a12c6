from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import vlood
from vlood.backbone.library import hidden
from vlood.backbone.load import load_backbone

VISION = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 1, "head_width": 16}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog"]


def run(program: str, *arguments: str) -> str:
    """Run a program in a fresh interpreter: this one has imported all there is."""
    ran = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_open_clip_comes_without_what_hardly_any_model_needs() -> None:
    run("""
import sys
finders = list(sys.meta_path)
import vlood.backbone.backbone, vlood.backbone.load
assert "open_clip" in sys.modules
put_off = ("transformers", "timm", "torch._dynamo")
assert not [name for name in sys.modules if name.startswith(put_off)]
assert sys.meta_path[-len(finders):] == finders
assert not [one for one in sys.meta_path if type(one).__module__.startswith("vlood")]

# The compiler is there for whoever wants it, from the one function of torchvision on.
import torch, torchvision
module = sys.modules["torchvision.ops.roi_align"]
assert module.__loader__ is module.__spec__.loader
assert not type(module.__loader__).__module__.startswith("vlood")
boxes = [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]
assert torchvision.ops.roi_align(torch.ones(1, 1, 8, 8), boxes, 2).shape == (1, 1, 2, 2)
assert "torch._dynamo" not in sys.modules
supported = module.is_compile_supported("cpu")
from torch._dynamo.utils import is_compile_supported
assert supported == is_compile_supported("cpu")
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2)).tolist() == [2.0, 2.0]

# So is timm: the first tower brings it, and the class of the towers stays what it was.
import open_clip
from open_clip.timm_model import TimmModel
assert "timm" not in sys.modules
towers = [TimmModel("resnet10t", 16, image_size=32).eval() for _ in range(2)]
assert "timm" in sys.modules
for tower in towers:
    assert type(tower) is TimmModel is open_clip.model.TimmModel is open_clip.timm_model.TimmModel
    assert tower(torch.ones(1, 3, 32, 32)).shape == (1, 16)
towers[0].set_input_size(64)
assert not hasattr(TimmModel.__init__, "__wrapped__")

import transformers
from transformers import AutoModel
import peft
assert AutoModel is transformers.AutoModel
""")


def test_who_asks_the_stand_in_for_more_gets_the_compiler() -> None:
    run("""
import sys
from vlood.backbone.library import _StandIn
name = "torch._dynamo.utils"
sys.modules[name] = stand_in = _StandIn(name)
import torch._dynamo
assert sys.modules[name] is not stand_in
from torch._dynamo.utils import counters, is_compile_supported
assert counters is sys.modules[name].counters
assert is_compile_supported is sys.modules[name].is_compile_supported
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2)).tolist() == [2.0, 2.0]
""")


def test_an_open_clip_with_everything_is_left_alone() -> None:
    run("""
import sys
import open_clip
text, image = open_clip.model.HFTextEncoder, open_clip.timm_model.TimmModel.__init__
from vlood.backbone import library
assert library.open_clip is open_clip
assert open_clip.model.HFTextEncoder is text is open_clip.hf_model.HFTextEncoder
assert open_clip.timm_model.TimmModel.__init__ is image
with library.without_compiler():
    import torchvision
wanted = sys.modules["torch._dynamo.utils"].is_compile_supported
assert sys.modules["torchvision.ops.roi_align"].is_compile_supported is wanted
""")


@pytest.fixture(scope="session")
def hugging_face_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a random model in open_clip's layout whose text tower is a tiny BERT."""
    from open_clip import CustomTextCLIP
    from safetensors.torch import save_file
    from transformers import BertConfig, BertTokenizer

    folder = tmp_path_factory.mktemp("hugging-face")
    tower = folder / "bert"
    BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
    ).save_pretrained(tower)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    text = {
        "context_length": 16,
        "hf_model_name": str(tower),
        "hf_model_pretrained": False,
        "hf_proj_type": "linear",
        "hf_pooler_type": "mean_pooler",
        "hf_tokenizer_name": str(folder),
    }
    model = CustomTextCLIP(24, VISION, text)
    save_file(dict(model.state_dict()), folder / "open_clip_model.safetensors")
    config = {
        "model_cfg": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": text},
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


LOAD = """
import json, sys
from vlood.backbone.load import load_backbone
assert "transformers" not in sys.modules
for _ in range(2):
    backbone = load_backbone(f"local-dir:{sys.argv[1]}", device="cpu")
import open_clip
assert type(backbone.module.text) is open_clip.model.HFTextEncoder
assert open_clip.model.HFTextEncoder is open_clip.hf_model.HFTextEncoder
print(json.dumps(backbone.encode_texts(["a cat", "a dog", "cat"]).tolist()))
"""


def test_a_hugging_face_text_tower_loads_and_encodes(
    hugging_face_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = str(hugging_face_folder)
    features = json.loads(run(LOAD, folder))
    usual = load_backbone(f"local-dir:{folder}", device="cpu").encode_texts(
        ["a cat", "a dog", "cat"]
    )
    assert np.shape(features) == (3, 24)
    assert np.abs(np.subtract(features[0], features[1])).max() > 1e-4
    np.testing.assert_allclose(features, usual, rtol=0, atol=1e-6)


@pytest.fixture
def fresh_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make a module importable that nobody has imported."""
    (tmp_path / "vlood_test_fresh.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "vlood_test_fresh", raising=False)
    return "vlood_test_fresh"


def test_a_hidden_module_is_hidden_in_the_block_and_in_its_thread_alone(fresh_module: str) -> None:
    elsewhere: list[str] = []
    with hidden(fresh_module):
        with pytest.raises(ImportError, match="hidden"):
            importlib.import_module(fresh_module)
        assert fresh_module not in sys.modules
        thread = threading.Thread(
            target=lambda: elsewhere.append(importlib.import_module(fresh_module).__name__)
        )
        thread.start()
        thread.join()
    assert elsewhere == [fresh_module]
    assert importlib.import_module(fresh_module) is sys.modules[fresh_module]


def test_hiding_ends_with_the_block_even_by_an_error(fresh_module: str) -> None:
    finders = list(sys.meta_path)
    with pytest.raises(KeyError), hidden(fresh_module):
        raise KeyError
    assert sys.meta_path == finders
    assert importlib.import_module(fresh_module).__name__ == fresh_module


def test_a_module_that_is_imported_already_is_not_hidden() -> None:
    with hidden("json"):
        assert importlib.import_module("json") is json


def test_vlood_takes_open_clip_from_the_library_alone() -> None:
    package = Path(vlood.__file__).parent
    direct = re.compile(r"^\s*(import|from) open_clip\b", re.MULTILINE)
    found = [str(path) for path in package.rglob("*.py") if direct.search(path.read_text("utf-8"))]
    assert found == [str(package / "backbone" / "library.py")]
