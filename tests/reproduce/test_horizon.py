"""scripts/horizon.py continues the same run in several ways, from copies that do not disturb each other.

python -m pytest -q tests/reproduce/test_horizon.py        # seconds
"""

from types import SimpleNamespace

import pytest
import tiny
import torch

import data.tokens
from reproduce.pool import load
from settings import declared, parse

horizon = load(str(tiny.ROOT / "scripts" / "horizon.py"))
POINT, END = 3, tiny.SETTINGS["max_iters"]


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """The script's run is a tiny one, with what config() asks for beside its sizes."""
    monkeypatch.setattr(data.tokens, "FOLDER", tiny.write_data(tmp_path))
    asked = vars(horizon.config(1337))
    given = {name: asked[name] for name in ("optimizer", "learn", "hyper_lr", "beta1", "beta2")}
    settings = parse(declared(tiny.train.__file__), tiny.arguments(**given))[0]
    monkeypatch.setattr(horizon, "config", lambda seed: SimpleNamespace(**settings | {"seed": seed}))
    monkeypatch.setattr(horizon, "WINDOWS", 60)
    monkeypatch.setattr(horizon, "POINTS", (POINT,))
    monkeypatch.setattr(horizon, "HORIZONS", (1, None))


def measured(known=()):
    return [it for part in horizon.measure(1, (POINT,), (1, None), {*known}) for it in part]


def test_copies_go_on_as_the_run_would():
    found = {(it["way"], it["value"], it["steps"]): it["val_loss"] for it in measured()}
    straight = horizon.Course(horizon.config(1))
    straight.advance(POINT + 1)
    assert found["mu", 0.0, 1] == found["beta1", 0.9, 1] == found["rate", 1.0, 1] == round(straight.loss(), 6)
    straight.advance(END - POINT - 1)
    unchanged = [found[way, value, END - POINT] for way, value in (("mu", 0.0), ("beta1", 0.9), ("rate", 1.0))]
    assert unchanged == [round(straight.loss(), 6)] * 3
    assert len(set(found.values())) == len(found) - 4  # every other way ends elsewhere


def test_the_run_that_is_copied_is_one_of_train_py(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.train.train(vars(horizon.config(1)) | {"out_dir": "out"})
    straight = horizon.Course(horizon.config(1))
    straight.advance(END)
    saved = torch.load("out/ckpt_last.pt", weights_only=True)["model"]
    torch.testing.assert_close(dict(straight.model.state_dict()), dict(saved), rtol=1e-6, atol=1e-7)


def test_what_is_known_is_not_measured_again():
    """And what is missing comes out as it would have together with the rest."""
    whole, rest = measured(), measured({(1, "mu", POINT), (1, "rate", POINT)})
    assert rest == [it for it in whole if it["way"] == "beta1"]
    assert measured({(1, way, POINT) for way in horizon.WAYS}) == []


@pytest.mark.parametrize("coefficient, value", [("mu", 1.0), ("beta1", 0.6)])
def test_a_moved_coefficient_counts_in_what_follows(coefficient, value):
    """Moved before the first step, it is the same as if the optimizer had started there."""
    usual = vars(horizon.config(1))
    late, early = (horizon.Course(SimpleNamespace(**usual | start)) for start in ({}, {coefficient: value}))
    late.move(coefficient, value)
    for course in (late, early):
        course.advance(4)
    assert late.loss() == early.loss()


def test_the_page_has_the_gains():
    common, found = {"from": 3, "steps": 1}, []
    for seed in (1, 2):
        for way, best in (("mu", 0.5), ("rate", 2.0)):
            for value in horizon.WAYS[way]:
                loss = 2.0 - (value == best) * 0.1 * seed
                found.append(common | {"seed": seed, "way": way, "value": value, "val_loss": loss})
    page = horizon.page(found, {"command": "python x", "device": "a CPU", "torch": "2", "git": "0" * 40})
    assert "| 1 | +0.0000 | +0.0000 | **+0.1500** | +0.0000 | +0.0000 |" in page
    assert "| 1 | +0.0000 | +0.0000 | +0.0000 | **+0.1500** | +0.0000 |" in page


def test_what_is_wrong_is_one_line(script, tmp_path):
    status, _, said = script("horizon", "--draw", "--out", tmp_path / "nowhere")
    assert status == 2 and said.count("\n") == 1 and "run without it first" in said
    (tmp_path / "horizon.jsonl").write_text("{}\n")
    status, _, said = script("horizon", "--draw", "--out", tmp_path)
    assert status == 2 and said.count("\n") == 1 and "there is no run in" in said
    status, _, said = script("horizon", "--seeds", "0")
    assert status == 2 and "--seeds 0: must be at least 1" in said
