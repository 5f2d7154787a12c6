"""Whole evaluations over embeddings: streams, reports that go on, images on both sides."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from vlood.backbone.image_features import ImageFeatures
from vlood.engines.evaluating.calibrating import remembered
from vlood.engines.evaluating.comparing import comparisons, result_rows
from vlood.engines.evaluating.run import Entrant, run
from vlood.engines.evaluating.score_files import column_names, read_set, set_file
from vlood.engines.evaluating.state import read_state
from vlood.engines.streaming import mixed_stream
from vlood.errors import UsageError
from vlood.features.embeddings import Embeddings
from vlood.methods import registry

from .conftest import SETS, detector_of, set_of

METHODS = ("adaneg", "mcm", "tanl", "neglabel")


def features_of(one) -> ImageFeatures:
    return ImageFeatures(one.embeddings[0].features)


def test_every_detector_meets_every_set_and_scores_as_by_itself(request_of):
    found = run(request_of(*METHODS)).evaluation
    rows = result_rows(found, resamples=0)
    assert [(row.detector, row.ood) for row in rows] == [
        (name, one.name) for name in METHODS for one in SETS[1:]
    ]
    assert {row.detector: row.stream for row in rows} == {
        "adaneg": "order-dependent",
        "mcm": "",
        "tanl": "transductive",
        "neglabel": "",
    }
    assert all(row.metrics.id_accuracy == 1.0 for row in rows)
    for name in ("mcm", "neglabel"):
        for one in SETS:
            plain = registry.score(detector_of(name), features_of(one))
            np.testing.assert_allclose(found.judged[name, one.name].scores, plain.score, rtol=1e-5)


@pytest.mark.parametrize("name", ["adaneg", "tanl"])
def test_a_stream_starts_afresh_for_each_set_and_follows_batches_and_seed(request_of, name):
    found = run(request_of(name, batch_size=5, seed=3)).evaluation
    (one,) = found.contestants
    for other in SETS[1:]:
        known, others = mixed_stream(
            detector_of(name), features_of(SETS[0]), features_of(other), batch_size=5, seed=3
        )
        np.testing.assert_array_equal(found.id_side(one, other.name).scores, known.score)
        np.testing.assert_array_equal(found.judged[name, other.name].scores, others.score)
    again = run(request_of(name, batch_size=9, seed=3)).evaluation
    first = SETS[1].name
    assert not np.array_equal(again.id_side(one, first).scores, found.id_side(one, first).scores)


def test_only_detectors_without_a_stream_are_tested_against_each_other(request_of):
    found = run(request_of("adaneg", "mcm", "neglabel")).evaluation
    assert {(row.first, row.second) for row in comparisons(found)} == {("mcm", "neglabel")}


def test_negatives_near_an_image_are_remembered(request_of):
    found = run(request_of("mcm", "neglabel")).evaluation
    nearest = found.others["far set"].nearest
    assert nearest is not None
    assert {len(each) for each in nearest} == {3}
    assert run(request_of("mcm")).evaluation.known.nearest is None


def test_a_finished_report_is_read_and_not_scored_again(request_of, tmp_path, monkeypatch):
    folder = tmp_path / "report"
    first = run(request_of(*METHODS, folder=folder))
    assert column_names(set_file(folder, "known")) == {
        *("mcm", "neglabel"),
        *(f"{name}@{one.name}" for name in ("adaneg", "tanl") for one in SETS[1:]),
    }
    monkeypatch.setattr(
        "vlood.engines.evaluating.run.score_embeddings",
        lambda *given: pytest.fail("scored again"),
    )
    second = run(request_of(*METHODS, folder=folder, mode="resume"))
    assert first.evaluation.judged.keys() == second.evaluation.judged.keys()
    for key, judged in first.evaluation.judged.items():
        np.testing.assert_array_equal(judged.scores, second.evaluation.judged[key].scores)
        np.testing.assert_array_equal(judged.predicted, second.evaluation.judged[key].predicted)


def test_a_stopped_stream_is_gone_through_again_wherever_it_stopped(request_of, tmp_path):
    """Any of a stream's two columns may be missing: both come back the same."""
    folder = tmp_path / "report"
    whole = run(request_of("mcm", "adaneg", folder=folder)).evaluation
    for name in ("known", "near set"):
        set_file(folder, name).unlink()
        again = run(request_of("mcm", "adaneg", folder=folder, mode="resume")).evaluation
        for key, judged in whole.judged.items():
            np.testing.assert_array_equal(judged.scores, again.judged[key].scores)


