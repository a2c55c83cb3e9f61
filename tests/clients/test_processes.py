"""What other processes and other people's code around a step do to it: fork, a shared cache, torch.compile, sharding.

python -m pytest tests/clients/test_processes.py
"""

import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from optim import MADA, HyperAdam, compile

ROOT = Path(__file__).resolve().parents[2]

STEP = """
    import sys, torch
    sys.path.insert(0, {root!r})
    from optim import HyperAdam
    p = torch.ones(3, requires_grad=True)
    optimizer = HyperAdam([p], lr=0.1)
    for _ in range(2):
        p.grad = torch.ones(3)
        optimizer.step()
    print(p.tolist())
"""


def python(code, **environment):
    """The outcome of a process of its own."""
    command = [
        sys.executable,
        "-W",
        "error::UserWarning",
        "-c",
        textwrap.dedent(code).replace("{root!r}", repr(str(ROOT))),
    ]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=100, check=False
    )


# -- compiled loops on disk -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_second_process_compiles_nothing(tmp_path):
    first = python(STEP, MADA_CACHE=str(tmp_path))
    assert first.returncode == 0, first.stderr
    made = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert made and all(name.endswith(".so") for name in made)
    code = STEP.replace("import sys, torch", "import sys, torch, subprocess; subprocess.run = None")
    second = python(code, MADA_CACHE=str(tmp_path))
    assert second.returncode == 0 and second.stdout == first.stdout, second.stderr
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == made


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MADA_CACHE", str(tmp_path / "cache"))
    compile.compile_c.cache_clear()
    yield tmp_path / "cache"
    compile.compile_c.cache_clear()


SOURCE = "void run(void) {}"


def compiles(monkeypatch):
    """How often a compiler has run since, as a list that grows."""
    calls, run = [], subprocess.run
    monkeypatch.setattr(compile.subprocess, "run", lambda *args, **kwargs: calls.append(args) or run(*args, **kwargs))
    return calls


def test_a_damaged_file_is_made_again(cache, monkeypatch):
    calls = compiles(monkeypatch)
    compile.compile_c(SOURCE)
    (path,) = cache.iterdir()
    damaged = cache.parent / "damaged" / path.name
    damaged.parent.mkdir(mode=0o700)
    damaged.write_bytes(b"")  # as a power cut may leave it
    monkeypatch.setenv("MADA_CACHE", str(damaged.parent))
    compile.compile_c.cache_clear()
    assert compile.compile_c(SOURCE) and len(calls) == 2
    assert damaged.stat().st_size == path.stat().st_size


