"""MADA in plain eager PyTorch: read this first. Tests show that the fast path (engine.py and below) equals it.

What a step does, in order, with one set of coefficients q and one learning rate: no groups, ranks, hyper-momentum or
skipped steps.
"""

import math

import torch
from torch import Tensor

from .mada import BUFFERS, MADA, mada

BETAS = {"beta1": "bias1", "beta2": "bias2", "beta3": "bias3"}


class PlainMADA:
    """`MADA(params, lr)` with its defaults: relative hyper-gradients, gathered weights, beta2 in its time scale.

    params: a list of tensors, all of which have gradients in every step. Slow; 28 bytes per parameter, as MADA's.
    """

    def __init__(
        self,
        params: list[Tensor],
        lr: float,
        *,
        weight_decay: float = 0.0,
        hyper_lr: float = 1e-2,
        max_grad_norm: float | None = None,
        **start: float,
    ) -> None:
        adam = {"beta1": 0.9, "beta2": 0.95, "beta3": 0.0, "rho": 1.0, "c": 1.0, "gamma": 1.0}
        self.params, self.lr, self.weight_decay, self.hyper_lr = params, lr, weight_decay, hyper_lr
        self.max_grad_norm, self.t = max_grad_norm, 0
        self.q = {name: torch.tensor(value, dtype=torch.float64) for name, value in (adam | start).items()}
        self.weights = dict.fromkeys(BETAS, torch.zeros((), dtype=torch.float64))  # that the averages have gathered
        self.state = [{name: torch.zeros_like(p) for name in BUFFERS} for p in params]
        self.last = None  # what the last update was computed from: its gradients and learning rate

    def directions(self, gradients: list[Tensor], q: dict[str, Tensor]) -> tuple[list[Tensor], list[dict], dict]:
        """The update at coefficients q: each parameter's direction and new buffers, and the averages' new weights."""
        bias = {name: self.weights[name] * q[name] + 1 - q[name] for name in BETAS}
        scalars = q | {BETAS[name]: value for name, value in bias.items()} | {"t": torch.tensor(float(self.t))}
        both = [mada(g, **state, **scalars) for g, state in zip(gradients, self.state, strict=True)]
        return [direction for direction, _ in both], [new for _, new in both], bias

    def step(self) -> None:
        """One step on the gradients in `.grad`."""
        raw = [p.grad.clone() for p in self.params]

        if self.last:  # 1. the hyper-gradient of the last update, <g, dx/dq>; that update is complete
            gradients, lr = self.last
            leaves = {name: value.clone().requires_grad_() for name, value in self.q.items()}
            directions, new, bias = self.directions(gradients, leaves)
            slope = sum((g * -lr * d).sum(dtype=torch.float64) for g, d in zip(raw, directions, strict=True))
            unit = lr * sum(g.abs().sum(dtype=torch.float64) for g in raw)  # makes h dimensionless
            h = dict(zip(leaves, torch.autograd.grad(slope, leaves.values()), strict=True))
            self.state = [{name: x.detach() for name, x in state.items()} for state in new]
            self.weights = {name: value.detach() for name, value in bias.items()}
            for name, (low, high) in MADA.domain.items():  # 2. the coefficients
                push = self.hyper_lr * (h[name] / unit if unit > 0 else 0.0 * unit).clamp(-10, 10)
                q = self.q[name]
                self.q[name] = (1 - (1 - q) * push.exp() if name == "beta2" else q - push).clamp(low, high)

        if self.max_grad_norm is not None:  # 3. clipping
            norm = math.sqrt(sum(g.square().sum(dtype=torch.float64).item() for g in raw))
            raw = [g * min(1.0, self.max_grad_norm / (norm + 1e-6)) for g in raw]
        self.t += 1  # 4. the parameters
        directions, _, _ = self.directions(raw, self.q)
        with torch.no_grad():
            for p, d in zip(self.params, directions, strict=True):
                p.copy_(p * (1 - self.lr * self.weight_decay) - self.lr * d)
        self.last = raw, self.lr
