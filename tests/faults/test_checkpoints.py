"""Checkpoints through power cuts, kills, damage and company: one that is whole is always left, and it is the one used.

python -m pytest -q tests/faults/test_checkpoints.py        # a quarter of a minute
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import torch

import checkpoints
import metrics
from settings import Finished, UserError

pytestmark = pytest.mark.usefixtures("folder")

NAMES = ("iter", "best_val_loss", "model")


def state(step):
    return {"iter": step, "best_val_loss": 1.0, "model": {"w": torch.full((50,), float(step))}}


def readable(out_dir="out"):
    """{name: step} of the checkpoints that are whole."""
    found = {}
    for name in (checkpoints.LAST, checkpoints.PREVIOUS, checkpoints.BEST):
        try:
            found[name] = checkpoints.read(f"{out_dir}/{name}", NAMES)["iter"]
        except UserError:
            pass
    return found


# row 1: power cuts


class Disk:
    """What a disk holds when power is cut: contents that were fsynced, and the renames before the folder's last fsync.

    Later renames may be there too, but only in their order, as a journal keeps them.
    """

    def __init__(self, monkeypatch):
        self.synced, self.names, self.later, self.cuts = {}, {}, [], []
        fsync, replace, link, remove = os.fsync, os.replace, os.link, os.remove

        def note(*change):
            self.later.append(change)
            self.cut()

        def synced(number):
            fsync(number)
            status = os.fstat(number)
            if os.path.isdir(f"/proc/self/fd/{number}"):
                self.apply(self.later)
                self.later = []
            else:
                self.synced[status.st_ino] = open(f"/proc/self/fd/{number}", "rb").read()  # noqa: SIM115
            self.cut()

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(os, "replace", lambda a, b: (note("name", b, os.stat(a).st_ino, a), replace(a, b)))
        monkeypatch.setattr(os, "link", lambda a, b: (link(a, b), note("name", b, os.stat(b).st_ino, None)))
        monkeypatch.setattr(os, "remove", lambda a: (remove(a), note("gone", a, None, None)))

    def apply(self, changes, names=None):
        names = self.names if names is None else names
        for _kind, target, inode, source in changes:
            names.pop(source, None)
            names.pop(target, None)
            if inode is not None:
                names[target] = inode
        return names

    def cut(self):
        """Every state that a cut at this moment may leave: {name: content}."""
        for count in range(len(self.later) + 1):
            names = self.apply(self.later[:count], dict(self.names))
            self.cuts.append({os.path.basename(name): self.synced.get(inode, b"") for name, inode in names.items()})


def test_a_power_cut_at_any_moment_leaves_a_whole_checkpoint_and_the_best_one(monkeypatch):
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        for step, best in ((1, True), (2, False), (3, True), (4, False)):
            checkpoints.save(state(step), "out", best)
            disk.done = step
            disk.cuts = [cut | {"done": disk.done - 1} if "done" not in cut else cut for cut in disk.cuts]
    assert len(disk.cuts) > 40
    for number, cut in enumerate(disk.cuts):
        done = cut.pop("done")  # steps whose save() had returned before
        os.makedirs(f"cut{number}")
        for name, content in cut.items():
            with open(f"cut{number}/{name}", "wb") as file:
                file.write(content)
        found = readable(f"cut{number}")
        newest = max(found.get(checkpoints.LAST, 0), found.get(checkpoints.PREVIOUS, 0))
        assert newest >= done, (number, found)
        assert found.get(checkpoints.BEST, 0) >= {0: 0, 1: 1, 2: 1, 3: 3, 4: 3}[done], (number, found)


def test_metrics_are_on_the_disk_before_the_checkpoint_is(monkeypatch):
    order, fsync, replace = [], os.fsync, os.replace

    def synced(number):
        order.append(os.path.basename(os.readlink(f"/proc/self/fd/{number}")))
        fsync(number)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(f"-> {os.path.basename(b)}"), replace(a, b)))
    tiny.run(max_iters=4)
    assert order == [
        "metrics.jsonl.part",
        "-> metrics.jsonl",
        "metrics.jsonl",
        "ckpt_last.pt.part",
        "-> ckpt_best.pt",
        "out",
        "-> ckpt_last.pt",
        "out",
    ]


# row 2: kills


def test_a_kill_at_any_system_call_of_a_save_loses_neither_last_nor_best():
    """A child process saves steps 1, 2, ... and is killed at its n-th change of the folder, for every n."""
    script = (
        "import os, sys; sys.path[:0] = sys.argv[1].split(':')\n"
        "import checkpoints; from test_checkpoints import state\n"
        "import itertools\n"
        "for n in itertools.count(1):\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        left = [n]\n"
        "        def counted(call):\n"
        "            def run(*args):\n"
        "                left[0] -= 1\n"
        "                if not left[0]: os.kill(os.getpid(), 9)\n"
        "                return call(*args)\n"
        "            return run\n"
        "        for name in ('fsync', 'replace', 'link', 'remove'): setattr(os, name, counted(getattr(os, name)))\n"
        "        for step in (1, 2, 3):\n"
        "            checkpoints.save(state(step), f'kill{n}', step != 2)\n"
        "            open(f'{n}.done', 'w').write(str(step))\n"
        "        os._exit(0)\n"
        "    if os.waitpid(pid, 0)[1] == 0: break\n"
    )
    path = f"{tiny.ROOT}:{tiny.ROOT}/tests:{tiny.ROOT}/tests/faults"
    subprocess.run([sys.executable, "-c", script, path], check=True)
    killed = sorted(name for name in os.listdir() if name.startswith("kill"))
    assert len(killed) > 20
    for out_dir in killed:
        found, done = readable(out_dir), Path(f"{out_dir.removeprefix('kill')}.done")
        newest = max(found.get(checkpoints.LAST, 0), found.get(checkpoints.PREVIOUS, 0))
        assert newest or not any(Path(out_dir, name).exists() for name in (checkpoints.LAST, checkpoints.PREVIOUS))
        assert newest >= (int(done.read_text()) if done.exists() else 0), (out_dir, found)
        assert not newest or found[checkpoints.BEST] >= newest - (newest == 2), (out_dir, found)


def test_the_best_is_the_last_under_another_name_and_nothing_is_left_beside():
    tiny.run()
    assert sorted(os.listdir("out")) == ["ckpt_best.pt", "ckpt_last.pt", "ckpt_prev.pt", "metrics.jsonl"]
    assert os.path.samefile("out/ckpt_best.pt", "out/ckpt_last.pt")  # written once
    assert not os.path.samefile("out/ckpt_prev.pt", "out/ckpt_last.pt")


def test_a_file_system_without_links_gets_copies(monkeypatch):
    def link(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    tiny.run()
    found = torch.load("out/ckpt_best.pt"), torch.load("out/ckpt_last.pt"), torch.load("out/ckpt_prev.pt")
    assert tiny.same(*found[:2]) and found[2]["iter"] == 4


# row 1: damage


def damage(path, how, rng):
    with open(path, "r+b") as file:
        content = bytearray(file.read())
        at = rng.randrange(len(content))
        if how == "bit":
            content[at] ^= 1 << rng.randrange(8)
        elif how == "page":
            at = at // 512 * 512
            content[at : at + 512] = bytes(len(content[at : at + 512]))
        elif how == "cut":
            del content[at:]
        file.seek(0)
        file.truncate()
        file.write(content)


@pytest.mark.parametrize("how", ["bit", "page", "cut"])
def test_no_damaged_checkpoint_is_taken_for_a_whole_one(how):
    """Damage where nothing is kept, such as a time of the zip's, may be read; then what is read is the same."""
    tiny.run(max_iters=4)
    whole, rng = checkpoints.read("out/ckpt_last.pt"), random.Random(how)
    found = 0
    for _ in range(60):
        shutil.copyfile("out/ckpt_last.pt", "damaged.pt")
        damage("damaged.pt", how, rng)
        try:
            assert tiny.same(checkpoints.read("damaged.pt"), whole)
        except checkpoints.Damaged as error:
            found += 1
            assert "damaged.pt" in str(error) and "\n" not in str(error) and "weights_only" not in str(error)
    assert found > 40


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_used(capsys):
    tiny.run(out_dir="straight")
    tiny.run(max_iters=6, eval_interval=2)
    damage("out/ckpt_last.pt", "page", random.Random(1))
    tiny.run(init_from="resume", eval_interval=2)
    assert re.search("out/ckpt_last.pt is .*now ckpt_damaged.pt, .* from out/ckpt_prev.pt", capsys.readouterr().err)
    assert metrics.read("out")[0]["resumed_at"] == [4]
    assert tiny.same(torch.load("straight/ckpt_last.pt")["model"], torch.load("out/ckpt_last.pt")["model"])
    assert os.path.exists("out/ckpt_damaged.pt")
    tiny.run(overwrite=True, max_iters=1)
    assert sorted(os.listdir("out")) == ["ckpt_best.pt", "ckpt_last.pt", "metrics.jsonl"]


