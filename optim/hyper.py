"""How the coefficients descend on their hyper-gradients, for all param groups at once."""

from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .fuse import Loop, Rows
from .shards import world

# Of each group, tensors with one entry per coefficient, but bounds, which has two.
LEARNED = ("coefficients", "hyper_gradients", "hyper_velocity", "hyper_square")
SETTINGS = ("hyper_lr", "hyper_momentum", "bounds", "in_time_scale", "grows")
COUNTS = ("hyper_step", "last_lr", "skipped_steps")  # 0-D
HYPER_STATE = LEARNED + SETTINGS + COUNTS
OPTIONS = ("hyper_optimizer", "hyper_scale", "hyper_start", "hyper_clip")  # the same for all groups
TINY = torch.finfo(torch.float64).tiny


def hyper_sgd(h, velocity, square, momentum, k):
    velocity = momentum * velocity + h
    return velocity, velocity, square


def hyper_sign(h, velocity, square, momentum, k):
    velocity = momentum * velocity + h
    return torch.sign(velocity), velocity, square


def hyper_adam(h, velocity, square, momentum, k):
    velocity, square = momentum * velocity + (1 - momentum) * h, 0.999 * square + 0.001 * h * h
    return velocity / (1 - momentum**k) / ((square / (1 - 0.999**k)).sqrt() + 1e-12), velocity, square


# {name: (h, velocity, square, momentum, k) -> (step, velocity, square)} of one coefficient. h is its hyper-gradient,
# step is in units of hyper_lr, and k = 1, 2, ... counts these steps.
HYPER_OPTIMIZERS = {"sgd": hyper_sgd, "sign": hyper_sign, "adam": hyper_adam}


@lru_cache
def descent(optimizer: str, scale: str, start: int, clip: float | None) -> Loop:
    """One step of projected hyper-SGD, or the like, as a loop over coefficients.

    A factor on the learning rate that only grows has its own: see `MADA(grow_lr=True)` and docs/hyper_gradients.md. Its
    place among the velocities holds the logarithm that descent proposes.
    """

    def descend(h, q, _, velocity, square, rate, momentum, low, high, in_time_scale, grows, ok, unit, steps, ramp):
        if scale == "relative":
            h = h / torch.maximum(unit, torch.full_like(unit, TINY))  # if the unit is 0, so is h
        h = torch.where(h.isnan(), torch.inf, h + 0.0)  # -0 becomes 0, for readers; no checkpoint holds NaN
        push = torch.where(h.abs() < torch.inf, h, 0.0)  # one that has overflowed says nothing
        push = push if clip is None else push.clamp(-clip, clip)
        push = torch.where(steps >= start, push, 0.0)
        last = velocity
        k = torch.relu(steps - start) + 1  # what hyper_start leaves out does not count
        step, velocity, square = HYPER_OPTIMIZERS[optimizer](push, velocity, square, momentum, k)
        step = rate * step
        moved = torch.where(in_time_scale > 0, 1 - (1 - q) * torch.exp(step), q - step)
        growth = -rate * push * q  # of the logarithm; by how much the schedule has raised the rate meanwhile counts
        growth = torch.where(growth > 0, torch.relu(growth - ramp), growth)
        proposal = last + growth
        moved = torch.where(grows > 0, torch.maximum(q, torch.exp(proposal)), moved)
        moved = torch.where(moved.isnan(), q, moved)
        velocity = torch.where(grows > 0, proposal, velocity)
        return [torch.minimum(torch.maximum(moved, low), high), h, velocity, square], []

    names = ("h", *LEARNED, "rate", "momentum", "low", "high", "in_time_scale", "grows")
    return Loop(descend, names, ("ok", "unit", "steps", "ramp"), LEARNED, guarded=True)


def options(groups: list[dict[str, Any]]) -> list[tuple]:
    return [tuple(group[name] for name in OPTIONS) for group in groups]


class Hyper:
    """The hyper-state of all groups as arrays in double precision, one row per group or, where they share their
    coefficients, one for all. The groups hold views of the arrays, which a step changes in place."""

    def __init__(self, groups: list[dict[str, Any]], device: torch.device) -> None:
        self.per_group, self.device = groups[0]["per_group"], device
        rows = groups if self.per_group else groups[:1]

        def stack(name, groups):
            return torch.stack([group[name].to(device, torch.float64) for group in groups])

        self.state = torch.stack([stack(name, rows) for name in LEARNED])  # (4, rows, coefficients)
        settings = {name: stack(name, rows) for name in SETTINGS}
        self.steps, self.last_lr = stack("hyper_step", rows), stack("last_lr", groups)
        self.skipped = stack("skipped_steps", groups[:1])[0]
        self.coefficients = self.state[0]  # (rows, coefficients)
        self.h = torch.zeros_like(self.coefficients)
        self.table = torch.zeros(len(rows), 4, dtype=torch.float64, device=device)
        self.ok, self.unit, self.count, self.ramp = self.table.unbind(1)
        rate, momentum, self.bounds, in_time_scale, self.grows = settings.values()
        self.limits = self.bounds.permute(2, 0, 1).clone(memory_format=torch.contiguous_format)  # lows, highs
        columns = (self.h, *self.state, rate, momentum, *self.limits, in_time_scale, self.grows)
        self.loop_rows = Rows(zip(*columns, strict=True))
        self.options = options(groups)
        for i, group in enumerate(groups):
            k = i if self.per_group else 0
            group.update(zip(LEARNED, self.state[:, k].unbind(), strict=True))
            # others than the first of groups that share theirs have copies: in-place changes are not made twice
            group.update({name: array[k] if i == k else array[k].clone() for name, array in settings.items()})
            group.update(hyper_step=self.steps[k], last_lr=self.last_lr[i], skipped_steps=self.skipped)
        self.held = [group[name] for group in groups for name in HYPER_STATE]

    def is_held_by(self, groups: list[dict[str, Any]]) -> bool:
        """Whether the groups still hold these arrays: nobody has loaded or set others."""
        held = [id(group[name]) for group in groups for name in HYPER_STATE]
        return held == [id(x) for x in self.held] and self.options == options(groups)

    def note_ramp(self, lrs: Tensor) -> None:
        """By how much the logarithm of the scheduled rate has grown since the last step; lrs: (groups,)."""
        ramp = torch.where(self.last_lr > 0, lrs / self.last_lr, 1.0).clamp(min=1.0).log()
        self.ramp.copy_(ramp if self.per_group else ramp.max())

    def descend(self, h: Tensor, units: Tensor, ok: Tensor) -> None:
        """Reduce the hyper-gradients over ranks and scale them; then one step of projected hyper-SGD, or the like.

        h: (groups, coefficients); units: (groups,), sum lr |g|_1, which makes h relative; this rank's part of both.
        If `ok` is false, nothing changes.
        """
        if not self.per_group and len(h) > 1:
            h, units = h.sum(0, keepdim=True), units.sum(0, keepdim=True)
        if world() > 1:
            both = torch.cat([h, units[:, None]], dim=1)
            dist.all_reduce(both)
            h, units = both[:, :-1], both[:, -1]
        self.h.copy_(h)
        self.limits.copy_(self.bounds.permute(2, 0, 1))  # somebody may have set them in a group
        self.ok.copy_(ok)
        self.unit.copy_(units)
        self.count.copy_(self.steps)
        descent(*self.options[0])(self.loop_rows, self.table)
        self.steps += ok
