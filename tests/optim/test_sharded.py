"""Parameters in parts on two processes (FSDP2, tensor parallelism): the steps of one process, and checkpoints from
which they go on exactly.

python -m pytest tests/optim/test_sharded.py
"""

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from every import INTERIOR
from reference import problem
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module
from torch.distributed.tensor.placement_types import _StridedShard

from optim import MADA, Adan, HyperAdam, shards

ROUNDING = {"rtol": 1e-9, "atol": 1e-11}
OPTIMIZERS = {
    "mada": (MADA, INTERIOR),
    "per group": (MADA, dict(INTERIOR, per_group=True)),
    "hyperadam": (HyperAdam, {}),
    "adan": (Adan, {}),
    "muon": (MADA, dict(INTERIOR, mu=0.4, learn=("beta1", "beta2", "mu"))),
}

PARALLEL = ("mada", "adan")  # under tensor and sequence parallelism


def network(name, mesh=None, placement=None):
    """A model whose 5 hidden units do not halve, and its optimizer; sharded where a mesh is given."""
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(problem.wave(p.shape, 1.3 + i, 0.2, 0.6))
    if mesh:
        fully_shard(model, mesh=mesh, shard_placement_fn=placement)
    cls, settings = OPTIMIZERS[name]
    groups = [
        {"params": [p for p in model.parameters() if p.dim() == 2], "weight_decay": 0.1, "muon": True},
        {"params": [p for p in model.parameters() if p.dim() == 1]},
    ]
    return model, cls(groups, lr=0.02, max_grad_norm=0.3, **settings)


def train(model, optimizer, steps):
    for t in steps:
        optimizer.zero_grad()
        ((model(problem.wave((8, 4), 0.37, t, 1.5)) - problem.wave((8, 3), 1.7, t, 1.0)) ** 2).mean().backward()
        optimizer.step()


def block(name, mesh=None):
    """Two matrices between layer norms, whose gradients a rank has a part of under sequence parallelism."""
    model = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4), nn.LayerNorm(4)).double()
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(problem.wave(p.shape, 1.3 + i, 0.2, 0.6))
    if mesh:
        up, down = ColwiseParallel(input_layouts=Shard(1)), RowwiseParallel(output_layouts=Shard(1))
        parallelize_module(model, mesh, {"0": SequenceParallel(), "1": up, "3": down, "4": SequenceParallel()})
    cls, settings = OPTIMIZERS[name]
    return model, cls(model.parameters(), lr=0.02, max_grad_norm=0.3, **settings)


def train_block(model, optimizer, mesh=None):
    for t in range(1, 6):
        optimizer.zero_grad()
        x = problem.wave((3, 2, 4), 0.37, t, 1.5)  # (batch, time, channels)
        out = model(x.chunk(2, 1)[mesh.get_local_rank()] if mesh else x)
        out = out.full_tensor() if mesh else out
        ((out - problem.wave((3, 2, 4), 1.7, t, 1.0)) ** 2).mean().backward()
        optimizer.step()


def result(model, optimizer):
    whole = [p.full_tensor() if isinstance(p, DTensor) else p.detach() for p in model.parameters()]
    return whole, getattr(optimizer, "coefficients", None), optimizer.grad_norm


def first_in_columns(p):
    return Shard(1) if p.shape == (5, 4) else Shard(0)


def moved(mesh):
    """The ends of runs that go on from the states of others: whole -> shards -> other shards -> whole."""
    model, optimizer = network("mada")
    train(model, optimizer, range(1, 4))
    for step, (where, how) in enumerate([(mesh, None), (mesh, first_in_columns), (None, None)], start=4):
        other, fresh = network("mada", where, how)
        with torch.no_grad():
            for p, q in zip(other.parameters(), model.parameters(), strict=True):
                p.copy_(shards.shard_as(q.detach(), p))
        fresh.load_state_dict(optimizer.state_dict())
        model, optimizer = other, fresh
        train(model, optimizer, [step])
    return result(model, optimizer)


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    results = {}
    for name in OPTIMIZERS:
        model, optimizer = network(name, mesh)
        train(model, optimizer, range(1, 6))
        states = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
        dcp.save(states, checkpoint_id=f"{folder}/{name}")
        train(model, optimizer, range(6, 11))

        other, fresh = network(name, mesh)
        states = dict(zip(("model", "optimizer"), get_state_dict(other, fresh), strict=True))
        dcp.load(states, checkpoint_id=f"{folder}/{name}")
        set_state_dict(other, fresh, model_state_dict=states["model"], optim_state_dict=states["optimizer"])
        train(other, fresh, range(6, 11))
        results[name] = result(model, optimizer), result(other, fresh)
    for name in PARALLEL:
        model, optimizer = block(name, mesh)
        train_block(model, optimizer, mesh)
        results["parallel", name] = result(model, optimizer)
    results["moved"] = moved(mesh)
    model, optimizer = network("mada", mesh)
    train(model, optimizer, range(1, 4))
    before = result(model, optimizer)[:2]
    if rank == 1:
        model[0].weight.grad.to_local()[0, 0] = torch.nan
    optimizer.step()
    results["not finite"] = before, result(model, optimizer)[:2], optimizer.skipped_steps
    version = model[0].weight._version
    train(model, optimizer, [4])
    results["seen by autograd"] = model[0].weight._version > version
    stages = init_device_mesh("cpu", (2, 1), mesh_dim_names=("stage", "data"))["data"]
    model, optimizer = network("adan", stages)
    with torch.no_grad():
        model[0].bias.add_(rank)  # as if it were another stage
    try:
        train(model, optimizer, [1])
    except RuntimeError as error:
        results["refused"] = "ranks hold different parameters" in str(error)
    both = init_device_mesh("cpu", (2, 1))  # FSDP2 over tensor parallelism
    twice = DTensor.from_local(torch.zeros(1, 2), both, [_StridedShard(0, split_factor=1), Shard(0)], run_check=False)
    copy = DTensor.from_local(torch.zeros(1, 2), both, [Replicate(), Shard(0)], run_check=False)
    results["copies"] = shards.copies(twice), shards.copies(copy)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_sharded_steps_are_those_of_one_process_and_checkpoints_go_on_exactly(tmp_path):
    torch.multiprocessing.spawn(worker, (str(tmp_path),), nprocs=2)
    zero, one = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    torch.testing.assert_close(zero, one, rtol=0, atol=0)
    assert zero.pop("copies") == (1, 2)
    assert zero.pop("refused") and zero.pop("seen by autograd")
    before, after, skipped = zero.pop("not finite")  # on one of the ranks
    torch.testing.assert_close(before, after, rtol=0, atol=0)
    assert skipped == 1
    model, optimizer = network("mada")
    train(model, optimizer, range(1, 7))
    torch.testing.assert_close(zero.pop("moved"), result(model, optimizer), **ROUNDING)
    for name in PARALLEL:
        model, optimizer = block(name)
        train_block(model, optimizer)
        torch.testing.assert_close(zero.pop(("parallel", name)), result(model, optimizer), **ROUNDING)
    for name, (straight, resumed) in zero.items():
        torch.testing.assert_close(straight, resumed, rtol=0, atol=0, msg=name)
        model, optimizer = network(name)
        train(model, optimizer, range(1, 11))
        torch.testing.assert_close(straight, result(model, optimizer), **ROUNDING)