def test_what_the_soak_once_found():
    """A directory of the zip that begins before the file does; a moment that one parameter lacks."""
    tiny.run(optimizer="adam", eval_interval=2, max_iters=4)
    content = bytearray(Path("out/ckpt_last.pt").read_bytes())
    end = content.rindex(b"PK\6\6")
    content[end + 48 : end + 52] = (len(content) + 99).to_bytes(4, "little")  # where the directory begins
    damaged = Path("damaged.pt")
    damaged.write_bytes(content)
    with pytest.raises(checkpoints.Damaged):
        checkpoints.read("damaged.pt")
    whole = torch.load("out/ckpt_last.pt")
    del whole["optimizer"]["state"][0]["exp_avg"]
    os.remove("out/ckpt_last.pt")
    torch.save(whole, "out/ckpt_last.pt")
    with pytest.raises(UserError, match="ckpt_last.pt does not fit .* have the same state for every parameter"):
        tiny.run(optimizer="adam", init_from="resume")


def replace_last(change):
    """ckpt_last.pt with its content changed in place by a function."""
    content = torch.load("out/ckpt_last.pt")
    change(content)
    os.remove("out/ckpt_last.pt")
    torch.save(content, "out/ckpt_last.pt")


@pytest.mark.parametrize("name", ["model", "optimizer"])
def test_a_checkpoint_with_nan_in_it_is_a_damaged_one(name, capsys):
    tiny.run(optimizer="adam", eval_interval=2, max_iters=4)
    replace_last(
        lambda it: it[name].get("lm_head.weight", it[name].get("state", {}).get(0, {}).get("step")).fill_(torch.nan)
    )
    tiny.run(optimizer="adam", eval_interval=2, init_from="resume")
    assert f"its {name} contains NaN" in capsys.readouterr().err and metrics.read("out")[0]["resumed_at"] == [2]