def test_detectors_are_appended_to_a_complete_report(request_of, tmp_path):
    folder = tmp_path / "report"
    first = run(request_of("mcm", folder=folder))
    with pytest.raises(UsageError, match="stopped before its end; finish it with --resume"):
        run(request_of("energy", folder=folder, mode="append"))
    replace(first.state, complete=True).save(folder)
    second = run(request_of("neglabel", "adaneg", folder=folder, mode="append"))
    assert [one.name for one in second.evaluation.contestants] == ["mcm", "neglabel", "adaneg"]
    alone = run(request_of("mcm", "neglabel", "adaneg")).evaluation
    for key, judged in alone.judged.items():
        np.testing.assert_array_equal(judged.scores, second.evaluation.judged[key].scores)
    assert [one.name for one in read_state(folder).contestants] == ["mcm", "neglabel", "adaneg"]
    replace(second.state, complete=True).save(folder)
    with pytest.raises(UsageError, match="has the detector mcm already"):
        run(request_of("mcm", folder=folder, mode="append"))
    other = (*SETS[:2], set_of("far set", "far", 9, 8, 8))
    with pytest.raises(UsageError, match="made with other sets"):
        run(
            request_of(
                "energy", folder=folder, mode="append", sets=(SETS[0], set_of("x", "far", 9, 8))
            )
        )
    with pytest.raises(UsageError, match="not those the report was made with"):
        run(request_of("energy", folder=folder, mode="append", sets=other))


def test_a_folder_is_as_the_mode_needs_it(request_of, tmp_path):
    folder = tmp_path / "report"
    run(request_of("mcm", folder=folder))
    with pytest.raises(UsageError, match="holds a report already"):
        run(request_of("mcm", folder=folder))
    with pytest.raises(UsageError, match="was started with other detectors"):
        run(request_of("energy", folder=folder, mode="resume"))
    run(request_of("energy", folder=folder, mode="overwrite"))
    assert column_names(set_file(folder, "known")) == {"energy"}
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "thesis.txt").write_text("mine")
    for mode in ("new", "overwrite", "resume"):
        with pytest.raises(UsageError, match="something else than a report"):
            run(request_of("mcm", folder=strange, mode=mode))
    with pytest.raises(UsageError, match="holds no report"):
        run(request_of("mcm", folder=tmp_path / "none", mode="append"))
    (folder / "run.json").write_text("{")
    with pytest.raises(UsageError, match="is damaged"):
        run(request_of("mcm", folder=folder, mode="resume"))
    newer = {"schema": 99}
    (folder / "run.json").write_text(json.dumps(newer))
    with pytest.raises(UsageError, match="newer vlood"):
        run(request_of("mcm", folder=folder, mode="resume"))


def test_thresholds_of_a_stopped_run_are_remembered(request_of, tmp_path):
    folder, how = tmp_path / "report", {"inputs": ["held/"], "tpr": 0.9}
    request = request_of("mcm", folder=folder, calibration=how)
    (one,) = request.entrants
    set_before = Entrant(replace(one.contestant, threshold=0.25, threshold_note="so"), one.detector)
    run(replace(request, entrants=[set_before]))
    (found,) = remembered([one], folder, how)
    assert found.contestant == set_before.contestant
    assert remembered([one], folder, how | {"tpr": 0.8}) is None
    assert remembered(request_of("energy").entrants, folder, how) is None
    with pytest.raises(UsageError, match="other decoding, batch size, seed or calibration"):
        run(request_of("mcm", folder=folder, mode="resume"))


def with_shared(count: int):
    """Return the sets, some of the near ones being ID images under another name."""
    known, near, far = SETS
    held = near.embeddings[0]
    raw = np.array(held.features)
    raw[:count] = known.embeddings[0].features[:count]
    return known, replace(near, embeddings=(Embeddings(raw, held.ids, held.labels),)), far


def test_images_on_both_sides_are_refused_dropped_or_kept_with_a_count(request_of):
    with pytest.raises(UsageError, match=r"4 of 15 images of near set are also .*--overlap drop"):
        run(request_of("mcm", sets=with_shared(4)))
    dropped = run(request_of("mcm", sets=with_shared(4), overlap="drop"))
    assert len(dropped.evaluation.others["near set"]) == 11
    assert len(dropped.evaluation.judged["mcm", "near set"].scores) == 11
    assert dropped.evaluation.others["near set"].paths[0] == "2/4.png"
    assert dropped.notes[0].endswith("They are left out of near set.")
    kept = run(request_of("mcm", sets=with_shared(4), overlap="keep"))
    assert len(kept.evaluation.others["near set"]) == 15
    assert "4 of 15" in kept.notes[0]
    with pytest.raises(UsageError, match="every image of near set"):
        run(request_of("mcm", sets=with_shared(15), overlap="drop"))


def test_a_damaged_set_is_named(request_of, tmp_path):
    folder = tmp_path / "report"
    run(request_of("mcm", folder=folder))
    path = set_file(folder, "near set")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UsageError, match=r"near_set-\w+\.parquet: is damaged"):
        run(request_of("mcm", folder=folder, mode="resume"))


def test_a_set_file_holds_names_of_any_kind(request_of, tmp_path):
    folder = tmp_path / "report"
    strange = set_of("../a b/ü", "far", 6, 5, 5)
    run(request_of("mcm", folder=folder, sets=(SETS[0], strange)))
    files = sorted(path.name for path in (folder / "scores").iterdir())
    assert len(files) == 2
    images, columns = read_set(set_file(folder, "../a b/ü"))
    assert images.name == "../a b/ü"
    assert images.labels[0] == "dog"
    assert list(columns) == ["mcm"]
