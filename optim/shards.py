"""What a rank holds of a parameter: all of it, or a part of a DTensor (FSDP2, tensor parallelism)."""

import math
import sys
from typing import Any

import torch
import torch.distributed as dist


def is_sharded(x: torch.Tensor) -> bool:
    """Whether x is a DTensor. Nothing is while nobody has imported that module, which takes half a second."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def local(x: torch.Tensor) -> torch.Tensor:
    """This rank's part of a sharded tensor; other tensors are whole on every rank."""
    return x.to_local() if is_sharded(x) else x


def full(x: torch.Tensor) -> torch.Tensor:
    """All of a sharded tensor. All ranks call this at once."""
    return x.full_tensor() if is_sharded(x) else x


def local_gradient(p: torch.Tensor) -> torch.Tensor:
    """This rank's part of p's gradient. Sums over ranks that tensor parallelism has left open are taken here."""
    grad = p.grad
    if is_sharded(grad) and grad.placements != p.placements:
        grad = grad.redistribute(p.device_mesh, p.placements)
    return local(grad)


def world() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def copies(p: torch.Tensor) -> int:
    """How many ranks hold the same elements of p: all of them under DDP, one under FSDP."""
    ranks = world()
    if is_sharded(p):
        for size, placement in zip(p.device_mesh.shape, p.placements, strict=True):
            # not is_shard(): the shards of FSDP2 over tensor parallelism are of another class
            ranks //= 1 if placement.is_replicate() else size
    return ranks


def check_shards(owner: str, p: torch.Tensor) -> None:
    """Raises ValueError for a parameter of FSDP1, whose parts on each rank are plain tensors."""
    if world() > 1 and (getattr(p, "_is_flat_param", False) or getattr(p, "_fsdp_flattened", False)):
        raise ValueError(
            f"{owner} cannot see which part of a parameter FullyShardedDataParallel (FSDP1) has put on a rank: "
            "use FSDP2, torch.distributed.fsdp.fully_shard"
        )


def shard_as(value: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """A tensor of p's shape, whole on every rank or sharded in any way, sharded as p is. All ranks call this."""
    alike = is_sharded(value) and is_sharded(p) and value.device_mesh == p.device_mesh
    if is_sharded(value) and not (alike and value.placements == p.placements):
        value = full(value)
    if is_sharded(p) and not is_sharded(value) and value.shape == p.shape:
        from torch.distributed.tensor import distribute_tensor

        value = distribute_tensor(value.to(p.device), p.device_mesh, p.placements, src_data_rank=None)
    return value


def check_same_parameters(owner: str, groups: list[dict[str, Any]]) -> None:
    """Raises RuntimeError if ranks hold parameters that are neither the same nor parts of the same: ZeRO, pipelines.

    All ranks call this. Ranks at the same place of their meshes, under DDP all, start from the same values there, so
    that shapes and sums of magnitudes tell.
    """
    params = [p.detach() for group in groups for p in group["params"]]
    meshes = [p.device_mesh if is_sharded(p) else None for p in params]
    shapes = [(tuple(p.shape), mesh and tuple(mesh.shape)) for p, mesh in zip(params, meshes, strict=True)]
    places = [mesh and mesh.get_coordinate() for mesh in meshes]
    sums = [float(local(p).abs().sum(dtype=torch.float64)) for p in params]
    seen = [None] * world()
    dist.all_gather_object(seen, (shapes, places, sums))
    first, same = {}, all(theirs == shapes for theirs, *_ in seen)  # {(which parameter, place): sum}
    for _, where, values in seen:
        for key, value in zip(enumerate(map(str, where)), values, strict=True):
            known = first.setdefault(key, value)
            same &= value == known or math.isclose(value, known, rel_tol=1e-6) or math.isnan(value)
    if not same:
        raise RuntimeError(
            "the ranks hold different parameters, as under ZeroRedundancyOptimizer, with pipeline stages or in process "
            f"groups that train different models: each {owner} would see only a part, or too much. Use DDP with the "
            "whole model, or FSDP2 (fully_shard), on all ranks"
        )
