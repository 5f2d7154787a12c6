"""Which format an export has, where it may go, and who writes it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlood.detector.adapter_files import is_tuned_model
from vlood.detector.export.places import (
    check_file,
    check_folder,
    check_outside,
    check_writable,
    told,
    write_together,
)
from vlood.detector.folder import ADAPTER_FOLDER, DETECTOR_FILE, load_detector
from vlood.detector.saved import SavedDetector, check_backbone
from vlood.errors import UsageError

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone

FORMATS = ("safetensors", "npy", "onnx", "txt", "tar", "coop", "peft", "open-clip", "hub")
"""``coop``, ``peft`` and ``hub`` are folders, ``npy`` a folder or files with a common prefix."""

OF_ENSEMBLES = ("onnx", "tar", "hub")
"""What an ensemble can be exported as."""

ENDINGS = {
    ".safetensors": "safetensors",
    ".npy": "npy",
    ".onnx": "onnx",
    ".txt": "txt",
    ".tar": "tar",
    ".tar.gz": "tar",
    ".tgz": "tar",
}
_ADAPTER_MARK = "adapter_config.json"


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        source: the detector's folder.
        format: one of :data:`FORMATS`.
        output: where it goes; None only for ``hub`` with a repository or a dry run.
        plain: words without templates, for ``txt``.
        overwrite: whether an earlier export may be replaced.
        model: what ``--model`` takes, where the detector's own name for it does not work here.
        repository: ORG/NAME on the hub, to upload to.
        dry_run: list the files of ``hub`` and write nothing.
    """

    source: Path
    format: str
    output: Path | None = None
    plain: bool = False
    overwrite: bool = False
    model: str | None = None
    repository: str | None = None
    dry_run: bool = False

    @property
    def target(self) -> Path:
        """Return the place, which all formats but ``hub`` need.

        Raises:
            UsageError: there is none.
        """
        if self.output is None:
            raise UsageError(f"-o is missing: say where --format {self.format} is to be written")
        return self.output


def format_of(output: Path) -> str | None:
    """Return the format that a file's ending asks for, or None."""
    name = output.name.lower()
    return next((ENDINGS[ending] for ending in ENDINGS if name.endswith(ending)), None)


def export_detector(request: Request) -> dict[str, Any]:
    """Write a saved detector in another format.

    Returns:
        What was written; JSON-able. ``file``, ``folder`` or ``files`` say where.

    Raises:
        UsageError: the detector cannot be had in this format, or the place is taken.
        VloodError: the place cannot be written, or a check of what was made fails.
    """
    if request.format not in _WRITERS:
        raise UsageError(f"--format {request.format}: expected one of {', '.join(FORMATS)}")
    _check_options(request)
    if request.output is not None:
        check_outside(request.output, request.source)
        _check_target(request, request.output)
    saved = load_detector(request.source)
    if saved.members and request.format not in OF_ENSEMBLES:
        raise UsageError(
            f"--format {request.format}: {request.source} is an ensemble, several detectors in "
            f"one; export one of {request.source}/members, or use --format "
            f"{', '.join(OF_ENSEMBLES[:-1])} or {OF_ENSEMBLES[-1]}"
        )
    written = _WRITERS[request.format](request, saved)
    return {"format": request.format, "method": saved.detector.method, **written}


def _check_options(request: Request) -> None:
    if request.format != "hub" and (request.repository is not None or request.dry_run):
        option = "--repo" if request.repository is not None else "--dry-run"
        raise UsageError(f"{option}: goes with --format hub, not {request.format}; leave it out")
    if request.format != "txt" and request.plain:
        raise UsageError(f"--plain: goes with --format txt, not {request.format}; leave it out")
    if request.format != "hub":
        _ = request.target  # refuses where there is none
    elif request.output is None and request.repository is None and not request.dry_run:
        raise UsageError("--format hub: give -o FOLDER, --repo ORG/NAME or --dry-run")


def _check_target(request: Request, output: Path) -> None:
    if request.format in _MARKS and not (request.format == "npy" and output.suffix == ".npy"):
        check_folder(output, mark=_MARKS[request.format], overwrite=request.overwrite)
        return
    if request.format == "tar" and format_of(output) != "tar":
        raise UsageError(f"-o {output}: expected a name that ends in .tar, .tar.gz or .tgz")
    if request.format == "npy":
        check_file(output.with_name(f"{output.stem}-about.json"), overwrite=request.overwrite)
        return
    check_file(output, overwrite=request.overwrite)


def _is_tuned(request: Request, saved: SavedDetector) -> bool:
    """Tell whether the model's own weights were changed."""
    weights = saved.learned is not None and saved.learned.kind == "weights"
    # CLIPN's adapter is that of its "no" tower, which the arrays hold compiled.
    own = saved.learned is not None and saved.learned.kind == "no-text"
    return weights or (not own and (request.source / ADAPTER_FOLDER).is_dir())


def _backbone(request: Request, saved: SavedDetector) -> Backbone:
    """Load the detector's model on the CPU in single precision: files are to be the same anywhere.

    Raises:
        UsageError: it was made without one, or for another.
    """
    from vlood.backbone.load import load_backbone

    name = request.model or saved.model_name
    if name is None:
        raise UsageError(
            f"--format {request.format}: this detector was made from embeddings alone and this "
            "format needs its model; name it with --model"
        )
    backbone = load_backbone(name, device="cpu", precision="fp32")
    check_backbone(saved, backbone.identity(), str(request.source))
    return backbone


