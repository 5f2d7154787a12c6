"""BENCHMARKS.md is what the result files give; a bad result file is one clear sentence."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from benches import command, evaluating, rendering, report, results, weights  # noqa: E402
from benches.catalogue import BENCHES, Bench  # noqa: E402
from benches.measuring import BenchError, Measured  # noqa: E402
from benches.results import Column, Result, ResultError, Table  # noqa: E402

TABLE = Table(
    name="methods",
    date="2026-01-02",
    hardware="one abacus",
    commands=("scripts/bench world \\", "    --count 3"),
    columns=(Column("method"), Column("shots"), Column("near AUROC", 1)),
    rows=(("mcm", 0, 75.28), ("coop", 1, {"mean": 68.0, "sd": 3.81}), ("coop", 2, None)),
    keys=2,
    weights="aaaa",
    notes=("CoOp is behind.",),
)
RESULT = Result("made", "A title", "world", 1, tables=(TABLE,))


def stored(folder: Path, **changes: Any) -> Path:
    """Write the example's file, with fields set, or left out where they are None."""
    path = results.write_result(RESULT, folder)
    given = json.loads(path.read_text())
    for name, value in changes.items():
        place = given["tables"][0] if hasattr(TABLE, name) and name != "title" else given
        place[name] = value
        if value is None:
            del place[name]
    path.write_text(json.dumps(given))
    return path


def test_the_page_is_what_the_files_give() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "bench", "report", "--check"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_a_page_that_was_edited_or_is_missing_is_out_of_date(tmp_path: Path) -> None:
    results.write_result(RESULT, tmp_path)
    page = tmp_path / "page.md"
    assert not report.is_current(page, tmp_path)
    report.write(page, tmp_path)
    assert report.is_current(page, tmp_path)
    page.write_text(page.read_text().replace("75.3", "99.9"))
    assert not report.is_current(page, tmp_path)


def test_every_link_within_the_page_has_its_heading() -> None:
    text = (ROOT / "BENCHMARKS.md").read_text()
    headings = re.findall(r"^##+ (.*)$", text, re.M)
    anchors = [rendering.anchor(one) for one in headings]
    assert len(set(anchors)) == len(anchors), "two headings are the same"
    links = set(re.findall(r"\]\(#([^)]*)\)", text))
    assert len(links) > 30
    assert links <= set(anchors)


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (None, 1, "-"),
        ("knn", 1, "knn"),
        (1281167, None, "1,281,167"),
        (75.28, 1, "75.3"),
        (73.0, 2, "73.00"),
        (3.6e-6, None, "3.6e-06"),
        (0, None, "0"),
        ([7.2, 5.7], None, "7.2, 5.7"),
        ({"mean": 78.62, "sd": 0.31}, 1, "78.6 ± 0.3"),
        ({"mean": 79.6, "low": 77.1, "high": 81.8}, None, "79.6 (77.1 to 81.8)"),
    ],
)
def test_cells(value: Any, digits: int | None, shown: str) -> None:
    assert rendering.cell(value, digits) == shown


def test_a_table_says_when_where_how_and_of_which_weights() -> None:
    parts = rendering.table(TABLE, "bbbb")
    assert parts[0].splitlines() == [
        "| method | shots | near AUROC |",
        "|---|---|---|",
        "| mcm | 0 | 75.3 |",
        "| coop | 1 | 68.0 ± 3.8 |",
        "|  | 2 | - |",
    ]
    assert parts[1].startswith("*2026-01-02. one abacus.* **Of the bundled model's earlier weights")
    assert "`aaaa`" in parts[1]
    assert "`bbbb`" in parts[1]
    assert parts[2] == "```sh\nscripts/bench world \\\n    --count 3\n```"
    assert parts[3] == "CoOp is behind."
    assert "present weights (`aaaa`)" in rendering.table(TABLE, "aaaa")[1]


