"""From what the user typed after ``--classifier`` to a classifier that is ready to run."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from vlood.backbone.classifier.classifier import Classifier, Run, count_outputs
from vlood.backbone.classifier.compiled import read_onnx, read_torchscript
from vlood.backbone.classifier.folder import StoredClassifier, read_classifier
from vlood.backbone.classifier.input import ClassifierInput, InputChoice
from vlood.backbone.classifier.networks import Library, filled, fixed_size
from vlood.backbone.classifier.spec import OPTION, ClassifierForm, ClassifierSpec
from vlood.backbone.device import choose_device, choose_precision
from vlood.backbone.weights import read_weights, weights_digest
from vlood.errors import UsageError

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_classifier(
    spec: ClassifierSpec, *, device: str = "auto", precision: str = "auto"
) -> Classifier:
    """Load a classifier named in one of the forms of ``--classifier``; nothing is fetched.

    Weights are read without running anything; TorchScript by ``torch.jit.load`` alone. Its input is
    what the user says, else what the folder, the published weights' tag or digest, or the graph
    states. ONNX runs on the CPU; a file with all of a network keeps the precision it was saved in.

    Raises:
        UsageError: the file, the architecture, the weights or the input do not go together, or
            nothing states the normalisation.
        VloodError: the file is damaged.
    """
    where = f"{OPTION} {spec.text}"
    device = choose_device(device)
    if spec.form is ClassifierForm.FOLDER:
        stored = read_classifier(spec.path, where)
        if stored.kind != "onnx":
            return _network(spec, stored, device, precision, where)
        return _graph(spec, stored, where)
    if spec.form is ClassifierForm.ONNX:
        return _graph(spec, StoredClassifier("onnx", "", spec.path, (), InputChoice()), where)
    if spec.form is ClassifierForm.TORCHSCRIPT:
        data = spec.path.read_bytes()
        run = read_torchscript(spec.path, device, where)
        seen = spec.choice.settled(where)
        return _made(spec, "torchscript", "", _digest(data), (), seen, run, device, "fp32", where)
    kind = "timm" if spec.form is ClassifierForm.TIMM else "torchvision"
    library = Library(kind)
    library.check(spec.architecture, where)
    stated = library.stated(spec.architecture, spec.tag, spec.path, where)
    stored = StoredClassifier(kind, spec.architecture, spec.path, (), stated)
    return _network(spec, stored, device, precision, where)


def _network(
    spec: ClassifierSpec, stored: StoredClassifier, device: str, precision: str, where: str
) -> Classifier:
    library = Library(stored.kind)
    library.check(stored.architecture, where)
    choice = stored.choice.over(fixed_size(library, stored.architecture))
    seen = spec.choice.over(choice).settled(where)
    network, _ = filled(
        library, stored.architecture, read_weights(stored.file), stored.file, where, seen.size
    )
    weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    chosen = choose_precision(precision, device).name
    dtype = _DTYPES[chosen]
    network = network.eval().requires_grad_(False).to(device=device, dtype=dtype)

    def run(images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = network(images.to(dtype))
        return found

    return _made(
        spec,
        stored.kind,
        stored.architecture,
        weights_digest(weights),
        stored.names,
        seen,
        run,
        device,
        chosen,
        where,
        weights=weights,
    )


def _graph(spec: ClassifierSpec, stored: StoredClassifier, where: str) -> Classifier:
    data = stored.file.read_bytes()
    graph = read_onnx(data, where)
    said = spec.choice
    if graph.size is not None:
        if said.size not in (None, graph.size):
            raise UsageError(
                f"{where}: its input is {graph.size[0]}x{graph.size[1]} pixels, and another size "
                "is given; leave size out"
            )
        said = said.over(InputChoice(size=graph.size))
    seen = said.over(stored.choice).settled(where)
    return _made(
        spec,
        "onnx",
        "",
        _digest(data),
        stored.names,
        seen,
        graph.run,
        "cpu",
        "fp32",
        where,
        file=data,
        runtime=graph.runtime,
    )


def _made(
    spec: ClassifierSpec,
    kind: str,
    architecture: str,
    digest: str,
    stated: tuple[str, ...],
    seen: ClassifierInput,
    run: Run,
    device: str,
    precision: str,
    where: str,
    **kept: Any,
) -> Classifier:
    outputs = count_outputs(run, seen, device, where)
    names = spec.classes or stated
    named = bool(names)
    names = names or spec.listed or tuple(map(str, range(outputs)))
    if len(names) != outputs:
        what = "its class names" if named else "the class list"
        raise UsageError(
            f"{where}: has {outputs} outputs, and there are {len(names)} classes in {what}; use a "
            "classifier of these classes, or name those of its outputs with --classifier-set "
            "classes=FILE"
        )
    return Classifier(
        name=spec.located(),
        kind=kind,
        architecture=architecture,
        digest=digest,
        names=names,
        named=named,
        input=seen,
        run=run,
        device=device,
        precision=precision,
        **kept,
    )


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
