"""The image tower and a detector's formula as one ONNX graph, checked before it is written.

The graph takes pictures as the model's resizing and cropping leave them, uint8 [N, H, W, 3] named
``image``: the mean and the deviation of the channels are inside, so that they cannot be forgotten.
A model with a transform of its own kind takes what that transform gives, float32 [N, 3, H, W].
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vlood.backbone.load import quiet_libraries
from vlood.backbone.local import encode_with_local
from vlood.detector.export.described import as_texts, facts_of
from vlood.detector.export.torch_form import TorchForm, check_torch_form, needs_local
from vlood.errors import UsageError, VloodError
from vlood.methods import registry

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone
    from vlood.detector.saved import SavedDetector

OUTPUTS = ("score", "label", "confidence")
TOLERANCE = 1e-4
"""Of scores and confidences; of scores above 1 in size, a share of them."""
OPSET = 18
_CHECKED = 5
# A protocol buffer ends at 2 GiB; some room is left for the graph itself.
_MOST_BYTES = 2_000_000_000


class Graph(nn.Module):
    """Pixels to score, label and confidence."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, saved: SavedDetector) -> None:
        super().__init__()
        preprocessing = backbone.preprocessing
        self.visual = backbone.module.visual
        self.form = TorchForm(saved.detector)
        self._split = preprocessing.split
        self._local = needs_local(saved.detector)
        for name in ("mean", "std"):
            values = torch.tensor(getattr(preprocessing, name) or (0.0,))
            self.register_buffer(name, values.view(1, -1, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return score [N], label int64 [N] and confidence [N] of images."""
        if self._split:
            image = image.permute(0, 3, 1, 2).float() / 255.0
            image = (image - self.mean) / self.std
        if self._local:
            features, regions, _ = encode_with_local(self.visual, image)
        else:
            features = self.visual(image)
            regions = features[:, None]
        scored: tuple[Tensor, Tensor, Tensor] = self.form(features, regions)
        return scored


def check_onnx(saved: SavedDetector, *, tuned: bool) -> None:
    """Refuse what no graph can be made of, before the model is loaded.

    Raises:
        UsageError: the method, a model that was tuned too, or libraries that are missing.
    """
    check_torch_form(saved.detector)
    if tuned:
        raise UsageError(
            "--format onnx: this detector tuned the model itself, and graphs are made of models as "
            "they were published; use --format peft or tar"
        )
    try:
        import onnx
        import onnxruntime
        import onnxscript
    except ImportError as error:
        raise UsageError(
            f"--format onnx: needs the package {error.name or 'onnx'}, which is not installed; "
            "pip install 'vlood[onnx]'"
        ) from error
    del onnx, onnxruntime, onnxscript


def onnx_bytes(saved: SavedDetector, backbone: Backbone) -> tuple[bytes, float]:
    """Return a graph, and the largest difference from vlood's scores on a few pictures.

    Args:
        saved: the detector.
        backbone: its model, on the CPU in single precision.

    Raises:
        UsageError: as :func:`check_onnx`; or the tower has no regional features and the method
            needs them; or the model is too large for one file.
        VloodError: the exporter fails, or the graph's scores differ from vlood's.
    """
    check_onnx(saved, tuned=False)
    if needs_local(saved.detector) and backbone.local_refusal is not None:
        raise UsageError(f"--format onnx: {backbone.local_refusal}")
    graph = Graph(backbone, saved).eval()
    size = sum(each.numel() * each.element_size() for each in graph.state_dict().values())
    if size > _MOST_BYTES:
        raise UsageError(
            f"--format onnx: the image tower takes {size / 1e9:.1f} GB and one ONNX file holds 2; "
            "use a smaller model"
        )
    pixels = _pictures(backbone)
    data = _exported(graph, pixels, _metadata(saved, backbone))
    return data, _difference(data, saved, backbone, pixels)


def _exported(graph: Graph, pixels: NDArray[Any], metadata: dict[str, str]) -> bytes:
    example = torch.from_numpy(pixels[:2])
    try:
        with _quiet(), torch.inference_mode(False), torch.no_grad():
            program = torch.onnx.export(
                graph,
                (example,),
                dynamo=True,
                input_names=["image"],
                output_names=list(OUTPUTS),
                dynamic_shapes={"image": {0: torch.export.Dim("N", min=1)}},
                opset_version=OPSET,
                verbose=False,
            )
            assert program is not None
            model = program.model_proto
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise VloodError(
            f"--format onnx: torch cannot make a graph of this model ({reason}); use another model"
        ) from error
    for name, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, value
    # The exporter notes where each node came from, with this machine's paths.
    _forget(model.graph)
    for function in model.functions:
        _forget(function)
    data: bytes = model.SerializeToString()
    return data


def _forget(graph: Any) -> None:
    for part in (*graph.node, *getattr(graph, "input", ()), *getattr(graph, "output", ())):
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]
        if hasattr(part, "doc_string"):
            part.doc_string = ""
    for part in (*getattr(graph, "value_info", ()), *getattr(graph, "initializer", ())):
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]


def _difference(
    data: bytes, saved: SavedDetector, backbone: Backbone, pixels: NDArray[Any]
) -> float:
    """Return the largest difference on pictures, of scores above 1 in their own size, if small."""
    import onnxruntime

    detector = saved.detector
    features = backbone.encode_pixels(pixels, local=needs_local(detector))
    wanted = registry.get(detector.method).score(detector, features)
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        given = dict(zip(OUTPUTS, session.run(list(OUTPUTS), {"image": pixels}), strict=True))
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise VloodError(
            f"--format onnx: onnxruntime cannot run the graph ({reason}); use another model"
        ) from error
    # Scores at the logit scale are near 100, where single precision has fewer decimals.
    size = np.maximum(1.0, np.abs(wanted.score))
    largest = float(
        max(
            (np.abs(given["score"] - wanted.score) / size).max(),
            np.abs(given["confidence"] - wanted.confidence).max(),
        )
    )
    if not largest <= TOLERANCE:
        raise VloodError(
            f"--format onnx: the graph's scores differ by up to {largest:.2g} from vlood's on "
            f"{len(pixels)} pictures, more than {TOLERANCE:g}; nothing was written, use another "
            "model or format"
        )
    return largest


def _pictures(backbone: Backbone) -> NDArray[Any]:
    """Return a few different pictures, as the model's preprocessing leaves them."""
    from PIL import Image

    rng = np.random.default_rng(0)
    rough = [Image.fromarray(rng.integers(0, 256, (n + 2, n + 2, 3), np.uint8)) for n in range(5)]
    side = max(backbone.preprocessing.size)
    return np.stack(
        [backbone.preprocessing.prepare(one.resize((side, side))) for one in rough[:_CHECKED]]
    )


def _metadata(saved: SavedDetector, backbone: Backbone) -> dict[str, str]:
    preprocessing = backbone.preprocessing
    height, width = preprocessing.size
    takes = (
        f"image: uint8 [N, {height}, {width}, 3], RGB, resized and cropped but not normalised"
        if preprocessing.split
        else f"image: float32 [N, 3, {height}, {width}], after the model's own transform"
    )
    return as_texts({**facts_of(saved), "input": takes, "preprocessing": preprocessing.describe()})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and remarks off both streams."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            quiet_libraries(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        logging.disable(before)
