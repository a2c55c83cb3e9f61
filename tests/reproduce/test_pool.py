"""reproduce/pool.py: many runs, each once, whatever is killed. They are of a toy script and take half a second each.

python -m pytest -q tests/reproduce/test_pool.py
"""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
from filelock import FileLock

import data.tokens
import metrics
from reproduce import pool, runs
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
def toy(tmp_path):
    """A function: settings -> Run of the toy script."""
    path = tmp_path / "toy_script.py"
    path.write_text(TOY.format(root=str(tiny.ROOT)))
    return lambda **settings: runs.run(str(path), **settings)


def execute(folder, some, **options):
    return pool.execute(some, str(folder), **{"workers": 0} | options)


def start(folder, some, count=2):
    """execute() in a process of its own."""
    given = [(run.script, run.given) for run in some]
    code = (
        f"import sys; sys.path.insert(0, {str(tiny.ROOT)!r})\n"
        "import settings; from reproduce import pool, runs\n"
        f"with settings.one_line_errors('many'):\n"
        f"    pool.execute([runs.Run(*it) for it in {given!r}], {str(folder)!r}, workers={count})"
    )
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


def states(folder):
    """{id: what state.json says} of all runs that have been begun."""
    return {path.parent.name: json.loads(path.read_text()) for path in Path(folder).glob("*/state.json")}


def alive(pid):
    return os.path.exists(f"/proc/{pid}") and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def running(folder):
    return [it["pid"] for it in states(folder).values() if it["state"] == "running" and alive(it["pid"])]


def until(condition, seconds=180):
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
def undisturbed():
    """The records of `some`, by hand."""

    def chain(value):
        for it in range(1, 101):
            value = hashlib.sha256(value.encode()).hexdigest()
            yield {"iter": it, "value": value}

    return [list(chain(str(seed))) for seed in range(4)]


# ids


def test_an_id_is_that_of_the_resolved_settings(toy, tmp_path):
    assert toy(seed=1, wandb_log=True, out_dir="elsewhere").id == toy().id == toy(seed=1, nothing=None).id
    assert len({toy().id, toy(seed=2).id, toy(nothing=2).id, toy(pause=1).id}) == 4
    assert toy(pause=1).id == toy(pause=1.0).id == runs.run(str(tmp_path / "toy_script.py"), "--pause=1").id
    assert toy(seed=3).id == toy(seed=4, pause=1).but(seed=3, pause=0.005).id
    assert toy(seed=3).id == "10771df24f26"  # in other processes, on other days
    for wrong in (toy, toy().but):
        with pytest.raises(UserError, match="no setting 'sead'; the nearest is 'seed'"):
            wrong(sead=1)


def test_an_id_is_that_of_the_prepared_data(monkeypatch, tmp_path):
    """The same source in other tokens is other data; what results/ was made with has one id, prepared or not."""
    monkeypatch.setattr(data.tokens, "FOLDER", tmp_path)
    known = json.loads((tiny.ROOT / "results" / "data.json").read_text())["openwebtext_bytes"]

    def run(dataset):
        return runs.run("train.py", dataset=dataset).id

    def prepared(dataset, sha256):
        (tmp_path / dataset).mkdir(exist_ok=True)
        meta = {"source_sha256": known["id"], "sha256": sha256}
        (tmp_path / dataset / "meta.json").write_text(json.dumps(meta))
        return run(dataset)

    before = run("openwebtext_bytes")
    assert prepared("openwebtext_bytes", known["sha256"]) == before
    assert prepared("openwebtext_bytes", {"train": "fewer"}) != before
    assert prepared("my", {"train": "chars"}) != prepared("my", {"train": "bytes"})


# states


def test_the_same_call_again_does_nothing_and_a_longer_list_only_what_is_missing(toy, tmp_path):
    some = [toy(seed=seed, pause=0.0) for seed in (1, 2, 1)]
    found = execute(tmp_path / "out", some)
    assert {it["state"] for it in found.values()} == {"done"} and len(found) == 2  # a run given twice is one
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*")}
    assert execute(tmp_path / "out", some) == found
    execute(tmp_path / "out", [*some, toy(seed=3, pause=0.0)], keep_checkpoints=False)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*")}
    assert before.items() < after.items()
    new = sorted(path.name for path in after.keys() - before.keys())
    assert new == ["lock", "log.txt", metrics.FILE, "state.json"]


