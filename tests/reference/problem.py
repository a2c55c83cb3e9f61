"""A tiny training problem made of sines: no random numbers, so the same float64 numbers on any machine and torch.

A two-layer tanh network with parameters W (5, 4), b (5,), U (3, 5) and a new mini-batch of 8 at each step t = 1, 2, ...
The runs in authors_code.json are runs of the MADA authors' released code on it.
"""

import math

import torch


def wave(shape, frequency, phase, scale):
    i = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)
    return (scale * torch.sin(frequency * i + phase)).reshape(shape)


def parameters(variant=0):
    """{name: leaf tensor}; `variant` = 0, 1, 2, ... gives other initial values, and other data in `loss`."""
    return {
        "W": wave((5, 4), 1.3 + 0.1 * variant, 0.2, 0.6).requires_grad_(),
        "b": wave((5,), 2.1, 0.5 + variant, 0.1).requires_grad_(),
        "U": wave((3, 5), 0.7 + 0.05 * variant, 1.0, 0.5).requires_grad_(),
    }


def loss(params, t, variant=0):
    """Mean squared error of step t, a 0-D tensor."""
    x = wave((8, 4), 0.37 * (1 + variant), 0.91 * t, 1.5)
    y = torch.stack([x[:, 0] * x[:, 1], x[:, 2] - 0.5 * x[:, 3], torch.sin(2 * x[:, 0])], dim=1)
    y = y + 0.3 * wave((8, 3), 1.7, 2.3 * t, 1.0)
    h = torch.tanh(x @ params["W"].T + params["b"])
    return ((h @ params["U"].T - y) ** 2).mean()


def learning_rate(t, peak, steps):
    """Linear warm-up over 5 steps, then a cosine down to peak / 10 at `steps`."""
    if t <= 5:
        return peak * t / 5
    return peak / 10 + 0.5 * (1 + math.cos(math.pi * (t - 5) / (steps - 5))) * (peak - peak / 10)


def decayed(params, weight_decay):
    """Parameter groups: weight decay on matrices only."""
    return [
        {"params": [p for p in params.values() if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in params.values() if p.ndim < 2], "weight_decay": 0.0},
    ]


def train(optimizer, params, steps, total=None, variant=0, clip=None):
    """Take the steps of the range `steps`, with the scheduled learning rate if `total` is given. Returns the losses.

    clip: what a training script does before step() for optimizers that cannot clip.
    """
    losses = []
    for t in steps:
        if total is not None:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(t, group.setdefault("initial_lr", group["lr"]), total)
        optimizer.zero_grad()
        value = loss(params, t, variant)
        value.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(params.values(), clip)
        optimizer.step()
        losses.append(value.item())
    return losses
