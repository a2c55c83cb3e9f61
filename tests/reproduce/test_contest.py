"""The contest and its ablation: tasks are what they claim, gaps agree with hand calculations, pages with what is kept.

python -m pytest -q tests/reproduce/test_contest.py        # half a minute
"""

import json
import math
import re
import shutil
from functools import partial
from itertools import pairwise

import gymnasium
import numpy as np
import pytest
import torch

import checkpoints
import metrics
import optim
from reproduce import (
    ablation,
    contest,
    contest_runs,
    contest_tables,
    muon,
    muon_report,
    pool,
    replication,
    rivals,
    store,
    variants,
    verdict,
)
from reproduce.contest import START, TASKS, Cell
from reproduce.published import ROOT
from settings import UserError, declared, parse

SMALL = pool.load(str(ROOT / "scripts" / "train_small.py"))
DIGITS, CARTPOLE, CNN = TASKS["digits"], TASKS["cartpole"], TASKS["cnn"]
NAN = math.nan


# the tasks


def test_every_cell_is_a_run_of_its_own():
    for what, scale in ((contest, "smoke"), (contest, "cpu"), (ablation, "smoke"), (ablation, "cpu")):
        for name in what.SCALES[scale]:
            found = what.runs(name, scale, 1)
            assert len({run.id for run in found.values()}) == len(found) > 10
    few, full = (len(contest.runs("cnn", scale)) for scale in ("cpu", "gpu"))
    assert full > 3 * few  # the costly ones are run in full there
    shared = {run.id for run in contest.runs("digits", "cpu").values()}
    rows = {row for (row, _, _), run in ablation.runs("digits", "cpu").items() if run.id in shared}
    assert rows == {"AdamW", "MADA"}  # which are not run twice


def test_the_first_runs_are_those_that_could_refute_the_claim():
    rows = [row for row, _, _ in contest.runs("shakespeare", "cpu")]
    assert [row for row, other in pairwise([None, *rows]) if row != other] and set(rows[:144]) == {"AdamW", "MADA"}
    assert len(rows[:144]) == 2 * 4 * 6 * 3 and not {"AdamW", "MADA"} & set(rows[144:])


def test_a_cell_without_conditions_is_the_script_by_default():
    run = contest.runs("digits", "cpu")["AdamW", Cell(0.016, START), 1337]
    assert (run.cfg["schedule"], run.cfg["weight_decay"]) == ("cosine", 0.0)
    varied = Cell(0.016, START, (("schedule", "linear"), ("weight_decay", 0.1)))
    other = contest.runs("digits", "cpu")["MADA", varied, 1337]
    assert (other.cfg["schedule"], other.cfg["weight_decay"], other.cfg["hyper_lr"]) == ("linear", 0.1, None)
    lm = contest.runs("shakespeare", "cpu")["MADA", Cell(0.032, START), 1339]
    assert lm.cfg["min_lr"] == pytest.approx(0.0032) and lm.cfg["max_iters"] == 700 and lm.cfg["device"] == "cpu"


def test_cartpole_is_gymnasiums():
    """An episode of the batch is a single environment's from the same state, with the same actions, to its end."""
    task, single = SMALL.CartPole(3), gymnasium.make("CartPole-v1").unwrapped
    seen, actions, rewards, alive = task.roll_out(7)
    assert seen.shape[0] <= 200 and alive[0].all() and (rewards[alive] == 1).all()
    for i in range(task.episodes):
        single.reset()
        single.state = seen[0, i].double().numpy()
        length = int(alive[:, i].sum())
        assert alive[:length, i].all()  # alive once, to the end
        for t in range(length):
            observation, _, ended, _, _ = single.step(int(actions[t, i]))
            assert ended == (t == length - 1 and length < 200)
            if not ended and t + 1 < len(seen):
                np.testing.assert_allclose(observation, seen[t + 1, i], atol=2e-5)
                single.state = seen[t + 1, i].double().numpy()  # so that rounding does not grow


