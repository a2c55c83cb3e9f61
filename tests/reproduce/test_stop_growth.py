"""scripts/stop_growth.py ends growth when its sign says so, and changes nothing else.

python -m pytest -q tests/reproduce/test_stop_growth.py        # seconds
"""

import math
from types import SimpleNamespace

import pytest
import tiny
import torch
from torch import nn

from optim import MADA
from reproduce.contest import START, Cell
from reproduce.pool import load

stop_growth = load(str(tiny.ROOT / "scripts" / "stop_growth.py"))
ROW = "MADA, growing rate"


def trained(stop, steps=60):
    """A linear model at a rate that is far too small. Returns its weight and the factor on the rate, step by step."""
    torch.manual_seed(0)
    model, x = nn.Linear(4, 1).double(), torch.randn(32, 4).double()
    optimizer = MADA(model.parameters(), lr=1e-5, grow_lr=True)
    factors = []
    with stop_growth.watching(stop):
        for _ in range(steps):
            optimizer.zero_grad()
            (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
            optimizer.step()
            factors.append(optimizer.coefficients["lr"])
    return model.weight.detach(), factors


@pytest.mark.parametrize("watched", ["loss", "norm"])
def test_growth_ends_for_good_at_the_first_rise(watched):
    """Here both fall all the time: a mean that may rise by a factor below 1 is above that at once."""
    stop = stop_growth.Stop(watched, 0.5)
    _, factors = trained(stop)
    assert stop.at == stop_growth.WINDOW
    assert factors[-1] == factors[stop.at - 1] and factors[stop.at - 1] > factors[2] > 1


@pytest.mark.parametrize("watched", ["loss", "norm"])
def test_a_sign_that_does_not_come_changes_nothing(watched):
    weight, factors = trained(None)
    stop = stop_growth.Stop(watched, 1e9)
    watched_weight, same = trained(stop)
    assert stop.at is None and same == factors and torch.equal(watched_weight, weight) and factors[-1] > factors[20]


def test_a_mean_of_ten_is_compared_with_its_lowest():
    stop = stop_growth.Stop("loss", 1.5)
    group = {"hyper_lr": torch.ones(2)}
    optimizer = type("Some", (), {"domain": ("beta1", "lr"), "param_groups": [group]})()
    for loss in [9.0] * 10 + [1.0] * 10 + [1.9] * 5:  # means 9, ..., 1, ..., 1.45
        stop.loss = loss
        stop(optimizer, (), {})
    assert stop.at is None and group["hyper_lr"].tolist() == [1, 1]
    stop(optimizer, (), {})
    assert stop.at == 26 and group["hyper_lr"].tolist() == [1, 0]


def test_a_policy_gradient_has_no_loss_to_watch():
    every, some = stop_growth.forms_of("digits"), stop_growth.forms_of("acrobot")
    assert every == list(stop_growth.FORMS) and some == [form for form in every if "loss" not in form]
    assert stop_growth.forms_of("openwebtext") == [stop_growth.HELPED]
    runs = stop_growth.wanted(("digits",), 1)
    assert len(runs) == 2 * (4 * (len(every) - 1) + 2)
    for (_, _, form, *_), run in runs.items():
        assert ("without clipping" in form) == (run.cfg["grad_clip"] == 0)
        assert ("not growing" in form) == (not run.cfg["grow_lr"])


def test_a_run_is_measured_in_a_folder_of_its_own(tmp_path):
    key, run = next(iter(stop_growth.wanted(("digits",), 1).items()))
    found = stop_growth.measure(key, run.but(steps=30))
    assert stop_growth.key_of(found) == key and math.isfinite(found["value"]) and found["factor"] > 1


def test_a_run_that_is_stopped_is_no_result(monkeypatch):
    """train.py takes a SIGTERM for itself, saves, and returns None."""
    key, run = next(iter(stop_growth.wanted(("digits",), 1).items()))
    monkeypatch.setattr(stop_growth, "load", lambda script: SimpleNamespace(train=lambda cfg: None))
    with pytest.raises(SystemExit) as stopped:
        stop_growth.measure(key, run)
    assert stopped.value.code == 75


def test_costs_by_hand():
    rates = stop_growth.growth.TASKS["digits"].rates
    plain = {"MADA": {Cell(rate, START): {1: 0.5, 2: 1.0} for rate in rates}, ROW: {}}
    form = "stops once the norm rises by half"
    common = {"task": "digits", "row": ROW, "form": form, "rate": rates[0]}
    found = [
        common | {"seed": 1, "value": 0.75, "stopped_at": 9},
        common | {"seed": 2, "value": 1.25, "stopped_at": None},
    ]
    lines = stop_growth.table("digits", ROW, found, plain).splitlines()
    assert f"| {form} | +33.3 % ± 0.0, too much | - | - | - | 1 of 2 |" in lines
    assert len(lines) == 3  # the head, and the form that has runs


def test_the_page_is_made_from_the_runs():
    folder = tiny.ROOT / "results" / "stop_growth"
    assert (folder / "README.md").read_text() == stop_growth.page(*stop_growth.read_to_draw(folder / "runs.jsonl"))


def test_what_is_wrong_is_one_line(script, tmp_path):
    for words, message in (
        (("--draw", "--out", tmp_path / "nowhere"), "run without it first"),
        (("--seeds", "0"), "--seeds 0: must be at least 1"),
    ):
        status, _, said = script("stop_growth", *words)
        assert status == 2 and said.count("\n") == 1 and message in said