def test_shards_are_a_partition(toy, tmp_path):
    some = [toy(seed=seed, pause=0.0) for seed in range(7)]
    shards = [set(execute(tmp_path / "out", some, shard=(i, 3))) for i in (1, 2, 3)]
    assert [len(shard) for shard in shards] == [3, 2, 2] and set.union(*shards) == {run.id for run in some}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failed_run_has_its_error_and_is_done_again_only_on_demand(toy, tmp_path, workers):
    some = [toy(trouble=trouble) for trouble in ("raise OSError('no such luck')", "raise settings.UserError('bad x')")]
    first, second = execute(tmp_path / "out", some, workers=workers).values()
    assert first["state"] == "failed" and first["error"].startswith("Traceback") and "no such luck" in first["error"]
    assert (second["state"], second["error"]) == ("failed", "bad x")
    assert pool.errors({"a": first, "b": second}) == ["OSError: no such luck", "bad x"]
    again = execute(tmp_path / "out", some, workers=workers)
    assert list(again.values()) == [first, second]
    again = execute(tmp_path / "out", some, workers=workers, retry_failed=True)
    assert [it["error"] for it in again.values()] == [first["error"], "bad x"]
    assert all(it["seconds"] != before["seconds"] for it, before in zip(again.values(), (first, second), strict=True))
    assert steps(tmp_path / "out", some[0]) == 50


def test_a_run_that_diverges_is_done(toy, tmp_path):
    some = [toy(pause=0.0, trouble="raise settings.Diverged('not finite')"), toy(seed=-1), toy(seed=1)]
    found = execute(tmp_path / "out", some).values()
    assert [(it["state"], it["diverged"]) for it in found] == [("done", True), ("done", True), ("done", False)]


def test_a_run_that_kills_its_workers_fails(toy, tmp_path):
    both = [toy(pause=0.0, trouble="os.kill(os.getpid(), signal.SIGKILL)"), toy(pause=0.0)]
    found = execute(tmp_path / "out", both, workers=1)
    assert found[both[0].id]["state"] == "failed" and "5 workers died here" in found[both[0].id]["error"]
    assert found[both[1].id]["state"] == "done"


@pytest.mark.parametrize(
    "name, mode", [("ckpt_best.pt", "resume"), ("ckpt_prev.pt", "resume"), ("ckpt_damaged.pt", "scratch")]
)
def test_a_worker_that_died_in_a_save_leaves_a_run_that_goes_on(toy, tmp_path, monkeypatch, name, mode):
    """Its first save names ckpt_best.pt before ckpt_last.pt; no run resumes from a damaged file."""
    asked = []
    script = SimpleNamespace(train=lambda cfg, given: asked.append(cfg["init_from"]) or 1.0)
    monkeypatch.setattr(pool, "load", lambda path: script)
    one = toy()
    (tmp_path / one.id).mkdir()
    (tmp_path / one.id / name).touch()
    assert execute(tmp_path, [one])[one.id]["state"] == "done" and asked == [mode]


def test_a_script_that_cannot_be_loaded_is_said_of_its_runs(tmp_path):
    path = tmp_path / "broken_script.py"
    path.write_text(TOY.format(root=str(tiny.ROOT)) + "\nimport not_there\n")
    one = runs.run(str(path))
    found = execute(tmp_path, [one])[one.id]
    assert found["state"] == "failed" and "No module named 'not_there'" in found["error"]


def test_a_run_is_running_only_as_long_as_its_lock_is_held(toy, tmp_path):
    path = tmp_path / toy().id
    path.mkdir()
    assert pool.look(toy(), tmp_path) == {"state": "pending"}
    pool.write(path, state="running", where=None, deaths=0)
    assert pool.look(toy(), tmp_path)["state"] == "pending"
    with FileLock(path / "lock"):
        code = f"import sys; sys.path.insert(0, {str(tiny.ROOT)!r}); from reproduce import pool, runs\n"
        code += f"print(pool.look(runs.Run({toy().script!r}, {{}}), {str(tmp_path)!r})['state'])"
        assert subprocess.check_output([sys.executable, "-c", code], text=True) == "running\n"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"state": []}', '{"state": "running"}', '{"state": "failed"}', "\0" * 40]
)
def test_a_damaged_state_is_a_pending_run(toy, tmp_path, text):
    (tmp_path / toy().id).mkdir()
    (tmp_path / toy().id / "state.json").write_text(text)
    assert pool.look(toy(), tmp_path) == {"state": "pending"}
    assert execute(tmp_path, [toy(pause=0.0), toy()])[toy().id]["state"] == "done"


# whatever is killed


