"""From what the user typed after ``--model`` to a backbone that is ready to run."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from vlood.backbone.backbone import Backbone
from vlood.backbone.device import choose_device, choose_precision
from vlood.backbone.hub import NotDownloadedError, fetch
from vlood.backbone.layers import PREFIX as LAYERS
from vlood.backbone.layers import LayeredBackbone
from vlood.backbone.library import open_clip
from vlood.backbone.preprocess import Preprocessing
from vlood.backbone.spec import DEFAULT_MODEL, ModelForm, ModelSpec
from vlood.backbone.tuned_folder import PREFIX as TUNED
from vlood.backbone.tuned_folder import read_tuned, with_tuned
from vlood.backbone.weights import find_weights, load_weights, read_weights, weights_digest
from vlood.errors import UsageError, VloodError

CONFIG_FILE = "open_clip_config.json"


def load_backbone(
    model: str = DEFAULT_MODEL, *, device: str = "auto", precision: str = "auto"
) -> Backbone:
    """Load a model named in one of the forms of ``--model``.

    Args:
        model: ``ARCH:TAG``, ``ARCH:FILE``, ``hf-hub:ORG/NAME``, ``local-dir:FOLDER``, ``bundled``,
            or ``tuned:FOLDER`` of a detector with tuned towers (``tuned:FOLDER@BASE`` where its
            base has another name here). With ``layers:`` before it, its image
            embeddings are those of all its layers, joined.
        device: ``auto``, ``cpu``, ``cuda`` (or ``cuda:1``), ``mps``.
        precision: ``auto``, ``fp32``, ``bf16``, ``fp16``.

    Raises:
        UsageError: the name, the device or the precision cannot be.
        VloodError: the weights are missing, damaged or of another architecture.
    """
    text = model.strip()
    layered, text = text.startswith(LAYERS), text.removeprefix(LAYERS)
    if text.startswith(TUNED):
        if layered:
            raise UsageError(
                f"--model {LAYERS}{text}: the layers of a tuned model are not offered; give "
                f"{LAYERS} the model it was tuned from, or leave {LAYERS} out"
            )
        return _load_tuned(text, device, precision)
    device = choose_device(device)
    chosen = choose_precision(precision, device)
    with quiet_libraries():
        spec = ModelSpec.parse(text)
        source = _find(spec)
        tensors = read_weights(source.weights)
        module = _build(spec, source, device, chosen.name)
        load_weights(module, source.weights, tensors, source.architecture)
    module.eval().requires_grad_(False)
    kind = LayeredBackbone if layered else Backbone
    return kind(
        name=LAYERS + spec.text if layered else spec.text,
        architecture=source.architecture,
        digest=weights_digest(tensors),
        config_digest=hashlib.blake2b(
            json.dumps(source.config, sort_keys=True).encode(), digest_size=8
        ).hexdigest(),
        module=module,
        make_tokenizer=lambda: _tokenizer(spec, source),
        preprocessing=_preprocessing(module),
        device=device,
        precision=chosen,
        config=source.config,
    )


def _load_tuned(text: str, device: str, precision: str) -> Backbone:
    """Load a tuned model's base and build the tuned weights into it."""
    given = ModelSpec.parse(text).source
    folder, at, base = given, "", ""
    if not Path(given).expanduser().is_dir():
        folder, at, base = given.rpartition("@")
    place = Path(folder if at else given).expanduser()
    name = base or str(read_tuned(place)[1]["name"])
    if name.startswith(TUNED):
        raise UsageError(
            f"--model {text}: a tuned model is no base of another; merge the base first with "
            "`vlood export --format open-clip`"
        )
    return with_tuned(load_backbone(name, device=device, precision=precision), place, text)


@dataclass(frozen=True)
class _Source:
    """Where a model's parts are: open_clip's name of its configuration, and its weights."""

    open_clip_name: str
    architecture: str
    config: dict[str, Any]
    weights: Path
    preprocessing: dict[str, Any] = field(default_factory=dict)


def _find(spec: ModelSpec) -> _Source:
    if spec.form is ModelForm.BUNDLED:
        folder = Path(str(resources.files("vlood.backbone") / "bundled"))
        if not (folder / CONFIG_FILE).is_file():
            raise VloodError(
                f"the bundled model is missing from this installation (looked in {folder}); "
                "reinstall vlood"
            )
        return _folder(folder)
    if spec.form is ModelForm.FOLDER:
        folder = Path(spec.source).expanduser()
        if not (folder / CONFIG_FILE).is_file():
            raise UsageError(
                f"--model {spec.text}: there is no {CONFIG_FILE} in {folder}; expected a folder in "
                "open_clip's layout"
            )
        return _folder(folder)
    if spec.form is ModelForm.HUB:
        config = fetch(spec.source, [CONFIG_FILE], model=spec.text)
        names = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
        return _folder(config.parent, fetch(spec.source, names, model=spec.text))
    if spec.form is ModelForm.FILE:
        weights = Path(spec.source).expanduser()
        if not weights.is_file():
            raise UsageError(f"--model {spec.text}: there is no file {weights}; check the path")
        return _built_in(spec, weights, _shared_preprocessing(spec.architecture))
    tag = open_clip.get_pretrained_cfg(spec.architecture, spec.source)
    return _built_in(spec, _download(spec, tag), _preprocessing_keys(tag))


