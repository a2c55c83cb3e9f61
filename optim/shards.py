"""What a rank holds of a parameter: all of it, or a part of a DTensor (FSDP2, tensor parallelism)."""

import sys

import torch
import torch.distributed as dist


def is_sharded(x: torch.Tensor) -> bool:
    """Whether x is a DTensor. Where nobody has imported that module, which takes half a second, nothing is."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def local(x: torch.Tensor) -> torch.Tensor:
    """This rank's part of a sharded tensor; other tensors are whole on every rank."""
    return x.to_local() if is_sharded(x) else x


def world() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def copies(p: torch.Tensor) -> int:
    """How many ranks hold the same elements of p: all of them under DDP, one under FSDP."""
    ranks = world()
    if is_sharded(p):
        for size, placement in zip(p.device_mesh.shape, p.placements, strict=True):
            ranks //= size if placement.is_shard() else 1
    return ranks
