"""From labelled images to a classifier's folder: read, train, measure, write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlood import __version__
from vlood.backbone.classifier.folder import is_classifier, read_classifier, write_classifier
from vlood.backbone.classifier.input import MEANS, ClassifierInput, InputChoice
from vlood.backbone.classifier.networks import Library, head_names, own_size, unwrapped
from vlood.backbone.weights import difference, read_weights, weights_digest
from vlood.engines.picture_feed import ReadPictures, feeding
from vlood.errors import UsageError, VloodError
from vlood.features.atomic import atomic_folder
from vlood.features.stream import StreamSettings
from vlood.images.augment import Augmentation
from vlood.methods.classifier_settings import ClassifierSettings
from vlood.methods.classifier_training import Lesson, TrainedNetwork, split, train_network
from vlood.methods.settings import settings_from
from vlood.training.checkpoints import RunFolder, without_times
from vlood.training.costs import CostProbe
from vlood.training.labelled import LabelledFeatures, with_label_noise
from vlood.training.loop import StepReport
from vlood.training.tuning import unwatched

LOG_FILE = "training.csv"
_TIMM = Library("timm")


@dataclass(frozen=True, eq=False)
class Plan:
    """A network that is ready to be trained.

    Attributes:
        settings: how.
        architecture: timm's name of it.
        network: in single precision.
        input: what it sees of an image.
        names: the K classes, in order.
        init: digest of the weights it starts from, or None from scratch.
    """

    settings: ClassifierSettings
    architecture: str
    network: Any
    input: ClassifierInput
    names: tuple[str, ...]
    init: str | None


@dataclass(frozen=True, eq=False)
class Circumstances:
    """How a run is kept, watched and measured.

    Attributes:
        device: torch's name of it.
        precision: what ``auto`` means.
        seed: of everything random.
        run: keeps the run's state, or None.
        on_step: told after every step.
        probe: given, the run is measured and not made.
    """

    device: str
    precision: str
    seed: int
    run: RunFolder | None = None
    on_step: Callable[[StepReport], None] = unwatched
    probe: CostProbe | None = None


@dataclass(frozen=True, eq=False)
class TunedClassifier:
    """A classifier that was trained, and what it was trained on.

    Attributes:
        plan: what it is.
        trained: its weights and how good it is.
        images: how many it was trained on.
        aside: how many were kept aside.
        digest: of the images' bytes and labels.
    """

    plan: Plan
    trained: TrainedNetwork
    images: int
    aside: int
    digest: str


def plan_of(names: Sequence[str], values: Mapping[str, str], init: Path | None, seed: int) -> Plan:
    """Build the network, before any image is read.

    Args:
        names: of the K classes.
        values: of settings, as typed.
        init: local weights to start from, a file or a classifier's folder, or None.
        seed: of the random weights.

    Raises:
        UsageError: fewer than two classes, a wrong setting, an unknown architecture, or weights
            that do not fit it or whose normalisation nothing states.
        VloodError: the weights are damaged.
    """
    settings: ClassifierSettings = settings_from("classifier", ClassifierSettings, values)
    if len(names) < 2:
        raise UsageError("tune classifier: tells classes apart and needs at least 2")
    architecture, _, tag = settings.arch.partition(".")
    where = f"--set arch={settings.arch}"
    _TIMM.check(architecture, where)
    stated, weights, stored = InputChoice(), None, None
    if init is not None:
        stated, weights, stored = _initial(init, architecture, tag, where)
    mean_std = MEANS["imagenet"] if init is None else None
    if settings.normalisation != "auto":
        mean_std = MEANS[settings.normalisation]
    if mean_std is None:
        if stated.mean is None or stated.std is None:
            raise UsageError(
                f"--init {init}: missing normalisation: nothing states what these weights were "
                f"trained with; give --set normalisation={'|'.join(MEANS)}, or --set "
                "arch=ARCH.TAG with timm's tag of the weights"
            )
        mean_std = stated.mean, stated.std
    side = settings.size
    seen = ClassifierInput((side, side), side, settings.interpolation, *mean_std)
    heads = head_names(_TIMM, architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network = _TIMM.build(
                architecture, len(names), size=own_size(_TIMM, architecture, seen.size)
            ).float()
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
            raise UsageError(
                f"{where}: cannot be built for size={side} ({reason}); choose another size"
            ) from error
    digest = None
    if weights is not None:
        same = stored is not None and stored == tuple(names)
        _fill(network, weights, heads, keep_head=same, where=f"--init {init}")
        digest = weights_digest(weights)
    return Plan(settings, architecture, network, seen, tuple(names), digest)


def tune_classifier(
    plan: Plan,
    read: ReadPictures,
    labels: NDArray[np.int64],
    settings: StreamSettings,
    how: Circumstances,
    *,
    label_noise: float = 0.0,
) -> TunedClassifier:
    """Train a planned network.

    With label noise, images kept aside keep their own labels.

    Args:
        plan: the network.
        read: N images that were looked at.
        labels: int64 [N], indices of the classes.
        settings: how images are read.
        how: of the run.
        label_noise: share of the labels that are made wrong, the same ones as the methods that
            learn from embeddings of these images are given.

    Raises:
        UsageError: a class has no image, or the run's folder holds another run.
        VloodError: the loss is not finite, or an image is gone.
    """
    own = plan.settings
    rows, aside = split(labels, own.held_out, how.seed)
    blank = LabelledFeatures(np.zeros((len(labels), 0), np.float32), labels)
    noisy = with_label_noise(blank, label_noise, plan.names, how.seed).labels.copy()
    noisy[aside] = labels[aside]
    digest = _digest(read.digests, noisy)
    augmentation = Augmentation((own.smallest_crop, 1.0), own.flip, own.colour, own.interpolation)
    preprocessing = plan.input.preprocessing()
    about = {
        "method": "classifier",
        "settings": asdict(own),
        "classes": list(plan.names),
        "images": digest,
        "init": plan.init,
        "device": how.device,
    }
    with feeding(read, augmentation, settings, side=own.size, seed=how.seed) as feed:
        plain = feed.plain(aside, preprocessing.prepare, own.size)
        trained = train_network(
            plan.network,
            Lesson(feed.pictures, noisy, rows, aside, plain, feed.upcoming),
            own,
            preprocessing,
            from_weights=plan.init is not None,
            device=how.device,
            precision=how.precision,
            seed=how.seed,
            run=how.run,
            about=about,
            on_step=how.on_step,
            probe=how.probe,
        )
    return TunedClassifier(plan, trained, len(rows), len(aside), digest)


def save_classifier(
    path: Path, tuned: TunedClassifier, provenance: Mapping[str, Any], log: Path | None
) -> None:
    """Write a classifier's folder, whole or not at all.

    Args:
        path: the folder.
        tuned: the classifier.
        provenance: command, inputs and the like; JSON-able.
        log: the log of its training, kept without the times, or None.

    Raises:
        VloodError: the place cannot be written.
    """
    plan, trained = tuned.plan, tuned.trained
    about = {
        "settings": asdict(plan.settings),
        "figures": {"held_out": tuned.aside, "accuracy": trained.accuracy},
        "provenance": {
            "vlood": __version__,
            **provenance,
            "images": tuned.images,
            "training_digest": tuned.digest,
            "steps": trained.steps,
            "epochs": trained.epochs,
            "init": plan.init,
        },
    }
    try:
        with atomic_folder(path) as folder:
            write_classifier(
                folder,
                kind="timm",
                architecture=plan.architecture,
                names=plan.names,
                input=plan.input,
                weights=trained.weights,
                about=about,
            )
            if log is not None and log.is_file():
                (folder / LOG_FILE).write_bytes(without_times(log.read_bytes()))
    except OSError as error:
        raise VloodError(
            f"-o {path}: cannot be written ({error.strerror or error}); choose another place"
        ) from error


def check_new_classifier(path: Path, *, overwrite: bool) -> None:
    """Refuse a place where a classifier cannot be written, before anything slow is done.

    Raises:
        UsageError: something else is there, or a classifier and ``overwrite`` is not set.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"-o {path}: is a file; name a folder for the classifier")
    if path.is_dir() and any(path.iterdir()):
        if not is_classifier(path):
            raise UsageError(f"-o {path}: is not empty and no classifier; name a new folder")
        if not overwrite:
            raise UsageError(
                f"-o {path}: holds a classifier already; use --overwrite, or another folder"
            )