def test_a_headline_shows_the_figure_of_its_table(tmp_path: Path) -> None:
    headline = results.Headline("CoOp near", "methods", "coop / 1", "near AUROC")
    one = dataclasses.replace(RESULT, headlines=(headline,))
    said = rendering.summary([one], "bbbb")
    assert "| CoOp near | [68.0 ± 3.8](#a-title) | 2026-01-02, earlier weights |" in said
    lost = dataclasses.replace(headline, row="coop / 3")
    results.write_result(dataclasses.replace(RESULT, headlines=(lost,)), tmp_path)
    with pytest.raises(ResultError, match=r"made\.json, a headline: .* row 'coop / 3'"):
        results.read_results(tmp_path)


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = results.write_result(RESULT, tmp_path)
    assert results.read_results(tmp_path) == [RESULT]
    assert list(tmp_path.iterdir()) == [path]
    rows = [line for line in path.read_text().splitlines() if '["coop"' in line]
    assert len(rows) == 2, "a row a line"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"title": None}, r"made\.json: the field 'title' is missing"),
        ({"hardware": None}, r"made\.json, table 'methods': the field 'hardware' is missing"),
        ({"date": None}, r"table 'methods': the field 'date' is missing"),
        ({"rows": [["mcm", 0]]}, r"row 1 has 2 cells, but there are 3 columns"),
        ({"rows": [["mcm", 0, {"median": 1}]]}, r"row 1: the cell {'median': 1} is none"),
        ({"group": "worlds"}, r"the group 'worlds' is unknown; take one of world,"),
        ({"notes": "behind"}, r"table 'methods': notes: a list of lines is expected"),
        ({"weight": "x"}, r"made\.json: the field 'weight' is unknown; there are title,"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    path = stored(tmp_path, **changes)
    with pytest.raises(ResultError, match=sentence):
        results.read_result(path)


def test_a_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "half.json").write_text('{"title": ')
    with pytest.raises(ResultError, match=r"half\.json: not JSON"):
        results.read_results(tmp_path)


def test_a_table_measured_again_replaces_its_own_and_keeps_the_words() -> None:
    new = dataclasses.replace(TABLE, date="2026-03-04", weights="bbbb", notes=(), rows=())
    other = dataclasses.replace(TABLE, name="other")
    found = results.renewed(dataclasses.replace(RESULT, tables=(TABLE, other)), [new])
    first, second = found.tables
    assert (first.date, first.weights, first.rows, second) == ("2026-03-04", "bbbb", (), other)
    assert (first.notes, first.notes_of) == (TABLE.notes, "2026-01-02")
    assert "*Written for the figures of 2026-01-02, before these:*" in rendering.table(first, "b")


def test_the_weights_are_told_as_vlood_tells_them() -> None:
    from safetensors.torch import load_file

    from vlood.backbone.weights import weights_digest

    whole = weights_digest(load_file(weights.BUNDLED))
    assert whole.startswith(weights.present_weights())
    assert len(weights.present_weights()) == weights.SHOWN


def test_runs_become_means_and_deviations_by_group() -> None:
    def row(group: str, seed: int, auroc: float) -> dict[str, Any]:
        figures = {"auroc": auroc, "fpr95_id_pos": 0.5, "id_accuracy": 0.9}
        return {"method": "knn", "group": group, "seed": seed, **figures}

    rows = [row("near", 1, 0.7), row("near", 1, 0.8), row("far", 1, 0.9)]
    rows += [row("near", 2, 0.85), row("far", 2, 0.9), row("id", 2, 0.1)]
    (runs,) = evaluating.by_group(rows, "method").values()
    near, _, far, _, accuracy = evaluating.cells(runs)
    assert near == {"mean": 80.0, "sd": 7.07}
    assert (far["mean"], accuracy["mean"]) == (90.0, 90.0)
    assert evaluating.cells(runs[:1])[0] == 75.0


def test_a_shown_command_is_the_one_that_ran() -> None:
    import shlex

    words = ("eval", "--set", "init=a photo of a", *(f"--ood=near:s{n}=x{n}" for n in range(20)))
    lines = evaluating.wrapped(*words)
    assert len(lines) > 1
    assert max(map(len, lines)) < 120
    assert shlex.split("\n".join(lines).replace("\\\n", " ")) == ["vlood", *words]


@pytest.mark.parametrize("name", BENCHES)
def test_every_bench_has_its_function(name: str) -> None:
    module, function = BENCHES[name].place.split(":")
    source = (ROOT / "scripts" / "benches" / f"{module}.py").read_text()
    assert f"def {function}(options: argparse.Namespace) -> Iterator[Measured]:" in source


def test_each_table_is_written_before_the_next_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results.write_result(Result("made", "A title", "speed", 1), tmp_path)

    def measure(options: argparse.Namespace) -> Iterator[Measured]:
        yield Measured("made", "first", ("measured", ("s", 2)), (("a thing", 1.5),))
        raise BenchError("the second broke")

    bench = Bench("two things", "text:text")
    monkeypatch.setattr(Bench, "run", lambda self, options: measure(options))
    monkeypatch.setattr(command, "hardware", lambda device: "one abacus")
    monkeypatch.setattr(command, "save", lambda result, made: results_saved(result, made, tmp_path))
    options = argparse.Namespace(
        **{"what": "all", "device": "cpu", "images": None, "strange": None, "test": None},
        **{"model": "bundled", "corpus": "bundled", "count": None},
    )
    assert not command.ran("made", bench, options, write=True)
    (table,) = results.read_result(tmp_path / "made.json").tables
    assert (table.rows, table.hardware) == ((("a thing", 1.5),), "one abacus")
    assert table.commands == ("scripts/bench made",)
    printed = capsys.readouterr()
    assert "| a thing | 1.50 |" in printed.out
    assert "made: not measured: the second broke" in printed.err


