"""A run through what may happen around it: closed streams, full disks, numbers that are not finite, ranks that differ.

python -m pytest -q tests/faults/test_training.py        # half a minute
"""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch

import checkpoints
import metrics
import model
import optim
import train
from settings import Diverged, UserError

pytestmark = pytest.mark.usefixtures("folder")


def run(folder, shell="{}", torchrun=False, script=tiny.__file__, **settings):
    """tiny.py as a process of a shell that does something around it -> status, stdout, stderr."""
    extra = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"] * torchrun
    words = [sys.executable, *extra, script, folder, *tiny.arguments(**settings)]
    line = shell.format(" ".join(f'"{word}"' for word in words))
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr


def last_step(out_dir="out"):
    return torch.load(f"{out_dir}/ckpt_last.pt")["iter"]


def notes(out_dir="out"):
    return [note for record in metrics.read(out_dir)[1] for note in record.get("notes", [])]


# row 5: streams


@pytest.mark.parametrize(
    "shell, said, reason",
    [
        ("{} | true; exit ${{PIPESTATUS[0]}}", 1, "Broken pipe"),
        ("{} > /dev/full", 1, "No space left"),
        ("{} >&-", 1, "it is closed"),
        ("{} >&- 2>&-", 0, "it is closed"),
    ],
)
def test_a_run_goes_on_whoever_reads_what_it_prints(folder, shell, said, reason):
    status, _, error = run(folder, shell, max_iters=40, log_interval=1)
    assert status == 0 and error.count("\n") == said and last_step() == 40, error
    assert [reason in note for note in notes()] == [True]
    assert len(metrics.read("out")[1]) == 41  # and the numbers are where they belong


def test_nohup_keeps_sighup_from_stopping_a_run(folder):
    """The run hangs itself up; a driver script does it, at step 3."""
    path = folder / "hang_up.py"
    path.write_text(
        "import os, signal, sys\n"
        f"sys.path[:0] = [{str(tiny.ROOT / 'tests')!r}]\n"
        "import tiny, train, settings, data.tokens\n"
        "data.tokens.FOLDER = sys.argv.pop(1)\n"
        "rate = train.learning_rate_at\n"
        "train.learning_rate_at = lambda it, cfg: (it == 3 and signal.raise_signal(signal.SIGHUP), rate(it, cfg))[1]\n"
        "settings.main(train.train, train.__file__)\n"
    )
    assert run(folder, "nohup {}", script=path)[0] == 0 and last_step() == 8
    assert run(folder, script=path, out_dir="'stopped'")[0] == 75 and last_step("stopped") == 3


def test_a_finished_run_has_nothing_to_do_and_says_so_with_status_0(folder):
    tiny.run()
    status, output, error = run(folder, init_from="resume")
    assert status == 0 and error == "" and output.count("\n") == 1 and "has all its 8 steps" in output


# row 6: disks and folders


def test_a_full_disk_ends_the_run_in_one_line_and_leaves_the_good_checkpoint(folder):
    tiny.run(max_iters=4)
    before = torch.load("out/ckpt_last.pt")
    kibibytes = os.path.getsize("out/ckpt_last.pt") // 2048
    status, _, error = run(folder, f"ulimit -f {kibibytes}; {{}}", init_from="resume")
    assert status == 2 and error == "train.py: out_dir='out' cannot be written: File too large\n"
    assert tiny.same(torch.load("out/ckpt_last.pt"), before)
    assert sorted(os.listdir("out")) == ["ckpt_best.pt", "ckpt_last.pt", "metrics.jsonl"]
    tiny.run(init_from="resume")
    tiny.run(out_dir="straight")
    assert metrics.read("out")[1][-1]["val_loss"] == metrics.read("straight")[1][-1]["val_loss"]


def test_log_lines_that_cannot_be_written_wait_until_they_can(capsys):
    log = metrics.Metrics("out", {"config": {}}, 0, 5)
    log.write({"iter": 1})
    file, log.file = log.file, open("/dev/full", "ab", buffering=0)  # noqa: SIM115
    log.write({"iter": 2})
    log.write({"iter": 3})
    log.file.close()
    log.file = file
    log.write({"iter": 4})
    log.close()
    assert [record["iter"] for record in metrics.read("out")[1]] == [1, 2, 3, 4]
    assert capsys.readouterr().out.count("cannot be written: No space left") == 1


