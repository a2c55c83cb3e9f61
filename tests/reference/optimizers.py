"""Optimizers written down from their papers, one tensor at a time, slow and plain. It imports nothing from optim/.

`HyperDescent` is Algorithm 1 of MADA's paper with the graph of the last update really kept: autograd differentiates the
next loss through it. It takes any rule (g, state, q, t, eps) -> (direction, new state) with coefficients q.
"""

import math
from types import MappingProxyType

import torch

DOMAIN = {
    "beta1": (0.01, 0.99),
    "beta2": (0.501, 0.99),
    "beta3": (0.0, 0.99),
    "rho": (0.0, 1.0),
    "c": (0.0, 1.0),
    "gamma": (0.0, 1.0),
    "mu": (0.0, 1.0),
}


class Plain(torch.optim.Optimizer):
    """Decoupled weight decay, then x <- x - lr * self.direction(g, state, t, **settings of the group)."""

    defaults = MappingProxyType({})

    def __init__(self, params, lr, weight_decay=0.0, **settings):
        super().__init__(params, dict(lr=lr, weight_decay=weight_decay, **{**type(self).defaults, **settings}))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            settings = {key: group[key] for key in type(self).defaults}
            for p in group["params"]:
                state = self.state[p]
                state["t"] = state.get("t", 0) + 1
                direction = self.direction(p.grad, state, **settings)
                p.copy_(p * (1 - group["lr"] * group["weight_decay"]) - group["lr"] * direction)


class AVGrad(Plain):
    """MADA paper, eq. (5), with Adam's bias corrections: the second moment is the mean of all second moments so far."""

    defaults = MappingProxyType({"betas": (0.9, 0.95), "eps": 1e-8})

    def direction(self, g, state, betas, eps):
        b1, b2 = betas
        state["m"] = b1 * state.get("m", 0) + (1 - b1) * g
        state["v"] = b2 * state.get("v", 0) + (1 - b2) * g**2
        state["sum"] = state.get("sum", 0) + state["v"]
        mean = state["sum"] / state["t"]
        return state["m"] / (1 - b1 ** state["t"]) / ((mean / (1 - b2 ** state["t"])).sqrt() + eps)


class Yogi(Plain):
    """Zaheer et al. (2018), Algorithm 2: v <- v - (1 - b2) sign(v - g^2) g^2; from v = 0, Adam's bias corrections."""

    defaults = MappingProxyType({"betas": (0.9, 0.999), "eps": 1e-3})

    def direction(self, g, state, betas, eps):
        b1, b2 = betas
        state["m"] = b1 * state.get("m", 0) + (1 - b1) * g
        v = state.get("v", torch.zeros_like(g))
        state["v"] = v - (1 - b2) * torch.sign(v - g**2) * g**2
        return state["m"] / (1 - b1 ** state["t"]) / ((state["v"] / (1 - b2 ** state["t"])).sqrt() + eps)


class Adan(Plain):
    """Xie et al. (2023), Algorithm 1, as published with no_prox=True: betas of g, of its difference, of the square."""

    defaults = MappingProxyType({"betas": (0.98, 0.92, 0.99), "eps": 1e-8})

    def direction(self, g, state, betas, eps):
        b1, b2, b3 = betas
        difference = g - state.get("g_last", g)
        state["g_last"] = g.clone()
        state["m"] = b1 * state.get("m", 0) + (1 - b1) * g
        state["v"] = b2 * state.get("v", 0) + (1 - b2) * difference
        state["n"] = b3 * state.get("n", 0) + (1 - b3) * (g + b2 * difference) ** 2
        denominator = state["n"].sqrt() / (1 - b3 ** state["t"]) ** 0.5 + eps
        return (state["m"] / (1 - b1 ** state["t"]) + b2 * state["v"] / (1 - b2 ** state["t"])) / denominator


class Lion(Plain):
    """Chen et al. (2023), Algorithm 2."""

    defaults = MappingProxyType({"betas": (0.9, 0.99)})

    def direction(self, g, state, betas):
        m = state.get("m", torch.zeros_like(g))
        state["m"] = betas[1] * m + (1 - betas[1]) * g
        return torch.sign(betas[0] * m + (1 - betas[0]) * g)


