"""MADA: Meta-Adaptive Optimizers through hyper-gradient descent (Ozkara et al., ICML 2024), appendix C.1."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from . import arguments
from .engine import ParameterizedOptimizer
from .muon import MOMENTUM, orthogonalized

SMALLEST = 1e-38  # eps; in float32
BUFFERS = ("m", "v", "s", "n", "l", "g_prev")  # of the rule when it learns all of its coefficients but mu


def sqrt(x: Tensor) -> Tensor:
    """Square root whose derivative at 0 is 0 instead of infinite: V = 0 occurs at unused embedding rows.

    The root of a negative number or NaN is 0 too.
    """
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)


def mada(
    g: Tensor,
    *,
    m: Tensor | None = None,
    v: Tensor | None = None,
    s: Tensor | None = None,
    n: Tensor | None = None,
    l: Tensor | None = None,
    g_prev: Tensor | None = None,
    v_mixed: Tensor | None = None,
    u: Tensor | None = None,
    o: Tensor | None = None,
    mu: float | Tensor = 0.0,
    beta1: Tensor,
    beta2: Tensor,
    beta3: Tensor,
    rho: Tensor,
    c: Tensor,
    gamma: Tensor,
    bias1: Tensor,
    bias2: Tensor,
    bias3: Tensor,
    t: Tensor,
    eps: float = 1e-8,
    lion_betas: tuple[float, float] = (0.95, 0.98),
    yogi: bool = True,
    rule: str = "paper",
    second_moment: str = "avgrad",
    muon: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The update rule of MADA for one tensor. Returns its direction and {buffer: new value}.

    g: clipped gradient. Buffers, of g's shape: m first moment; v second moment; s its running average (AVGrad) or
    maximum (AMSGrad); n moment of the gradient difference (Adan); l momentum of Lion; g_prev the previous gradient;
    v_mixed the interpolated second moment of eq. (3), which AMSGrad's form of Yogi refers to; u momentum of Muon, and o
    its orthogonalized direction (muon.py), both beyond the paper. A buffer that is None leaves out its part: the
    coefficient of that part is fixed where the part does not count.
    beta1 ... gamma, mu: coefficients; bias_i: the weight that the average with decay beta_i has gathered; t = 1, 2, ...
    counts the updates; all of these are 0-D. The rest are plain constants, by default MADA's.
    rule: "paper" is appendix C.1 with the bias corrections of the base optimizers, "authors" what the released code
    computes. second_moment: "avgrad" is eq. (5), "amsgrad" is eq. (3). yogi: whether c is not fixed at 1.
    muon: ignored; it marks the groups that mu counts for, and is passed because every constant is.
    """
    paper, first, new = rule == "paper", t == 1, {}
    adaptive = lion = 0.0

    if m is not None:  # gamma is not fixed at 0
        m = new["m"] = beta1 * m + (1 - beta1) * g
        first_moment, g_hat = m / bias1, g
        if n is not None:  # Adan: beta3 is not fixed at 0
            if not paper:
                n = torch.where(first, g * g, n)
            d = g - torch.where(first, g, g_prev) if paper else g
            n = new["n"] = beta3 * n + (1 - beta3) * d
            first_moment = first_moment + beta3 * (n / bias3 if paper else n)
            g_hat = g + beta3 * d
        if not paper:
            v = torch.where(first, 1e-15, v)

        g2 = w = g_hat * g_hat
        if yogi:  # c is not fixed at 1
            v_last = v if v_mixed is None else v_mixed
            w = c * g2 + (1 - c) * (v_last + g2 * torch.sign(g2 - v_last))
        v = new["v"] = beta2 * v + (1 - beta2) * w

        V = v
        if s is not None:  # AVGrad or AMSGrad: rho is not fixed at 1
            if not paper:
                s = torch.where(first, 1e-15, s)
            s = new["s"] = torch.maximum(s, v) if second_moment == "amsgrad" else s + (v - s) / t
            V = rho * v + (1 - rho) * (s if paper else s.detach())
        if v_mixed is not None:
            new["v_mixed"] = V
        adaptive = first_moment / (sqrt(V / bias2) + eps)

    if l is not None:  # Lion: gamma is not fixed at 1
        u_decay, l_decay = lion_betas
        l_new = new["l"] = l_decay * l + (1 - l_decay) * g
        lion = torch.sign(u_decay * (l if paper else l_new) + (1 - u_decay) * g)

    if g_prev is not None:
        new["g_prev"] = g
    direction = gamma * adaptive + (1 - gamma) * lion

    if o is not None:  # Muon: mu is not fixed at 0
        new["u"] = MOMENTUM * u + g
        direction = (1 - mu) * direction + mu * o
    return direction, new


