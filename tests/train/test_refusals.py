"""Settings that make no sense together, or on this machine: one line before anything is written.

python -m pytest -q tests/train/test_refusals.py        # a few seconds
"""

import os

import pytest
import tiny
import torch

import devices
import train
from reproduce.pool import load
from settings import UserError, parse

pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.parametrize(
    "ranks, micro, message",
    [
        (1, 3, "valid micro_batch_size: 1, 2, 4, 8"),
        (4, 4, "valid micro_batch_size: 1, 2"),
        (3, None, "valid numbers of processes: 1, 2, 4, 8"),
        (16, None, "valid numbers of processes: 1, 2, 4, 8"),
    ],
)
def test_a_batch_that_cannot_be_divided_says_what_can(monkeypatch, ranks, micro, message):
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    with pytest.raises(UserError, match=f"batch_size=8 .*{message}$"):
        tiny.run(micro_batch_size=micro)
    assert not os.path.exists("out")


@pytest.mark.parametrize(
    "environment, message",
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2, but no exchange can be set up .*MASTER_ADDR expected.*torchrun"),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "x"}, "no exchange can be set up .*torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "3"}, "RANK=3 must be below WORLD_SIZE=2"),
        ({"WORLD_SIZE": "2", "RANK": "1", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1", "device": "cuda:0"},
         "device='cuda:0' is one GPU, for 2 processes"),
    ],
)  # fmt: skip
def test_half_of_torchruns_environment_is_one_line(monkeypatch, environment, message):
    """As left over from another job, or set by a cluster that starts one process."""
    environment = dict(environment)
    device = environment.pop("device", "cpu")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        tiny.run(device=device)
    assert not os.path.exists("out")


@pytest.mark.parametrize("real, dtype", [(True, "bfloat16"), (False, "float16")])
def test_bfloat16_that_is_emulated_is_not_chosen(monkeypatch, real, dtype):
    """As on a V100, where it is several times slower."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or real)
    monkeypatch.setattr(devices.torch, "autocast", lambda *_: None)
    assert devices.resolve_dtype("auto", "cuda") == (dtype, None)


def test_processes_that_start_at_other_steps_are_one_line(monkeypatch):
    """Machines that do not share out_dir: one resumes, another starts."""
    monkeypatch.setattr(devices.Processes, "most", lambda self, *values: [5.0, 0.0])
    with pytest.raises(UserError, match="out_dir must be one that all machines see"):
        tiny.run()
    assert not os.path.exists("out")


@pytest.mark.parametrize("name", [name for name, it in train.SETTINGS.items() if "Must" in repr(it.type)])
def test_a_number_that_is_too_small_is_an_error_before_anything_is_written(name):
    with pytest.raises(UserError, match=f"{name}=.* must "):
        tiny.run(**{name: -1})
    assert not os.path.exists("out")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"batch_size": 2**31}, "batch_size=2147483648: 36,507,222,016 tokens .* would take 730 GB of memory"),
        (
            {"n_layer": 2**31},
            "a model of 6,597,069,767,344 parameters would take 26,388 GB of memory; this machine has 4 GB",
        ),
        ({"vocab_size": 2**32 - 1}, "a model of 68,719,480,048 parameters would take 274 GB"),
    ],
)
def test_what_no_memory_could_hold_is_an_error_before_anything_is_written(monkeypatch, settings, message):
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 10**6}.get)
    with pytest.raises(UserError, match=message):
        tiny.run(**settings)
    assert not os.path.exists("out")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"n_embd": 17}, "n_embd=17 must be a multiple of n_head=2"),
        ({"dropout": 1.0}, "dropout=1.0 must"),
        ({"optimizer": "adma"}, "'adma' does not exist: choose one of mada"),
        ({"optimizer": "adam", "rho": 0.5}, "no setting 'rho'"),
        ({"device": "abacus"}, "device='abacus'"),
        ({"state_dtype": "foo"}, "state_dtype='foo' must be bfloat16"),
        ({"init_from": "./nowhere"}, "init_from='./nowhere' is not scratch, resume"),
        ({"block_size": 1000}, "block_size=1000 needs more than the 1,000 tokens of tiny's val.bin"),
        ({"vocab_size": 20}, "vocab_size=20 is less than the data's 27"),
        ({"learning_rate": -1.0}, "-1.0 must be at least 0"),
    ],
)
def test_settings_that_do_not_fit_are_errors_before_anything_is_written(settings, message):
    with pytest.raises(UserError, match=message):
        tiny.run(**settings)
    assert not os.path.exists("out")


@pytest.mark.parametrize("script", ["train.py", "scripts/train_cifar10.py", "scripts/train_small.py"])
def test_what_only_the_optimizer_refuses_is_one_line_too(script, monkeypatch):
    run = load(str(tiny.ROOT / script))
    given = {"out_dir": "out", "device": "cpu", "dataset": "tiny", "domain": {"rho": ("a", 1)}}
    if script == "train.py":
        given |= tiny.SETTINGS
    if "cifar10" in script:
        images = torch.zeros(8, 32, 32, 3, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64)
        monkeypatch.setattr(run, "load", lambda *_: images)
    given = {name: value for name, value in given.items() if name in run.SETTINGS}
    with pytest.raises(UserError, match="not supported between"):
        run.train(*parse(run.SETTINGS, [f"--{name}={value!r}" for name, value in given.items()]))
    assert not os.path.exists("out")
