"""The contest, its ablation and its replication: what is kept of a run, and pages made from that.

python -m pytest -q tests/reproduce/test_contest.py        # half a minute
"""

import json
import math
import re
import shutil
from itertools import pairwise, product

import pytest

import metrics
from reproduce import ablation, contest, contest_runs, contest_tables, growth, muon, pool, questions, replication, store
from reproduce.contest import START, TASKS, Cell
from settings import UserError

DIGITS, CNN = TASKS["digits"], TASKS["cnn"]
NAN = math.nan


def test_every_cell_is_a_run_of_its_own():
    for what, scale in ((contest, "smoke"), (contest, "cpu"), (ablation, "smoke"), (ablation, "cpu")):
        for name in what.SCALES[scale]:
            found = what.runs(name, scale, 1)
            assert len({run.id for run in found.values()}) == len(found) > 10
    few, full = (len(contest.runs("cnn", scale)) for scale in ("cpu", "gpu"))
    assert full > 3 * few  # the costly ones are run in full there
    for what, name in product((contest, muon, growth), ("openwebtext", "digits")):
        devices = {run.cfg.get("device") for run in what.runs(name, "gpu", 1).values()}
        assert devices == ({"auto"} if name == "openwebtext" else {None})
    shared = {run.id for run in contest.runs("digits", "cpu").values()}
    rows = {row for (row, _, _), run in ablation.runs("digits", "cpu").items() if run.id in shared}
    assert rows == {"AdamW", "MADA"}  # which are not run twice


def test_the_first_runs_are_those_that_could_refute_the_claim():
    rows = [row for row, _, _ in contest.runs("shakespeare", "cpu")]
    assert [row for row, other in pairwise([None, *rows]) if row != other] and set(rows[:168]) == {"AdamW", "MADA"}
    assert len(rows[:168]) == 2 * 4 * (6 + 1) * 3 and not {"AdamW", "MADA"} & set(rows[168:])  # and without clipping


def test_a_cell_without_conditions_is_the_script_by_default():
    run = contest.runs("digits", "cpu")["AdamW", Cell(0.016, START), 1337]
    assert (run.cfg["schedule"], run.cfg["weight_decay"]) == ("cosine", 0.0)
    varied = Cell(0.016, START, (("schedule", "linear"), ("weight_decay", 0.1)))
    other = contest.runs("digits", "cpu")["MADA", varied, 1337]
    assert (other.cfg["schedule"], other.cfg["weight_decay"], other.cfg["hyper_lr"]) == ("linear", 0.1, None)
    clipping = [contest.runs("digits", "cpu")["MADA", Cell(0.016, START, it), 1337].cfg["grad_clip"]
                for it in ((), (("grad_clip", 0.0),))]  # fmt: skip
    assert clipping == [1.0, 0.0]
    lm = contest.runs("shakespeare", "cpu")["MADA", Cell(0.032, START), 1339]
    assert lm.cfg["min_lr"] == pytest.approx(0.0032) and lm.cfg["max_iters"] == 700 and lm.cfg["device"] == "cpu"


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(store, "WORK", tmp_path / "runs")
    return tmp_path / "results"


def write_run(folder, run, values, diverged=False):
    """What the pool leaves of a run."""
    header = {"config": {}, "git": "abc", "torch": "2", "device": "cpu"}
    log = metrics.Metrics(str(folder / run.id), header, 0, len(values))
    for it, value in enumerate(values, 1):
        log.write({"iter": it, "train_loss": value, "value": value, "coefficients": {"beta1": 0.123456789}})
    log.close()
    pool.write(folder / run.id, state="done", diverged=diverged, seconds=1.234)


def test_a_line_says_what_a_run_was(results, tmp_path):
    wanted = contest.runs("digits", "cpu", 1)
    (key, run), (bad, other), *_ = wanted.items()
    write_run(tmp_path / "runs", run, [1 / it for it in range(1, 101)])
    write_run(tmp_path / "runs", other, [1.0, NAN], diverged=True)
    contest_runs.collect(contest, "cpu", "digits", wanted)
    line, second = map(json.loads, (results / "contest" / "cpu" / "digits.jsonl").read_text().splitlines())
    assert contest_runs.key_of(line) == key and line["run"] == run.id and line["seconds"] == 1.23
    assert line["value"] == 0.01 and not line["diverged"]
    assert (line["git"], line["numerics"]) == ("abc", contest_runs.NUMERICS)
    curve = line["curve"]
    assert len(curve["iter"]) == 15 and curve["iter"][-1] == 100 and curve["beta1"][0] == 0.12346
    assert second["diverged"] and second["value"] is None and second["curve"]["loss"] == [1.0, None]
    found, others, left = contest_runs.gather(contest, "cpu", "digits", 1)
    values = contest_runs.values(found, DIGITS)
    assert left == [at for at in wanted if at not in (key, bad)]
    assert others == 0 and values[key[0]][key[1]] == {key[2]: 0.01} and values[bad[0]][bad[1]][bad[2]] == math.log(10)
    assert len(contest_runs.missing(contest, "cpu", "digits", wanted)) == len(wanted) - 2
    assert not (tmp_path / "runs" / run.id / "lock").exists()  # it has only read there