def _built_in(spec: ModelSpec, weights: Path, preprocessing: dict[str, Any]) -> _Source:
    config = open_clip.get_model_config(spec.architecture) or {}
    return _Source(spec.architecture, spec.architecture, config, weights, preprocessing)


def _folder(folder: Path, weights: Path | None = None) -> _Source:
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))["model_cfg"]
        described = _architecture(config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise VloodError(
            f"{path} is not an open_clip configuration ({type(error).__name__}: {error}); expected "
            "JSON with model_cfg"
        ) from error
    return _Source(f"local-dir:{folder}", described, config, weights or find_weights(folder))


def _architecture(config: dict[str, Any]) -> str:
    """Return open_clip's name of a configuration, or what there is to say about another one."""
    for name in open_clip.list_models():
        if open_clip.get_model_config(name) == config:
            return str(name)
    vision = config["vision_cfg"]
    if "timm_model_name" in vision:
        return f"timm {vision['timm_model_name']}"
    layers = vision.get("layers", 12)
    width, side = vision.get("width", 768), vision.get("image_size", 224)
    if isinstance(layers, list):
        return f"ResNet of {'-'.join(map(str, layers))} blocks, width {width}, {side} px"
    return f"ViT of {layers} blocks, width {width}, patch {vision.get('patch_size', 16)}, {side} px"


def _download(spec: ModelSpec, tag: dict[str, Any]) -> Path:
    repository, _, name = str(tag.get("hf_hub", "")).rpartition("/")
    if not repository:
        try:
            return Path(open_clip.download_pretrained(tag))
        except Exception as error:
            raise NotDownloadedError(
                f"the weights of {spec.text} are not on this machine and could not be downloaded "
                f"from {tag.get('url')} ({error}); connect once, or use --model bundled or "
                "--model local-dir:FOLDER"
            ) from error
    name = name or "open_clip_pytorch_model.bin"
    candidates = [name]
    if name == "open_clip_pytorch_model.bin":
        candidates.insert(0, "open_clip_model.safetensors")
    elif not name.endswith(".safetensors"):
        candidates.insert(0, str(Path(name).with_suffix(".safetensors")))
    return fetch(repository, candidates, model=spec.text)


def _preprocessing_keys(tag: dict[str, Any]) -> dict[str, Any]:
    keys = ("mean", "std", "interpolation", "resize_mode", "fill_color")
    return {key: tag[key] for key in keys if tag.get(key) is not None}


def _shared_preprocessing(architecture: str) -> dict[str, Any]:
    """Return the preprocessing that all tags of an architecture agree on, else open_clip's default.

    A file says nothing about it, and all SigLIP weights, say, want another mean than CLIP's.
    """
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    told = [_preprocessing_keys(open_clip.get_pretrained_cfg(architecture, tag)) for tag in tags]
    return told[0] if told and all(one == told[0] for one in told) else {}


def _build(spec: ModelSpec, source: _Source, device: str, precision: str) -> Any:
    """Build the model, without weights and without asking the hub for any."""
    try:
        return open_clip.create_model(
            source.open_clip_name,
            load_weights=False,
            pretrained_text=False,
            precision=precision,
            device=device,
            force_preprocess_cfg=source.preprocessing,
        )
    except OSError as error:
        raise NotDownloadedError(
            f"--model {spec.text} needs the configuration of its text tower from the hub, which "
            "cannot be reached; connect once, or use --model bundled or --model local-dir:FOLDER"
        ) from error
    except (TypeError, ValueError, AssertionError, KeyError) as error:
        raise VloodError(
            f"--model {spec.text}: open_clip cannot build this configuration ({error})"
        ) from error


def _tokenizer(spec: ModelSpec, source: _Source) -> Any:
    hub_tokenizer = "hf_tokenizer_name" in source.config.get("text_cfg", {})
    name = spec.text if spec.form is ModelForm.HUB and hub_tokenizer else source.open_clip_name
    with quiet_libraries():
        try:
            return open_clip.get_tokenizer(name)
        except Exception as error:
            raise NotDownloadedError(
                f"the tokenizer of --model {spec.text} is not on this machine and could not be "
                "downloaded; connect once, or use --model bundled or --model local-dir:FOLDER"
            ) from error


def _preprocessing(module: Any) -> Preprocessing:
    config = open_clip.transform.PreprocessCfg(**module.visual.preprocess_cfg)
    transform = open_clip.transform.image_transform_v2(config, is_train=False)
    return Preprocessing.of_transform(transform, config.size)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep what open_clip and the hub client say to themselves off stderr for a while.

    open_clip logs on the root logger, whose first use would install a handler for everyone.
    Download bars stay where a person watches.
    """
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    def refuse(_: logging.LogRecord) -> bool:
        return False

    root, silent = logging.getLogger(), logging.NullHandler()
    libraries = [logging.getLogger(name) for name in ("huggingface_hub", "transformers", "timm")]
    levels = [library.level for library in libraries]
    hide_bars = not sys.stderr.isatty() and not are_progress_bars_disabled()
    root.addFilter(refuse)
    root.addHandler(silent)
    for library in libraries:
        library.setLevel(logging.ERROR)
    if hide_bars:
        disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if hide_bars:
            enable_progress_bars()
        for library, level in zip(libraries, levels, strict=True):
            library.setLevel(level)
        root.removeHandler(silent)
        root.removeFilter(refuse)