results_saved = command.save


def test_what_cannot_run_here_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLOOD_SHARED", str(tmp_path))
    options = argparse.Namespace(what="all", images=None)
    assert not command.ran("embeddings", BENCHES["embeddings"], options, write=False)
    said = "embeddings: not measured: needs the folder of test data: ../shared, or VLOOD_SHARED"
    assert said in capsys.readouterr().err


def test_lines_of_other_scripts_become_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    from benches import scripted

    lines = {
        "ablate-lapt": [
            "seed 0: lapt-paper: 0.95 0.99 0.93 25.6",
            "seed 1: lapt-paper: 0.97 0.99 0.93 26.4",
            "| method | near AUROC |",
        ],
        "follow-contexts": [
            json.dumps(
                {"start": "4 random vectors", "shots": 2, "epoch": 20, "train_loss": 0.0481}
                | {"test_loss": 0.2381, "test_accuracy": 0.916}
                | {f"far {one}": 0.857 for one in ("mcm", "msp", "gl-mcm")}
            )
        ],
        "measure-cma": [
            json.dumps(
                {"way": way, "seed": seed, "id_accuracy": accuracy, "gap": 0.44 + seed / 100}
                | {"neglabel near auroc": 0.958 + gain * seed, "neglabel near fpr95": 0.158}
                | {"mcm near auroc": 0.728, "cpu_seconds": 22.0, "peak_bytes": 1e9}
                | {"kept_bytes": 300_000}
            )
            for way, accuracy, gain in (
                ("zero-shot", 0.9, 0),
                ("flyp", 0.93, 0),
                ("cma", 0.94, 0.01),
            )
            for seed in (0, 1)
        ],
    }
    monkeypatch.setattr(scripted, "script", lambda name, *_, folder=None: lines[name])
    monkeypatch.setattr(scripted, "draw_for_cma", lambda folder, shift: None)
    options = argparse.Namespace()
    (lapt,) = next(scripted.world_lapt(options)).rows
    assert lapt[:2] == ("lapt-paper", {"mean": 96.0, "sd": 1.41})
    assert lapt[-1] == 26
    (epoch,) = next(scripted.world_contexts(options)).rows
    assert epoch == ("4 random vectors", 2, 20, 0.0481, 0.2381, 91.6, 85.7, 85.7, 85.7)
    plain, *shifted = scripted.world_cma(options)
    zero_shot, flyp, cma = plain.rows
    gap = {"mean": 0.445, "sd": 0.0071}
    assert flyp[:9] == ("flyp", 93.0, 95.8, 15.8, 72.8, gap, 22, 1.0, 0.3)
    assert zero_shot[9:] == (None,) * 4
    accuracy, over_zero_shot, over_flyp, gap_over = cma[9:]
    assert accuracy == {"mean": 4.0, "low": 4.0, "high": 4.0}
    # Differences of 0 and 1 point: their mean, and 12.7 standard errors of 0.5.
    assert over_zero_shot == over_flyp == {"mean": 0.5, "low": -5.85, "high": 6.85}
    assert gap_over["mean"] == 0
    assert [one.name for one in shifted] == ["fog", "gaussian-noise", "motion-blur"]


def test_a_bench_finds_its_photographs_below_the_shared_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.setenv("VLOOD_SHARED", str(tmp_path))
    given = argparse.Namespace(
        images=None, test=None, strange=[Path("mine")], model="bundled", corpus="bundled"
    )
    filled = BENCHES["collect-photos"].filled(given)
    assert filled.images == tmp_path / "photos/id_imagenette/train"
    assert filled.model == f"local-dir:{tmp_path / 'models/photo-tiny'}"
    assert filled.corpus == tmp_path / "models/photo-tiny/vocabulary.txt"
    assert filled.strange == [Path("mine")], "what the user gave stays"
    assert BENCHES["text"].filled(given) == given


def test_what_is_of_earlier_weights_or_not_measured_is_listed() -> None:
    empty = Result("empty", "Nothing yet", "speed", 2)
    said = "\n".join(rendering.lacking([RESULT, empty], "bbbb"))
    assert "present weights (`bbbb`), in some tables of**: [A title](#a-title)." in said
    assert "no figures yet, for**: [Nothing yet](#nothing-yet)." in said
    assert rendering.lacking([RESULT], "aaaa") == []
    assert "Not measured yet." in rendering.section(empty, "aaaa")