@pytest.mark.parametrize("text", ['{"row": "MA', "[]", "{}"])
def test_a_damaged_file_of_results_is_named(results, text):
    path = results / "contest" / "cpu" / "digits.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
    with pytest.raises(UserError, match=f"^{path} is damaged .*: restore it, or delete it"):
        contest_runs.gather(contest, "cpu", "digits", 1)


def test_a_run_that_another_name_holds_is_not_run_again(results, tmp_path):
    (key, run), *_ = contest.runs("digits", "cpu", 1).items()
    write_run(tmp_path / "runs", run, [1.0, 0.5])
    contest_runs.collect(contest, "cpu", "digits", {key: run})
    shutil.rmtree(tmp_path / "runs")
    other = ("AdamW, as muon.py calls it", Cell(key[1].rate, key[1].betas), key[2])
    assert contest_runs.missing(muon, "cpu", "digits", {other: run}) == {}
    contest_runs.collect(muon, "cpu", "digits", {other: run})
    before, after = (contest_runs.read(contest_runs.file_of(it, "cpu", "digits")) for it in (contest, muon))
    assert after == {other: before[key] | {"row": other[0]}}


def test_the_epoch_of_a_run_is_chosen_on_held_out_images():
    records = [
        {"iter": it, "accuracy": accuracy, "held_out_accuracy": held}
        for it, accuracy, held in ((1, 50.0, 60.0), (2, 51.0, 70.0), (3, 52.0, 70.0), (4, 99.0, 65.0))
    ]
    assert contest_runs.result(records, CNN) == 51.0  # the first of the best
    assert contest_runs.result(records, CNN._replace(best=None)) == 99.0
    assert math.isnan(contest_runs.result([{"iter": 1}], CNN))
    assert all(run.cfg["held_out"] == 5000 for run in contest.runs("cnn", "cpu", 1).values())


def test_a_run_of_another_version_is_left_out_and_counted(results, tmp_path):
    wanted = contest.runs("digits", "cpu", 1)
    (_, run), *_ = wanted.items()
    write_run(tmp_path / "runs", run, [1.0])
    contest_runs.collect(contest, "cpu", "digits", wanted)
    path = results / "contest" / "cpu" / "digits.jsonl"
    path.write_text(path.read_text().replace(run.id, "0" * 12))
    assert contest_runs.gather(contest, "cpu", "digits", 1) == ({}, 1, [*wanted])
    contest_runs.collect(contest, "cpu", "digits", wanted)  # it takes the other's place
    assert contest_runs.gather(contest, "cpu", "digits").others == 0 and len(path.read_text().splitlines()) == 1


@pytest.mark.slow
def test_the_smoke_scale_runs_and_is_drawn_from_what_is_kept(results, monkeypatch):
    small = DIGITS._replace(rows=("AdamW", "MADA", "Lion"), rates=DIGITS.rates[:2])
    monkeypatch.setitem(contest.TASKS, "digits", small)
    assert questions.estimate("contest", "smoke", None, "digits")[:2] == (20, 20)
    assert questions.reproduce("contest", "smoke", None, 0, draw=False, task="digits") == []
    count, missing, seconds = questions.estimate("contest", "smoke", None, "digits")
    assert (count, missing, seconds) == (20, 0, 0)
    folder = results / "contest" / "smoke"
    page = (folder / "README.md").read_text()
    pictures = {f"{name}.png" for name in ("digits", "cells", "coefficients", "front")}
    assert {it.name for it in folder.iterdir()} == {"README.md", "summary.json", "digits.jsonl"} | pictures
    assert "MLP on scikit-learn's digits | 4 | 2 |" in page and str(results.parent) not in page
    assert json.loads((folder / "summary.json").read_text())["tasks"]["digits"]["cells"] == 4
    monkeypatch.setattr(pool, "execute", lambda *args, **kwargs: 1 / 0)
    monkeypatch.setattr(store, "WORK", results / "none")  # a clean clone
    assert questions.reproduce("contest", "smoke", None, 0, draw=False, task="digits") == []
    assert (folder / "README.md").read_text() == page


