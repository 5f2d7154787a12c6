from __future__ import annotations

from pathlib import Path

import pytest

from vlood.backbone.spec import DEFAULT_MODEL, ModelForm, ModelSpec
from vlood.errors import UsageError


@pytest.mark.parametrize(
    ("text", "form", "architecture", "source"),
    [
        (DEFAULT_MODEL, ModelForm.TAG, "ViT-B-16-quickgelu", "openai"),
        ("ViT-B-32:laion2b_s34b_b79k", ModelForm.TAG, "ViT-B-32", "laion2b_s34b_b79k"),
        ("ViT-B-32:some/weights.pt", ModelForm.FILE, "ViT-B-32", "some/weights.pt"),
        ("ViT-B-32:w.safetensors", ModelForm.FILE, "ViT-B-32", "w.safetensors"),
        ("hf-hub:apple/MobileCLIP", ModelForm.HUB, "", "apple/MobileCLIP"),
        ("local-dir:a folder:with colon", ModelForm.FOLDER, "", "a folder:with colon"),
        (" bundled ", ModelForm.BUNDLED, "", ""),
    ],
)
def test_every_form_is_read(text: str, form: ModelForm, architecture: str, source: str) -> None:
    spec = ModelSpec.parse(text)
    assert (spec.form, spec.architecture, spec.source) == (form, architecture, source)
    assert spec.text == text.strip()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "ARCH:TAG"),
        ("nonsense", "local-dir:FOLDER"),
        ("local-dir:", "local-dir:FOLDER"),
        ("ViT-B-32", "laion2b_s34b_b79k"),
        ("vit-b-32-quickgelu:openai", "did you mean ViT-B-32-quickgelu"),
        ("ViT-B-31:openai", "did you mean ViT-B-32"),
        ("ViT-B-32:laion2b_s", "did you mean laion2b_s34b_b79k"),
        ("hf-hub:name", "hf-hub:ORG/NAME"),
    ],
)
def test_what_cannot_be_is_said_with_the_way_out(text: str, part: str) -> None:
    with pytest.raises(UsageError) as caught:
        ModelSpec.parse(text)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        ("ViT-B-16:openai", "ViT-B-16-quickgelu:openai"),
        ("RN50:openai", "RN50-quickgelu:openai"),
        ("ViT-H-14:dfn5b", "ViT-H-14-quickgelu:dfn5b"),
        ("ViT-B-32-quickgelu:laion2b_s34b_b79k", "ViT-B-32:laion2b_s34b_b79k"),
    ],
)
def test_wrong_activation_is_refused_with_the_right_name(typed: str, right: str) -> None:
    with pytest.raises(UsageError, match=f"use {right}$"):
        ModelSpec.parse(typed)
    assert ModelSpec.parse(right).text == right


def test_an_existing_file_is_a_file_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "openai").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert ModelSpec.parse("ViT-B-32:openai").form is ModelForm.FILE
