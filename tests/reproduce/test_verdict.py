"""Gaps, collapses and counts of the contest agree with calculations by hand.

python -m pytest -q tests/reproduce/test_verdict.py        # seconds
"""

import math

import pytest

from reproduce import contest_runs, contest_tables, muon, muon_report, verdict
from reproduce.contest import START, TASKS, Cell

DIGITS, CARTPOLE, CNN = TASKS["digits"], TASKS["cartpole"], TASKS["cnn"]


def test_a_gap_by_hand():
    found = verdict.gap(DIGITS, {1: 1.0, 2: 2.0, 3: 2.0, 9: 5.0}, {1: 1.2, 2: 2.1, 3: 2.6, 8: 7.0})
    differences = [-0.2, -0.1, -0.6]
    middle = sum(differences) / 3
    error = math.sqrt(sum((it - middle) ** 2 for it in differences) / 2) / math.sqrt(3)
    assert found.n == 3 and found.base == pytest.approx(5.9 / 3)
    assert found.mean == pytest.approx(middle) and found.error == pytest.approx(error)
    assert found.no_worse() and found.excess() == 0 and not found.clear  # 0.3 against 2 x 0.153
    assert verdict.gap(DIGITS, {1: 1.0}, {2: 1.0}) is None
    higher = verdict.gap(CNN, {1: 60.0, 2: 61.0}, {1: 62.0, 2: 62.0})  # an accuracy: lower is worse
    assert higher.mean == 1.5 and not higher.no_worse() and higher.excess() == pytest.approx((1.5 - 1.0) / 62)
    returns = verdict.gap(CARTPOLE, {1: -100.0, 2: -100.0}, {1: -102.0, 2: -102.0})
    assert returns.mean == 2.0 and returns.excess() == pytest.approx((2.0 - 0.51) / 102)
    assert verdict.gap(CARTPOLE, {1: -101.6, 2: -101.6}, {1: -102.0, 2: -102.0}).no_worse()  # within half a percent


def line_of(value, diverged=False):
    return {"value": None if diverged else value, "diverged": diverged}


def test_chance_is_the_worst_there_is():
    def values(task, **lines):
        return contest_runs.values({"MADA": {"cell": lines}}, task)["MADA"]["cell"]

    nothing = math.log(10)
    assert values(DIGITS, a=line_of(0.1), b=line_of(1e11), c=line_of(0, True)) == {"a": 0.1, "b": nothing, "c": nothing}
    assert values(CNN, a=line_of(60.0), b=line_of(9.0), c=line_of(0, True)) == {"a": 60.0, "b": 10.0, "c": 10.0}
    assert values(CARTPOLE, a=line_of(-150.0), b=line_of(-9.3)) == {"a": -150.0, "b": -22.0}


def test_a_lost_seed_is_never_within_the_error():
    """One outlier makes a standard error as large as the mean, and would pass for no worse at any size."""
    nothing = DIGITS.chance
    found = verdict.gap(DIGITS, {1: 0.04, 2: 0.04, 3: nothing}, {1: 0.05, 2: 0.05, 3: 0.05})
    assert found.lost == 1 and found.mean < 2 * found.error and not found.no_worse()
    assert found.excess() == pytest.approx(found.mean / found.base - 0.005)
    both = verdict.gap(DIGITS, {1: 0.04, 2: nothing}, {1: 0.05, 2: nothing})
    assert both.lost == 0 and both.no_worse()
    theirs = verdict.gap(CNN, {1: 50.0, 2: 60.0}, {1: 60.0, 2: CNN.chance})
    assert theirs.lost == 0 and theirs.mean == -20.0 and theirs.no_worse()


def test_a_collapse_that_ends_above_chance_is_one_too():
    """One seed at more than twice the loss makes two standard errors larger than any mean gap."""
    found = verdict.gap(TASKS["acrobot"], {1: 100.0, 2: 456.0, 3: 99.0}, {1: 130.0, 2: 128.0, 3: 100.0})
    assert found.lost == 1 and 0.5 * found.base < found.mean < found.error and not found.no_worse()
    returns = verdict.gap(CARTPOLE, {1: -80.0, 2: -190.0}, {1: -170.0, 2: -170.0})
    assert returns.lost == 1 and not returns.no_worse()
    theirs = verdict.gap(DIGITS, {1: 0.05, 2: 0.05}, {1: 0.2, 2: 0.05})
    assert theirs.lost == 0 and theirs.no_worse()


