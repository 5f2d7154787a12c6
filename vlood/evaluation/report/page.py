"""Put the report's page together."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from vlood.evaluation.report.detector_view import detector_views
from vlood.evaluation.report.inputs import ReportInputs
from vlood.evaluation.report.overview import (
    curves_view,
    intervals_view,
    legend,
    severity_view,
)
from vlood.evaluation.report.standings import curve_rows, id_set, main_rows, ood_sets
from vlood.evaluation.report.tables import result_table, summary
from vlood.evaluation.report.thumbnails import BUDGET, Thumbnails
from vlood.evaluation.report.verdict import verdict
from vlood.evaluation.report.wording import count_text, shown_name
from vlood.evaluation.report_files import write_file


def write_report_page(path: Path, inputs: ReportInputs) -> None:
    """Write the report of an evaluation as one HTML file, whole or not at all.

    The same inputs give the same bytes.

    Raises:
        VloodError: the file cannot be written.
    """
    write_file(path, report_page(inputs).encode("utf-8"))


def report_page(inputs: ReportInputs, *, picture_budget: int = BUDGET) -> str:
    """Return the page.

    Args:
        inputs: everything it shows.
        picture_budget: bytes that thumbnails may take.
    """
    from jinja2 import DictLoader, Environment, StrictUndefined

    thumbnails = Thumbnails(inputs.picture, picture_budget)
    views, data = detector_views(inputs, thumbnails)
    judged = verdict(inputs)
    style, script, sheet = _file("page.css"), _file("page.js"), thumbnails.css()
    environment = Environment(
        loader=DictLoader({"page.html.j2": _file("page.html.j2")}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows = main_rows(inputs.rows)
    inside = id_set(inputs.sets)
    return environment.get_template("page.html.j2").render(
        title=shown_name(inputs.title, 160) or "Evaluation",
        facts=[
            f"ID: {shown_name(inside.name)}, {count_text(len(inside), 'image')}",
            count_text(len(ood_sets(inputs.sets)), "OOD set"),
            count_text(len(inputs.detectors), "detector"),
        ],
        policy=_policy([style, sheet], [script]),
        style=style,
        thumbnail_style=sheet,
        script=script,
        data=script_json(data),
        verdict=judged,
        summary=summary(judged, inputs.comparisons),
        results=result_table(rows, inputs.comparisons),
        intervals=intervals_view(inputs, rows),
        full=result_table([row for row in inputs.rows if row.spectrum], ()),
        curves=curves_view(curve_rows(inputs.rows)),
        detectors=views,
        severity=severity_view(inputs),
        detector_legend=legend([each.name for each in inputs.detectors]),
        provenance=_provenance(inputs.provenance),
        left_out=thumbnails.left_out,
        pictures=len(thumbnails),
    )


def script_json(data: object) -> str:
    """Return JSON that is safe inside a script element whatever its strings hold."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _file(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _policy(styles: Sequence[str], scripts: Sequence[str]) -> str:
    """Return a content security policy that lets exactly these run, and nothing load."""

    def hashes(texts: Sequence[str]) -> str:
        return " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
            for text in texts
        )

    return (
        f"default-src 'none'; img-src data:; style-src {hashes(styles)}; "
        f"script-src {hashes(scripts)}; base-uri 'none'; form-action 'none'"
    )


def _provenance(sections: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    return [
        {
            "title": shown_name(title, 120),
            "facts": [(shown_name(k, 120), shown_name(str(v), 2000)) for k, v in facts.items()],
        }
        for title, facts in sections.items()
    ]
