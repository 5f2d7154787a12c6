from __future__ import annotations

import pytest
import torch

from vlood.backbone.device import choose_device, choose_precision
from vlood.errors import UsageError


def test_auto_takes_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto") == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == "cuda"


@pytest.mark.parametrize("device", ["gpu", "", "cuda", "cuda:9", "cuda:x", "mps"])
def test_absent_devices_are_refused(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match="--device"):
        choose_device(device)


def test_precision_is_recorded_with_its_reason() -> None:
    assert choose_precision("auto", "cpu").name == "fp32"
    assert choose_precision("auto", "mps").name == "fp32"
    assert choose_precision("auto", "cuda").name == "fp16"
    assert choose_precision("auto", "cuda:1").name == "fp16"
    asked = choose_precision("fp16", "cpu")
    assert (asked.name, asked.reason) == ("fp16", "asked for")
    with pytest.raises(UsageError, match="--precision int8"):
        choose_precision("int8", "cpu")