def _initial(
    init: Path, architecture: str, tag: str, where: str
) -> tuple[InputChoice, dict[str, torch.Tensor], tuple[str, ...] | None]:
    """Read weights to start from: what is stated of their input, the tensors, their classes."""
    if not init.exists():
        raise UsageError(f"--init {init}: there is no such file; give local weights")
    if not init.is_dir():
        return _TIMM.stated(architecture, tag, init, where), dict(read_weights(init)), None
    stored = read_classifier(init, f"--init {init}")
    if stored.kind != "timm" or stored.architecture != architecture:
        raise UsageError(
            f"--init {init}: holds {stored.architecture or stored.kind}, not {architecture}; give "
            f"--set arch={stored.architecture or 'ARCH'}"
        )
    return stored.choice, dict(read_weights(stored.file)), stored.names


def _fill(
    network: Any,
    weights: Mapping[str, torch.Tensor],
    heads: Sequence[str],
    *,
    keep_head: bool,
    where: str,
) -> None:
    """Load all weights but the head, whose classes are others, unless it is to be kept."""
    given = unwrapped(weights, list(heads))
    expected = network.state_dict()
    if not keep_head:
        given = {name: one for name, one in given.items() if name not in heads}
        given |= {name: expected[name] for name in heads}
    fits = set(given) == set(expected) and all(
        given[name].shape == expected[name].shape for name in expected
    )
    if not fits:
        raise UsageError(
            f"{where}: does not hold weights of the architecture: {difference(given, expected)}; "
            "name the one they were saved from with --set arch=ARCH"
        )
    network.load_state_dict(given)


def _digest(digests: Sequence[bytes], labels: NDArray[np.int64]) -> str:
    found = blake2b(b"".join(digests), digest_size=16)
    found.update(labels.astype("<i8").tobytes())
    return found.hexdigest()