def test_acrobot_is_gymnasiums():
    """States, goals and rewards of the vectorized dynamics, for random torques and from states near the goal too."""
    task, single, rng = SMALL.Acrobot(3), gymnasium.make("Acrobot-v1").unwrapped, np.random.default_rng(0)
    goals = 0
    for start in (0.1, 3.0):
        task.reset(5)
        task.state = rng.uniform(-start, start, (4, task.episodes))
        for _ in range(20):
            before, action = task.state.copy(), rng.integers(0, 3, task.episodes)
            ended = task.move(np.asarray(single.AVAIL_TORQUE)[action])
            for i in range(task.episodes):
                single.reset()
                single.state = before[:, i].copy()
                observation, reward, goal, _, _ = single.step(int(action[i]))
                np.testing.assert_allclose(task.state[:, i], single.state, atol=1e-9)
                np.testing.assert_allclose(task.observe()[i], observation, atol=1e-6)
                assert bool(goal) == bool(ended[i]) and reward == (0.0 if goal else -1.0)
            goals += ended.sum()
    assert goals > 0  # the test has seen both kinds


def test_acrobot_holds_an_action_and_stops_paying_at_the_goal():
    task = SMALL.Acrobot(3)
    task.reset(5)
    assert task.act(np.ones(task.episodes, int))[1].tolist() == [-4.0] * task.episodes
    moves = iter([[0] * 16, [0] * 15 + [1], [0] * 16, [0] * 16])
    task.move = lambda torque: np.array(next(moves), bool)
    _, reward, ended = task.act(np.ones(task.episodes, int))
    assert reward.tolist() == [-4.0] * 15 + [-1.0] and ended.tolist() == [False] * 15 + [True]


def test_returns_to_go_are_discounted_and_dead_steps_do_not_count():
    task = SMALL.CartPole(3)
    task.episodes = 2
    alive = torch.tensor([[True, True], [True, False], [True, False]])
    seen, actions, rewards = torch.randn(3, 2, 4), torch.zeros(3, 2, dtype=torch.int64), torch.ones(3, 2)
    task.roll_out = lambda seed: (seen, actions, rewards, alive)
    loss = task.loss(1)
    # of the four steps that were lived, in the order of the mask
    to_go = torch.tensor([1 + 0.99 * 1.99, 1.0, 1.99, 1.0])
    log_p = torch.stack([task.model(seen[t, i]).log_softmax(-1)[0] for t, i in ((0, 0), (0, 1), (1, 0), (2, 0))])
    expected = -(log_p * (to_go - to_go.mean()) / (to_go.std() + 1e-6)).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6) and task.value() == -2.0  # 3 and 1 steps


def test_schedules():
    def rates(**cfg):
        cfg = parse(declared(SMALL.__file__), [f"--{key}={value}" for key, value in cfg.items()])[0]
        return [SMALL.learning_rate_at(it, 100, SMALL.SimpleNamespace(**cfg)) for it in (1, 5, 100)]

    assert rates(learning_rate=1.0) == pytest.approx([0.2, 1.0, 0.1])
    assert rates(learning_rate=1.0, schedule="linear") == pytest.approx([0.2, 1.0, 0.1])
    assert rates(learning_rate=1.0, schedule="constant") == pytest.approx([0.2, 1.0, 1.0])


# the prototype