def test_a_folder_that_others_can_write_to_is_not_used(cache, monkeypatch):
    cache.mkdir(mode=0o777)
    cache.chmod(0o777)
    assert compile.compile_c(SOURCE)
    assert not list(cache.iterdir())
    cache.chmod(0o700)
    compile.compile_c.cache_clear()
    assert compile.compile_c(SOURCE) and list(cache.iterdir())
    assert not cache.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def test_without_a_home_a_temporary_folder_serves(cache, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MADA_CACHE", str(tmp_path / "file" / "cache"))
    assert compile.compile_c(SOURCE)


def test_another_compiler_flag_or_machine_is_another_file(cache, monkeypatch):
    compile.compile_c(SOURCE)
    others = {"FLAGS": [*compile.FLAGS, "-DX"], "machine": lambda: "another", "fingerprint": lambda command: "newer"}
    for name, value in others.items():
        monkeypatch.setattr(compile, name, value)
        compile.compile_c.cache_clear()
        compile.compile_c(SOURCE)
    assert len(list(cache.iterdir())) == 4


def test_which_compiler_is_taken(monkeypatch):
    monkeypatch.setenv("CC", "mine")
    monkeypatch.setattr(compile.shutil, "which", lambda name: name if name in ("mine", "clang") else None)
    assert compile.compiler() == ["mine"]
    monkeypatch.delenv("CC")
    assert compile.compiler() == ["clang"]
    monkeypatch.setattr(compile.shutil, "which", lambda name: None)
    monkeypatch.setattr(compile.importlib.util, "find_spec", lambda name: object())
    assert compile.compiler()[1:] == ["-m", "ziglang", "cc"]
    monkeypatch.setattr(compile.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(compile.Unavailable, match="pip install ziglang"):
        compile.compiler()


@pytest.mark.slow
def test_processes_that_compile_at_once_do_not_disturb_each_other(cache):
    code = f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from optim import compile
        for k in range(4):
            compile.compile_c("int run(void) {{ return %d; }}" % k)
            assert compile.compile_c("int run(void) {{ return %d; }}" % k)() == k
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in running:
        assert process.communicate(timeout=200)[1] == "" and process.returncode == 0
    assert len(list(cache.iterdir())) == 4


def test_ziglang_says_what_it_does(cache, monkeypatch, caplog):
    compile.announce.cache_clear()
    monkeypatch.setattr(compile, "compiler", lambda: [sys.executable, "-c", "raise SystemExit(1)", "ziglang"])
    with pytest.raises(compile.Unavailable, match="fails"):
        compile.compile_c(SOURCE)
    assert "compiling the optimizer's loops with ziglang" in caplog.text


# -- fork -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_steps_after_a_fork():
    """The child has none of the threads that its parent ran loops with."""
    code = """
        import os, signal, sys, torch
        sys.path.insert(0, {root!r})
        from optim import Lion
        torch.set_num_threads(3)
        p = torch.ones(300_000, requires_grad=True)
        optimizer = Lion([p], lr=0.1)
        p.grad = torch.ones_like(p)
        optimizer.step()
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # a child that hangs goes, too
            optimizer.step()
            os._exit(7 if abs(p[-1].item() - 0.8) < 1e-6 else 8)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    done = python(code)
    assert done.stdout == "7\n", done.stderr


# -- torch.compile --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_function_may_step():
    """The step is one opaque call; what is around it is compiled (here by the eager backend, without a compiler)."""

    def train(wrap):
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
        optimizer = MADA(model.parameters(), lr=0.1)

        def step(x):
            model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        step = wrap(step)
        for t in range(5):
            step(torch.sin(torch.arange(8.0).view(2, 4) + t))
        return [p.detach() for p in model.parameters()], optimizer.coefficients

    plain, compiled = train(lambda f: f), train(lambda f: torch.compile(f, backend="eager"))
    torch.testing.assert_close(plain, compiled, rtol=1e-5, atol=1e-6)


# -- several processes ----------------------------------------------------------------------------------------------


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def train(model, optimizer, steps):
    for t in steps:
        optimizer.zero_grad()
        x = torch.sin(torch.arange(32.0).view(8, 4) * 0.37 + t)
        (model(x) - x[:, :3].cos()).square().mean().backward()
        optimizer.step()


def refusal(make):
    """What constructing an optimizer and stepping raises."""
    try:
        model, optimizer = make()
        train(model, optimizer, range(2))
    except (ValueError, RuntimeError) as error:
        return str(error)
    return None


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.optim import ZeroRedundancyOptimizer

    seen = {}
    for orig in (True, False):

        def fsdp(orig=orig):
            model = FullyShardedDataParallel(network(), use_orig_params=orig, device_id=torch.device("cpu"))
            return model, MADA(model.parameters())

        seen[f"fsdp {orig}"] = refusal(fsdp)

    def zero():
        model = nn.parallel.DistributedDataParallel(network())
        return model, ZeroRedundancyOptimizer(model.parameters(), optimizer_class=MADA)

    seen["zero"] = refusal(zero)

    def fixed():
        model = nn.parallel.DistributedDataParallel(network())
        return model, ZeroRedundancyOptimizer(model.parameters(), optimizer_class=HyperAdam, learn=())

    seen["fixed zero"] = refusal(fixed)

    def muon():  # equal shapes with unlike values: each rank would take the other's matrices for its own
        model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 3))
        group = [{"params": [[*model.parameters()][rank]], "muon": True}]
        return model, MADA(group, mu=1.0, learn=())

    seen["muon"] = refusal(muon)

    for name, options in {
        "full": StateDictOptions(full_state_dict=True),
        "offloaded": StateDictOptions(full_state_dict=True, cpu_offload=True),
        "offloaded shards": StateDictOptions(cpu_offload=True),
    }.items():
        model = network()
        optimizer = MADA(model.parameters(), lr=0.02, learn=("beta1", "lr"), state_dtype=torch.bfloat16)
        train(model, optimizer, range(3))
        state = get_optimizer_state_dict(model, optimizer, options=options)
        other = network()
        other.load_state_dict(model.state_dict())
        fresh = MADA(other.parameters(), lr=0.02, learn=("beta1", "lr"), state_dtype=torch.bfloat16)
        on_rank_0 = options.full_state_dict and options.cpu_offload  # such a state dict is nowhere else
        assert bool(state) == (rank == 0 or not on_rank_0)
        full = StateDictOptions(full_state_dict=options.full_state_dict, broadcast_from_rank0=on_rank_0)
        set_optimizer_state_dict(other, fresh, state, options=full)
        train(model, optimizer, range(3, 6))
        train(other, fresh, range(3, 6))
        seen[name] = (
            [p.detach() for p in model.parameters()],
            [p.detach() for p in other.parameters()],
            optimizer.coefficients,
            fresh.coefficients,
        )
    torch.save(seen, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_shards_that_are_no_dtensors_are_refused_and_state_dicts_go_round(tmp_path):
    torch.multiprocessing.spawn(worker, (str(tmp_path),), nprocs=2)
    for rank in range(2):
        seen = torch.load(tmp_path / f"{rank}.pt")
        for name in ("fsdp True", "fsdp False"):
            assert "FSDP1" in seen[name] and "fully_shard" in seen[name]
        assert "ZeroRedundancyOptimizer" in seen["zero"] and "MADA" in seen["zero"]
        assert seen["fixed zero"] is None  # elementwise, and nothing is summed: right as it is
        assert "ZeroRedundancyOptimizer" in seen["muon"]
        for name in ("full", "offloaded", "offloaded shards"):
            straight, resumed, q, p = seen[name]
            torch.testing.assert_close(straight, resumed, rtol=0, atol=0)
            assert q == p and q["lr"] != 1.0
