"""The contest's small tasks are what they claim: environments, schedules, and variants of MADA by hand.

python -m pytest -q tests/reproduce/test_small_tasks.py        # seconds
"""

from functools import partial

import gymnasium
import numpy as np
import pytest
import torch

import checkpoints
import metrics
import optim
from reproduce import ROOT, pool, variants
from settings import UserError, declared, parse

SMALL = pool.load(str(ROOT / "scripts" / "train_small.py"))


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


def test_variants_clip_and_mark_hidden_matrices_as_build_does():
    p = torch.ones(3, 3, dtype=torch.float64, requires_grad=True)
    eager = variants.build("cosine", "mada", [{"params": [p], "weight_decay": 0.0}], lr=0.1, max_grad_norm=0.0)
    p.grad = torch.ones_like(p)
    eager.step()
    assert (p < 1).all()  # 0 is no clipping
    linear = variants.build("linear", "mada", [{"params": [p]}], hidden=(p,), lr=0.1, max_grad_norm=1.0, mu=1.0)
    assert [group["muon"] for group in linear.param_groups] == [True]


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