def _safetensors(request: Request, saved: SavedDetector) -> dict[str, Any]:
    from vlood.detector.export.arrays import safetensors_files

    files = safetensors_files(saved, request.target, tuned=_is_tuned(request, saved))
    if not request.overwrite:
        for path in files:
            check_file(path, overwrite=False)
    with told(request.target):
        write_together(files)
    tensors = [*saved.detector.tensors, "logit_scale"]
    return {"file": str(request.target), "card": f"{request.target}.md", "tensors": tensors}


def _npy(request: Request, saved: SavedDetector) -> dict[str, Any]:
    from vlood.detector.export.arrays import npy_files
    from vlood.features.atomic import atomic_folder

    output = request.target
    if output.suffix == ".npy":
        files = {
            output.with_name(name): data
            for name, data in npy_files(saved, prefix=f"{output.stem}-").items()
        }
        for path in files:
            check_file(path, overwrite=request.overwrite)
        with told(output):
            write_together(files)
        return {"files": [str(path) for path in files]}
    named = npy_files(saved)
    with told(output), atomic_folder(output) as folder:
        for name, data in named.items():
            (folder / name).write_bytes(data)
    return {"folder": str(output), "files": list(named)}


def _onnx(request: Request, saved: SavedDetector) -> dict[str, Any]:
    from vlood.detector.export.onnx import check_onnx, onnx_bytes
    from vlood.features.atomic import write_atomically

    # A tuned model is loaded with what was tuned built in.
    check_onnx(saved, tuned=_is_tuned(request, saved) and not is_tuned_model(saved.learned))
    with told(request.target):
        check_writable(request.target)
    data, difference = onnx_bytes(saved, _backbone(request, saved))
    with told(request.target):
        write_atomically(request.target, data)
    return {
        "file": str(request.target),
        "bytes": len(data),
        "largest difference from vlood": difference,
    }


def _txt(request: Request, saved: SavedDetector) -> dict[str, Any]:
    from vlood.detector.export.readable import readable_lines
    from vlood.features.atomic import write_atomically

    load = lru_cache(maxsize=1)(lambda: _backbone(request, saved))
    lines = readable_lines(saved, load, plain=request.plain)
    text = "".join(line + "\n" for line in lines)
    with told(request.target):
        write_atomically(request.target, text.encode("utf-8", "surrogateescape"))
    return {"file": str(request.target), "lines": len(lines)}


def _tar(request: Request, saved: SavedDetector) -> dict[str, Any]:
    from vlood.detector.export.archive import write_archive

    with told(request.target):
        count = write_archive(request.source, request.target)
    return {"file": str(request.target), "files": count}


def _coop(request: Request, saved: SavedDetector) -> dict[str, Any]:
    from vlood.detector.export.coop import contexts_of, write_coop

    contexts_of(saved)
    backbone = _backbone(request, saved)
    with told(request.target):
        facts = write_coop(saved, backbone, request.target)
    return {"folder": str(request.target), **facts}


def _peft(request: Request, saved: SavedDetector) -> dict[str, Any]:
    from vlood.features.atomic import atomic_folder

    adapter = request.source / ADAPTER_FOLDER
    if not (adapter / _ADAPTER_MARK).is_file():
        raise UsageError(
            f"--format peft: {request.source} holds no adapter, for its method tuned no weights of "
            "the model; use --format safetensors, onnx or tar"
        )
    with told(request.target), atomic_folder(request.target) as folder:
        shutil.copytree(adapter, folder, dirs_exist_ok=True)
        count = sum(1 for file in folder.rglob("*") if file.is_file())
    return {"folder": str(request.target), "files": count}


def _open_clip(request: Request, saved: SavedDetector) -> dict[str, Any]:
    from vlood.backbone.open_clip_folder import write_open_clip
    from vlood.features.atomic import atomic_folder

    if not is_tuned_model(saved.learned):
        raise UsageError(
            f"--format open-clip: {request.source} tuned no weights of the model; its model is "
            f"{saved.model_name} as it was published"
        )
    backbone = _backbone(request, saved)
    with told(request.target), atomic_folder(request.target) as folder:
        count = write_open_clip(backbone, folder)
    return {"folder": str(request.target), "model": f"local-dir:{request.target}", "tensors": count}


def _hub(request: Request, saved: SavedDetector) -> dict[str, Any]:
    from vlood.detector.export import hub

    if request.repository is not None:
        hub.check_repository(request.repository)
    files = hub.hub_listing(saved, request.source)
    facts: dict[str, Any] = {"repo": request.repository, "files": files}
    if request.dry_run:
        return {**facts, "written": False}
    if request.output is not None:
        with told(request.output):
            hub.write_repository(saved, request.source, request.output)
        facts["folder"] = str(request.output)
    if request.repository is not None:
        facts["address"] = hub.upload(saved, request.source, request.repository)
    return facts


Writer = Callable[[Request, SavedDetector], dict[str, Any]]
_WRITERS: dict[str, Writer] = {
    "safetensors": _safetensors,
    "npy": _npy,
    "onnx": _onnx,
    "txt": _txt,
    "tar": _tar,
    "coop": _coop,
    "peft": _peft,
    "open-clip": _open_clip,
    "hub": _hub,
}
# A file by which an earlier export of each kind of folder is known.
_MARKS = {
    "npy": "about.json",
    "coop": "prompt_learner/checkpoint",
    "peft": _ADAPTER_MARK,
    "open-clip": "open_clip_config.json",
    "hub": DETECTOR_FILE,
}
