"""What ``vlood tune`` prints: the methods there are, and the detector that was made."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlood.detector.saved import SavedDetector


def list_methods() -> None:
    """Print the methods: words on a terminal, JSON Lines when piped."""
    from vlood.methods import registry

    for method in registry.all_methods():
        kind = "from class names"
        if "detectors" in method.record.needs:
            kind = "from detectors"
        elif method.record.trains:
            kind = "from images" if method.learns else "needs training"
        if sys.stdout.isatty():
            sys.stdout.write(f"{method.name:<14} {kind:<18} {method.record.summary}\n")
        else:
            row = {
                "method": method.name,
                "trains": method.record.trains,
                "learns_from_images": method.learns,
            }
            sys.stdout.write(json.dumps(row) + "\n")


def report(output: Path, saved: SavedDetector) -> None:
    """Say what was made: words on a terminal, an object when piped."""
    facts = {
        "detector": str(output),
        "method": saved.detector.method,
        **({} if saved.learned is None else {"learned": saved.learned.kind}),
        "classes": len(saved.classes),
        **({"members": list(saved.members)} if saved.members else {}),
        "negatives": len(saved.negatives),
        "model": saved.model_name,
        **{
            name: saved.provenance[name]
            for name in ("training_images", "shots", "seed")
            if "training_images" in saved.provenance
        },
    }
    if not sys.stdout.isatty():
        sys.stdout.write(json.dumps(facts) + "\n")
        return
    trained = ""
    if "training_images" in saved.provenance:
        trained = f"{saved.provenance['training_images']} training images, "
    if saved.learned is not None:
        trained = f"learned {saved.learned.kind}, {trained}"
    sys.stdout.write(
        f"{output}: {saved.detector.method}, {len(saved.classes)} classes, "
        f"{len(saved.negatives)} negatives, {trained}{saved.model_name or 'embeddings alone'}\n"
        f"next: vlood calibrate {output} --id IN   (a threshold and p-values from known images)\n"
    )
