"""``vlood show``: what a detector, a bank, embeddings, a report or a record file holds."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlood.cli import options as opt
from vlood.cli.guard import guarded
from vlood.cli.talk import start_logging
from vlood.errors import UsageError

if TYPE_CHECKING:
    from vlood.detector.saved import SavedDetector


@guarded
def show(
    path: Annotated[
        Path,
        typer.Argument(
            help="A detector, a bank, an embedding store or file, a report folder, results.json "
            "or records."
        ),
    ],
    json_lines: opt.OneJson = False,
    no: Annotated[
        bool,
        typer.Option(
            "--no",
            help='A clipn detector: how far the "no" of each class stands from its "yes", and '
            "which classes it confuses.",
        ),
    ] = False,
) -> None:
    """Say what a file or folder of vlood's holds.

    Examples:

      vlood show photos.store/

      vlood show my-detector/

      vlood show bank/

      vlood show report/

      vlood show --no my-clipn/
    """
    start_logging(quiet=False)
    from vlood.cli.negatives import show_bank
    from vlood.detector.folder import is_detector
    from vlood.features.embeddings import looks_like_embeddings
    from vlood.negatives.bank_folder import is_bank, load_bank

    if not path.exists():
        raise UsageError(
            f"{path}: does not exist; name a detector, a bank, embeddings, a report or records"
        )
    if no:
        _show_no(path, json_lines)
        return
    results = path / "results.json" if path.is_dir() else path
    if is_bank(path):
        show_bank(path, load_bank(path), json_lines or not sys.stdout.isatty())
        return
    if is_detector(path):
        facts = _detector(path)
    elif looks_like_embeddings(path):
        facts = _embeddings(path)
    elif results.name == "results.json" and results.exists():
        _show_results(results, json_lines)
        return
    elif path.suffix == ".jsonl":
        facts = _records(path)
    else:
        raise UsageError(
            f"{path}: is not a detector, a bank, an embedding store or file, a report folder, "
            "results.json or a .jsonl file of records"
        )
    if json_lines or not sys.stdout.isatty():
        sys.stdout.write(json.dumps(facts) + "\n")
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        sys.stdout.write(f"{name:<{width}}  {_plain(value)}\n")


def _plain(value: Any) -> str:
    """Show a value to a person."""
    from vlood.engines.printable import printable

    if value is None or value == [] or value == {}:
        return "-"
    if isinstance(value, dict):
        return printable(", ".join(f"{key} {_plain(inner)}" for key, inner in value.items()))
    if isinstance(value, list):
        return printable(", ".join(map(_plain, value[:20])) + (" ..." if len(value) > 20 else ""))
    return printable(str(value))


def _detector(path: Path) -> dict[str, Any]:
    from vlood.detector.calibration_report import describe
    from vlood.detector.folder import load_detector
    from vlood.detector.stored_calibration import to_json

    saved = load_detector(path)
    piped = not sys.stdout.isatty()
    figures: list[Any] = [dict(row) for row in saved.figures]
    if not piped:
        figures = [_figure(row) for row in figures]
    calibration = None
    if saved.calibration is not None:
        calibration = to_json(saved.calibration) if piped else describe(saved.calibration)
    return {
        "what": "detector",
        "method": saved.detector.method,
        "settings": dict(vars(saved.detector.settings)),
        "classes": [each.name for each in saved.classes],
        "templates": list(saved.templates),
        "negatives": len(saved.negatives),
        "model": saved.base_model,
        "classifier": None if saved.classifier is None else saved.classifier.described(),
        "embedding width": saved.width,
        "logit scale": saved.detector.logit_scale,
        "learned": None if saved.learned is None else saved.learned.kind,
        **({"members": _members(saved)} if saved.members else {}),
        "calibration": calibration,
        "figures": figures,
        "provenance": dict(saved.provenance),
    }


def _members(saved: SavedDetector) -> list[dict[str, Any]]:
    """Say what an ensemble combines."""
    return [
        {
            "member": name,
            "method": one.detector.method,
            "weight": round(weight, 6),
            "settings": dict(vars(one.detector.settings)),
            "provenance": dict(one.provenance),
        }
        for (name, one), weight in zip(
            saved.members.items(), saved.detector.tensors["weights"].tolist(), strict=True
        )
    ]


def _show_no(path: Path, json_lines: bool) -> None:
    """Print a record a class, and warn where "yes" and "no" are the same."""
    from vlood.cli.talk import warn
    from vlood.detector.folder import load_detector
    from vlood.methods.clipn_explained import explain_no, warnings_of

    detector = load_detector(path).detector
    rows = explain_no(detector)
    if json_lines or not sys.stdout.isatty():
        for row in rows:
            sys.stdout.write(json.dumps(row.record()) + "\n")
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table("class", "distance of no from yes", "yes to itself", "confused with")
        for row in rows:
            others = ", ".join(f"{name} {value:.0%}" for name, value in row.confused[:3])
            table.add_row(
                _plain(row.name), f"{row.distance:.3f}", f"{row.yes:.1%}", _plain(others or None)
            )
        Console(highlight=False, markup=False).print(table)
    for sentence in warnings_of(detector):
        warn(f"{path}: {sentence}")


def _figure(row: Mapping[str, Any]) -> str:
    """Say what was measured on one OOD set."""
    shown = [
        f"{label} {100 * row[name]:.2f} %"
        for label, name in (("AUROC", "auroc"), ("FPR95 ID+", "fpr95_id_pos"))
        if isinstance(row.get(name), float)
    ]
    return f"{row.get('ood')}: {' and '.join(shown) or 'nothing measured'}"


def _embeddings(path: Path) -> dict[str, Any]:
    from vlood.features.embeddings import read_embeddings

    held = read_embeddings(path)
    labels = Counter(held.labels or [])
    return {
        "what": "embeddings",
        "rows": len(held.ids),
        "width": int(held.features.shape[1]),
        "local": None if held.local is None else list(held.local[slice(0, 1)].shape[1:]),
        "labels": len(labels),
        "first ids": list(held.ids[:3]),
        **{str(name): value for name, value in held.meta.items()},
    }


def _show_results(path: Path, json_lines: bool) -> None:
    from vlood.evaluation.results import read_results
    from vlood.evaluation.table import results_table

    rows = read_results(path)
    if json_lines or not sys.stdout.isatty():
        for row in rows:
            sys.stdout.write(json.dumps(row.record()) + "\n")
        return
    from rich.console import Console

    Console(highlight=False).print(results_table(rows))


def _records(path: Path) -> dict[str, Any]:
    from vlood.engines.record_files import read_json_lines

    count = errors = ood = 0
    lowest, highest, methods = float("inf"), float("-inf"), set()
    try:
        for record in read_json_lines(path):
            count += 1
            if "error" in record:
                errors += 1
                continue
            ood += bool(record["ood"])
            methods.add(record["method"])
            lowest, highest = min(lowest, record["score"]), max(highest, record["score"])
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path}: line {count + 1} is not a score record") from None
    scored = count > errors
    return {
        "what": "score records",
        "records": count,
        "errors": errors,
        "ood": ood,
        "method": ", ".join(sorted(methods)) or None,
        "lowest score": lowest if scored else None,
        "highest score": highest if scored else None,
    }