def test_killed_workers_are_replaced(some, undisturbed, tmp_path):
    process = start(tmp_path / "out", some)
    for pid in until(lambda: len(running(tmp_path / "out")) == 2 and running(tmp_path / "out")):  # all of them
        os.kill(pid, signal.SIGKILL)
    until(lambda: max(steps(tmp_path / "out", run) for run in some) > 30)
    os.kill(until(lambda: running(tmp_path / "out"))[0], signal.SIGKILL)
    error = process.communicate(timeout=180)[1]
    assert process.returncode == 0 and "4 of 4 runs: 4 done" in error and "Traceback" not in error, error
    assert values(tmp_path / "out", some) == undisturbed


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "all"])
def test_an_invocation_that_is_killed_is_gone_on_with(some, undisturbed, tmp_path, name):
    process = start(tmp_path / "out", some)
    until(lambda: max(steps(tmp_path / "out", run) for run in some) > 30)
    pids = running(tmp_path / "out")
    if name == "all":  # as when the power goes: nobody sees another die
        process.send_signal(signal.SIGSTOP)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    process.send_signal(getattr(signal, name.replace("all", "SIGKILL")))
    error = process.communicate(timeout=180)[1]
    if name == "SIGTERM":  # SIGINT has the same handler
        assert process.returncode == 2 and error.splitlines()[-1].startswith("many: stopped: "), error
    assert "Traceback" not in error, error
    until(lambda: not any(map(alive, pids)))  # without their invocation they end by themselves
    before = [steps(tmp_path / "out", run) for run in some]
    assert 30 < max(before) < 100 and "done" not in [it["state"] for it in states(tmp_path / "out").values()]
    execute(tmp_path / "out", some)
    assert values(tmp_path / "out", some) == undisturbed
    resumed = [metrics.read(tmp_path / "out" / run.id)[0].get("resumed_at") for run in some]
    for at, step in zip(resumed, before, strict=True):
        saved = 20 * (step >= 20) if name == "all" else step  # killed, they have only the checkpoint of step 20
        assert not saved or at[-1] == saved, (resumed, before)  # before that, perhaps another worker's last moments


def test_ctrl_c_without_workers(toy, tmp_path, undisturbed):
    run = toy(seed=0, trouble="cfg['init_from'] == 'resume' or signal.raise_signal(signal.SIGINT)")
    with pytest.raises(pool.Stopped, match="^stopped: 0 of 1 runs have ended; run the same command to resume"):
        execute(tmp_path / "out", [run])
    assert states(tmp_path / "out") == {} and steps(tmp_path / "out", run) == 50
    execute(tmp_path / "out", [run])
    assert values(tmp_path / "out", [run]) == undisturbed[:1]


def test_two_invocations_share_the_work(toy, undisturbed, tmp_path):
    slow = [toy(seed=seed, pause=0.03) for seed in range(4)]
    both = [start(tmp_path / "out", slow, 1) for _ in range(2)]
    until(lambda: len(running(tmp_path / "out")) == 2)
    for process in both:
        error = process.communicate(timeout=180)[1]
        assert process.returncode == 0 and "4 of 4 runs: 4 done" in error, error
    found = states(tmp_path / "out").values()
    assert [it["state"] for it in found] == ["done"] * 4 and len({it["pid"] for it in found}) == 2
    assert values(tmp_path / "out", slow) == undisturbed
    assert all("resumed_at" not in metrics.read(tmp_path / "out" / run.id)[0] for run in slow)  # each once


def test_two_invocations_one_of_which_is_killed(toy, undisturbed, tmp_path):
    """The other one takes over its runs."""
    some = [toy(seed=seed, pause=0.03) for seed in range(4)]
    both = [start(tmp_path / "out", some, 1) for _ in range(2)]
    until(lambda: len(running(tmp_path / "out")) == 2)
    both[0].kill()
    both[0].communicate()
    error = both[1].communicate(timeout=180)[1]
    assert both[1].returncode == 0 and "4 of 4 runs: 4 done" in error, error
    assert values(tmp_path / "out", some) == undisturbed


# a full disk


@pytest.mark.parametrize("place", ["ckpt_last.pt.part", "state.json.part"])
def test_a_full_disk_loses_nothing(some, undisturbed, tmp_path, place):
    """/dev/full stands for it, in one of the files: workers report it, and the runs resume later."""
    for run in some:
        (tmp_path / "out" / run.id).mkdir(parents=True)
        (tmp_path / "out" / run.id / place).symlink_to("/dev/full")
    process = start(tmp_path / "out", some)
    error = process.communicate(timeout=180)[1]
    assert process.returncode == 2 and "Traceback" not in error, error
    said = f"many: {tmp_path / 'out'} cannot be written: is the disk full? 4 runs are "
    assert error.splitlines()[-1].startswith(said)
    for run in some:
        (tmp_path / "out" / run.id / place).unlink(missing_ok=True)
    assert {pool.look(run, tmp_path / "out")["state"] for run in some} == {"pending"}
    execute(tmp_path / "out", some)
    assert values(tmp_path / "out", some) == undisturbed


@pytest.mark.parametrize("where", ["mkdir", "running", "done"])
def test_a_disk_that_is_too_full_for_a_state(some, undisturbed, tmp_path, monkeypatch, where):
    def full(*_, **found):
        if found.get("state", "mkdir") == where:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*_, **found)

    write, said = pool.write, "out cannot be written: .*No space left"
    with monkeypatch.context() as patch, pytest.raises(pool.CannotWrite, match=said):
        patch.setattr(*((pool.Path, "mkdir") if where == "mkdir" else (pool, "write")), full)
        execute(tmp_path / "out", some)
    assert {pool.look(run, tmp_path / "out")["state"] for run in some} == {"pending"}
    execute(tmp_path / "out", some)
    assert values(tmp_path / "out", some) == undisturbed
