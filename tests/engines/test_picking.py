"""Trying methods: what fits the data, what time allows, what fails, what is left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vlood.engines import picking
from vlood.engines.evaluating.sets import EvalSet
from vlood.engines.negatives import NegativesChoice
from vlood.engines.picking import Bench, try_all, unfit
from vlood.engines.picking_report import Typed, commands, reasons, records
from vlood.engines.picking_sets import Clock, Pool, _Drawn, gather, halves
from vlood.engines.text_side import TextSide
from vlood.errors import UsageError
from vlood.evaluation.choosing import LEFT_OUT, NOTHING, OOD_SETS, choose
from vlood.features.embeddings import Embeddings, read_embeddings
from vlood.features.stream import StreamSettings
from vlood.methods import registry
from vlood.prompts.classes import ClassName

WIDTH = 8
NAMES = ("ant", "bee", "cat", "dog")


def pool(labels: list[int], seed: int, centres: np.ndarray) -> Pool:
    rng = np.random.default_rng(seed)
    rows = centres[labels] + rng.normal(0, 0.3, (len(labels), WIDTH))
    ids = tuple(f"{seed}-{row}" for row in range(len(labels)))
    return Pool(rows.astype(np.float32), np.array(labels, np.int64), ids)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    centres = np.eye(WIDTH)
    np.save(tmp_path / "names.npy", centres[: len(NAMES)].astype(np.float32))
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n")
    side = TextSide(tuple(map(ClassName.of, NAMES)), class_embeddings=(tmp_path / "names.npy",))
    labels = [number for number in range(4) for _ in range(6)]
    far = pool([6] * 20, 3, centres)
    return Bench(
        side=side,
        fit=pool(labels, 1, centres),
        held=pool(labels, 2, centres),
        others={"far": replace(far, labels=np.full(20, -1))},
        encoder=None,
        negatives=NegativesChoice(),
    )


def ticking(step: float) -> Iterator[float]:
    now = 0.0
    while True:
        yield now
        now += step


def test_what_fits_is_tried_and_the_rest_has_reasons(bench: Bench) -> None:
    tries = try_all(["knn", "mcm", "neglabel", "gl-mcm", "tanl", "clipn", "coop"], bench, Clock(60))
    assert (tries.kind, set(tries.tried)) == (OOD_SETS, {"mcm", "knn"})
    assert "negatives" in tries.skipped["neglabel"]
    assert "regions" in tries.skipped["gl-mcm"]
    assert "other images" in tries.skipped["tanl"]
    assert "captions" in tries.skipped["clipn"]
    assert "no model" in tries.skipped["coop"]
    assert tries.tried["knn"].accuracy == 1.0
    ((known, other),) = tries.tried["mcm"].trial.questions
    assert (len(known), len(other)) == (24, 20)
    assert known.mean() > other.mean()


def test_without_ood_images_classes_are_left_out_in_turn(bench: Bench) -> None:
    alone = replace(bench, others={})
    tries = try_all(["mcm", "knn"], alone, Clock(60))
    assert tries.kind == LEFT_OUT
    for one in tries.tried.values():
        # One of four classes left: 3 x 6 held images against 6 learned-from and 6 held ones.
        assert [(len(known), len(other)) for known, other in one.trial.questions] == [(18, 12)] * 4
        assert all(known.mean() > other.mean() for known, other in one.trial.questions)


def test_a_method_that_fails_does_not_end_the_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = picking.fit_all

    def failing(methods: list[str], *rest: object, **given: object) -> object:
        if methods == ["energy"]:
            raise ZeroDivisionError("a bug of its own")
        return real(methods, *rest, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(picking, "fit_all", failing)
    tries = try_all(["energy", "mcm", "mixoe"], bench, Clock(60))
    assert set(tries.tried) == {"mcm"}
    assert tries.skipped["energy"] == "failed: ZeroDivisionError: a bug of its own"
    assert "outliers" in tries.skipped["mixoe"]


def test_a_setting_reaches_the_methods_that_have_it(bench: Bench) -> None:
    given = {"temperature": "5", "knn.k": "nonsense"}
    tries = try_all(["mcm", "max-logit", "knn"], bench, Clock(60), settings=given)
    plain = try_all(["mcm", "max-logit"], bench, Clock(60))

    def scores(found: picking.Tries, name: str) -> np.ndarray:
        return found.tried[name].trial.questions[0][0]

    assert not np.allclose(scores(tries, "mcm"), scores(plain, "mcm"))
    np.testing.assert_array_equal(scores(tries, "max-logit"), scores(plain, "max-logit"))
    assert "nonsense" in tries.skipped["knn"]


def test_no_method_is_begun_when_the_time_is_over(bench: Bench) -> None:
    ticks = ticking(4.0)
    clock = Clock(10.0, now=lambda: next(ticks), began=0.0)
    tries = try_all(["knn", "mcm", "energy", "msp", "max-logit"], bench, clock)
    assert 0 < len(tries.tried) < 5
    assert "knn" not in tries.tried  # the most demanding is the last
    assert "the budget of 10 s was spent" in tries.skipped["knn"]


def test_too_few_images_of_a_class_leave_out_those_that_learn(bench: Bench) -> None:
    few = replace(bench, fit=bench.fit.rows(np.flatnonzero(bench.fit.labels != 2)))
    assert "cat has 0 to learn from" in str(unfit(registry.get("knn"), few))
    unlabelled = replace(bench, fit=replace(bench.fit, labels=np.full(24, -1)))
    assert "none of the ID images" in str(unfit(registry.get("knn"), unlabelled))
    assert unfit(registry.get("mcm"), unlabelled) is None


def test_one_class_and_no_ood_image_measure_nothing_and_say_so(bench: Bench) -> None:
    side = replace(bench.side, classes=bench.side.classes[:1] if bench.side.classes else None)
    own = np.flatnonzero(bench.held.labels == 0)
    one = replace(bench, side=side, others={}, fit=bench.fit.rows(own), held=bench.held.rows(own))
    tries = try_all(["mcm", "max-logit"], one, Clock(60))
    assert tries.kind == NOTHING
    assert set(tries.tried) == {"max-logit"}  # one softmax probability is always 1
    choice = choose([each.trial for each in tries.tried.values()], NOTHING)
    found = records(tries, choice)
    assert [(each["method"], each["status"]) for each in found] == [
        ("max-logit", "recommended"),
        ("mcm", "skipped"),
    ]
    assert found[0]["auroc"] is None
    assert "Give --ood IN" in " ".join(reasons(tries, choice, {"held": 6}, 0.005))


def test_halves_are_apart_and_take_half_of_each_class() -> None:
    labels = np.array([0] * 5 + [1] * 4 + [2] + [-1] * 3)
    fit, held = halves(labels, 7)
    assert sorted([*fit.tolist(), *held.tolist()]) == list(range(len(labels)))
    assert np.bincount(labels[fit], minlength=3).tolist() == [2, 2, 0]
    assert (labels[held] == -1).sum() == 3


def test_an_image_that_is_there_twice_is_taken_once_and_never_on_both_sides() -> None:
    rows = np.eye(5, dtype=np.float32)

    def stored(name: str, group: str, chosen: list[int]) -> EvalSet:
        ids = [f"{name}{row}" for row in range(len(chosen))]
        labels = ["ant" if group == "id" else ""] * len(chosen)
        return EvalSet(name, group, (name,), None, (Embeddings(rows[chosen], ids, labels),))

    sets = [stored("known", "id", [0, 1, 1, 2]), stored("other", "far", [2, 3, 4])]
    found = gather(sets, {"ant": 0}, None, StreamSettings(), None, Clock(60), most=9, seed=0)
    assert found.pools["known"].ids == ("known0", "known1", "known3")
    assert found.pools["known"].labels.tolist() == [0, 0, 0]
    assert found.pools["other"].ids == ("other1", "other2")
    assert [note[:16] for note in found.notes] == ["1 image of known", "1 image of other"]
    few = [sets[0], stored("other", "far", [2, 3])]
    with pytest.raises(UsageError, match="other has 1 different"):
        gather(few, {"ant": 0}, None, StreamSettings(), None, Clock(60), most=9, seed=0)


def test_images_are_drawn_by_the_seed_until_the_time_is_over() -> None:
    every = [object() for _ in range(10)]
    all_of_it = list(_Drawn(6, 1, Clock(60), 0.0).of(every))  # type: ignore[arg-type]
    assert len(set(map(id, all_of_it))) == 6
    ticks = ticking(1.0)
    hurried = _Drawn(6, 1, Clock(10.0, now=lambda: next(ticks), began=0.0), 8.5)
    assert list(hurried.of(every)) == all_of_it[:4]  # type: ignore[arg-type]
    assert (hurried.taken, hurried.stopped) == (4, True)


def test_commands_name_what_the_method_needs_and_no_more() -> None:
    typed = Typed(["--classes", "c.txt"], ["fit.txt"], ["my held"], ["far:x=x/"], 3)
    lines = commands("knn", typed, OOD_SETS, "out/detector")
    assert lines[0] == "vlood tune knn --classes c.txt --train fit.txt --seed 3 -o out/detector"
    assert lines[1] == "vlood eval --detector out/detector --id 'my held' --ood far:x=x/"
    plain = commands("mcm", replace(typed, seed=0), LEFT_OUT, "d")
    assert plain[0] == "vlood tune mcm --classes c.txt -o d"
    assert not any(" eval " in line for line in plain)


def test_a_pool_of_embeddings_is_written_so_that_it_reads_back(
    bench: Bench, tmp_path: Path
) -> None:
    from vlood.engines.picking_report import write_pool

    labels = [NAMES[row] for row in bench.held.labels]
    path = write_pool(tmp_path, "held", bench.held, labels, stored=False)
    read = read_embeddings(path)
    assert tuple(read.ids) == bench.held.ids
    assert read.labels is not None
    assert read.labels[-1] == "dog"
    np.testing.assert_array_equal(read.features, bench.held.features)