@pytest.mark.parametrize(
    "out_dir, reason",
    [
        ("/proc/nowhere", "No such file"),
        ("/dev/null", "it is a file|Not a directory"),
        ("data/tiny/meta.json", "it is a file|Not a directory"),
        ("x" * 300, "File name too long"),
        ("a/" * 3000, "File name too long|recursion"),
        ("nu\0ll", "null"),
        ("", "No such file|Is a directory"),
    ],
)
def test_a_folder_that_cannot_be_had_is_one_line_before_anything_else(out_dir, reason):
    before = sorted(os.listdir())
    with pytest.raises(UserError, match=f"out_dir=.* cannot be written: .*({reason})"):
        tiny.run(out_dir=out_dir, dataset="nowhere")
    assert sorted(os.listdir()) == before


def test_a_folder_that_is_removed_meanwhile_comes_again_with_the_next_checkpoint(monkeypatch):
    rate = train.learning_rate_at
    monkeypatch.setattr(
        train, "learning_rate_at", lambda it, cfg: (it == 6 and os.system("rm -r out"), rate(it, cfg))[1]
    )
    tiny.run()
    assert last_step() == 8


@pytest.mark.parametrize("helper", ["write_part", "rename_copy"])
def test_a_folder_that_is_removed_while_a_checkpoint_is_written_gets_it_all_the_same(monkeypatch, helper):
    write, calls = getattr(checkpoints, helper), []

    def removed(*args):
        write(*args)
        if not calls:
            os.system("rm -r out")
        calls.append(args)

    monkeypatch.setattr(checkpoints, helper, removed)
    tiny.run(max_iters=4)
    assert last_step() == 4 and sorted(os.listdir("out")) == ["ckpt_best.pt", "ckpt_last.pt"]


# row 7: what is not finite


@pytest.fixture
def poison(monkeypatch):
    """Make the gradients of some steps not finite, with a finite loss."""
    build = optim.build

    def arm(steps):
        def poisoned(*args, **kwargs):
            optimizer, count = build(*args, **kwargs), []

            def hook(*_):
                count.append(1)
                if len(count) in steps:
                    optimizer.param_groups[0]["params"][0].grad[0, 0] = math.inf

            step = optimizer.step
            optimizer.step = lambda *args: (hook(), step(*args))[1]
            return optimizer

        monkeypatch.setattr(optim, "build", poisoned)

    return arm


@pytest.mark.parametrize("optimizer", ["mada", "adam"])
def test_gradients_that_stay_not_finite_stop_the_run_and_a_few_do_not(poison, capsys, optimizer):
    poison([3, 4, 9])
    tiny.run(max_iters=12, max_bad_steps=3, optimizer=optimizer, log_interval=4)
    assert last_step() == 12 and "skipped 2" in capsys.readouterr().out
    poison(range(7, 1000))
    with pytest.raises(Diverged, match="for 1[0-9] steps in a row, is not finite at step 1[6-9].*in bad, of step 12;"):
        tiny.run(out_dir="bad", max_iters=60, max_bad_steps=10, optimizer=optimizer, log_interval=2)
    assert last_step("bad") == 12


