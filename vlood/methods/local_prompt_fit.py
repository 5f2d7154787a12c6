"""Train Local-Prompt: one batch is P steps, each with another view, and compile what was learned.

Sixteen augmented views of an image are ranked by the frozen global prompts. The P most similar ones
pull their class's local prompt, one a step; the least similar one teaches the negative prompts what
a class is not made of. Only the regional maps of those P + 1 views are ever needed. Zeng et al.
2025, "Local-Prompt: Extensible Local Prompts for Few-Shot Out-of-Distribution Detection".
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import unit
from vlood.errors import UsageError
from vlood.methods.context_training import RANDOM
from vlood.methods.contract import Detector, Learned, TunedDetector, check_positive
from vlood.methods.local_prompt_settings import (
    LocalPromptSettings,
    Sizes,
    check_regions,
    loop_settings,
    sizes_of,
)
from vlood.methods.neglabel import NegLabelSettings, check_same_width
from vlood.methods.neglabel import fit as neglabel_fit
from vlood.training.labelled import LabelledFeatures, check_every_class
from vlood.training.view_ranking import ranked_views, view_similarities

if TYPE_CHECKING:
    import torch

    from vlood.backbone.backbone import Backbone
    from vlood.negatives.negative_features import NegativeFeatures
    from vlood.prompts.templates import ClassFeatures
    from vlood.training.loop import Loss, StepInputs
    from vlood.training.regional_maps import RegionalMaps
    from vlood.training.tuning import Tuning

LOCAL, NEGATIVE = "local_ctx", "neg_ctx"


def fit(
    classes: ClassFeatures,
    settings: LocalPromptSettings,
    logit_scale: float,
    *,
    images: LabelledFeatures | None = None,
    tuning: Tuning | None = None,
    seed: int = 0,
    device: str = "cpu",
    negatives: NegativeFeatures | None = None,
) -> Detector:
    """Train the local prompts and the negative ones.

    Args:
        classes: K names and the features of their global prompts, which stay as they are.
        settings: its settings.
        logit_scale: factor on cosines in training.
        images: labelled embeddings with their views', every class among them.
        tuning: the model, the prompts' names and the run.
        seed: of the vectors' start and the order of images.
        device: where the model is.
        negatives: for the NegLabel term, where the settings give it a weight.

    Raises:
        UsageError: no images, a class without any, a model without regions or with a single one,
            or without a causal text tower, or a name that leaves no room for the vectors.
        VloodError: the loss is not finite, or there is no room for the regional maps.
    """
    if images is None or tuning is None or images.views is None:
        raise UsageError(
            "--method local-prompt: its local prompts must be trained on views of labelled images; "
            "give --train images, bring in trained prompts with `vlood import`, or use --method "
            "gl-mcm, which learns nothing"
        )
    from vlood.prompts.contexts import prompt_tower
    from vlood.training.draws import RepeatedRows, ShuffledRows

    check_positive("local-prompt", "logit_scale", logit_scale)
    check_every_class(images.labels, classes.names)
    regions = count_regions(tuning.backbone)
    prompt_tower(tuning.backbone)
    sizes = sizes_of(
        settings,
        regions=regions,
        classes=len(classes),
        images=len(images),
    )
    for note in sizes.notes:
        tuning.announce(note)
    maps = _maps(classes, settings, images, tuning, seed)
    start = starting_contexts(tuning.backbone, settings, sizes, len(classes), seed)
    tensors = {name: each.to(device).requires_grad_() for name, each in start.items()}
    objective = Objective(settings, sizes, tensors, images.labels, maps, tuning, logit_scale)
    batches = ShuffledRows(len(images), settings.batch_size, seed)
    made = tuning.train(
        tensors,
        objective.of,
        RepeatedRows(batches, settings.positive_views),
        loop_settings(settings),
        seed=seed,
    )
    vectors = {
        name: np.asarray(tensor.numpy(), np.float32) for name, tensor in made.tensors.items()
    }
    about = {
        "format": "local-prompt",
        "position": "end",
        "names": True,
        "nameless": [NEGATIVE],
        "epochs": made.epochs,
        "steps": made.steps,
        "train_top_k": sizes.top_k,
        "negative_prompts": sizes.negatives,
        "settings": asdict(settings),
    }
    compiled = compiled_from(
        tuning.backbone, vectors, classes, tuning.prompts, settings, logit_scale, negatives
    )
    return TunedDetector(**vars(compiled), learned=Learned("contexts", vectors, about))


def count_regions(backbone: Backbone) -> int:
    """Return how many regions a model's pictures have.

    Raises:
        UsageError: its tower has no path to regional features, or has a single region.
    """
    from vlood.backbone.local import region_grid

    if backbone.local_refusal is not None:
        raise UsageError(f"--model {backbone.name}: {backbone.local_refusal}")
    rows, columns = region_grid(backbone.module.visual, backbone.preprocessing.size)
    check_regions(rows * columns)
    return rows * columns


def compiled_from(
    backbone: Backbone,
    vectors: dict[str, NDArray[np.float32]],
    classes: ClassFeatures,
    prompts: tuple[str, ...],
    settings: LocalPromptSettings,
    logit_scale: float,
    negatives: NegativeFeatures | None,
) -> Detector:
    """Encode the learned prompts and return the detector they make.

    Args:
        backbone: the model they were learned with.
        vectors: ``local_ctx`` [K, L, W] and ``neg_ctx`` [M, L, W].
        classes: K names and the features of their global prompts.
        prompts: their names in prompts.
        settings: of the score among them.
        logit_scale: factor on cosines.
        negatives: for the NegLabel term, or None.
    """
    import torch

    from vlood.prompts.contexts import Contexts, encode_prompts

    with torch.inference_mode():
        local = encode_prompts(backbone, Contexts(vectors[LOCAL]), prompts)
        nameless = encode_prompts(backbone, Contexts(vectors[NEGATIVE], names=False), None)
    tensors = {
        "class_features": classes.features,
        "local_features": unit(local),
        "local_negative_features": unit(nameless),
    }
    detector = Detector("local-prompt", settings, classes.names, tensors, float(logit_scale))
    if not settings.neglabel or negatives is None:
        return detector
    return with_bank(detector, classes, negatives)


def with_bank(detector: Detector, classes: ClassFeatures, negatives: NegativeFeatures) -> Detector:
    """Return a detector that has a NegLabel term too.

    Raises:
        UsageError: the negatives are of another model.
    """
    check_same_width(classes, negatives)
    bank = neglabel_fit(classes, NegLabelSettings(), detector.logit_scale, negatives=negatives)
    added = {name: bank.tensors[name] for name in ("negative_features", "group_sizes")}
    # Kept apart from the global prompts, which may be replaced.
    added["bank_class_features"] = bank.tensors["class_features"]
    return Detector(
        detector.method,
        detector.settings,
        detector.class_names,
        {**detector.tensors, **added},
        detector.logit_scale,
        bank.negative_names,
    )


def starting_contexts(
    backbone: Backbone, settings: LocalPromptSettings, sizes: Sizes, classes: int, seed: int
) -> dict[str, torch.Tensor]:
    """Return the vectors that training starts from: [K, L, W] of classes, [M, L, W] without names.

    Raises:
        UsageError: the words of ``init`` have no tokens, or leave no room for a name.
    """
    import torch

    from vlood.prompts.contexts import prompt_tower
    from vlood.prompts.starting import INIT_STD, word_contexts
    from vlood.training.draws import generator

    tower = prompt_tower(backbone)
    width = int(tower.module.token_embedding.weight.shape[1])

    def drawn(count: int, name: str) -> torch.Tensor:
        shape = (count, settings.context_length, width)
        vectors = generator(seed, name).normal(0, INIT_STD, shape)
        return torch.from_numpy(vectors.astype(np.float32))

    if settings.init == RANDOM:
        local = drawn(classes, "local contexts")
    else:
        local = word_contexts(tower, backbone.tokenizer, settings.init, blocks=classes)
    return {LOCAL: local, NEGATIVE: drawn(sizes.negatives, "negative contexts")}


class Objective:
    """The loss of a step: of each image one of its positive views, and its negative one."""

    def __init__(
        self,
        settings: LocalPromptSettings,
        sizes: Sizes,
        tensors: dict[str, torch.Tensor],
        labels: NDArray[np.int64],
        maps: RegionalMaps,
        tuning: Tuning,
        logit_scale: float,
    ) -> None:
        from vlood.methods.local_prompt_loss import LossWeights
        from vlood.prompts.chunked import PromptEncoder
        from vlood.prompts.contexts import prepare, prompt_tower

        tower, tokenizer = prompt_tower(tuning.backbone), tuning.backbone.tokenizer
        names = {LOCAL: tuning.prompts, NEGATIVE: ("",) * sizes.negatives}
        self._encoders = {
            name: PromptEncoder(
                tower,
                prepare(tower, tokenizer, names[name], tensor.shape[-2]).to(tensor.device),
            )
            for name, tensor in tensors.items()
        }
        self._tensors, self._labels, self._maps = tensors, labels, maps
        self._scale, self._top_k = logit_scale, sizes.top_k
        self._positives = settings.positive_views
        self._weights = LossWeights(
            settings.weight_negative, settings.weight_diversity, settings.train_temperature
        )

    def of(self, inputs: StepInputs) -> Loss:
        """Return the loss of some images; the step says which of their positive views."""
        import torch
        import torch.nn.functional as F

        from vlood.methods.local_prompt_loss import local_prompt_loss
        from vlood.training.loop import Loss

        local, nameless = (
            F.normalize(self._encoders[name](self._tensors[name]).float(), dim=-1)
            for name in (LOCAL, NEGATIVE)
        )
        # The last of an image's maps is that of its negative view.
        views = (inputs.step % self._positives, self._positives)
        maps = torch.from_numpy(self._maps.of(inputs.rows, views)).to(local.device)
        labels = torch.from_numpy(self._labels[inputs.rows]).to(local.device)
        # Cosines keep their digits in single precision, whatever the tower computes in.
        with torch.autocast(local.device.type, enabled=False):
            total, parts = local_prompt_loss(
                maps[:, 0],
                maps[:, 1],
                labels,
                local,
                nameless,
                scale=self._scale,
                top_k=self._top_k,
                weights=self._weights,
            )
        return Loss(total, parts)


def _maps(
    classes: ClassFeatures,
    settings: LocalPromptSettings,
    images: LabelledFeatures,
    tuning: Tuning,
    seed: int,
) -> RegionalMaps:
    """Rank the views by the global prompts, and have the maps made of those that are used."""
    if tuning.regions is None or images.views is None:
        raise UsageError(
            "local-prompt: learns from regions of augmented views and needs the images themselves; "
            "give --train images, not embeddings"
        )
    similar = view_similarities(images.views, images.labels, classes.features)
    chosen = ranked_views(similar, settings.positive_views)
    return tuning.regions(
        images, chosen, seed, recompute=settings.recompute, kept=settings.accumulate
    )