def path_of(make):
    """Coefficients by step, and the last parameters, of a small network in float64."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 2)).double()
    x, y = torch.randn(40, 16, 5, dtype=torch.float64), torch.randn(40, 16, 2, dtype=torch.float64)
    decayed, others = [net[0].weight], [net[0].bias, *net[2].parameters()]
    optimizer, found = make([{"params": decayed, "weight_decay": 0.1}, {"params": others}]), []
    for inputs, targets in zip(x, y, strict=True):
        (net(inputs) - targets).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(list(optimizer.coefficients.values()))
    return torch.tensor(found, dtype=torch.float64), torch.cat([p.detach().flatten() for p in net.parameters()])


def test_the_prototype_is_mada_with_another_step():
    def relative(g, d, slopes, q, rate):
        step = rate * (g @ slopes / g.abs().sum()).clamp(-10, 10)
        factors = torch.arange(len(q)) == list(optim.MADA.domain).index("beta2")
        return torch.where(factors, 1 - (1 - q) * (-step).exp(), q + step)

    ours = path_of(lambda groups: optim.build("mada", groups, lr=0.02, max_grad_norm=0.5))
    theirs = path_of(lambda groups: variants.Eager(groups, 0.02, relative, max_grad_norm=0.5))
    assert (ours[0][-1] - ours[0][0]).abs().max() > 0.03  # the coefficients have moved
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_variants_of_beta2():
    def path(variant, **settings):
        build = partial(variants.build, variant, "mada", lr=0.02, max_grad_norm=0.5, **settings)
        return path_of(build)[0]

    plain = path_of(lambda groups: optim.build("mada", groups, lr=0.02, max_grad_norm=0.5))[0]
    raw = path_of(lambda groups: optim.build("mada", groups, lr=0.02, max_grad_norm=0.5, hyper_scale="raw"))[0]
    assert torch.equal(path("factor"), plain) and torch.equal(path("linear", hyper_scale="raw"), raw)
    linear = path("linear")
    step = (plain[2, 1] - plain[1, 1]) / (linear[2, 1] - linear[1, 1])  # the first one is 0
    assert step == pytest.approx(1 - 0.95, rel=0.02)  # d beta2 = -(1 - beta2) eta h to first order, against -eta h


@pytest.mark.parametrize(
    "variant, name, settings, words",
    [
        ("prodigy", "adam", {"beta1": None, "beta2": 0.9}, "'prodigy' needs beta1 and beta2, and takes no others"),
        ("schedulefree", "adam", {"beta1": 0.9, "beta2": 0.9, "grow_lr": True}, "given: beta1, beta2, grow_lr"),
        ("cosine", "mada", {"beta1": 0.9, "hyper_lr": 0.5, "mu": 1.0}, "'cosine' takes no hyper_lr, mu:"),
        ("linear", "adam", {}, "'linear' is one of MADA"),
    ],
)
def test_a_variant_refuses_settings_of_others(variant, name, settings, words):
    groups = [{"params": [torch.zeros(2, requires_grad=True)]}]
    with pytest.raises(UserError, match=words):
        variants.build(variant, name, groups, lr=0.02, max_grad_norm=0.5, **settings)


@pytest.mark.parametrize(
    "config, message", [({"n_layer": 1}, "holds a run of another script"), ({"task": "digits"}, None)]
)
def test_a_small_run_takes_the_place_of_its_own_kind_alone(tmp_path, config, message):
    metrics.Metrics(str(tmp_path / "out"), {"config": config}, 0, 1).close()
    arguments = [f"--out_dir={tmp_path / 'out'}", "--steps=1"]
    if message:
        with pytest.raises(UserError, match=message):
            SMALL.train(*parse(declared(SMALL.__file__), arguments))
    else:
        SMALL.train(*parse(declared(SMALL.__file__), arguments))
        with checkpoints.hold(str(tmp_path / "out")), pytest.raises(UserError, match="is in use by"):
            SMALL.train(*parse(declared(SMALL.__file__), arguments))


@pytest.mark.parametrize("argument", ["--steps=-5", "--seed=-1", "--seed=99999999999999999999", "--warmup=3"])
def test_a_number_that_makes_no_sense_is_refused(argument):
    with pytest.raises(UserError, match=argument[2:6]):
        parse(declared(SMALL.__file__), [argument])


# the verdict


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
    lines = contest_tables.row_lines({"digits": {key: it for key, it in values.items() if key != "MADA"}})
    assert "| Yogi | 1 | 1 |" in lines and " | - | " in lines


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


# what is kept, and what is shown


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
    write_run(tmp_path / "elsewhere", run, [1 / it for it in range(1, 101)])
    write_run(tmp_path / "elsewhere", other, [1.0, NAN], diverged=True)
    contest_runs.collect(contest, "cpu", "digits", wanted, tmp_path / "elsewhere")
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
    assert not (tmp_path / "elsewhere" / run.id / "lock").exists()  # it has only read there


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
    assert rivals.estimate("contest", "smoke", None, "digits")[:2] == (20, 20)
    assert rivals.reproduce("contest", "smoke", None, 0, draw=False, task="digits") == []
    count, missing, seconds = rivals.estimate("contest", "smoke", None, "digits")
    assert (count, missing, seconds) == (20, 0, 0)
    folder = results / "contest" / "smoke"
    page = (folder / "README.md").read_text()
    pictures = {f"{name}.png" for name in ("digits", "cells", "coefficients", "front")}
    assert {it.name for it in folder.iterdir()} == {"README.md", "summary.json", "digits.jsonl"} | pictures
    assert "MLP on scikit-learn's digits | 4 | 2 |" in page and str(results.parent) not in page
    assert json.loads((folder / "summary.json").read_text())["tasks"]["digits"]["cells"] == 4
    monkeypatch.setattr(pool, "execute", lambda *args, **kwargs: 1 / 0)
    monkeypatch.setattr(store, "WORK", results / "none")  # a clean clone
    assert rivals.reproduce("contest", "smoke", None, 0, draw=False, task="digits") == []
    assert (folder / "README.md").read_text() == page


@pytest.mark.slow
def test_the_ablation_runs_and_is_drawn(results, monkeypatch):
    few = ("AdamW", "MADA", "without beta2's time scale", "none of the three", "by the cosine")
    rows = {row: ablation.ROWS[row] for row in few}
    monkeypatch.setattr(ablation, "ROWS", rows)
    assert rivals.reproduce("ablation", "smoke", None, 0, draw=False, task=None) == []
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
    assert rivals.reproduce("replication", "smoke", None, 0, draw=True, task=None) == []
    page = (results / "replication" / "smoke" / "README.md").read_text()
    assert "The 2 cells in which MADA's mean is more than 2 % above AdamW's were run again with 12 new seeds" in page
    assert "It is again so in 1, and by more than two standard errors in 1." in page
    assert "Of these 24 pairs of runs MADA alone collapses in 12, and AdamW alone in 0." in page
    said = "MLP on scikit-learn's digits: no worse in 3 of 4 (75 %) cells, below AdamW in 2; AdamW no worse in 2; each"
    assert said in page
    assert f"| {bad} | +0.1050 ± 0.0050 (+10.5 %) | +0.0030 ± 0.0015 (+0.3 %) |  |  |" in page
    (results / "contest" / "smoke" / "digits.jsonl").unlink()  # and with it what was picked
    assert rivals.reproduce("replication", "smoke", None, 0, draw=True, task=None) == []
    assert "it has not been run at this scale" in (results / "replication" / "smoke" / "README.md").read_text()


def test_parts_of_pages_are_filled_in(tmp_path):
    page, command = tmp_path / "page.md", "python x.py"

    def around(text):
        return f"a\n<!-- b: made by `python x.py --draw` -->\n{text}\n<!-- end of b -->\nc <!-- end of d -->\n"

    page.write_text(around("old"))
    for text in ("new", "newer\n\nlines"):
        rivals.fill(page, command, {"b": text, "d": "not there"})
        assert page.read_text() == around(text)
    rivals.fill(page, "python y.py", {"b": "another's"})
    assert "newer" in page.read_text()
    page.write_text("<!-- b: made by `python x.py --draw` -->\n")
    with pytest.raises(UserError, match="no <!-- end of b -->"):
        rivals.fill(page, command, {"b": "text"})


def test_every_part_that_a_page_asks_for_is_made():
    texts = [page.read_text() for page in rivals.PAGES]
    asked = [found for text in texts for found in re.findall(r"<!-- \w+: made by `(.*?)` -->", text)]
    commands = {f"python scripts/reproduce.py {name} --scale cpu --draw" for name in rivals.NAMES}
    assert len(asked) >= 8 and {*asked} == commands
    filled = re.compile(r"<!-- (\w+): made by .*? -->\n(.*?)<!-- end of \1 -->", re.DOTALL)
    for page, text in zip(rivals.PAGES, texts, strict=True):
        for key, block in filled.findall(text):
            assert block.strip(), (page, key)


def test_bad_input_is_one_line(script):
    for words, line in (
        (("contest", "--task", "digit"), "contest has no task 'digit' at scale smoke; it has digits, factorization"),
        (("table2", "--task", "digits"), f"--task digits: only {', '.join(rivals.NAMES)} have tasks"),
        (("contest", "--scale", "paper"), "contest has no scale paper; it has smoke, cpu, gpu"),
    ):
        status, _, err = script("reproduce", *words)
        assert status == 2 and err.strip() == f"reproduce.py: {line}"
    with pytest.raises(UserError, match="no task 'x'"):
        rivals.estimate("contest", "smoke", None, "x")
