"""What processes tell each other in one step: how many collectives, of how many bytes, under DDP and FSDP2.

python -m pytest tests/optim/test_collectives.py
"""

import contextlib

import pytest
import torch
import torch.distributed as dist
from reference import problem
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from optim import MADA, Adan, HyperAdam

GROUPS, NUMBER = 2, 8  # param groups of the model below; bytes of a float64
FORMS = {  # and how many coefficients a form has
    "mada": (MADA, {}, 6),
    "mada per group": (MADA, {"per_group": True}, 6),
    "mada clipped": (MADA, {"max_grad_norm": 0.3}, 6),
    "hyperadam": (HyperAdam, {}, 2),
    "mada fixed": (MADA, {"learn": ()}, 0),
    "adan": (Adan, {}, 0),
}


def descends(form):
    """The all-reduce of the hyper-gradients and, beside them, of sum lr |g|_1: of each group that learns for itself."""
    _, settings, coefficients = FORMS[form]
    rows = GROUPS if settings.get("per_group") else 1
    return [("allreduce", rows * (coefficients + 1) * NUMBER)] if coefficients else []


# Under DDP every rank has the whole gradient and takes its norm alone. Under FSDP2 the norm comes first and by itself:
# no buffer may be completed before it is known whether the gradient is finite.
EXPECTED = {
    "ddp": {form: descends(form) for form in FORMS},
    "fsdp2": {form: [("allreduce", GROUPS * NUMBER), *descends(form)] for form in FORMS},
}


class Collectives(TorchDispatchMode):
    """What is called inside: (name, bytes of the tensors that it takes)."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # its parts come by again, and what they tell each other
        if func._schema.name in ("aten::lift_fresh", "aten::_local_scalar_dense"):
            raise AssertionError("on a GPU this waits for the device")
        if func.namespace in ("c10d", "_c10d_functional") and "wait_tensor" not in str(func):
            tensors = [x for x in tree_leaves(args) if isinstance(x, torch.Tensor)]
            self.seen.append((func._schema.name.partition("::")[2].strip("_"), sum(x.nbytes for x in tensors)))
        return func(*args, **(kwargs or {}))


def steps(mode, form, rank, world):
    """The collectives of a third step, and the parameters after it."""
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(problem.wave(p.shape, 1.3 + i, 0.2, 0.6))
    if mode == "fsdp2":
        fully_shard(model, mesh=init_device_mesh("cpu", (world,)))
    cls, settings, _ = FORMS[form]
    groups = [
        {"params": [p for p in model.parameters() if p.dim() == 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() == 1]},
    ]
    optimizer = cls(groups, lr=0.02, **settings)
    forward = DistributedDataParallel(model) if mode == "ddp" else model
    for t in range(1, 4):
        optimizer.zero_grad()
        forward(problem.wave((8, 4), 0.37 + rank, t, 1.5)).square().mean().backward()
        collectives = Collectives()
        with collectives if t == 3 else contextlib.nullcontext():  # the first step checks that the ranks agree
            optimizer.step()
    whole = [p.full_tensor() if isinstance(p, DTensor) else p.detach() for p in model.parameters()]
    return collectives.seen, whole


def worker(rank, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    torch.save(
        {mode: {form: steps(mode, form, rank, world) for form in FORMS} for mode in EXPECTED}, f"{folder}/{rank}.pt"
    )
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_collectives_of_a_step(tmp_path):
    world = 4
    torch.multiprocessing.spawn(worker, (world, str(tmp_path)), nprocs=world)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    for mode, forms in EXPECTED.items():
        for form, expected in forms.items():
            assert [rank[mode][form][0] for rank in ranks] == [expected] * world, (mode, form)
            torch.testing.assert_close(ranks[-1][mode][form][1], ranks[0][mode][form][1], rtol=0, atol=0)
