"""The card of exported arrays, with the lines of Python that score an image without vlood."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vlood.backbone.spec import ModelForm, ModelSpec
from vlood.detector.export.described import class_thresholds_of, threshold_of
from vlood.errors import UsageError
from vlood.methods import registry

if TYPE_CHECKING:
    from vlood.detector.saved import SavedDetector
    from vlood.methods.contract import Detector

IMAGE = "image.jpg"
BUNDLED_FOLDER = "bundled"
_SHOWN = 20


def recipe(saved: SavedDetector, file: str, *, tuned: bool) -> str:
    """Describe exported arrays as Markdown, and how to use them with open_clip alone.

    Args:
        saved: the detector.
        file: the name of the safetensors file.
        tuned: whether its model has an adapter.
    """
    record = registry.get(saved.detector.method).record
    names = saved.detector.class_names
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    threshold = threshold_of(saved)
    decides = (
        "It has no threshold yet."
        if threshold is None
        else f"An image that scores below {threshold:.9g} is OOD."
    )
    if class_thresholds_of(saved):
        decides += " Classes with a threshold of their own are in `class_thresholds`."
    return (
        "\n\n".join(
            [
                f"# {file}: an out-of-distribution detector's arrays",
                f"{record.title} for {len(names)} classes: {', '.join(names[:_SHOWN])}{more}. "
                f"Higher scores are more in-distribution. {decides}",
                f"The score: {record.score_note}. From {record.paper} ({record.venue} "
                f"{record.year}, {record.url}).",
                f"Settings: `{json.dumps(vars(saved.detector.settings))}`. The metadata of the "
                "file holds them too, with the names of the classes and of the negatives in the "
                "order of their rows.",
                _use(saved, file, tuned),
            ]
        )
        + "\n"
    )


def scoring_code(saved: SavedDetector, file: str) -> str | None:
    """Return Python that scores one image with open_clip, torch and safetensors, or None.

    A few lines cannot score a method of regions or of streams, nor without a model.
    """
    formula = _FORMULAS.get(saved.detector.method)
    loading = _loading(saved.model_name)
    if formula is None or loading is None:
        return None
    # A probe scores features as they come, unless it was trained on unit ones.
    raw = getattr(saved.detector.settings, "embeddings", "unit") == "raw"
    lines = [
        "import json, open_clip, torch",
        "from PIL import Image",
        "from safetensors import safe_open",
        "",
        f'with safe_open({json.dumps(file)}, "pt") as file:',
        "    tensors = {name: file.get_tensor(name) for name in file.keys()}",
        '    names = json.loads(file.metadata()["class_names"])',
        f"model, _, preprocess = open_clip.create_model_and_transforms({loading})",
        f'image = preprocess(Image.open("{IMAGE}").convert("RGB"))[None]',
        "with torch.inference_mode():",
        f"    features = model.eval().encode_image(image, normalize={not raw})",
        'scale = tensors["logit_scale"]',
        *formula(saved.detector),
        "print(names[logits.argmax()], score.item())",
    ]
    return "\n".join(lines) + "\n"


def _use(saved: SavedDetector, file: str, tuned: bool) -> str:
    if tuned:
        return (
            "The model was tuned too: take its adapter with `vlood export DIR --format peft` and "
            "put it on the model before embedding images, or score with `vlood score`."
        )
    code = scoring_code(saved, file)
    if code is None:
        if _loading(saved.model_name) is None:
            return "It was made from embeddings alone: embed images with the model those are from."
        return (
            "Its score needs more than one embedding of one image, and more than a few lines: use "
            "`vlood score`, or `vlood export DIR --format onnx` where the method allows it."
        )
    text = f"```python\n{code}```"
    if saved.model_name == ModelForm.BUNDLED.value:
        text += f"\n\n`{BUNDLED_FOLDER}` is a copy of the folder `vlood/backbone/bundled`."
    return text


def _loading(model: str | None) -> str | None:
    """Return the arguments with which open_clip loads a model, or None where there is none."""
    if model is None:
        return None
    try:
        spec = ModelSpec.parse(model)
        if spec.form is ModelForm.TUNED:
            return None
    except UsageError:  # a file or a tag that this machine does not have
        return None
    if spec.form is ModelForm.BUNDLED:
        return json.dumps(f"local-dir:{BUNDLED_FOLDER}")
    if spec.form in (ModelForm.FOLDER, ModelForm.HUB):
        return json.dumps(spec.text)
    return f"{json.dumps(spec.architecture)}, pretrained={json.dumps(spec.source)}"


_CLASS_LOGITS = 'logits = scale * features @ tensors["class_features"].T'


def _mcm(detector: Detector) -> list[str]:
    T = detector.settings.temperature
    return [_CLASS_LOGITS, f"score = (logits / scale / {T}).softmax(1).amax(1)"]


def _msp(detector: Detector) -> list[str]:
    return [
        _CLASS_LOGITS,
        f"score = (logits / {detector.settings.temperature}).softmax(1).amax(1)",
    ]


def _max_logit(detector: Detector) -> list[str]:
    return [_CLASS_LOGITS, "score = logits.amax(1)"]


def _energy(detector: Detector) -> list[str]:
    T = detector.settings.temperature
    return [_CLASS_LOGITS, f"score = {T} * (logits / {T}).logsumexp(1)"]


def _entropy(detector: Detector) -> list[str]:
    return [
        _CLASS_LOGITS,
        f"logs = (logits / {detector.settings.temperature}).log_softmax(1)",
        "score = (logs.exp() * logs).sum(1)",
    ]


def _neglabel(detector: Detector) -> list[str]:
    T = detector.settings.temperature
    return [
        _CLASS_LOGITS,
        'negatives = scale * features @ tensors["negative_features"].T',
        f"groups = (negatives / {T}).split(tensors['group_sizes'].tolist(), 1)",
        "against = torch.stack([group.logsumexp(1) for group in groups])",
        f"score = ((logits / {T}).logsumexp(1) - against).sigmoid().mean(0)",
    ]


def _synood(detector: Detector) -> list[str]:
    return [
        'hidden = features @ tensors["head_weight"].T + tensors["head_bias"]',
        "hidden = torch.nn.functional.layer_norm(",
        '    hidden, hidden.shape[-1:], tensors["norm_weight"], tensors["norm_bias"]',
        ")",
        'features = features + tensors["gain"] * hidden.relu()',
        "features = features / features.norm(dim=1, keepdim=True)",
        *_neglabel(detector),
    ]


def _clipn(detector: Detector) -> list[str]:
    s = detector.settings.logit_scale or detector.logit_scale
    lines = [
        _CLASS_LOGITS,
        f"yes = {s} * features @ tensors['class_features'].T",
        f"no = {s} * features @ tensors['no_features'].T",
    ]
    if detector.settings.rule == "atd":
        return [*lines, "score = ((yes - no).sigmoid() * yes.softmax(1)).sum(1)"]
    return [*lines, "score = (yes - no).sigmoid().gather(1, yes.argmax(1)[:, None])[:, 0]"]


def _linear_probe(detector: Detector) -> list[str]:
    lines = ['logits = features @ tensors["weight"].T + tensors["bias"]']
    if detector.settings.score == "entropy":
        return [*lines, "score = (logits.softmax(1) * logits.log_softmax(1)).sum(1)"]
    return [*lines, "score = logits.softmax(1).amax(1)"]


_FORMULAS: dict[str, Callable[[Any], list[str]]] = {
    "mcm": _mcm,
    "msp": _msp,
    "max-logit": _max_logit,
    "energy": _energy,
    "entropy": _entropy,
    "neglabel": _neglabel,
    "synood": _synood,
    "clipn": _clipn,
    "linear-probe": _linear_probe,
}
