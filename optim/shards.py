"""What a rank holds of a parameter: all of it, or a part of a DTensor (FSDP2, tensor parallelism)."""

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


def check_same_parameters(owner: str, groups: list[dict[str, Any]]) -> None:
    """Raises RuntimeError if ranks hold different parameters, but not as DTensors: ZeRO and pipeline stages.

    All ranks call this. Under DDP all ranks start from the same values, so that shapes and sums of magnitudes tell.
    """
    params = [p.detach() for group in groups for p in group["params"] if not is_sharded(p)]
    mine = [tuple(p.shape) for p in params], [float(p.abs().sum(dtype=torch.float64)) for p in params]
    seen = [None] * world()
    dist.all_gather_object(seen, mine)
    sums = [torch.tensor(each, dtype=torch.float64) for _, each in seen]
    if any(shapes != mine[0] for shapes, _ in seen) or any(
        not torch.allclose(it, sums[0], rtol=1e-6, equal_nan=True) for it in sums
    ):
        raise RuntimeError(
            "the ranks hold different parameters, as under ZeroRedundancyOptimizer or with pipeline stages: each "
            f"{owner} would see only a part. Use DDP with the whole model, or FSDP2 (fully_shard)"
        )
