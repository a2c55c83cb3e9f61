"""runs.py and workers.py: many runs, each once, whatever is killed meanwhile. They are of a toy that takes half a second.

python -m pytest -q tests/reproduce/test_runs.py
"""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import tiny

import metrics
import runs
import workers
from runs import Board
from settings import UserError

TOY = """
import contextlib, hashlib, json, os, signal, sys, time
sys.path.insert(0, {root!r})
import settings, metrics

# -- folder [once, free]
out_dir = "out"  # folder
# -- computation
init_from = "scratch"  # or "resume"
seed = 1  # of what it computes
pause = 0.005  # seconds per step
trouble = ""  # what is to happen at step 50, instead of going on
nothing: int | None = None  # no part of the id, where it is None
# -- machine [free]
wandb_log = False  # no part of the id
# -- end of settings


def train(cfg, given):
    path, it, value, stop = os.path.join(cfg["out_dir"], "ckpt_last.pt"), 0, str(cfg["seed"]), []
    if cfg["init_from"] == "resume":
        it, value = json.load(open(path))
        if it == 100:
            raise settings.Finished("there is nothing left")
    handlers = {{name: signal.signal(name, lambda *_: stop.append(1)) for name in (signal.SIGTERM, signal.SIGINT)}}
    log = metrics.Metrics(cfg["out_dir"], dict(config=cfg), it, 100)
    try:
        while it < 100:
            it, value = it + 1, hashlib.sha256(value.encode()).hexdigest()
            time.sleep(cfg["pause"])
            log.write(dict(iter=it, value=value))
            if it == 50 and cfg["trouble"]:
                exec(cfg["trouble"])
            if it % 20 == 0 or stop:
                with open(path + ".part", "w") as file:
                    json.dump([it, value], file)
                os.replace(path + ".part", path)
            if stop:
                return None
    finally:
        log.close()
        for name, handler in handlers.items():
            signal.signal(name, handler)
    return float('inf' if cfg['seed'] < 0 else 1)
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A function: settings -> Run of the toy script."""
    path = tmp_path / "toy_script.py"
    path.write_text(TOY.format(root=str(tiny.ROOT)))
    monkeypatch.delitem(sys.modules, "toy_script", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return lambda **settings: runs.run(str(path), **settings)


def execute(folder, some, **options):
    return workers.execute(some, str(folder), **{"workers": 0, "progress": lambda states: None} | options)


def start(folder, some, count=2):
    """execute() in a process of its own."""
    given = [(run.script, run.given) for run in some]
    code = (
        f"import sys; sys.path.insert(0, {str(tiny.ROOT)!r}); import settings, runs, workers\n"
        f"with settings.one_line_errors('many'):\n"
        f"    workers.execute([runs.Run(*it) for it in {given!r}], {str(folder)!r}, workers={count})"
    )
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


def attempts(folder):
    """The content of all attempts so far."""
    return [json.loads(path.read_text() or "{}") for path in sorted(folder.glob("*/attempt.*.json"))]


def running(folder):
    return [it["pid"] for it in attempts(folder) if it.get("state") == "running" and runs.alive(it["pid"])]


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return result


def steps(folder, run):
    path = folder / run.id / metrics.FILE
    return path.read_text().count("\n") - 1 if path.exists() else 0


def values(folder, some):
    return [metrics.read(folder / run.id)[1] for run in some]


@pytest.fixture
def some(toy):
    return [toy(seed=seed) for seed in range(4)]


@pytest.fixture
def undisturbed(toy, tmp_path):
    """The records of `some`."""
    quick = [toy(seed=seed, pause=0.0) for seed in range(4)]
    execute(tmp_path / "undisturbed", quick)
    return values(tmp_path / "undisturbed", quick)


# ids


def test_an_id_is_that_of_the_resolved_settings(toy, tmp_path):
    assert toy(seed=1, wandb_log=True, out_dir="elsewhere").id == toy().id == toy(seed=1, nothing=None).id
    assert len({toy().id, toy(seed=2).id, toy(nothing=2).id, toy(pause=1).id}) == 4
    assert toy(pause=1).id == toy(pause=1.0).id == runs.run(str(tmp_path / "toy_script.py"), "--pause=1").id
    assert toy(seed=3).id == "10771df24f26"  # in other processes, on other days
    with pytest.raises(UserError, match="no setting 'sead'; the nearest is 'seed'"):
        toy(sead=1)


# states


def test_the_same_call_again_does_nothing_and_a_longer_list_only_what_is_missing(toy, tmp_path):
    some = [toy(seed=seed, pause=0.0) for seed in (1, 2, 1)]
    states = execute(tmp_path / "out", some)
    assert {state["state"] for state in states.values()} == {"done"} and len(states) == 2  # a run given twice is one
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*")}
    assert execute(tmp_path / "out", some) == states
    execute(tmp_path / "out", [*some, toy(seed=3, pause=0.0)], keep_checkpoints=False)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*")}
    assert before.items() < after.items()
    assert sorted(path.name for path in after.keys() - before.keys()) == ["attempt.1.json", "log.txt", metrics.FILE]


def test_shards_are_a_partition(toy, tmp_path):
    some = [toy(seed=seed, pause=0.0) for seed in range(7)]
    shards = [set(execute(tmp_path / "out", some, shard=(i, 3))) for i in (1, 2, 3)]
    assert [len(shard) for shard in shards] == [3, 2, 2] and set.union(*shards) == {run.id for run in some}


def test_a_failed_run_has_its_error_and_is_done_again_only_on_demand(toy, tmp_path):
    some = [toy(trouble=trouble) for trouble in ("raise OSError('no such luck')", "raise settings.UserError('bad x')")]
    first, second = execute(tmp_path / "out", some).values()
    assert first["state"] == "failed" and first["error"].startswith("Traceback") and "no such luck" in first["error"]
    assert (second["state"], second["error"]) == ("failed", "bad x")
    assert [state["attempt"] for state in execute(tmp_path / "out", some).values()] == [1, 1]
    assert [state["attempt"] for state in execute(tmp_path / "out", some, retry_failed=True).values()] == [2, 2]
    assert steps(tmp_path / "out", some[0]) == 50 and len(attempts(tmp_path / "out")) == 4


def test_a_run_that_diverges_is_done(toy, tmp_path):
    some = [toy(pause=0.0, trouble="raise settings.Diverged('not finite')"), toy(seed=-1), toy(seed=1)]
    states = execute(tmp_path / "out", some).values()
    assert [(state["state"], state["diverged"]) for state in states] == [
        ("done", True),
        ("done", True),
        ("done", False),
    ]


def test_a_run_that_kills_its_workers_fails(toy, tmp_path):
    run = toy(pause=0.0, trouble="os.kill(os.getpid(), signal.SIGKILL)")
    state = execute(tmp_path / "out", [run], workers=1)[run.id]
    assert state["state"] == "failed" and "5 workers died here" in state["error"] and state["attempt"] <= 8


def test_a_worker_elsewhere_lives_as_long_as_its_heart_beats(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "DEAD", 0.3)
    run, board, path = toy(), Board(tmp_path), tmp_path / toy().id / "attempt.1.json"
    path.parent.mkdir()
    for text in ('{"state": "running", "host": "elsewhere", "pid": 1, "where": null}', ""):
        path.write_text(text)
        for _ in range(5):
            os.utime(path)
            assert board.look(run)["state"] == "running"
            time.sleep(0.1)
        time.sleep(0.3)
        assert board.look(run)["state"] == "pending"


def test_a_worker_that_lost_its_run_ends_at_once(toy, tmp_path):
    run = toy(seed=5, pause=0.1)
    code = (
        f"import sys; sys.path.insert(0, {str(tiny.ROOT)!r}); import runs, workers; workers.BEAT = 0.05\n"
        f"workers.execute([runs.Run({run.script!r}, {run.given!r})], {str(tmp_path / 'out')!r}, workers=0)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    until(lambda: steps(tmp_path / "out", run) > 2)
    assert Board(tmp_path / "out").claim(run, 2)
    assert process.wait(timeout=10) == workers.FRESH


def test_only_one_claim_succeeds(toy, tmp_path):
    boards = [Board(tmp_path) for _ in range(20)]
    assert sum(board.claim(toy(), 1) for board in boards) == 1
    assert sum(board.claim(toy(), 2) for board in boards) == 1


# whatever is killed


def test_killed_workers_are_replaced(some, undisturbed, tmp_path):
    process = start(tmp_path / "out", some)
    for pid in until(lambda: len(running(tmp_path / "out")) == 2 and running(tmp_path / "out")):  # all of them
        os.kill(pid, signal.SIGKILL)
    until(lambda: max(steps(tmp_path / "out", run) for run in some) > 30)
    os.kill(until(lambda: running(tmp_path / "out"))[0], signal.SIGKILL)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 0 and "4 of 4 runs done" in error and "Traceback" not in error, error
    assert values(tmp_path / "out", some) == undisturbed


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT", "all"])
def test_an_invocation_that_is_killed_is_gone_on_with(some, undisturbed, tmp_path, name):
    process = start(tmp_path / "out", some)
    until(lambda: max(steps(tmp_path / "out", run) for run in some) > 30)
    pids = running(tmp_path / "out")
    if name == "all":  # as when the power goes: nobody sees another die
        process.send_signal(signal.SIGSTOP)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    process.send_signal(getattr(signal, name.replace("all", "SIGKILL")))
    error = process.communicate(timeout=30)[1]
    if name in ("SIGTERM", "SIGINT"):
        assert process.returncode == 2 and error.splitlines()[-1].startswith("many: stopped with "), error
        assert "Traceback" not in error
    until(lambda: not any(map(runs.alive, pids)), 10)  # without their invocation they end by themselves
    before = [steps(tmp_path / "out", run) for run in some]
    assert 30 < max(before) < 100 and "done" not in [it["state"] for it in attempts(tmp_path / "out")]
    execute(tmp_path / "out", some)
    assert values(tmp_path / "out", some) == undisturbed
    resumed = [metrics.read(tmp_path / "out" / run.id)[0].get("resumed_at") for run in some]
    assert all(
        it == ([step] if name != "all" else [20]) or step < 20 and name == "all" or not step
        for it, step in zip(resumed, before, strict=True)
    ), (resumed, before)


def test_ctrl_c_without_workers(toy, tmp_path, undisturbed):
    run = toy(seed=0, trouble="cfg['init_from'] == 'resume' or signal.raise_signal(signal.SIGINT)")
    with pytest.raises(workers.Stopped, match="^stopped with 1 runs left; the same command goes on"):
        execute(tmp_path / "out", [run])
    assert [it["state"] for it in attempts(tmp_path / "out")] == ["stopped"] and steps(tmp_path / "out", run) == 50
    execute(tmp_path / "out", [run])
    assert values(tmp_path / "out", [run]) == undisturbed[:1]


def test_two_invocations_share_the_work(some, undisturbed, tmp_path):
    both = [start(tmp_path / "out", some, 1) for _ in range(2)]
    for process in both:
        error = process.communicate(timeout=60)[1]
        assert process.returncode == 0 and "4 of 4 runs done" in error, error
    assert [it["state"] for it in attempts(tmp_path / "out")] == ["done"] * 4
    assert len({it["pid"] for it in attempts(tmp_path / "out")}) == 2
    assert values(tmp_path / "out", some) == undisturbed


# a full disk


@pytest.mark.parametrize("place", ["ckpt_last.pt.part", "attempt.1.json.part"])
def test_a_full_disk_loses_nothing(some, undisturbed, tmp_path, place):
    """/dev/full stands for it, in one of the files: workers report it, and later all goes on."""
    for run in some:
        (tmp_path / "out" / run.id).mkdir(parents=True)
        (tmp_path / "out" / run.id / place).symlink_to("/dev/full")
    process = start(tmp_path / "out", some)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 2 and "Traceback" not in error, error
    assert error.splitlines()[-1].startswith(
        f"many: {tmp_path / 'out'} cannot be written: is the disk full? 4 runs are "
    )
    for run in some:
        (tmp_path / "out" / run.id / place).unlink(missing_ok=True)
    assert {Board(tmp_path / "out").look(run)["state"] for run in some} == {"pending"}
    execute(tmp_path / "out", some)
    assert values(tmp_path / "out", some) == undisturbed


def test_a_disk_too_full_for_a_claim(some, undisturbed, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        monkeypatch.context() as patch,
        pytest.raises(workers.CannotWrite, match="out cannot be written: .*No space left"),
    ):
        patch.setattr(json, "dump", full)
        execute(tmp_path / "out", some)
    assert attempts(tmp_path / "out") == []
    execute(tmp_path / "out", some)
    assert values(tmp_path / "out", some) == undisturbed
