"""How the coefficients descend on their hyper-gradients, for all param groups at once."""

import torch
import torch.distributed as dist

from .shards import world

# Of each group, tensors with one entry per coefficient, but bounds, which has two.
LEARNED = ("coefficients", "hyper_gradients", "hyper_velocity", "hyper_square")
SETTINGS = ("hyper_lr", "hyper_momentum", "bounds", "in_time_scale")
COUNTS = ("hyper_step", "last_lr", "skipped_steps")  # 0-D
HYPER_STATE = LEARNED + SETTINGS + COUNTS


# (h, velocity, square, momentum, k = 1, 2, ...) -> (step, velocity, square). All have one entry per coefficient, but k,
# the count of these steps; the step is in units of hyper_lr.


def hyper_sgd(h, velocity, square, momentum, k):
    velocity = momentum * velocity + h
    return velocity, velocity, square


def hyper_sign(h, velocity, square, momentum, k):
    velocity = momentum * velocity + h
    return velocity.sign(), velocity, square


def hyper_adam(h, velocity, square, momentum, k):
    velocity, square = momentum * velocity + (1 - momentum) * h, 0.999 * square + 0.001 * h * h
    return velocity / (1 - momentum**k) / ((square / (1 - 0.999**k)).sqrt() + 1e-12), velocity, square


HYPER_OPTIMIZERS = {"sgd": hyper_sgd, "sign": hyper_sign, "adam": hyper_adam}


class Hyper:
    """The hyper-state of all groups as arrays in double precision, one row per group or, where they share their
    coefficients, one for all. The groups hold views of the arrays, which a step changes in place."""

    def __init__(self, groups, device):
        self.options, self.per_group = groups[0], groups[0]["per_group"]
        rows = groups if self.per_group else groups[:1]

        def stack(name, groups):
            return torch.stack([group[name].to(device, torch.float64) for group in groups])

        self.learned = torch.stack([stack(name, rows) for name in LEARNED])  # (4, rows, coefficients)
        settings = {name: stack(name, rows) for name in SETTINGS}
        self.hyper_lr, self.momentum, self.bounds, in_time_scale = settings.values()
        self.steps, self.last_lr = stack("hyper_step", rows), stack("last_lr", groups)
        self.skipped = stack("skipped_steps", groups[:1])[0]
        self.low, self.high = self.bounds.unbind(2)
        self.learns, self.in_time_scale = self.low > -torch.inf, in_time_scale > 0
        self.any_in_time_scale = bool(self.in_time_scale.any())
        for i, group in enumerate(groups):
            k = i if self.per_group else 0
            group.update(zip(LEARNED, self.learned[:, k].unbind(), strict=True))
            group.update({name: array[k] for name, array in settings.items()})
            group.update(hyper_step=self.steps[k], last_lr=self.last_lr[i], skipped_steps=self.skipped)
        self.held = [group[name] for group in groups for name in HYPER_STATE]

    @property
    def coefficients(self):
        """(rows, coefficients)"""
        return self.learned[0]

    def is_held_by(self, groups):
        """Whether the groups still hold these arrays: nobody has loaded or set others."""
        held = [id(group[name]) for group in groups for name in HYPER_STATE]
        return held == [id(x) for x in self.held]

    def descend(self, h, units, ok):
        """Reduce the hyper-gradients over ranks and scale them; then one step of projected hyper-SGD, or the like.

        h: (groups, coefficients), and units: (groups,), sum lr |g|_1, which makes them relative; this rank's part of both.
        Where `ok` is false, nothing changes.
        """
        h = torch.cat([h, units[:, None]], dim=1)
        if not self.per_group and len(h) > 1:
            h = h.sum(0, keepdim=True)
        if world() > 1:
            dist.all_reduce(h)
        h, unit = h[:, :-1], h[:, -1:]
        if self.options["hyper_scale"] == "relative":
            h = torch.where(unit > 0, h / unit, 0.0)
        h = push = torch.where(self.learns, h, 0.0)
        k = (self.steps + 1)[:, None]
        if self.options["hyper_clip"] is not None:
            push = push.clamp(-self.options["hyper_clip"], self.options["hyper_clip"])
        if self.options["hyper_start"]:
            push = torch.where(k > self.options["hyper_start"], push, 0.0)
        q, _, velocity, square = self.learned.unbind()
        step, velocity, square = HYPER_OPTIMIZERS[self.options["hyper_optimizer"]](
            push, velocity, square, self.momentum, k
        )
        step = self.hyper_lr * step
        moved = q - step
        if self.any_in_time_scale:
            moved = torch.where(self.in_time_scale, 1 - (1 - q) * step.exp(), moved)
        new = torch.stack([moved.clamp(self.low, self.high), h, velocity, square])
        torch.where(ok, new, self.learned, out=self.learned)
        self.steps += ok
