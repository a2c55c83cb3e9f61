"""What comparisons try and optim/ does not offer: beta2 moved another way, coefficients moved by the cosine, and
optimizers of other packages."""

from importlib import import_module

import torch
from torch.func import jacfwd

import optim
from optim.build import clipped
from optim.mada import BUFFERS, MADA, mada
from settings import UserError

NUMBERS = (*MADA.domain, "bias1", "bias2", "bias3")
HYPER_LR = 1e-2  # of Eager


def build(variant: str, name: str, params: list[dict], *, hidden=(), lr: float, max_grad_norm: float, **settings):
    """Like optim.build, for a variant.

    linear: beta2 moves as the other coefficients do; factor: 1 - beta2 moves by a factor, whatever hyper_scale is;
    cosine: all six coefficients move by the cosine (class Eager), from their starts in `settings`.
    prodigy, schedulefree: those of the packages prodigyopt and schedulefree, with beta1 and beta2 from `settings`.
    Raises UserError where the package is missing, and on settings that the variant does not have.
    """
    if variant in RIVALS:
        given = {key: value for key, value in settings.items() if value is not None}
        if given.keys() != {"beta1", "beta2"}:
            said = f"variant {variant!r} needs beta1 and beta2, and takes no others; given: {', '.join(given)}"
            raise UserError(said)
        return rival(variant, params, lr, (given["beta1"], given["beta2"]), max_grad_norm)
    if name != "mada":
        raise UserError(f"variant {variant!r} is one of MADA: --optimizer=mada, not {name!r}")
    if variant == "cosine":
        start = {key: value for key, value in settings.items() if value is not None}
        if others := start.keys() - MADA.domain.keys():
            refused = ", ".join(sorted(others))
            raise UserError(f"variant 'cosine' takes no {refused}: it learns all six coefficients, at 1e-2")
        return Eager(params, lr, cosine, max_grad_norm=max_grad_norm, **start)
    optimizer = optim.build(name, params, hidden=hidden, lr=lr, max_grad_norm=max_grad_norm, **settings)
    place = list(optimizer.domain).index("beta2")
    for group in optimizer.param_groups:
        group["in_time_scale"][place] = float(variant == "factor")
    return optimizer


RIVALS = {  # {variant: (package, class, what its authors recommend)}
    "prodigy": ("prodigyopt", "Prodigy", {"safeguard_warmup": True, "use_bias_correction": True}),
    "schedulefree": ("schedulefree", "AdamWScheduleFree", {}),
}


def rival(variant, params, lr, betas, max_grad_norm):
    """An optimizer of another package, clipped as optim.build clips torch's."""
    package, name, recommended = RIVALS[variant]
    try:
        optimizer = getattr(import_module(package), name)(params, lr=lr, betas=betas, **recommended)
    except ModuleNotFoundError:
        raise UserError(f"variant {variant!r} needs the package {package}: pip install {package}") from None
    if hasattr(optimizer, "train"):  # schedule-free: trains and evaluates at different weights
        optimizer.train()
    return clipped(optimizer, max_grad_norm)


def cosine(g, d, slopes, q, rate):
    """q + rate cos(g, slope) |d| / |slope|; slopes: (N, 6), of d with respect to q.

    It does not depend on the choice of coordinates, so beta2 needs no time scale of its own.
    """
    norms = slopes.norm(dim=0)
    step = (g @ slopes) / (g.norm() * norms) * d.norm() / norms
    return q + rate * torch.where((norms > 0) & (g.norm() > 0), step, 0.0).clamp(-10, 10)


class Eager(torch.optim.Optimizer):
    """MADA's rule on all parameters as one vector, in plain torch with forward differentiation; move: e.g. `cosine`."""

    def __init__(self, params, lr, move, *, max_grad_norm, beta1=0.9, beta2=0.95, beta3=0.0, rho=1.0, c=1.0, gamma=1.0):
        super().__init__(params, {"lr": lr, "weight_decay": 0.0})
        self.move, self.limit, self.t, self.last = move, max_grad_norm, 0, None
        self.q = torch.tensor([beta1, beta2, beta3, rho, c, gamma], dtype=torch.float64)
        self.low, self.high = torch.tensor(list(MADA.domain.values()), dtype=torch.float64).unbind(1)
        self.params = [p for group in self.param_groups for p in group["params"]]
        zero = torch.zeros(sum(p.numel() for p in self.params), dtype=self.params[0].dtype)
        self.buffers, self.weights = dict.fromkeys(BUFFERS, zero), torch.zeros(3, dtype=torch.float64)

    @property
    def coefficients(self) -> dict[str, float]:
        return dict(zip(MADA.domain, self.q.tolist(), strict=True))

    @staticmethod
    def direction(q, g, buffers, weights, t):
        """The update's direction twice, since jacfwd turns one into slopes; the new buffers and gathered weights."""
        weights = q[:3] * weights + (1 - q[:3])
        numbers = torch.cat([q, weights]).to(g.dtype).unbind()
        d, new = mada(g, **buffers, **dict(zip(NUMBERS, numbers, strict=True)), t=t)
        return d, (d, new, weights)

    @torch.no_grad()
    def step(self):
        g = torch.cat([p.grad.flatten() for p in self.params])
        if self.last:
            slopes, (d, self.buffers, self.weights) = jacfwd(self.direction, has_aux=True)(self.q, *self.last)
            moved = self.move(g.double(), d.double(), slopes.double(), self.q, HYPER_LR)
            self.q = moved.clamp(self.low, self.high)
        self.t += 1
        clipped = g * (self.limit / (g.norm() + 1e-6)).clamp(max=1.0) if self.limit else g
        self.last = clipped, self.buffers, self.weights, torch.tensor(float(self.t), dtype=g.dtype)
        parts = self.direction(self.q, *self.last)[0].split([p.numel() for p in self.params])
        rates = [(group["lr"], group["weight_decay"]) for group in self.param_groups for _ in group["params"]]
        for p, part, (lr, decay) in zip(self.params, parts, rates, strict=True):
            p.mul_(1 - lr * decay).sub_(lr * part.view_as(p))