def test_an_entry_that_is_marked_as_a_folder_is_damage():
    """torch then reads nothing for it, and leaves what its memory held before."""
    tiny.run(max_iters=4)
    content = bytearray(Path("out/ckpt_last.pt").read_bytes())
    content[content.rindex(b"PK\1\2") + 38] = 0x10
    Path("damaged.pt").write_bytes(content)
    with pytest.raises(checkpoints.Damaged, match="damaged"):
        checkpoints.read("damaged.pt")


def test_a_group_without_betas_is_refused_before_anything_is_written():
    tiny.run(optimizer="adam", eval_interval=2, max_iters=4)
    replace_last(lambda it: it["optimizer"]["param_groups"][1].pop("betas"))
    before = {name: Path("out", name).read_bytes() for name in os.listdir("out")}
    with pytest.raises(UserError, match="does not fit .*: its optimizer has no betas"):
        tiny.run(optimizer="adam", eval_interval=2, init_from="resume")
    assert {name: Path("out", name).read_bytes() for name in os.listdir("out")} == before


@pytest.mark.parametrize(
    "name, value, words", [("n_embd", 0, "n_embd=0 must be at least 1"), ("n_layer", 2, "Missing key")]
)
def test_sizes_that_are_not_its_models_are_refused_in_one_line(recwarn, name, value, words):
    tiny.run(max_iters=4)
    replace_last(lambda it: it["model_config"].update({name: value}))
    with pytest.raises(UserError, match=f"^out/ckpt_last.pt.*{words}"):
        tiny.run(init_from="resume")
    assert not recwarn.list


