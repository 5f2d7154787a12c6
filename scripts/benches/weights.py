"""Which weights of the bundled model are here, told without torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

BUNDLED = Path(__file__).resolve().parents[2] / "vlood/backbone/bundled/open_clip_model.safetensors"
TYPES = {"F16": "torch.float16", "F32": "torch.float32", "BF16": "torch.bfloat16"}
TYPES |= {"I64": "torch.int64", "I32": "torch.int32"}
SHOWN = 8


def present_weights(path: Path = BUNDLED) -> str:
    """Return the first digits of what vlood calls the weights' digest (run.json has all of it)."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), memoryview(data)[8 + length :]
    parts = []
    for name in sorted(set(header) - {"__metadata__"}):
        tensor = header[name]
        start, stop = tensor["data_offsets"]
        digest = hashlib.blake2b(digest_size=16)
        digest.update(f"{name}\0{TYPES[tensor['dtype']]}\0{tuple(tensor['shape'])}\0".encode())
        digest.update(body[start:stop])
        parts.append(digest.digest())
    return hashlib.blake2b(b"".join(parts), digest_size=16).hexdigest()[:SHOWN]
