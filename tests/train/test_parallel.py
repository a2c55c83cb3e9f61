"""How a model is spread over processes, cast and compiled changes how fast it is, and nothing else.

python -m pytest -q tests/train/test_parallel.py        # a quarter of a minute
"""

import copy
import gc
import subprocess
import sys
from types import SimpleNamespace

import pytest
import tiny
import torch
from torch.nn.attention import SDPBackend
from torch.utils._python_dispatch import TorchDispatchMode

import devices
import train
from model import GPT, GPTConfig
from parallel import Parallel, attention, on_cpu

ALONE = SimpleNamespace(ranks=1, device_type="cpu", device="cpu")
SIZES = GPTConfig(block_size=16, vocab_size=27, n_layer=3, n_head=2, n_embd=16, bias=False)


def model():
    torch.manual_seed(0)
    return GPT(SIZES)


def batches(count=3, seed=1):
    return torch.randint(27, (count, 2, 4, 16), generator=torch.Generator().manual_seed(seed))


class Casts(TorchDispatchMode):
    """Counts what is cast to bfloat16, by shape."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._to_copy.default and kwargs.get("dtype") == torch.bfloat16:
            self.shapes.append(tuple(args[0].shape))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("checkpoint_activations", [False, True])
def test_weights_are_cast_once_a_step_and_gradients_are_what_they_were(checkpoint_activations):
    autocast, found = torch.autocast("cpu", torch.bfloat16), []
    for once in (False, True):
        net = model()
        net.checkpoint_activations = checkpoint_activations
        spread = Parallel(net, ALONE, False, False, "bfloat16" if once else "float32")
        with Casts() as casts, spread.step():
            for x, y in batches():
                with spread.micro_step(True), autocast:
                    loss = spread.train(x, y)
                loss.backward()
        assert casts.shapes.count((64, 16)) == (
            SIZES.n_layer if once else 3 * SIZES.n_layer * (1 + checkpoint_activations)
        )
        found.append([p.grad for p in net.parameters()])
        with torch.no_grad(), autocast:  # what was cast is not kept beyond the step
            net.transformer.h[0].mlp.c_fc.weight.mul_(2)
            assert net.eval()(*batches()[0]) == copy.deepcopy(net).eval()(*batches()[0])
    assert all(map(torch.equal, *found))


def test_attention_takes_the_fastest_that_the_card_has(monkeypatch):
    flash, small, plain, cudnn = (
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
        SDPBackend.CUDNN_ATTENTION,
    )
    before = torch._C._get_sdp_priority_order()
    for capability, order in (((9, 0), [cudnn, flash, small, plain]), ((8, 0), [flash, small, plain])):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, it=capability: it)
        with attention("cuda:1"):
            assert torch._C._get_sdp_priority_order()[: len(order)] == [int(it) for it in order]
            assert torch.backends.cuda.cudnn_sdp_enabled() == (cudnn in order)
    assert torch._C._get_sdp_priority_order() == before
    with attention("cpu"):
        assert torch._C._get_sdp_priority_order() == before


def test_a_named_gpu_is_the_current_one(monkeypatch):
    """`--device=cuda:1` in one process: what asks torch for the current device must not read the first card's."""
    current = []
    monkeypatch.setattr(devices, "resolve_device", lambda device: device)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert devices.Processes("cuda:1").device == "cuda:1" and current == ["cuda:1"]
    assert devices.Processes("cpu").device == "cpu" and current == ["cuda:1"]