def test_names_of_settings_that_there_are_no_longer_stay_on_one_line(capsys):
    tiny.run(max_iters=4)
    replace_last(lambda it: it["config"].update({"a\nb\x83": 1, "c" * 300: 2}))
    tiny.run(init_from="resume")
    assert "exist: 'a\\nb\\x83', 'cccc" in capsys.readouterr().err.splitlines()[0]


def test_a_first_save_that_got_as_far_as_the_best_is_gone_on_from():
    tiny.run(max_iters=4)
    os.remove("out/ckpt_last.pt")
    tiny.run(init_from="auto")
    tiny.run(out_dir="straight")
    assert tiny.same(torch.load("straight/ckpt_last.pt")["model"], torch.load("out/ckpt_last.pt")["model"])


def test_where_both_are_damaged_the_best_is_named_and_nothing_is_lost():
    tiny.run(out_dir="out", max_iters=6, eval_interval=2)
    shutil.copyfile("out/ckpt_best.pt", "best.pt")
    for name in ("ckpt_last.pt", "ckpt_prev.pt", "ckpt_best.pt"):
        os.remove(f"out/{name}")
        open(f"out/{name}", "wb").close()
    shutil.copyfile("best.pt", "out/ckpt_best.pt")
    for mode in ("resume", "auto"):
        with pytest.raises(
            UserError, match="ckpt_last.pt is damaged.*ckpt_prev.pt is damaged.*ckpt_best.pt, of step 6, is"
        ):
            tiny.run(init_from=mode)
    shutil.copyfile("out/ckpt_best.pt", "out/ckpt_last.pt")
    tiny.run(init_from="resume")


# rows 3 and 4: company, and being started again