@pytest.mark.parametrize("bad, ends", [({8}, None), ({8, 12}, 12), ({16}, 16)])
def test_a_validation_loss_that_is_not_finite(monkeypatch, capsys, bad, ends):
    """Once: no checkpoint. Twice in a row, or at the end: the run ends, and names the last good one."""
    forward, count = model.GPT.forward, [-1]

    def blinded(self, tokens, targets=None):
        loss = forward(self, tokens, targets)
        if not self.training:
            count[0] += 1
            return loss * math.nan if 4 * (count[0] // 2) in bad else loss
        return loss

    monkeypatch.setattr(model.GPT, "forward", blinded)
    if ends is None:
        tiny.run(max_iters=16)
        assert last_step() == 16 and "step 8: the validation loss is nan: no checkpoint" in capsys.readouterr().out
    else:
        with pytest.raises(Diverged, match=f"validation loss is not finite at step {ends}.*of step {min(bad) - 4};"):
            tiny.run(max_iters=16)
        assert last_step() == min(bad) - 4
    assert any(math.isnan(record.get("val_loss", 0)) for record in metrics.read("out")[1])


def test_metrics_are_json_and_read_back_as_they_were():
    record = {"iter": 1, "train_loss": math.nan, "coefficients": [{"rho": math.inf}, {"rho": -math.inf}], "name": "a"}
    log = metrics.Metrics("out", {"config": {}}, 0, 1)
    log.append(record)
    log.close()

    def strict(name):
        raise AssertionError(f"{name} is not JSON")

    with open("out/metrics.jsonl") as file:
        for line in file:
            json.loads(line, parse_constant=strict)
    back = metrics.read("out")[1][0]
    assert repr(back) == repr(record)
    with open("out/metrics.jsonl", "a") as file:
        file.write('{"iter": 2, "train_loss": NaN, "grad_norm": Infinity}\n')  # as they once were
    assert repr(metrics.read("out")[1][1]) == "{'iter': 2, 'train_loss': nan, 'grad_norm': inf}"


# row 8 and 9: ranks


RANKS = """
import math, os, sys
sys.path[:0] = [{tests!r}]
import tiny, torch, train, optim, settings, data.tokens
data.tokens.FOLDER = sys.argv.pop(1)
rank, fault, build = int(os.environ["RANK"]), {fault!r}, optim.build

def wounded(*args, **kwargs):
    optimizer, count = build(*args, **kwargs), []
    step = optimizer.step
    def once(*args):
        count.append(1)
        if rank == 0 and len(count) == 6 and fault == "nan":
            with torch.no_grad():
                optimizer.param_groups[0]["params"][0][0, 0] = math.nan
        if rank == 1 and len(count) == 6:
            if fault == "skip":
                optimizer.param_groups[0]["params"][0].grad[0, 0] = math.nan
            if fault == "token":
                raise settings.UserError("val.bin holds token 99, beyond the 27 of its meta.json")
        return step(*args)
    optimizer.step = once
    return optimizer

optim.build = wounded
settings.main(train.train, train.__file__)
"""


@pytest.mark.parametrize(
    "fault, words",
    [
        ("skip", "has other parameters or coefficients than the other ranks"),
        ("nan", "rank 0 has other parameters or coefficients than the other ranks .not finite.$"),
        ("token", "val.bin holds token 99, beyond the 27"),
    ],
)
def test_ranks_that_disagree_stop_and_the_reason_of_one_that_fails_stands_last(folder, fault, words):
    path = folder / "ranks.py"
    path.write_text(RANKS.format(tests=str(tiny.ROOT / "tests"), fault=fault))
    settings = {"optimizer": "avgrad", "check_interval": 4, "max_iters": 40, "log_interval": 20}
    status, _, error = run(folder, torchrun=True, script=path, **settings)
    lines = [line for line in error.splitlines() if line.strip(" =-")]
    assert status == 1 and re.search(words, lines[-1]), error[-3000:]
    assert last_step() == 4  # not the state of ranks that disagree


def test_ranks_that_have_nothing_but_shards_have_nothing_to_compare(folder):
    status, _, error = run(folder, torchrun=True, optimizer="adam", shard=True, check_interval=2, max_iters=4)
    assert status == 0, error[-3000:]


def test_more_ranks_or_fewer_keep_the_order_of_the_data(folder):
    run(folder, torchrun=True, max_iters=4)
    tiny.run(init_from="resume")
    tiny.run(out_dir="straight")
    losses = [[record["train_loss"] for record in metrics.read(each)[1][1:]] for each in ("out", "straight")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_record_that_cannot_be_read_is_not_replaced(monkeypatch):
    """As on a network disk that is away for a moment."""
    log = metrics.Metrics("out", {"config": {}}, 0, 5)
    log.write({"iter": 1})
    log.close()
    before = Path("out/metrics.jsonl").read_text()

    def away(out_dir):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(metrics, "lines", away)
    with pytest.raises(UserError, match="out/metrics.jsonl cannot be read: Input/output error"):
        metrics.Metrics("out", {"config": {}}, 1, 5)
    assert Path("out/metrics.jsonl").read_text() == before
