"""TensorBoard and Weights & Biases have the numbers that metrics.jsonl has.

python -m pytest -q tests/train/test_trackers.py        # a few seconds
"""

import os
import sys

import numpy as np
import pytest
import tiny

import metrics
from settings import UserError

pytestmark = pytest.mark.usefixtures("folder")


def scalars(out_dir):
    """{name: [(step, value)]} as TensorBoard reads its event files."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(out_dir).Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_tensorboard_has_the_numbers_of_the_record(tmp_path, monkeypatch):
    tiny.run(tensorboard_log=True, max_iters=4)
    tiny.run(tensorboard_log=True, max_iters=6, init_from="resume")
    tiny.run(max_iters=4, out_dir="without")
    assert not list(tmp_path.glob("without/events*"))
    records = metrics.read("out")[1]
    found = scalars("out")
    for name, value in (
        ("val_loss", lambda record: record.get("val_loss")),
        ("lr", lambda record: record.get("lr")),
        ("coefficients/beta1", lambda record: record.get("coefficients", {}).get("beta1")),
    ):
        expected = [(record["iter"], value(record)) for record in records if value(record) is not None]
        assert [step for step, _ in found[name]] == [step for step, _ in expected]
        assert np.allclose([x for _, x in found[name]], [x for _, x in expected], rtol=1e-6)
    assert "iter" not in found and "hyper_gradients/rho" in found

    tiny.run(tensorboard_log=True, max_iters=2, overwrite=True)
    assert [step for step, _ in scalars("out")["train_loss"]] == [1, 2]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="tensorboard is not installed; pip install tensorboard"):
        tiny.run(tensorboard_log=True, out_dir="none")
    assert not os.path.exists("none")


@pytest.mark.parametrize("name, module", [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_a_tracker_that_is_not_there_costs_the_run_that_was_to_be_overwritten_nothing(
    tmp_path, monkeypatch, name, module
):
    tiny.run(max_iters=4)
    before = {path: path.read_bytes() for path in tmp_path.glob("out/*")}
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"{name}_log=True: {name} is not installed"):
        tiny.run(overwrite=True, max_iters=2, **{f"{name}_log": True})
    assert {path: path.read_bytes() for path in tmp_path.glob("out/*")} == before


def test_a_tracker_that_fails_is_told_no_more_and_the_run_goes_on(monkeypatch, capsys):
    writer = pytest.importorskip("torch.utils.tensorboard").SummaryWriter

    def add_scalar(self, name, value, step):
        if step == 2:
            raise OSError("File too large")

    monkeypatch.setattr(writer, "add_scalar", add_scalar)
    tiny.run(tensorboard_log=True, max_iters=4)
    assert metrics.read("out")[1][-1]["iter"] == 4 and os.path.exists("out/ckpt_last.pt")
    assert capsys.readouterr().out.count("tensorboard failed and was turned off; the run continues") == 1


def test_wandb_offline_needs_no_key(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    tiny.run(wandb_log=True, max_iters=2)
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