class MADA(ParameterizedOptimizer):
    """Learns, while it trains, where to stand between Adam, AVGrad, Yogi, Adan and Lion. Drop-in for AdamW.

    Clipping belongs inside: pass max_grad_norm instead of calling clip_grad_norm_ before step(). Under
    hyper_scale="raw" clipping outside shrinks what is learned; under the default it only hides the raw norm from
    `grad_norm`.
    The defaults start at Adam. Corners, for (beta3, rho, c, gamma): Adam (0, 1, 1, 1), AVGrad (0, 0, 1, 1),
    Yogi (0, 1, 0, 1), Adan (beta3, 1, 1, 1), Lion gamma = 0; AMSGrad is AVGrad's with second_moment="amsgrad".
    CyclicLR and OneCycleLR need cycle_momentum=False, since the betas are learned. `mada.coefficients` finds them under
    wrappers.

    params: tensors or param groups; `lr`, `weight_decay`, `eps` and more may differ by group.
    betas, beta3, rho, c, gamma: initial coefficients. A learned one must start in its `domain`.
    mu: the share of Muon's direction for the matrices of groups that are marked muon=True, which param_groups
        makes; learned if `learn` names it. Elsewhere it does not count.
    eps: added to the root of the second moment. weight_decay: decoupled. lion_betas: of the update, of the momentum.
    learn: the coefficients that move; with learn=() this is a fixed optimizer, and so it is after freeze() (MADA-FS).
    hyper_lr, hyper_momentum: of the coefficients; a number or a dict by name, whose missing names keep the default:
        1e-2 under hyper_scale="relative"; under "raw" the paper's OpenWebText setting (5e-4 for beta1 and beta2, 1e-1
        for the others); 0 for hyper_momentum.
    hyper_scale: "relative" (the default) or "raw", the paper's form. domain: {name: (low, high)} overrides a bound.
    debias: "weights" (the default) or "powers". rule="authors" has its own forms and takes hyper_scale "raw" only.
    amsgrad: as in AdamW: start at AMSGrad's corner, rho = 0 with second_moment="amsgrad".
    rule: "paper" or "authors" (what the published code computes). second_moment: "avgrad" or "amsgrad".
    options: hyper_start=0, hyper_clip=10.0, max_grad_norm=None, hyper_optimizer="sgd", per_group=False,
        lr_range=(0.1, 10.0), grow_lr=False, state_dtype=None, maximize=False, and arguments of AdamW that change
        nothing: see ParameterizedOptimizer.

    State per parameter, at most: m, v, s, n, l, g_prev and the last gradient g; v_mixed with second_moment="amsgrad";
    for Muon u and o. A part whose coefficient is fixed where it does not count costs neither memory nor time.
    Raises ValueError naming an argument out of its domain.
    """

    domain = MappingProxyType(
        {
            "beta1": (0.01, 0.99),
            "beta2": (0.501, 0.9999),
            "beta3": (0.0, 0.99),
            "rho": (0.0, 1.0),
            "c": (0.0, 1.0),
            "gamma": (0.0, 1.0),
        }
    )
    raw_domain = MappingProxyType({"beta2": (0.501, 0.99)})
    raw_hyper_lr = MappingProxyType(
        {"beta1": 5e-4, "beta2": 5e-4, "beta3": 1e-1, "rho": 1e-1, "c": 1e-1, "gamma": 1e-1, "mu": 1e-1, "lr": 1e-1}
    )
    time_scales = ("beta2",)
    low_precision = ("m", "n", "l", "g_prev", "u")  # v and s move by less than bfloat16 resolves
    inputs = MappingProxyType({"o": orthogonalized})
    rule = staticmethod(mada)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        *,
        beta3: float = 0.0,
        rho: float = 1.0,
        c: float = 1.0,
        gamma: float = 1.0,
        mu: float = 0.0,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        lion_betas: tuple[float, float] = (0.95, 0.98),
        hyper_lr: float | dict[str, float] | None = None,
        hyper_momentum: float | dict[str, float] = 0.0,
        hyper_scale: str | None = None,
        domain: Mapping[str, tuple[float, float]] | None = None,
        learn: str | Iterable[str] = ("beta1", "beta2", "beta3", "rho", "c", "gamma"),
        rule: str = "paper",
        debias: str | None = None,
        second_moment: str = "avgrad",
        amsgrad: bool = False,
        **options: Unpack[arguments.Options],
    ) -> None:
        if amsgrad:
            if rho != 1.0 or second_moment not in ("avgrad", "amsgrad"):
                raise ValueError(f"amsgrad=True is rho=0 with second_moment='amsgrad': do not set rho={rho!r} as well")
            rho, second_moment = 0.0, "amsgrad"
        if rule == "authors":
            if hyper_scale not in (None, "raw") or debias is not None:
                name, value = ("debias", debias) if debias is not None else ("hyper_scale", hyper_scale)
                raise ValueError(f"{name}={value!r}: rule='authors' has a form of its own; leave it at None")
            hyper_scale, debias = "raw", "powers"
        betas, lion_betas = arguments.as_numbers("betas", betas, 2), arguments.as_numbers("lion_betas", lion_betas, 2)
        learn = arguments.as_names(learn)
        coefficients = dict(zip(self.domain, (*betas, beta3, rho, c, gamma), strict=True))
        if mu != 0 or "mu" in learn:
            self.domain, coefficients = {**self.domain, "mu": (0.0, 1.0)}, coefficients | {"mu": mu}
            arguments.check_params(type(self).__name__, params)
            params = list(params)
            if not any(isinstance(group, dict) and group.get("muon") for group in params):
                raise ValueError(
                    f"mu={mu!r} is for groups that are marked muon=True, and there is none: param_groups(model) marks "
                    "the weights of hidden nn.Linear layers, if it finds any"
                )
        constants = {"eps": eps, "lion_betas": lion_betas, "rule": rule, "second_moment": second_moment}
        constants["muon"] = False  # unless a group says otherwise
        super().__init__(
            params,
            lr=lr,
            coefficients=coefficients,
            weight_decay=weight_decay,
            learn=learn,
            constants=constants,
            hyper_lr=hyper_lr,
            hyper_momentum=hyper_momentum,
            hyper_scale=hyper_scale,
            domain=domain,
            debias=debias,
            **options,
        )

    def check_constants(self, constants: dict[str, Any]) -> None:
        eps, lion_betas = constants["eps"], arguments.as_numbers("lion_betas", constants["lion_betas"], 2)
        if not (arguments.is_number(eps) and eps >= SMALLEST):
            raise ValueError(f"eps={eps!r} must be positive, and at least {SMALLEST}: its reciprocal must be finite")
        if not all(0 <= beta < 1 for beta in lion_betas):
            raise ValueError(f"lion_betas={lion_betas!r} must be two numbers in [0, 1)")
        arguments.check_choices(
            rule=(constants["rule"], ("paper", "authors")),
            second_moment=(constants["second_moment"], ("avgrad", "amsgrad")),
        )

    def check_tensors(self, group: dict[str, Any]) -> None:
        super().check_tensors(group)
        if group["rule"] == "authors" and group["learn"] and group["hyper_scale"] != "raw":
            raise ValueError(
                "rule='authors' of a param group: it learns in a form of its own; pass it to the optimizer"
            )
        if group["muon"] and (wrong := [tuple(p.shape) for p in group["params"] if p.ndim < 2]):
            raise ValueError(f"muon=True is for matrices, and a parameter of its group has shape {wrong[0]}")

    def needed(self, coefficients: dict[str, float], constants: dict[str, Any], learn: Sequence[str]) -> dict[str, Any]:
        return parts(coefficients, constants, learn)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.defaults["muon"] = False  # it marks a group; the next one may be another


def parts(coefficients: dict[str, float], constants: dict[str, Any], learn: Sequence[str]) -> dict[str, Any]:
    """What the rule needs (see ParameterizedOptimizer.needed), without parts that are fixed where they do not count."""
    counts = {
        name: name in learn or coefficients.get(name, neutral) != neutral
        for name, neutral in {"beta3": 0, "rho": 1, "c": 1, "gamma": 1, "mu": 0}.items()
    }
    muon = constants.get("muon", False) and counts["mu"]
    only_muon = muon and coefficients["mu"] == 1 and "mu" not in learn
    buffers = ["l"] if counts["gamma"] and not only_muon else []
    if (coefficients["gamma"] > 0 or "gamma" in learn) and not only_muon:
        buffers += ["m", "v"] + ["s"] * counts["rho"] + ["n"] * counts["beta3"]
        buffers += ["g_prev"] * (counts["beta3"] and constants["rule"] == "paper")
        buffers += ["v_mixed"] * (counts["rho"] and counts["c"] and constants["second_moment"] == "amsgrad")
    return {
        "buffers": (*buffers, *["u"] * muon),
        "inputs": ("o",) * muon,
        "constants": constants | {"yogi": counts["c"]},
    }