def test_relative_gaps():
    assert verdict.relative(DIGITS, 2.0, 1.0) == 0.5 and verdict.relative(DIGITS, 1.0, 2.0) == -0.5
    assert verdict.relative(DIGITS, 0.0, 0.0) == 0.0 and verdict.relative(CARTPOLE, -50.0, -200.0) == 0.75
    assert verdict.relative(CNN, 60.0, 80.0) == 0.25


def test_a_summary_by_hand():
    good, bad = Cell(0.1, START), Cell(0.1, (0.99, 0.6))
    more, linear = Cell(0.2, START), Cell(0.1, START, (("schedule", "linear"), ("weight_decay", 0.0)))
    adam = {good: {1: 1.0, 2: 1.02}, more: {1: 2.0, 2: 2.0}, bad: {1: 5.0, 2: 5.02}, linear: {1: 0.5, 2: 0.5}}
    mada = {good: {1: 1.1, 2: 1.12}, more: {1: 0.9, 2: 0.9}, bad: {1: 1.4, 2: 1.42}, linear: {1: 0.5, 2: 0.5}}
    mada[Cell(0.4, START)] = {1: 0.1}  # a cell that AdamW does not have
    it = verdict.summary(DIGITS, {"AdamW": adam, "MADA": mada})
    assert len(it["gaps"]) == 4 and it["pairs"] == 8
    assert it["base_no_worse"] == 2 and it["below"] == 2 and it["no_worse"] == 3
    assert it["worst"] == good and it["gaps"][good].excess() == pytest.approx(0.1 / 1.01 - 0.005)
    assert it["failed"] == 0 and it["saved"] == 4  # 2.0 to 0.9 and 5 to 1.4 are more than half
    pairs = [(0.1 / 1.1, 0.1 / 1.12), (-1.1 / 2, -1.1 / 2), (-3.6 / 5, -3.6 / 5.02), (0, 0)]
    seeds = [sum(pair[i] for pair in pairs) / 4 for i in (0, 1)]
    assert it["relative"] == pytest.approx(sum(seeds) / 2)
    assert it["relative_error"] == pytest.approx(abs(seeds[0] - seeds[1]) / 2)
    assert it["undone"] == {bad: pytest.approx(1 - 0.4 / 4)} and it["level"] == 0
    assert (it["start"]["theirs"], it["start"]["ours"]) == (good, Cell(0.4, START))
    assert it["start"]["gap"].n == 1 and it["start"]["gap"].mean == pytest.approx(-0.9)
    aims = verdict.goals({"digits": it})
    assert [aim.met for aim in aims] == [False, False, False, True]
    assert aims[0].found == "3 of 4" and aims[3].found == "90 % in the mean of 1 cells"


def test_best_rates_are_chosen_over_equal_seeds():
    """Where one rate has only the seeds that end low, its mean is lower for that alone."""
    low, high = Cell(0.1, START), Cell(0.2, START)
    adam = {low: {1: 1.0, 2: 3.0, 3: 3.0}, high: {1: 1.5}, Cell(0.4, START): {1: 2.0}}
    mada = {low: {1: 2.0, 2: 2.0}, high: {1: 2.1, 2: 1.0}, Cell(0.4, START): {1: 9.0, 2: 9.0}}
    it = verdict.tuned(DIGITS, mada, adam)
    assert (it["theirs"], it["ours"]) == (low, high) and it["gap"].n == 2 and it["edge"]
    assert it["gap"].mean == pytest.approx((2.1 - 1.0 + 1.0 - 3.0) / 2)
    adam[Cell(0.05, START)] = mada[Cell(0.05, START)] = {1: 7.0, 2: 7.0}
    assert not verdict.tuned(DIGITS, mada, adam)["edge"]
    assert verdict.tuned(DIGITS, mada, adam | {high: {9: 0.0}}) is None  # no seed that all rates have


def test_other_rows_stand_beside_mada_in_the_same_cells_and_seeds():
    one, two = Cell(0.1, START), Cell(0.2, START)
    values = {
        "AdamW": {one: {1: 1.0, 2: 1.0, 3: 1.0}, two: {1: 1.0, 2: 1.0}},
        "MADA": {one: {1: 0.9, 2: 0.9, 3: 0.1}, two: {1: 0.2, 2: 0.2}},
        "Yogi": {one: {1: 1.0, 2: 1.0}, two: {1: 1.0}},
    }
    cells = [line.split(" | ") for line in contest_tables.row_lines({"digits": values}).splitlines()]
    lines = {line[0][2:]: line for line in cells}
    assert lines["Yogi"][2] == "1" and lines["Yogi"][6] == "-0.100" and lines["MADA"][5] == lines["MADA"][6]
    assert lines["Yogi"][7] == "1 of 1 (100 %)" and lines["MADA"][7] == lines["MADA"][4] == "2 of 2 (100 %)"
    lines = contest_tables.row_lines({"digits": {key: it for key, it in values.items() if key != "MADA"}})
    assert "| Yogi | 1 | 1 |" in lines and " | - | " in lines


