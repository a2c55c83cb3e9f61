"""Inputs of a rule that are not elementwise: computed for whole tensors before the elementwise pass, constants to the derivative.

A function takes the clipped gradients of k tensors of one shape and the buffers that it names, (k, *shape) each, and returns
what the rule is to have in place of them, likewise. Muon's orthogonalized momentum is one, a block's mean square another.
"""

import inspect
from collections.abc import Callable, Iterator
from functools import cache

import torch
import torch.distributed as dist
from torch import Tensor

from .shards import is_sharded, world


def compute(functions: dict[str, Callable], members: list[tuple], ok: Tensor) -> None:
    """Write the inputs of one step into the state of its parameters; where `ok` is false they stay as they were.

    functions: {input: function}; members: (parameter, its state, the factor that clips its gradient), all with gradients.
    """
    for name, function in functions.items():
        buffers = named_buffers(function)
        for some in by_shape(members):
            old = [state[name] for _, state, _ in some]
            new = computed_in_shares(function, [{"g": p.grad, **{key: state[key] for key in buffers}} for p, state, _ in some],
                             torch.stack([clip for _, _, clip in some]))  # fmt: skip
            for x, before in zip(new, old, strict=True):
                x = like(x, before)
                torch.where(ok.to(x.device), x, before, out=before)


@cache
def named_buffers(function: Callable) -> tuple[str, ...]:
    """The arguments of an input's function, but the gradient."""
    return tuple(key for key in inspect.signature(function).parameters if key != "g")


def by_shape(members: list[tuple]) -> Iterator[list[tuple]]:
    """The members in batches that can be stacked."""
    batches = {}
    for member in members:
        p = member[0]
        batches.setdefault((p.shape, p.dtype, p.device, is_sharded(p)), []).append(member)
    yield from batches.values()


def computed_in_shares(function: Callable, rows: list[dict[str, Tensor]], clips: Tensor) -> Tensor:
    """function() of stacked rows, (k, *shape). Where each rank has whole tensors, it does its share, and all get all of it."""
    ranks = 1 if is_sharded(rows[0]["g"]) else world()
    mine = rows[dist.get_rank() :: ranks] if ranks > 1 else rows
    clips = clips[dist.get_rank() :: ranks] if ranks > 1 else clips
    shape = rows[0]["g"].shape
    if mine:
        whole = {name: torch.stack([full(row[name]) for row in mine]) for name in mine[0]}
        factors = clips.to(whole["g"]).view(-1, *[1] * len(shape))
        whole["g"] = whole["g"] * factors
        result = function(**whole)
    if ranks == 1:
        return result
    count = -(-len(rows) // ranks)
    part = torch.zeros(count, *shape, dtype=rows[0]["g"].dtype, device=rows[0]["g"].device)
    if mine:
        part[: len(mine)] = result
    parts = [torch.empty_like(part) for _ in range(ranks)]
    dist.all_gather(parts, part)
    return torch.stack([parts[i % ranks][i // ranks] for i in range(len(rows))])


def full(x: Tensor) -> Tensor:
    """All of a sharded tensor, which all ranks ask for at once."""
    return x.full_tensor() if is_sharded(x) else x


def like(x: Tensor, old: Tensor) -> Tensor:
    """x in the dtype of `old`, and of it this rank's part as `old` is sharded."""
    if is_sharded(old):
        from torch.distributed.tensor import DTensor, Replicate

        whole = DTensor.from_local(x.to(old.dtype), old.device_mesh, [Replicate()] * old.device_mesh.ndim)
        return whole.redistribute(old.device_mesh, old.placements)
    return x.to(old.dtype)
