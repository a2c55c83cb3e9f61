"""Inputs of a rule that are not elementwise: computed for whole tensors before the elementwise pass.

The derivative treats them as constants. A function takes the clipped gradients of k tensors of one shape and the
buffers that it names, (k, *shape) each, and returns the rule's inputs, of the same shape. Examples: Muon's
orthogonalized momentum, and the mean square of a block.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache

import torch
import torch.distributed as dist
from torch import Tensor

from .shards import full, is_sharded, shard_as, world


def compute(functions: dict[str, Callable], members: list[tuple], ok: Tensor) -> None:
    """Write the inputs of one step into the state of its parameters; if `ok` is false, they stay as they were.

    functions: {input: function}; members: (parameter, its state, factor that clips its gradient), all with gradients.
    """
    for name, function in functions.items():
        buffers = named_buffers(function)
        for some in by_shape(members):
            old = [state[name] for _, state, _ in some]
            rows = [{"g": p.grad, **{key: state[key] for key in buffers}} for p, state, _ in some]
            new = computed_in_shares(function, rows, torch.stack([clip for _, _, clip in some]))
            for x, before in zip(new, old, strict=True):
                x = shard_as(x.to(before.dtype), before)
                torch.where(ok.to(x.device), x, before, out=before)


def check_inputs(owner: str, functions: Mapping[str, Callable], names: Iterable[str], buffers: Iterable[str]) -> None:
    """Raises ValueError naming an input that a rule cannot have: each is a function of g and of some of the buffers."""
    for name in names:
        if name not in functions:
            raise ValueError(f"{owner} has no input {name!r}: it has {', '.join(functions) or 'none'}")
        taken = {*inspect.signature(functions[name]).parameters}
        if "g" not in taken or taken - {"g", *buffers}:
            raise ValueError(
                f"the input {name!r} of {owner} must be a function of g and of some of its buffers "
                f"({', '.join(buffers) or 'none'}), not of {', '.join(sorted(taken)) or 'nothing'}"
            )


@cache
def named_buffers(function: Callable) -> tuple[str, ...]:
    """The arguments of an input's function, except the gradient."""
    return tuple(key for key in inspect.signature(function).parameters if key != "g")


def by_shape(members: list[tuple]) -> Iterator[list[tuple]]:
    """The members in batches that can be stacked."""
    batches = {}
    for member in members:
        p = member[0]
        batches.setdefault((p.shape, p.dtype, p.device, is_sharded(p)), []).append(member)
    yield from batches.values()


def computed_in_shares(function: Callable, rows: list[dict[str, Tensor]], clips: Tensor) -> Tensor:
    """function() of stacked rows, (k, *shape). If ranks hold whole tensors, each computes a share; all get all."""
    ranks = 1 if is_sharded(rows[0]["g"]) else world()
    mine = rows[dist.get_rank() :: ranks] if ranks > 1 else rows
    clips = clips[dist.get_rank() :: ranks] if ranks > 1 else clips
    shape = rows[0]["g"].shape
    if mine:
        whole = {name: torch.stack([full(row[name]) for row in mine]) for name in mine[0]}
        factors = clips.to(whole["g"]).view(-1, *[1] * len(shape))
        whole["g"] = whole["g"] * factors
        result = function(**whole)
        if result.shape != whole["g"].shape:
            shapes = tuple(result.shape), tuple(whole["g"].shape)
            raise RuntimeError(f"{function.__name__}() returned the shape {shapes[0]} for gradients of {shapes[1]}")
    if ranks == 1:
        return result
    count = -(-len(rows) // ranks)
    part = torch.zeros(count, *shape, dtype=rows[0]["g"].dtype, device=rows[0]["g"].device)
    if mine:
        part[: len(mine)] = result
    parts = [torch.empty_like(part) for _ in range(ranks)]
    dist.all_gather(parts, part)
    return torch.stack([parts[i % ranks][i // ranks] for i in range(len(rows))])