def test_at_adamws_best_rate_nothing_is_retuned():
    low, high = Cell(0.1, START), Cell(0.2, START)
    adam = {low: {1: 1.0, 2: 1.2, 3: 1.1}, high: {1: 2.0, 2: 2.0, 3: 2.0}}
    mada = {low: {1: 1.1, 2: 1.4, 3: 1.2}, high: {1: 0.5, 2: 0.5, 3: 0.5}}  # better where AdamW's rate is not
    found = verdict.summary(DIGITS, {"AdamW": adam, "MADA": mada})
    assert found["replaced"].mean == pytest.approx(0.4 / 3) and found["start"]["gap"].mean == pytest.approx(-0.6)
    gap = found["replaced"]  # 0.1, 0.2, 0.1: t is 4, beyond two errors but not beyond Student's 4.303 of three
    assert gap.mean / gap.error == pytest.approx(4.0)
    assert contest_tables.clear([gap], 1) == 1 and contest_tables.clear([gap], 1, contest_tables.STUDENTS) == 0


def test_one_seed_is_no_evidence():
    one = {Cell(0.1, START): {1: 1.0}}
    assert verdict.summary(DIGITS, {"AdamW": one, "MADA": {Cell(0.1, START): {1: 0.5}}}) is None


def test_damage_by_hand():
    good, bad = Cell(0.1, START), Cell(0.1, (0.99, 0.6))
    adam = {good: {1: 1.0, 2: 1.0}, bad: {1: 2.0, 2: 2.2}}
    assert verdict.undone(DIGITS, {bad: {1: 1.3, 2: 1.3}}, adam) == {bad: pytest.approx(1 - 0.3 / 1.1)}
    assert verdict.undone(DIGITS, {bad: {1: 0.9, 2: 0.9}}, adam) == {bad: 1.0}  # better than before: all of it, no more
    assert verdict.undone(DIGITS, {bad: {1: 2.3, 2: 2.3}}, adam) == {bad: 0.0}
    assert verdict.undone(DIGITS, {bad: {1: 1.0, 2: 1.0}}, adam | {bad: {1: 1.0, 2: 1.0}}) == {}  # nothing to undo
    assert verdict.undone(DIGITS, {good: {1: 2.0, 2: 2.0}}, adam) == {}
    assert verdict.undone(DIGITS, {bad: {1: 1.0, 2: 1.0}}, {bad: adam[bad]}) == {}  # not known what it was before
    assert verdict.undone(DIGITS, {bad: {1: 1.3, 2: 1.3}}, adam | {good: {1: 1.0}}) == {}  # nor by one seed


def test_muons_cells_are_counted_from_two_seeds_on():
    one, two = Cell(0.1, START), Cell(0.2, START)
    values = {
        "digits": {
            muon_report.OURS: {one: {1: 1.0, 2: 1.0}, two: {1: 5.0}},
            "AdamW": {one: {1: 2.0, 2: 2.0}, two: {1: 1.0}},
        }
    }
    assert muon_report.no_worse(values, "AdamW") == (1, 1) and muon_report.where_worse(values, "AdamW") == "nowhere"


def test_the_way_to_muon_is_by_common_seeds():
    cell, row = Cell(0.1, START), "MADA from Adam's corner"
    kept = {"Muon": {cell: {1: 1.0, 2: 9.0}}, "AdamW": {cell: {1: 2.0, 2: 9.0}}, row: {cell: {1: 1.75, 3: 0.0}}}
    assert muon_report.shares(kept, row) == [pytest.approx(0.25)]
    assert muon_report.shares(kept | {row: {cell: {3: 0.0}}}, row) == []


def test_muons_question_has_more_seeds_than_its_other_rows():
    counts = {row: {seed for each, _, seed in muon.runs("digits", "cpu") if each == row} for row in muon.ROWS}
    assert {row: len(seeds) for row, seeds in counts.items() if row != muon.CONVOLUTIONS} == {
        "Muon": 15,
        "MADA from Muon's corner": 15,
        "AdamW": 15,
        "MADA from mu = 0.5": 3,
        "MADA from Adam's corner": 3,
        "MADA from Adam's corner, mu ten times as fast": 3,
    }
    assert len({seed for _, _, seed in muon.runs("digits", "cpu", 5)}) == 5
