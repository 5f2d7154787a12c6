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

VISION = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 1, "head_width": 16}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog"]


def run(program: str, *arguments: str) -> str:
    """Run a program in a fresh interpreter: this one has imported all there is."""
    ran = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_open_clip_comes_without_transformers_which_stays_importable() -> None:
    run("""
import sys
import vlood.backbone.backbone, vlood.backbone.load
assert "open_clip" in sys.modules
assert not [name for name in sys.modules if name.partition(".")[0] == "transformers"]
import transformers
from transformers import AutoModel
import peft
assert AutoModel is transformers.AutoModel
""")


def test_an_open_clip_with_transformers_is_left_alone() -> None:
    run("""
import open_clip
tower = open_clip.model.HFTextEncoder
from vlood.backbone import library
assert library.open_clip is open_clip
assert open_clip.model.HFTextEncoder is tower is open_clip.hf_model.HFTextEncoder
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
{first}
from vlood.backbone.load import load_backbone
assert ("transformers" in sys.modules) == {before}
for _ in range(2):
    backbone = load_backbone(f"local-dir:{{sys.argv[1]}}", device="cpu")
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
    features = json.loads(run(LOAD.format(first="", before=False), folder))
    usual = json.loads(run(LOAD.format(first="import transformers", before=True), folder))
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
