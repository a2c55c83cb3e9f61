"""A model on the processes of a run, as copies (DDP) or shards (FSDP2), compiled; and a state that fits any number."""

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map

from devices import Processes
from model import GPT
from optim.shards import full, local, shard_as


def attention(device: str) -> AbstractContextManager:
    """Inside the block, attention uses the fastest kernel that the card has and the sizes allow."""
    if not device.startswith("cuda"):
        return nullcontext()
    of_any = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    hopper = torch.cuda.get_device_capability(device) >= (9, 0)  # cuDNN's is written for it
    return sdpa_kernel([SDPBackend.CUDNN_ATTENTION, *of_any] if hopper else of_any, set_priority=True)


class Parallel:
    """A model spread over the processes. Call `train` and `evaluate` in its place, under autocast.

    shard: each process has a part of every tensor, which FSDP2 gathers block by block, those of blocks in `dtype`;
    else it has all. Parameters must be the same on all processes before; make the optimizer afterward.
    """

    def __init__(self, model: GPT, processes: Processes, shard: bool, compiled: bool, dtype: str):
        self.model, self.shard = model, shard
        self.autocasts = dtype != "float32"
        self.device_type = processes.device_type
        self.train = self.evaluate = model
        self.copies = processes.ranks > 1 and not shard
        if shard:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard  # which takes a second

            mesh = init_device_mesh(processes.device_type, (processes.ranks,))
            half = MixedPrecisionPolicy(getattr(torch, dtype), torch.float32, cast_forward_inputs=False)
            for block in model.transformer.h:
                if compiled:
                    block.compile()
                fully_shard(block, mesh=mesh, mp_policy=half if self.autocasts else MixedPrecisionPolicy())
            fully_shard(model, mesh=mesh)  # embeddings stay float32: the residual stream starts in it
        elif compiled:
            self.train = self.evaluate = torch.compile(model)
        if self.copies:
            devices = [processes.device] if processes.device_type == "cuda" else None
            self.train = DistributedDataParallel(self.train, device_ids=devices, gradient_as_bucket_view=True)

    def step(self) -> AbstractContextManager:
        """Around the micro-steps of a step: autocast keeps its cast weights until its outermost block ends.

        Not for shards: they are cast as they are gathered, and must not be kept.
        """
        return torch.autocast(self.device_type, enabled=False) if self.autocasts and not self.shard else nullcontext()

    def micro_step(self, last: bool) -> AbstractContextManager:
        """Around a micro-step, forward and backward: gradients are exchanged in the last one only."""
        if self.shard:
            self.model.set_requires_gradient_sync(last)
        return self.train.no_sync() if self.copies and not last else nullcontext()


def on_cpu(state: dict, keep: bool = True) -> dict:
    """A copy of a state dict on the CPU with every sharded tensor made whole, one at a time; all processes call it.

    If `keep` is False, tensors become None. Tensors that share memory, as tied weights do, share it in the copy.
    """
    copies = {}

    def copy(x):
        if not isinstance(x, torch.Tensor):
            return x
        part = local(x)
        place = (part.untyped_storage()._cdata, part.storage_offset(), x.shape, part.stride(), x.dtype)
        if place not in copies:
            whole = full(x)
            copies[place] = whole.detach().to("cpu", copy=True) if keep else None
        return copies[place]

    return tree_map(copy, state)


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict) -> None:
    """Load into an optimizer the state that `on_cpu` made of one like it, sharded as its parameters are.

    Raises ValueError if it is another optimizer's, or has no state for some parameter.
    """
    fresh, params = optimizer.state_dict(), [p for group in optimizer.param_groups for p in group["params"]]
    if len(saved["param_groups"]) != len(fresh["param_groups"]):
        raise ValueError(f"it has {len(saved['param_groups'])} groups of parameters, not {len(fresh['param_groups'])}")
    for new, old in zip(fresh["param_groups"], saved["param_groups"], strict=True):
        for name in new.keys() & old.keys():
            if not alike(new[name], old[name]):
                raise ValueError(f"its optimizer has {name}={old[name]!r}, which this version cannot load")
    entries = [saved["state"].get(i, {}) for i in range(len(params))]
    # SGD without momentum keeps no state
    if not all(entries) and any(group.get("momentum") != 0 for group in optimizer.param_groups):
        raise ValueError("its optimizer has no state for some parameters")
    muon = [bool(group.get("muon")) for group in optimizer.param_groups for _ in group["params"]]
    if len({(kind, *sorted(entry)) for kind, entry in zip(muon, entries, strict=True)}) > len({*muon}):
        raise ValueError("its optimizer does not have the same state for every parameter")
    for name in {name for entry in entries for name in entry}:  # all have their parameter's shape, or all the same one
        tensors = [(entry[name], p) for entry, p in zip(entries, params, strict=True) if name in entry]
        if not all(isinstance(x, torch.Tensor) and x.is_floating_point() for x, _ in tensors):
            raise ValueError(f"the {name} of its optimizer is not a tensor for every parameter")
        if len({x.shape for x, _ in tensors}) > 1 and any(x.shape != p.shape for x, p in tensors):
            raise ValueError(f"the {name} of its optimizer does not match the parameters' shapes")
    state = {i: {name: shard_as(x, params[i]) for name, x in entry.items()} for i, entry in saved["state"].items()}
    optimizer.load_state_dict(saved | {"state": state})
    lost = [
        name
        for new, group in zip(fresh["param_groups"], optimizer.param_groups, strict=True)
        for name in new
        if name not in group
    ]
    if lost:
        raise ValueError(f"its optimizer has no {' and no '.join(lost)}")


def alike(new, old):
    """Whether the value `old` may replace `new` in a param group."""
    if isinstance(new, torch.Tensor):
        return isinstance(old, torch.Tensor) and old.shape == new.shape and old.is_floating_point()
    number = (int, float, type(None))
    if isinstance(new, number) and not isinstance(new, bool):
        return isinstance(old, number) and (old is None or math.isfinite(old))
    return type(new) is type(old) or new is None
