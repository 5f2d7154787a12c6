"""Scoring images: the pipeline, large JPEGs, the cache, and memory."""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benches.environment import PYTHON
from benches.measuring import BenchError, Measured, environment, synchronise, timed
from benches.pictures import picture_folder, pipeline, score_to_file, transformed


def score(options: argparse.Namespace) -> Iterator[Measured]:
    """Images/s of the whole pipeline against a bare loop that has its tensors already."""
    import torch

    with tempfile.TemporaryDirectory() as scratch:
        folder = options.images or picture_folder(
            Path(scratch) / "pictures", options.count or 256, (400, 300)
        )
        backbone, detector, settings, items = pipeline(Path(scratch), folder, "ViT-B-32", options)
        items = items[: options.count] if options.count else items
        pixels = torch.stack([transformed(backbone, item.path) for item in items])

        def bare() -> None:
            with torch.inference_mode():
                for start in range(0, len(pixels), settings.batch_size):
                    backbone.module.encode_image(
                        pixels[start : start + settings.batch_size].to(options.device)
                    )
            synchronise(options.device)

        bare()
        ratios, ours_rate, bare_rate = [], 0.0, 0.0
        for _ in range(3):
            slow, _ = timed(bare)
            whole, _ = timed(
                lambda: score_to_file(
                    items, backbone, detector, settings, Path(scratch) / "out.jsonl"
                )
            )
            ratios.append(slow / whole)
            ours_rate, bare_rate = len(items) / whole, len(items) / slow
    ratios.sort()
    yield Measured(
        *("open-clip", "score"),
        ("measured", "bare loop", "vlood", "unit", "share of the loop", "three runs"),
        (
            (
                f"{len(items)} images of 400x300, ViT-B-32",
                *(round(bare_rate, 1), round(ours_rate, 1), "images/s"),
                *(round(ratios[1], 2), [round(one, 2) for one in ratios]),
            ),
        ),
    )


def large(options: argparse.Namespace) -> Iterator[Measured]:
    """12-megapixel JPEGs: decode and preprocess, then end to end."""
    import numpy as np
    import torch

    from vlood.features.stream import StreamSettings
    from vlood.images.decode import DecodeSettings
    from vlood.images.loader import load_batches

    with tempfile.TemporaryDirectory() as scratch:
        folder = picture_folder(
            Path(scratch) / "large", options.count or 96, (4032, 3024), distinct=12
        )
        backbone, detector, settings, items = pipeline(Path(scratch), folder, "ViT-B-32", options)
        fast = StreamSettings(settings.batch_size, settings.workers, DecodeSettings(fast=True))
        megabytes = sum(Path(item.path).stat().st_size for item in items) / len(items) / 1e6

        def plain_transform() -> None:
            for item in items:
                transformed(backbone, item.path)

        def fast_transform(workers: int) -> None:
            batches = load_batches(
                items,
                batch_size=settings.batch_size,
                prepare=backbone.preprocessing.prepare,
                settings=fast.decode,
                workers=workers,
                draft_side=backbone.preprocessing.draft_side,
            )
            for batch in batches:
                backbone.preprocessing.normalise(np.stack([one.pixels for one in batch]))

        def plain_loop(batch_size: int) -> None:
            with torch.inference_mode():
                for start in range(0, len(items), batch_size):
                    chunk = items[start : start + batch_size]
                    batch = torch.stack([transformed(backbone, item.path) for item in chunk])
                    backbone.module.encode_image(batch.to(options.device))
            synchronise(options.device)

        slow, _ = timed(plain_transform)
        one, _ = timed(lambda: fast_transform(1))
        quick, _ = timed(lambda: fast_transform(settings.workers))
        single, _ = timed(lambda: plain_loop(1))
        batched, _ = timed(lambda: plain_loop(settings.batch_size))
        out = Path(scratch) / "out.jsonl"
        whole, _ = timed(lambda: score_to_file(items, backbone, detector, fast, out))
    many, milliseconds = len(items), 1e3 / len(items)

    def shorter(plain: float, ours: float) -> tuple[float | str, ...]:
        times = (round(plain * milliseconds), round(ours * milliseconds))
        return *times, "ms", round(plain / ours, 1)

    def faster(plain: float) -> tuple[float | str, ...]:
        rates = (round(many / plain, 1), round(many / whole, 1))
        return *rates, "images/s", round(plain / whole, 1)

    jpeg = f"decode and preprocess a {megabytes:.1f} MB JPEG of 12 megapixels, `--fast-decode`"
    yield Measured(
        *("open-clip", "large"),
        ("measured", "plain way", "vlood", "unit", "times as fast"),
        (
            (f"{jpeg}, {settings.workers} workers", *shorter(slow, quick)),
            ("the same, 1 worker", *shorter(slow, one)),
            ("end to end, ViT-B-32, against a plain loop over images", *faster(single)),
            (
                f"end to end, against a plain loop over batches of {settings.batch_size}",
                *faster(batched),
            ),
        ),
    )


def cache(options: argparse.Namespace) -> Iterator[Measured]:
    """The same folder twice: what a second score costs for each image."""
    from vlood.features.cache import FeatureCache

    with tempfile.TemporaryDirectory() as scratch:
        folder = options.images or picture_folder(
            Path(scratch) / "pictures", options.count or 512, (400, 300)
        )
        time.sleep(2.5)
        backbone, detector, settings, items = pipeline(Path(scratch), folder, "ViT-B-32", options)
        out = Path(scratch) / "out.jsonl"
        first, _ = timed(
            lambda: score_to_file(
                items, backbone, detector, settings, out, FeatureCache(Path(scratch) / "cache")
            )
        )
        again, _ = timed(
            lambda: score_to_file(
                items, backbone, detector, settings, out, FeatureCache(Path(scratch) / "cache")
            )
        )
    yield Measured(
        *("open-clip", "cache"),
        ("measured", "first score", "second score", "unit", "times as fast"),
        (
            (
                f"{len(items)} images, ViT-B-32",
                *(round(first / len(items) * 1e3, 2), round(again / len(items) * 1e3, 3)),
                *("ms an image", round(first / again)),
            ),
        ),
    )


def memory(options: argparse.Namespace) -> Iterator[Measured]:
    """Peak resident memory of whole ``vlood score`` processes."""
    few, many = 1000, options.count or 20_000
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "pictures"
        picture_folder(folder, many, (96, 96), distinct=50)
        small = Path(scratch) / "few"
        small.mkdir()
        for path in sorted(folder.iterdir())[:few]:
            (small / path.name).hardlink_to(path)
        peaks = [
            peak_memory(place, Path(scratch) / f"cache{n}")
            for n, place in enumerate((small, folder))
        ]
    yield Measured(
        *("memory", "scoring"),
        ("measured", "peak of the process, MB"),
        (
            (f"`vlood score` of {few:,} images, bundled model", round(peaks[0])),
            (f"`vlood score` of {many:,} images", round(peaks[1])),
        ),
    )


def peak_memory(folder: Path, cache: Path) -> float:
    command = [
        str(PYTHON),
        "-c",
        "import resource, sys\nfrom vlood.cli import main\ntry:\n    main()\nfinally:\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)",
        "score",
        str(folder),
        "--model",
        "bundled",
        "--classes",
        "world",
        "--cache",
        str(cache),
        "-o",
        str(cache) + ".jsonl",
    ]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(done.stderr[-2000:])
    return int(done.stderr.split()[-1]) / 1024