@pytest.mark.slow
def test_the_ablation_runs_and_is_drawn(results, monkeypatch):
    few = ("AdamW", "MADA", "without beta2's time scale", "none of the three", "by the cosine")
    rows = {row: ablation.ROWS[row] for row in few}
    monkeypatch.setattr(ablation, "ROWS", rows)
    assert questions.reproduce("ablation", "smoke", None, 0, draw=False, task=None) == []
    page = (results / "ablation" / "smoke" / "README.md").read_text()
    for row in rows:
        assert f"| {row} |" in page
    assert (results / "ablation" / "smoke" / "figure.png").exists()


def test_cells_that_look_bad_are_run_again_with_other_seeds(results, tmp_path):
    """Two of digits' smoke cells are bad in the contest; in new seeds one of them is fine, and one collapses."""
    bad, worse, *fine = list(dict.fromkeys(cell for _, cell, _ in contest.runs("digits", "smoke")))
    for what, values in ((contest, {bad: 1.1, worse: 1.5}), (replication, {bad: 0.998, worse: 2.2})):
        wanted = what.runs("digits", "smoke")
        for (row, cell, seed), run in wanted.items():
            write_run(tmp_path / "runs", run, [1.0 if row == "AdamW" else values.get(cell, 0.99) + seed % 2 / 100])
        contest_runs.collect(what, "smoke", "digits", wanted)
    assert replication.bad(replication.before("digits", "smoke")) == [bad, worse] and fine
    known, new = ({seed for *_, seed in runs} for runs in (contest.runs("digits", "cpu"), wanted))
    assert len(new) == 12 and not known & new
    assert questions.reproduce("replication", "smoke", None, 0, draw=True, task=None) == []
    page = (results / "replication" / "smoke" / "README.md").read_text()
    assert "The 2 cells in which MADA's mean is more than 2 % above AdamW's were run again with 12 new seeds" in page
    assert "It is again so in 1, and by more than two standard errors in 1." in page
    assert "Of these 24 pairs of runs MADA alone collapses in 12, and AdamW alone in 0." in page
    assert "MLP on scikit-learn's digits: no worse in 3 of 4 (75 %) cells (by more than two standard errors" in page
    assert "worse in 1), below AdamW in 2; AdamW no worse in 2; at AdamW's best rate" in page
    assert f"| {bad} | +0.1050 ± 0.0050 (+10.5 %) | +0.0030 ± 0.0015 (+0.3 %) |  |  |" in page
    (results / "contest" / "smoke" / "digits.jsonl").unlink()  # and with it what was picked
    assert questions.reproduce("replication", "smoke", None, 0, draw=True, task=None) == []
    assert "it has not been run at this scale" in (results / "replication" / "smoke" / "README.md").read_text()


def test_the_convex_problem_is_asked_for_at_the_scale_of_the_page(results):
    assert "`python scripts/reproduce.py fig9 --scale gpu` has not been run" in contest_tables.convex("gpu")


def test_parts_of_pages_are_filled_in(tmp_path):
    page, command = tmp_path / "page.md", "python x.py"

    def around(text):
        return f"a\n<!-- b: made by `python x.py --draw` -->\n{text}\n<!-- end of b -->\nc <!-- end of d -->\n"

    page.write_text(around("old"))
    for text in ("new", "newer\n\nlines"):
        questions.fill(page, command, {"b": text, "d": "not there"})
        assert page.read_text() == around(text)
    questions.fill(page, "python y.py", {"b": "another's"})
    assert "newer" in page.read_text()
    page.write_text("<!-- b: made by `python x.py --draw` -->\n")
    with pytest.raises(UserError, match="no <!-- end of b -->"):
        questions.fill(page, command, {"b": "text"})


def test_every_part_that_a_page_asks_for_is_made():
    texts = [page.read_text() for page in questions.PAGES]
    asked = [found for text in texts for found in re.findall(r"<!-- [\w, ]+: made by `(.*?)` -->", text)]
    commands = {f"python scripts/reproduce.py {name} --scale cpu --draw" for name in questions.NAMES}
    assert len(asked) >= 8 and {*asked} == commands
    filled = re.compile(r"<!-- ([\w, ]+): made by .*? -->\n(.*?)<!-- end of \1 -->", re.DOTALL)
    for page, text in zip(questions.PAGES, texts, strict=True):
        for key, block in filled.findall(text):
            assert block.strip(), (page, key)


def test_bad_input_is_one_line(script):
    for words, line in (
        (("contest", "--task", "digit"), "contest has no task 'digit' at scale smoke; it has digits, factorization"),
        (("table2", "--task", "digits"), f"--task digits: only {', '.join(questions.NAMES)} have tasks"),
        (("contest", "--scale", "paper"), "contest has no scale paper; it has smoke, cpu, gpu"),
    ):
        status, _, err = script("reproduce", *words)
        assert status == 2 and err.strip() == f"reproduce.py: {line}"
    with pytest.raises(UserError, match="no task 'x'"):
        questions.estimate("contest", "smoke", None, "x")
