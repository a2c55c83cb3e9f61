"""Every optimizer of optim/, and MADA in the forms that keep different state, on the tiny problem."""

import math

import torch
from reference import problem

from optim import MADA, Adan, AVGrad, HyperAdam, Lion, Yogi

EXACT = {"rtol": 0, "atol": 0}
ROUNDING = {"rtol": 1e-11, "atol": 1e-13}  # float64, the same sums in another order, a few steps

ALL = ("beta1", "beta2", "beta3", "rho", "c", "gamma")
INTERIOR = {
    "betas": (0.6, 0.8),
    "beta3": 0.4,
    "rho": 0.5,
    "c": 0.6,
    "gamma": 0.7,
    "hyper_lr": 0.05,
    "hyper_momentum": 0.5,
}
OURS = {
    "mada": (MADA, INTERIOR),
    "mada from adam": (MADA, {"hyper_lr": 0.05}),
    "mada fixed": (MADA, dict(INTERIOR, learn=())),
    "mada amsgrad": (MADA, dict(INTERIOR, second_moment="amsgrad")),
    "mada authors": (MADA, dict(INTERIOR, rule="authors")),
    "mada clipped": (MADA, dict(INTERIOR, max_grad_norm=0.3)),
    "hyperadam": (HyperAdam, {"hyper_lr": 0.05}),
    "avgrad": (AVGrad, {}),
    "yogi": (Yogi, {}),
    "adan": (Adan, {}),
    "lion": (Lion, {}),
}
LEARNING = [name for name in OURS if name.startswith(("mada", "hyper")) and "fixed" not in name]


def make(name, params, **settings):
    optimizer, args = OURS[name]
    return optimizer(params, **{"lr": 0.02, "weight_decay": 0.1, **args, **settings})


def fresh(name, dtype=torch.float64, **settings):
    """Parameters of the tiny problem, and an optimizer for them."""
    params = {key: p.detach().to(dtype).requires_grad_() for key, p in problem.parameters().items()}
    return params, make(name, list(params.values()), **settings)


def run(params, optimizer, steps):
    """Steps of the tiny problem in any precision: the loss is float64, the gradients are the parameters' own."""
    for t in steps:
        optimizer.zero_grad()
        problem.loss({name: p.double() for name, p in params.items()}, t).backward()
        optimizer.step()


def observable(params, optimizer):
    return {
        "params": {name: p.detach().clone() for name, p in params.items()},
        "coefficients": optimizer.coefficients,
        "hyper_gradients": optimizer.hyper_gradients,
    }


def same(first, second, **tolerance):
    """`first` and `second` are pairs (params, optimizer)."""
    torch.testing.assert_close(observable(*first), observable(*second), **(tolerance or EXACT))


def all_finite(params, optimizer):
    numbers = [*optimizer.coefficients.values(), *optimizer.hyper_gradients.values()]
    return all(p.isfinite().all() for p in params) and all(map(math.isfinite, numbers))


def vectors(optimizer, shapes, steps, layout=lambda x: x, **settings):
    """Train tensors of these shapes and this layout on quadratic losses that change with t, with gradients by hand."""
    params = [layout(problem.wave(shape, 0.7 + i, 0.1, 0.5)).requires_grad_() for i, shape in enumerate(shapes)]
    optimizer = optimizer(params, **settings)
    for t in range(1, steps + 1):
        for i, p in enumerate(params):
            target = problem.wave(p.shape, 0.3 + i, t, 1.0)
            p.grad = layout((p.detach() - target) / (1 + i))
        optimizer.step()
    return [p.detach().contiguous() for p in params], optimizer