def test_evaluation_goes_through_the_compiled_model(folder, monkeypatch):
    """Whole batches do: the last one may be smaller, for which nothing is compiled again."""
    tiny.run(out_dir="plain", eval_iters=0)
    seen = []

    class Compiled(torch.nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x, y):
            seen.append((self.net.training, len(x)))
            return self.net(x, y)

    monkeypatch.setattr(torch, "compile", lambda it: Compiled(it) if isinstance(it, GPT) else it)
    tiny.run(out_dir="compiled", compile=True, eval_iters=0)
    assert seen.count((True, 8)) == 8 and seen.count((False, 8)) == 3 * (62 // 8) and len(seen) == 8 + 3 * 7
    ends = [torch.load(f"{each}/ckpt_last.pt") for each in ("plain", "compiled")]
    assert tiny.same(ends[0]["model"], ends[1]["model"]) and ends[0]["best_val_loss"] == ends[1]["best_val_loss"]


def test_the_collector_does_not_walk_through_what_stays(folder, monkeypatch):
    rate, frozen = train.learning_rate_at, []
    monkeypatch.setattr(train, "learning_rate_at", lambda *it: (frozen.append(gc.get_freeze_count()), rate(*it))[1])
    gc.unfreeze()  # what conftest.py has frozen
    try:
        tiny.run()
        assert min(frozen) > 10_000 and gc.get_freeze_count() == 0
    finally:
        gc.freeze()
    tiny.run(overwrite=True)
    assert gc.get_freeze_count() > 10_000  # the caller's stay frozen


def test_a_copy_is_of_its_own_memory_and_tied_weights_are_once_in_the_file(tmp_path):
    net = model()
    state = on_cpu({"model": net.state_dict(), "step": 3, "more": [torch.arange(4)[::2], "x"]})
    with torch.no_grad():
        net.transformer.wte.weight.zero_()
    assert state["step"] == 3 and state["more"][0].tolist() == [0, 2] and state["more"][1] == "x"
    assert tiny.same(state["model"], model().state_dict())
    assert state["model"]["lm_head.weight"].data_ptr() == state["model"]["transformer.wte.weight"].data_ptr()
    torch.save(state["model"], tmp_path / "model.pt")
    size = sum(4 * p.numel() for p in net.parameters())
    assert size < (tmp_path / "model.pt").stat().st_size < size + 4 * net.lm_head.weight.numel() + 8000 * SIZES.n_layer


RANKS = """
import sys, weakref
sys.path[:0] = {paths!r}
import torch
from contextlib import nullcontext
from unittest.mock import patch
from test_parallel import SIZES, batches, model
from devices import Processes
from parallel import Parallel, on_cpu
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

torch.set_num_threads(1)
processes = Processes("cpu")
processes.join(1)

def gradients(shard=False, dtype="float32", compiled=False, changed=nullcontext()):
    net = model()
    with changed:
        spread = Parallel(net, processes, shard, compiled, dtype)
    net.train()
    seen = []
    net.transformer.h[0].mlp.register_forward_pre_hook(lambda module, _: seen.append(module.c_fc.weight.dtype))
    with spread.step():
        for i, (x, y) in enumerate(batches(seed=processes.rank)):
            with spread.micro_step(i == 2):
                with torch.autocast("cpu", torch.bfloat16, enabled=dtype != "float32"):
                    loss = spread.train(x, y)
                loss.backward()
    assert not shard or net.transformer.wte.weight.dtype == torch.float32
    full = [p.grad.full_tensor() if shard else p.grad for p in net.parameters()]
    return full, seen, net

def plain(module, mesh, mp_policy=None):
    return fully_shard(module, mesh=mesh)

def same(a, b):
    return all(map(torch.equal, a, b))

def near(a, b, tolerance):
    return all((x - y).norm() <= tolerance * y.norm() for x, y in zip(a, b))

copies, _, _ = gradients()
def without_buckets(net, device_ids, gradient_as_bucket_view):
    return DistributedDataParallel(net)
assert same(copies, gradients(changed=patch("parallel.DistributedDataParallel", without_buckets))[0])
shards, seen, net = gradients(shard=True)
without_policy = patch("torch.distributed.fsdp.fully_shard", plain)
assert same(shards, gradients(shard=True, changed=without_policy)[0]) and set(seen) == {{torch.float32}}
assert near(shards, copies, 1e-5)
half, seen, _ = gradients(shard=True, dtype="bfloat16")
assert set(seen) == {{torch.bfloat16}} and {{x.dtype for x in half}} == {{torch.float32}}
cast = gradients(dtype="bfloat16")[0]
assert near(half, cast, 2e-2) and not near(cast, copies, 1e-4)
compile = torch.nn.Module.compile
torch.nn.Module.compile = lambda self: compile(self, backend="aot_eager")
assert near(gradients(shard=True, compiled=True)[0], copies, 1e-5)

# saving: never more than one whole tensor, and on the first rank only
alive, most, count, full_tensor = weakref.WeakSet(), [0], [0], DTensor.full_tensor
def counted(self):
    found = full_tensor(self)
    count[0] += 1
    alive.add(found.untyped_storage())
    most[0] = max(most[0], len(alive))
    return found
DTensor.full_tensor = counted
state = on_cpu(net.state_dict(), processes.first)
assert most[0] <= 2 and count[0] == len(list(net.parameters())) > 10, (most, count)  # gloo may still have the last
DTensor.full_tensor = full_tensor
if processes.first:
    assert all(map(torch.equal, state.values(), model().state_dict().values()))
    assert state["lm_head.weight"].data_ptr() == state["transformer.wte.weight"].data_ptr()
else:
    assert set(state.values()) == {{None}}
processes.leave()
print("all of rank", processes.rank)
"""


@pytest.mark.slow
def test_two_processes(tmp_path):
    """DDP with gradients in its buckets, FSDP2 with and without a policy, compiled blocks, saving: all in one start."""
    root = tiny.ROOT
    (tmp_path / "ranks.py").write_text(RANKS.format(paths=[str(root), f"{root}/tests", f"{root}/tests/train"]))
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", tmp_path / "ranks.py"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.count("all of rank") == 2, done.stderr[-3000:]