def mada(g, state, q, t, bias, eps, second_moment="avgrad", lion_betas=(0.95, 0.98)):
    """MADA paper, appendix C.1, with each base optimizer's bias correction; "amsgrad" is the form of its section 2.

    bias: {coefficient: what the average with that decay is divided by}.
    """
    b1, b2, b3, rho, c, gamma = q.values()
    zero = torch.zeros_like(g)
    difference = g - state.get("g_last", g)
    m = b1 * state.get("m", zero) + (1 - b1) * g
    n = b3 * state.get("n", zero) + (1 - b3) * difference
    g_hat = g + b3 * difference
    v_yogi = state.get("V" if second_moment == "amsgrad" else "v", zero)
    w = c * g_hat**2 + (1 - c) * (v_yogi + g_hat**2 * torch.sign(g_hat**2 - v_yogi))
    v = b2 * state.get("v", zero) + (1 - b2) * w
    s = state.get("s", zero)
    s = torch.maximum(s, v) if second_moment == "amsgrad" else (v + (t - 1) * s) / t
    V = rho * v + (1 - rho) * s
    adaptive = (m / bias["beta1"] + b3 * n / bias["beta3"]) / ((V / bias["beta2"]).sqrt() + eps)
    l = state.get("l", zero)
    u = lion_betas[0] * l + (1 - lion_betas[0]) * g
    l = lion_betas[1] * l + (1 - lion_betas[1]) * g
    return gamma * adaptive + (1 - gamma) * torch.sign(u), {"m": m, "n": n, "v": v, "s": s, "V": V, "l": l, "g_last": g}


def mada_with_muon(g, state, q, t, bias, eps, **settings):
    """`mada`, and for matrices the share mu of Muon's direction (Jordan et al., 2024), a constant to all of q."""
    *six, mu = q.values()
    direction, new = mada(g, state, dict(zip(q, six)), t, bias, eps, **settings)
    if g.dim() < 2:
        return direction, new
    u = 0.95 * state.get("u", torch.zeros_like(g)) + g
    x = g + 0.95 * u
    flat = x.reshape(len(x), -1)
    wide = (flat.T if len(flat) > flat.shape[1] else flat).detach()
    wide = wide / (wide.square().sum().sqrt() + 1e-7)
    for _ in range(5):
        a = wide @ wide.T
        wide = 3.4445 * wide - 4.7750 * (a @ wide) + 2.0315 * (a @ (a @ wide))
    o = (wide.T if len(flat) > flat.shape[1] else wide).reshape(x.shape) * 0.2 * max(flat.shape) ** 0.5
    return (1 - mu) * direction + mu * o, {**new, "u": u}


def adam(g, state, q, t, bias, eps):
    """Kingma and Ba (2015), Algorithm 1."""
    b1, b2 = q.values()
    m = b1 * state.get("m", 0) + (1 - b1) * g
    v = b2 * state.get("v", 0) + (1 - b2) * g**2
    return m / bias["beta1"] / ((v / bias["beta2"]).sqrt() + eps), {"m": m, "v": v}


