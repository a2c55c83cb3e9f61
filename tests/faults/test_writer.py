"""Checkpoints that are written while training goes on: the same files, the same errors, and never another state's.

python -m pytest -q tests/faults/test_writer.py        # a quarter of a minute
"""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import tiny
import torch

import checkpoints
import metrics
import train
from settings import Finished, UserError

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def steps(monkeypatch):
    """The steps that training has come to, as they are taken."""
    rate, taken = train.learning_rate_at, []
    monkeypatch.setattr(train, "learning_rate_at", lambda it, cfg: (taken.append(it), rate(it, cfg))[1])
    return taken


def test_training_goes_on_meanwhile_and_what_is_written_is_the_state_of_then(monkeypatch, steps):
    tiny.run(out_dir="straight", eval_interval=4)
    save, waited, seen = checkpoints.save, [], []

    def slow(state, out_dir, best):
        at, taken = state["iter"], steps
        waiting = threading.Event()
        for _ in range(2000):  # until training is three steps further on, where there are any
            if taken[-1] >= min(at + 3, 8):
                break
            waiting.wait(0.01)
        waited.append((at, taken[-1]))
        seen.append(os.path.exists(f"{out_dir}/train.lock"))  # nobody else may come in
        save(state, out_dir, best)

    monkeypatch.setattr(checkpoints, "save", slow)
    del steps[:]
    tiny.run(out_dir="out", eval_interval=4)
    assert waited[0][0] == 4 and waited[0][1] >= 7 and seen == [True, True]
    for name in ("ckpt_prev.pt", "ckpt_last.pt", "ckpt_best.pt"):
        found = [torch.load(f"{each}/{name}") for each in ("straight", "out")]
        assert all(tiny.same(found[0][key], found[1][key]) for key in ("model", "optimizer", "iter", "best_val_loss"))


def failing(monkeypatch, at):
    save = checkpoints.save

    def full(state, out_dir, best):
        if state["iter"] == at:
            with checkpoints.writing(out_dir):
                raise OSError(28, "No space left on device")
        save(state, out_dir, best)

    monkeypatch.setattr(checkpoints, "save", full)


@pytest.mark.parametrize("at", [4, 8])
def test_a_failure_ends_the_run_as_it_would_have_at_once(monkeypatch, steps, at):
    failing(monkeypatch, at)
    with pytest.raises(UserError, match="^out_dir='out' cannot be written: No space left on device$"):
        tiny.run(max_iters=8 if at == 8 else 1000, eval_interval=4)
    assert steps[-1] <= 8 and not os.path.exists("out/train.lock")
    assert not os.path.exists("out/ckpt_last.pt") if at == 4 else torch.load("out/ckpt_last.pt")["iter"] == 4


def test_an_error_of_the_runs_own_stays_the_last_word_and_the_writers_is_said(capsys, monkeypatch):
    writing = threading.Event()

    def full(state, out_dir, best):
        writing.wait(10)
        raise UserError("the disk is full")

    monkeypatch.setattr(checkpoints, "save", full)
    with pytest.raises(UserError, match="^its own$"), checkpoints.Writer(print) as writer:
        writer.save({}, "out")
        writer.check()  # does not wait
        writing.set()
        raise UserError("its own")
    assert "the disk is full" in capsys.readouterr().out


def test_a_run_that_diverges_names_a_checkpoint_that_is_there(monkeypatch):
    failing(monkeypatch, 4)
    monkeypatch.setattr(checkpoints.Writer, "check", lambda self: None)
    monkeypatch.setattr(train, "learning_rate_at", lambda it, cfg: 1e-3 if it < 5 else 1e30)
    with pytest.raises(UserError, match="No space left"):  # and not: the last good one is of step 4
        tiny.run(eval_interval=4, optimizer="sgd", max_bad_steps=1)


KILLED = """
import os, sys
sys.path[:0] = {paths!r}
import tiny, checkpoints, data.tokens
data.tokens.FOLDER = {folder!r}
tiny.run(out_dir="warm")  # what is imported and compiled here, a child need not
for n in range(1, 40, 2):  # every other operation: the soak's kills come at any
    pid = os.fork()
    if not pid:
        left = [n]
        def counted(call):
            def run(*args):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), 9)
                return call(*args)
            return run
        for name in ("fsync", "replace", "link", "remove"):
            setattr(os, name, counted(getattr(os, name)))
        def noted(state, out_dir, *args, save=checkpoints.save):
            save(state, out_dir, *args)
            with open(f"{{out_dir}}.done", "w") as file:
                file.write(str(state["iter"]))
        checkpoints.save = noted
        tiny.run(out_dir=f"kill{{n}}", eval_interval=2)
        os._exit(0)
    if os.waitpid(pid, 0)[1] == 0:
        break
"""


@pytest.mark.slow
def test_a_run_that_is_killed_at_any_moment_of_a_write_goes_on_to_the_same_end(folder):
    tiny.run(out_dir="straight", eval_interval=2)
    paths = [str(tiny.ROOT / "tests"), str(tiny.ROOT)]
    subprocess.run([sys.executable, "-c", KILLED.format(paths=paths, folder=str(folder))], check=True)
    killed = sorted(name for name in os.listdir() if name.startswith("kill") and not name.endswith(".done"))
    assert len(killed) > 12
    straight, resumed = torch.load("straight/ckpt_last.pt"), 0
    for out_dir in killed:
        done, ended = Path(f"{out_dir}.done"), False
        try:
            tiny.run(out_dir=out_dir, eval_interval=2, init_from="auto")
        except Finished:
            ended = True
        end = torch.load(f"{out_dir}/ckpt_last.pt")
        assert all(tiny.same(end[key], straight[key]) for key in ("model", "optimizer", "iter", "best_val_loss"))
        best = torch.load(f"{out_dir}/ckpt_best.pt")["best_val_loss"]
        assert best == straight["best_val_loss"] and not any(name.endswith(".part") for name in os.listdir(out_dir))
        begun = metrics.read(out_dir)[0].get("resumed_at", [0])
        assert ended or begun[-1] >= (int(done.read_text()) if done.exists() else 0)  # what was saved is not lost
        resumed += begun != [0]
    assert resumed > 7
