"""Where the benches run: the project's environment, the machine, and the data that may be there."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv" / "bin" / "python"
INSTRUCTIONS = {"avx512f": "AVX-512", "avx2": "AVX2"}


def ensure_installed(script: str) -> None:
    """Run a script inside the project's environment, making that first where it is missing."""
    if (
        Path(sys.prefix).resolve() != (ROOT / ".venv").resolve()
        and "VLOOD_BENCH_HERE" not in os.environ
    ):
        subprocess.run([ROOT / "scripts" / "setup"], check=True)
        os.execv(PYTHON, [str(PYTHON), script, *sys.argv[1:]])


def shared_folder() -> Path | None:
    """Return the folder of test data, ``../shared`` or ``VLOOD_SHARED``, where it is there."""
    folder = Path(os.environ.get("VLOOD_SHARED", ROOT.parent / "shared"))
    return folder if (folder / "photos").is_dir() else None


def has_pytorch_ood() -> bool:
    return find_spec("pytorch_ood") is not None


def hardware(device: str = "cpu") -> str:
    """Describe the machine in words: processor, cores, memory, GPU, versions, threads and load."""
    count = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
    threads = "one thread" if count == "1" else f"{count} threads"
    told = [
        f"{processor()}, {os.cpu_count()} cores, {memory_gigabytes():.0f} GB, {gpu(device)}",
        versions(),
        f"{threads}, load {os.getloadavg()[0]:.0f}",
    ]
    return "; ".join(told)


def processor() -> str:
    """Return the processor's name, with the widest instructions that matter to torch."""
    fields = {}
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else []:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = fields.get("flags", "").split()
    widest = next((shown for flag, shown in INSTRUCTIONS.items() if flag in flags), "")
    name = fields.get("model name") or platform.processor() or platform.machine()
    return f"{name} ({widest})" if widest else name


def memory_gigabytes() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def gpu(device: str) -> str:
    import torch

    if device == "cuda" or torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return "no GPU"


def versions() -> str:
    from importlib.metadata import version

    names = {"torch": "torch", "open_clip_torch": "open_clip", "numpy": "NumPy"}
    found = ", ".join(f"{shown} {version(name)}" for name, shown in names.items())
    return f"Python {platform.python_version()}, {found}"