class HyperDescent:
    """Hyper-gradient descent on the coefficients of `rule`: coefficients first, then parameters.

    params: {name: leaf tensor}; coefficients: {name: float}, with DOMAIN's `domain`; lr, weight_decay: {name: float} by
    parameter; hyper_lr, hyper_momentum: {coefficient: float}. debias: "powers", 1 - beta^t, or "weights", the sum of
    the weights that a parameter's average has given to its gradients so far, 1 - prod of the betas that were current.
    hyper_scale: "raw", or "relative" to sum lr |g|_1, where 1 - beta2 moves by a factor. After `step`, the parameters
    in `x` hang on the graph of the last update, in which the coefficients `q` are leaves.
    """

    def __init__(
        self,
        rule,
        params,
        coefficients,
        *,
        lr,
        weight_decay,
        learn,
        hyper_lr,
        hyper_momentum,
        hyper_start=0,
        hyper_clip=10.0,
        max_grad_norm=None,
        eps=1e-8,
        debias="powers",
        hyper_scale="raw",
        domain=DOMAIN,
        **rule_settings,
    ):
        self.rule, self.settings = rule, dict(eps=eps, **rule_settings)
        self.x = dict(params)
        self.q = {
            name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in coefficients.items()
        }
        self.lr, self.weight_decay = lr, weight_decay
        self.learn, self.hyper_lr, self.hyper_momentum = learn, hyper_lr, hyper_momentum
        self.hyper_start, self.hyper_clip, self.max_grad_norm = hyper_start, hyper_clip, max_grad_norm
        self.debias, self.relative, self.domain = debias, hyper_scale == "relative", domain
        self.last_lr = dict.fromkeys(params, 0.0)
        self.used = {name: [] for name in params}  # the betas of each update of a parameter
        self.steps = 0
        self.velocity = dict.fromkeys(coefficients, 0.0)
        self.hyper_gradients = dict.fromkeys(coefficients, 0.0)
        self.state = {name: {} for name in params}
        self.t = dict.fromkeys(params, 0)

    @property
    def coefficients(self):
        return {name: value.item() for name, value in self.q.items()}

    def step(self, loss, lr_factor=1.0, frozen=()):
        """loss: {name: tensor} -> 0-D tensor; those in `frozen` have no gradient in this step. Returns the loss."""
        x = {name: p.detach() if name in frozen else p for name, p in self.x.items()}
        active = [name for name in x if name not in frozen]
        value = loss(x)
        gradients = torch.autograd.grad(
            value, [x[name] for name in active] + list(self.q.values()), materialize_grads=True
        )
        g = dict(zip(active, gradients))
        h = dict(zip(self.q, gradients[len(active) :], strict=True))

        unit = sum(self.last_lr[name] * part.abs().sum().item() for name, part in g.items())
        if self.relative:
            h = {name: part / unit if unit > 0 else 0 * part for name, part in h.items()}

        self.steps += 1
        q = {}
        for name, coefficient in self.coefficients.items():
            if name in self.learn:
                self.hyper_gradients[name] = h[name].item()
                push = (
                    min(max(h[name].item(), -self.hyper_clip), self.hyper_clip)
                    if self.steps > self.hyper_start
                    else 0.0
                )
                self.velocity[name] = self.hyper_momentum[name] * self.velocity[name] + push
                low, high = self.domain[name]
                step = self.hyper_lr[name] * self.velocity[name]
                if self.relative and name == "beta2":
                    coefficient = 1 - (1 - coefficient) * math.exp(step)
                else:
                    coefficient = coefficient - step
                coefficient = min(max(coefficient, low), high)
            q[name] = torch.tensor(coefficient, dtype=torch.float64, requires_grad=True)
        self.q = q

        if self.max_grad_norm is not None:
            norm = sum((part**2).sum() for part in g.values()).sqrt()
            g = {name: part * min(1.0, self.max_grad_norm / (norm.item() + 1e-6)) for name, part in g.items()}
        for name, p in x.items():
            if name in frozen:
                self.x[name] = p.clone().requires_grad_()
                continue
            self.t[name] += 1
            direction, state = self.rule(g[name], self.state[name], q, self.t[name], self.bias(name), **self.settings)
            self.used[name].append(self.coefficients)
            self.state[name] = {key: part.detach() for key, part in state.items()}
            lr = self.lr[name] * lr_factor
            self.x[name] = p.detach() * (1 - lr * self.weight_decay[name]) - lr * direction
        self.last_lr = {name: self.lr[name] * lr_factor for name in x}
        return value.item()

    def bias(self, name):
        """{beta_i: what its average is divided by} in the coming update of a parameter; a function of the current q."""
        if self.debias == "powers":
            return {key: 1 - beta ** self.t[name] for key, beta in self.q.items() if key.startswith("beta")}
        return {
            key: 1 - math.prod(past[key] for past in self.used[name]) * beta
            for key, beta in self.q.items()
            if key.startswith("beta")
        }
