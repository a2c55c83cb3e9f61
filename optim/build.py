"""From a name and flat settings to an optimizer: one row per optimizer."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.optim.optimizer import ParamsT

from .adamw import FusedAdamW
from .adan import Adan
from .arguments import check_numbers
from .avgrad import AVGrad
from .engine import ParameterizedOptimizer
from .groups import split_hidden
from .hyperadam import HyperAdam
from .lion import Lion
from .mada import MADA
from .muon import MuonAdamW
from .shards import is_sharded
from .yogi import Yogi

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "mada": MADA,
    "hyperadam": HyperAdam,
    "avgrad": AVGrad,
    "adan": Adan,
    "lion": Lion,
    "yogi": Yogi,
    "muon": MuonAdamW,  # torch's, with AdamW for all but hidden matrices
    "adam": FusedAdamW,  # the paper's "Adam" is AdamW
    "amsgrad": partial(FusedAdamW, amsgrad=True),
    "sgd": partial(SGD, momentum=0.9),  # its weight decay is an L2 penalty, not decoupled
}


@cache
def signature(name: str) -> MappingProxyType[str, Any]:
    """{argument: default} of an optimizer's constructor, including those in its `options`. Raises ValueError."""
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer {name!r} does not exist: choose one of {', '.join(OPTIMIZERS)}; adam is AdamW")
    arguments = dict(inspect.signature(OPTIMIZERS[name]).parameters)
    if "options" in arguments:
        arguments = {**inspect.signature(ParameterizedOptimizer.__init__).parameters, **arguments}
    return MappingProxyType({key: argument.default for key, argument in arguments.items()})


def build(
    name: str, params: ParamsT, *, hidden: Iterable[Tensor] = (), max_grad_norm: float | None = None, **settings: object
) -> Optimizer:
    """The optimizer `name` for `params`, with `settings` under their flat names: lr, weight_decay, beta1, rho, ...

    hidden: the tensors that Muon is for (see hidden_matrices), for an optimizer that uses it. If there are none, groups
        that are marked muon=True keep their marks.
    max_grad_norm: step() clips to it; None or 0 for no clipping.
    settings: None keeps the optimizer's default; beta1, beta2, ... fill its `betas` in its own convention.
    The optimizer leaves the norm of the raw gradient in `.grad_norm`. A gradient that is not finite changes nothing and
    is counted in `.skipped_steps`. A deepcopy of a torch optimizer no longer clips: torch does not copy hooks.
    Raises ValueError naming an unknown optimizer or a setting that it does not have.
    """
    arguments = signature(name)
    kwargs = {key: value for key, value in settings.items() if value is not None}
    if "betas" in arguments:
        betas = kwargs.get("betas", arguments["betas"])
        kwargs["betas"] = tuple(kwargs.pop(f"beta{i}", beta) for i, beta in enumerate(betas, start=1))
    for key in kwargs:
        if key not in arguments:
            raise ValueError(f"optimizer {name!r} has no setting {key!r}: leave it at None")
    if OPTIMIZERS[name] is MuonAdamW or kwargs.get("mu") or "mu" in kwargs.get("learn", ()):
        params = list(params)
        if hidden or not any(isinstance(group, dict) and "muon" in group for group in params):
            params = split_hidden(params, hidden)
    if "max_grad_norm" in arguments:
        return OPTIMIZERS[name](params, max_grad_norm=max_grad_norm or None, **kwargs)
    check_numbers(max_grad_norm=max_grad_norm or 0.0)
    return clipped(OPTIMIZERS[name](params, **kwargs), max_grad_norm)


def clipped(optimizer: Optimizer, max_grad_norm: float | None) -> Optimizer:
    """An optimizer that does neither by itself, made to clip gradients and to skip those that are not finite."""
    if not isinstance(optimizer, FusedAdamW):
        optimizer.skipped_steps = 0
    optimizer.grad_norm = torch.zeros(())
    optimizer.register_step_pre_hook(partial(clip_or_skip, max_grad_norm=max_grad_norm))
    return optimizer


def flat(name: str) -> dict[str, Any]:
    """`signature` with beta1, beta2, ... in addition to `betas`: the names that `build` takes."""
    arguments = signature(name)
    return arguments | {f"beta{i}": beta for i, beta in enumerate(arguments.get("betas", ()), start=1)}


def resolved(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What `build` makes of those flat `settings` that it knows: {setting: value}, with defaults in place of None."""
    defaults = flat(name)
    known = {key: value for key, value in settings.items() if key in defaults and key not in ("params", "betas")}
    matrix = torch.zeros(1, 1, requires_grad=True)
    group = build(name, [{"params": [matrix]}], hidden=[matrix], **known | {"lr": 1.0}).param_groups[0]
    late = {key: group[key] for key in ("hyper_scale", "debias", "hyper_lr", "bounds") if key in group}
    late = {key: value.tolist() if isinstance(value, Tensor) else value for key, value in late.items()}
    return {key: defaults[key] if value is None else value for key, value in known.items()} | late


def clip_or_skip(
    optimizer: Optimizer, args: tuple, kwargs: dict[str, Any], max_grad_norm: float | None
) -> tuple[tuple, dict[str, Any]]:
    """Before the step of an optimizer that cannot do it itself: clip, or drop gradients that are not finite.

    A closure is called here, once; the step uses its gradients. Returns the arguments of the step.
    """
    closure = args[1] if len(args) > 1 else kwargs.get("closure")  # args[0] is the optimizer
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
        args, kwargs = (optimizer, lambda: loss), {}
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(grads)
    optimizer.grad_norm = norm = norm.full_tensor() if is_sharded(norm) else norm
    if isinstance(optimizer, FusedAdamW):
        optimizer.skip_if(~norm.isfinite())
    elif not norm.isfinite():  # this waits for the device
        optimizer.skipped_steps += 1
        optimizer.zero_grad()
        return args, kwargs
    if max_grad_norm:
        params = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grads_with_norm_(params, max_grad_norm, norm)
    return args, kwargs
