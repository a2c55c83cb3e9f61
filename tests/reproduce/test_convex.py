"""scripts/convex.py computes what the optimizers of optim/ compute, and resumes where it stopped.

python -m pytest -q tests/reproduce/test_convex.py        # a quarter of a minute
"""

import signal
import sys

import pytest
import tiny
import torch

import checkpoints
import metrics
import optim
from reproduce.pool import load
from settings import Finished, UserError, declared, parse

convex = load(str(tiny.ROOT / "scripts" / "convex.py"))

HYPER_LR = {"beta1": 5e-4, "beta2": 5e-4, "beta3": 1e-1, "rho": 1e-1, "c": 1e-1, "gamma": 1e-2}
STEPS = 250


def run(out_dir, **settings):
    settings = {"out_dir": str(out_dir), "steps": STEPS, "log_interval": 50, "learning_rate": 0.01} | settings
    return convex.train(*parse(declared(convex.__file__), [f"--{k}={v!r}" for k, v in settings.items()]))


def by_optim(name, schedule, **settings):
    """x and the optimizer after STEPS projected steps of an optimizer of optim/."""
    x = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = optim.build(name, [x], lr=0.01, weight_decay=0.0, beta1=0.9, beta2=0.99, eps=1e-8, **settings)
    for t in range(1, STEPS + 1):
        optimizer.param_groups[0]["lr"] = 0.01 / t**0.5 if schedule == "root" else 0.01
        x.grad = torch.full_like(x, convex.gradient(t))
        optimizer.step()
        x.data.clamp_(-1, 1)
    return x.item(), optimizer


@pytest.mark.parametrize("schedule", ["constant", "root"])
@pytest.mark.parametrize("rule", ["paper", "authors"])
def test_agrees_with_optim(tmp_path, schedule, rule):
    raw = {"hyper_scale": "raw", "debias": "powers"} if rule == "paper" else {}
    rows = {
        "mada": {"hyper_lr": HYPER_LR, **raw},
        "mada, amsgrad": {"hyper_lr": HYPER_LR, "second_moment": "amsgrad", **raw},
        "mada, momentum": {"hyper_lr": HYPER_LR, "hyper_momentum": {"rho": 0.9, "beta3": 0.5}, **raw},
    }
    if rule == "paper":
        rows |= {"mada, defaults": {"hyper_lr": 1e-2}}
        rows |= {"mada, relative and momentum": {"hyper_lr": HYPER_LR, "hyper_momentum": {"rho": 0.9, "beta2": 0.5}}}
        rows |= {"adam": {}, "avgrad": {"rho": 0.0}, "amsgrad": {"rho": 0.0, "second_moment": "amsgrad"}}
    run(tmp_path, optimizers=rows, schedule=schedule, rule=rule)
    end = metrics.read(tmp_path)[1][-1]
    for name in rows:
        settings = {}
        if "mada" in name:
            settings = rows[name] | {"rule": rule}
        x, optimizer = by_optim(name.split(",")[0], schedule, **settings)
        assert end["x"][name] == pytest.approx(x, abs=1e-9)
        for coefficient, value in getattr(optimizer, "coefficients", {}).items():
            if "mada" in name:
                assert end[coefficient][name] == pytest.approx(value, abs=1e-9)


def test_what_it_is_there_to_show(tmp_path):
    run(tmp_path, steps=30_000, log_interval=30_000, learning_rate=3e-3)
    end = metrics.read(tmp_path)[1][-1]
    assert end["x"]["Adam"] > 0.9 and end["x"]["AVGrad"] < 0 and end["x"]["AMSGrad"] < 0
    assert 0 < end["regret"]["AMSGrad"] < end["regret"]["Adam"]


def test_a_resumed_run_is_a_straight_one(tmp_path, monkeypatch):
    rows = {"mada": {"hyper_lr": HYPER_LR}}
    run(tmp_path / "a", optimizers=rows, log_interval=2)
    save = checkpoints.save
    monkeypatch.setattr(checkpoints, "save", lambda *args: (save(*args), signal.raise_signal(signal.SIGTERM)))
    assert run(tmp_path / "b", optimizers=rows, log_interval=2) is None
    monkeypatch.setattr(checkpoints, "save", save)
    run(tmp_path / "b", init_from="resume", optimizers=rows, log_interval=2)
    assert metrics.read(tmp_path / "a")[1] == metrics.read(tmp_path / "b")[1]
    assert metrics.read(tmp_path / "b")[0]["resumed_at"] == [101]  # seen after the next step
    with pytest.raises(Finished):
        run(tmp_path / "b", init_from="resume")


def test_of_an_overwritten_run_nothing_can_be_resumed(tmp_path, monkeypatch):
    run(tmp_path)
    monkeypatch.setattr(metrics.Metrics, "write", lambda *_: sys.exit("killed"))  # before the first save
    with pytest.raises(SystemExit):
        run(tmp_path, learning_rate=0.1, overwrite=True)
    with pytest.raises(UserError, match="there is no .*ckpt_last.pt"):
        run(tmp_path, learning_rate=0.1, init_from="resume")


def test_a_folder_is_one_process_s(tmp_path):
    with checkpoints.hold(str(tmp_path)), pytest.raises(UserError, match="is in use by process"):
        run(tmp_path)


@pytest.mark.parametrize(
    "row",
    [
        {"roh": 1.0},
        {"hyper_lr": {"betas": 1}},
        {"second_moment": "adagrad"},
        {"beta2": 0.999, "hyper_lr": {"beta2": 1e-4}, "hyper_scale": "raw"},
        {"debias": "half"},
        {"beta1": "a"},
        {"hyper_lr": None},
        {"rule": []},
        {"learning_rate": "x"},
        3,
    ],
)
def test_settings_are_checked(tmp_path, row):
    with pytest.raises(UserError, match="optimizers"):
        run(tmp_path, optimizers={"x": row})


def test_no_optimizer_is_one_line(tmp_path):
    with pytest.raises(UserError, match="at least one"):
        run(tmp_path, optimizers={})
