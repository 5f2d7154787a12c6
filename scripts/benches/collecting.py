"""How many of the images vlood collect gathers are of their label."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benches.cleaning import set_name, world_folders
from benches.measuring import Measured, percent


def collected(options: argparse.Namespace) -> Iterator[Measured]:
    """Hide the labels of known images among strange ones; count which are found again."""
    from vlood.backbone.load import load_backbone
    from vlood.engines.collect_labels import Negatives, first_negatives, label_texts
    from vlood.engines.collecting import CollectSettings, collect
    from vlood.engines.mining import Encoder, mine_words
    from vlood.engines.pools import Pool, RowFile, add_images
    from vlood.features.stream import StreamSettings
    from vlood.images.sources import find_images
    from vlood.negatives.corpora import read_corpus
    from vlood.negatives.mining import MiningSettings
    from vlood.negatives.prompting import Prompting
    from vlood.prompts.classes import ClassName

    backbone = load_backbone(options.model, device=options.device)
    encoder = Encoder(backbone, None)
    with tempfile.TemporaryDirectory() as scratch:
        known, strange = options.images, options.strange
        if known is None:
            known, strange = world_folders(Path(scratch) / "world", options.count or 40)
        items = list(find_images([str(known)]))
        classes = [ClassName.of(name) for name in sorted({item.label for item in items})]
        truth = {item.path: item.label for item in items}
        others = list(find_images([str(folder) for folder in strange]))
        pool = Pool(RowFile(Path(scratch), backbone.embed_dim))
        settings = StreamSettings(64, os.cpu_count() or 1)
        add_images(pool, [*others, *items], backbone, settings, cache=None)
    bank = mine_words(
        *(read_corpus(str(options.corpus)), classes, Prompting(), MiningSettings(), encoder)
    )
    chosen = [bank.terms[row] for row in first_negatives(bank.parts, 1000)]
    shown = set_name(options.images)
    rows = []
    for title, rule, rivals in (
        ("none", "none", None),
        ("label-wins", "label-wins", None),
        ("label-wins, with negatives", "label-wins", Negatives(tuple(chosen), None)),
    ):
        labels = label_texts(
            *(classes, rivals, ["a photo of a {}."], encoder),
            logit_scale=backbone.logit_scale,
            classes_only=True,
        )
        shares = []
        for count in (8, 16):
            found = collect(pool, labels, CollectSettings(count, rule, duplicates=1.01))
            pairs = found.candidates
            right = [
                truth.get(pool.paths[row]) == classes[label].name
                for row, label in zip(pairs.rows.tolist(), pairs.labels.tolist(), strict=True)
            ]
            strangers = sum(pool.paths[row] not in truth for row in pairs.rows.tolist())
            shares += [percent(sum(right) / len(right), 1), percent(strangers / len(right), 1)]
        rows.append((shown, title, *shares))
    yield Measured(
        *("collect", f"found-{shown}"),
        (
            *("set", "filter", ("8 a label: precision", 1), ("8 a label: of no class", 1)),
            *(("16 a label: precision", 1), ("16 a label: of no class", 1)),
        ),
        tuple(rows),
        keys=2,
        bundled=options.model == "bundled",
        caption=(
            f"{len(items):,} images of {len(classes)} classes among {len(others):,} others; "
            f"{len(chosen)} negatives.",
        ),
    )
