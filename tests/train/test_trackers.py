"""TensorBoard and Weights & Biases have the numbers that metrics.jsonl has.

python -m pytest -q tests/train/test_trackers.py        # a few seconds
"""

import sys

import numpy as np
import pytest
import tiny

import data.tokens
import metrics
from settings import UserError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(data.tokens, "FOLDER", tiny.write_data(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


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


def test_wandb_offline_needs_no_key(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    tiny.run(wandb_log=True, max_iters=2)
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
