"""The same settings compute the same, or NUMERICS in reproduce/runs.py is raised: old results are not taken for new.

python -m pytest tests/test_numerics.py
python tests/test_numerics.py           # after a change that is meant: raise NUMERICS, then write the record again
"""

import json
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1])]
import pytest
import tiny
from reference import problem

import data.tokens
import metrics
import optim
from reproduce import runs

GOLDEN = Path(__file__).parent / "reference" / "golden.json"
DOUBLE, SINGLE = 1e-10, 2e-3  # relative: of float64 on any machine, of float32 after a few steps on any machine
STEPS = 30
ROWS = {name: (name, {}) for name in optim.OPTIMIZERS} | {
    "mada, the paper's form": ("mada", {"hyper_scale": "raw", "debias": "powers"}),
    "mada, rule=authors": ("mada", {"rule": "authors"}),
    "mada, AMSGrad's form": ("mada", {"second_moment": "amsgrad", "rho": 0.5}),
    "mada, clipped": ("mada", {"max_grad_norm": 0.3, "hyper_momentum": 0.5}),
    "mada, from Muon's corner": ("mada", {"mu": 1.0, "learn": ("beta1", "beta2", "mu")}),
    "mada, a learned rate": ("mada", {"learn": ("beta1", "lr")}),
}


def optimizer_row(name, settings):
    """What an optimizer resolves its settings to, and its losses on the problem of sines."""
    params = problem.parameters()
    optimizer = optim.build(name, problem.decayed(params, 0.1), hidden=[params["W"], params["U"]], lr=0.02, **settings)
    losses = problem.train(optimizer, params, range(1, STEPS + 1), STEPS)
    flat = dict.fromkeys((*optim.signature(name), "beta1", "beta2", "beta3"))
    resolved = optim.resolved(name, flat | settings | {"lr": 0.02})
    resolved = {key: value for key, value in resolved.items() if isinstance(value, float | str | list | tuple)}
    return {"losses": losses, "resolved": json.loads(json.dumps(resolved))}


def training_row(name, folder):
    """The losses of train.py on the tiny data set, by iteration."""
    tiny.run(optimizer=name, out_dir=str(folder))
    records = metrics.read(folder)[1]
    return {key: [record[key] for record in records if key in record] for key in ("train_loss", "val_loss")}


@pytest.fixture
def golden():
    record = json.loads(GOLDEN.read_text())
    assert record["numerics"] == runs.NUMERICS, (
        "NUMERICS was raised: write the record again (see the head of this file)"
    )
    return record


REASON = "the same settings compute something else: raise NUMERICS in reproduce/runs.py, or fix what changed it"


@pytest.mark.parametrize("row", ROWS)
def test_an_optimizer_computes_what_it_did(row, golden):
    found, expected = optimizer_row(*ROWS[row]), golden["optimizers"][row]
    assert found["losses"] == pytest.approx(expected["losses"], rel=DOUBLE), REASON
    kept = {key: value for key, value in found["resolved"].items() if key in expected["resolved"]}
    assert kept == expected["resolved"], REASON  # a new argument may come, an old default may not change


@pytest.mark.parametrize("name", ["adam", "mada"])
def test_training_computes_what_it_did(name, golden, tmp_path, monkeypatch):
    monkeypatch.setattr(data.tokens, "FOLDER", tiny.write_data(tmp_path / "data"))
    found = training_row(name, tmp_path / "run")
    for key, values in golden["training"][name].items():
        assert found[key] == pytest.approx(values, rel=SINGLE), REASON


def write():
    with tempfile.TemporaryDirectory() as folder:
        data.tokens.FOLDER = tiny.write_data(Path(folder) / "data")
        record = {
            "numerics": runs.NUMERICS,
            "optimizers": {row: optimizer_row(*ROWS[row]) for row in ROWS},
            "training": {name: training_row(name, Path(folder) / name) for name in ("adam", "mada")},
        }
    GOLDEN.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    write()
