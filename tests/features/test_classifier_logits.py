"""A classifier's logits in a file of embeddings, or beside it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from vlood.errors import UsageError
from vlood.features.embeddings import read_embeddings

FEATURES = np.ones((3, 4), np.float32)
LOGITS = np.arange(6, dtype=np.float32).reshape(3, 2)


def test_logits_are_read_from_every_place(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", features=FEATURES, logits=LOGITS, logit_names=["x", "y"])
    names = {"logit_names": json.dumps(["x", "y"])}
    tensors = {"features": FEATURES, "logits": LOGITS}
    save_file(tensors, tmp_path / "b.safetensors", metadata=names)
    np.save(tmp_path / "c.npy", FEATURES)
    np.save(tmp_path / "c.logits.npy", LOGITS.astype(np.float64))
    (tmp_path / "c.logits.txt").write_text("x\ny\n")
    for name in ("a.npz", "b.safetensors", "c.npy"):
        found = read_embeddings(tmp_path / name).logits
        assert found is not None
        assert found.names == ("x", "y")
        assert found.values.dtype == np.float32
        np.testing.assert_array_equal(found.values, LOGITS)
        np.testing.assert_array_equal(found.rows(slice(1, 2)).values, LOGITS[1:2])
    np.save(tmp_path / "d.npy", FEATURES)
    assert read_embeddings(tmp_path / "d.npy").logits is None


@pytest.mark.parametrize(
    ("logits", "names", "said"),
    [
        (LOGITS[:2], ["x", "y"], "logits are numbers .* with N = 3 images"),
        (LOGITS, ["x"], "2 logits an image and 1 names"),
        (LOGITS * np.nan, ["x", "y"], "some logits are NaN"),
        (LOGITS[:, 0], ["x", "y"], "logits are numbers"),
        (LOGITS, None, "has logits without logit_names"),
    ],
)
def test_wrong_logits_are_refused(
    tmp_path: Path, logits: np.ndarray, names: list[str] | None, said: str
) -> None:
    given = {} if names is None else {"logit_names": names}
    np.savez(tmp_path / "a.npz", features=FEATURES, logits=logits, **given)
    with pytest.raises(UsageError, match=said):
        read_embeddings(tmp_path / "a.npz")