def start(folder, *extra, **settings):
    command = [sys.executable, *extra, tiny.__file__, folder, *tiny.arguments(**settings)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def until(condition, seconds=300):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def test_a_second_process_says_who_has_the_folder(folder):
    first = start(folder, max_iters=100_000)
    until(lambda: first.poll() is not None or os.path.exists("out/ckpt_last.pt"))
    for mode in ({"init_from": "resume"}, {"overwrite": True}, {"init_from": "auto"}):
        with pytest.raises(UserError, match=f"'out' is in use by process {first.pid} on .*, since 20"):
            tiny.run(**mode)
    first.kill()
    first.communicate()
    step = torch.load("out/ckpt_last.pt")["iter"]
    tiny.run(init_from="resume", max_iters=step + 1)  # the kernel has freed the lock
    assert torch.load("out/ckpt_last.pt")["iter"] == step + 1


def test_a_folder_whose_holder_has_just_removed_its_lock_is_refused(monkeypatch):
    def acquire(*_, **__):
        raise checkpoints.Timeout("out/train.lock")

    monkeypatch.setattr(checkpoints.FileLock, "acquire", acquire)
    with pytest.raises(UserError, match="'out' is in use by another process"), checkpoints.hold("out"):
        pass


def test_auto_starts_goes_on_and_ends():
    tiny.run(out_dir="straight")
    tiny.run(init_from="auto", max_iters=4)
    assert metrics.read("out")[0]["config"]["init_from"] == "scratch"
    tiny.run(init_from="auto")
    assert metrics.read("out")[0]["resumed_at"] == [4]
    assert tiny.same(torch.load("straight/ckpt_last.pt")["model"], torch.load("out/ckpt_last.pt")["model"])
    with pytest.raises(Finished, match="has all its 8 steps"):
        tiny.run(init_from="auto")
    with pytest.raises(UserError, match="overwrite=True would delete"):
        tiny.run(init_from="auto", overwrite=True)
    with pytest.raises(UserError, match="keeps its optimizer='mada'"):
        tiny.run(init_from="auto", optimizer="adam", max_iters=20)


def test_a_run_does_not_go_on_with_other_data(folder):
    tiny.run(max_iters=4)
    path = next(Path(folder).rglob("meta.json"))
    meta = json.loads(path.read_text())
    meta["sha256"] = {"train": "another", "val": "another"}
    path.write_text(json.dumps(meta))
    with pytest.raises(UserError, match="is no longer what the run in out learned from"):
        tiny.run(init_from="resume", max_iters=8)


def test_a_record_whose_checkpoints_are_gone_is_not_lost(folder):
    tiny.run(max_iters=8, eval_interval=2)
    before = Path("out", metrics.FILE).read_bytes()
    for path in Path("out").glob("ckpt_*.pt"):
        path.unlink()
    for mode in ("scratch", "auto"):
        with pytest.raises(UserError, match="holds the record of a run whose checkpoints are gone"):
            tiny.run(init_from=mode, max_iters=8)
    assert Path("out", metrics.FILE).read_bytes() == before
    tiny.run(max_iters=8, overwrite=True)


@pytest.mark.parametrize("before, after", [("float32", "float16"), ("float16", "float32")])
def test_a_run_goes_on_in_another_dtype(before, after):
    tiny.run(max_iters=4, dtype=before)
    assert tiny.run(init_from="resume", dtype=after) < 2.9


def test_a_run_that_torchrun_restarts_does_not_overwrite_itself(monkeypatch):
    tiny.run(max_iters=4)
    before = Path("out", checkpoints.LAST).read_bytes()
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(UserError, match="overwrite=True would delete the run at each restart"):
        tiny.run(overwrite=True)
    assert Path("out", checkpoints.LAST).read_bytes() == before


def ranks(folder):
    """The pids of processes that run tiny.py on this folder under torchrun's agent."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as file:
                words = file.read().split("\0")
        except OSError:
            continue
        if str(folder) in words and "torch.distributed.run" not in words:
            found[int(pid)] = words
    return list(found)


def test_ranks_that_rarely_log_save_when_torchrun_is_stopped(folder):
    rarely = {"eval_interval": 1_000_000, "log_interval": 1_000_000, "max_iters": 1_000_000}
    agent = start(folder, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", **rarely)
    until(lambda: os.path.exists("out/metrics.jsonl") and len(metrics.read("out")[1]) > 1)  # step 1
    agent.terminate()
    agent.communicate()
    assert torch.load("out/ckpt_last.pt")["iter"] > 1


def test_torchrun_restarts_a_run_that_is_killed_and_its_ranks_stop_when_torchrun_is_killed(folder):
    settings = {"init_from": "auto", "max_iters": 100_000, "eval_interval": 5}
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max-restarts=1")
    agent = start(folder, *torchrun, **settings)
    until(lambda: agent.poll() is not None or os.path.exists("out/ckpt_last.pt"))
    first = ranks(folder)
    os.kill(first[0], signal.SIGKILL)
    until(lambda: len(both := set(ranks(folder)) - set(first)) == 2 and "resumed_at" in metrics.read("out")[0] and both)
    step = metrics.read("out")[0]["resumed_at"][0]
    until(lambda: metrics.read("out")[1][-1]["iter"] > step + 2)
    agent.kill()
    agent.communicate()
    until(lambda: not ranks(folder))
    end = torch.load("out/ckpt_last.pt")["iter"]
    assert end > step
    tiny.run(init_from="auto", max_iters=end + 1, eval_interval=5)  # on one rank: nobody has the lock
