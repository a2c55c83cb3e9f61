"""The theory of section 4, numerically: the bound of Theorem 1 over rho (Figures 1 and 2), and Proposition 1.

Theorem 1, eq. (6), with constants 1: E (1/T + ln(E)/T + max(0, ln(rho/beta2))),
E = sqrt((rho + (1-rho) T) / (1-beta2)). Proposition 1: with alpha_t = alpha / sqrt(t), rho_t <= 1 / (t (1-beta2) + 1)
is enough for a step size alpha_t / sqrt(V_t) that never grows. V comes from optim/mada.py without bias correction, as
in the paper, for gradients that test it hard.
"""

from collections.abc import Callable

import numpy as np
import torch

from devices import here
from optim.mada import mada

BETA2 = 0.9
COUNT = 200  # sequences of gradients of each kind


def bound(rho: float | np.ndarray, T: int) -> float | np.ndarray:
    """The right-hand side of eq. (6) with constants 1."""
    E = np.sqrt((rho + (1 - rho) * T) / (1 - BETA2))
    return E * (1 / T + np.log(E) / T + np.log(np.maximum(rho / BETA2, 1)))


def gradients(T: int) -> torch.Tensor:
    """(T, 4 * COUNT): normal, heavy-tailed, rare spikes, and silence after a burst."""
    rng = torch.Generator().manual_seed(0)
    normal = torch.randn(T, 4, COUNT, generator=rng, dtype=torch.float64)
    normal[:, 1] = normal[:, 1] / (torch.rand(T, COUNT, generator=rng, dtype=torch.float64) + 1e-3)
    normal[:, 2] *= torch.where(torch.rand(T, COUNT, generator=rng) < 0.01, 100.0, 0.01)
    burst = torch.randint(1, T // 2, (COUNT,), generator=rng)
    normal[:, 3] *= torch.arange(T)[:, None] < burst
    return normal.flatten(1)


def growth(rho_at: Callable[[int], float], T: int) -> float:
    """The largest factor by which alpha_t / sqrt(V_t) grows in a step, over gradients(T), with rho_t = rho_at(t)."""
    g = gradients(T)
    state = {name: torch.zeros_like(g[0]) for name in ("m", "v", "s")}
    one, zero, last, most = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64), None, 0.0
    for t in range(1, T + 1):
        rho = torch.tensor(rho_at(t), dtype=torch.float64)
        _, state = mada(
            g[t - 1],
            **state,
            beta1=zero,
            beta2=BETA2 * one,
            beta3=zero,
            rho=rho,
            c=one,
            gamma=one,
            bias1=one,
            bias2=one,
            bias3=one,
            t=t * one,
            eps=0.0,
            yogi=False,
        )
        size = 1 / torch.sqrt(t * (rho * state["v"] + (1 - rho) * state["s"]))
        if last is not None:
            most = max(most, (size / last)[last.isfinite()].max().item())
        last = size
    return most


def theorem(T: int) -> dict:
    """{"rho", "bound": that of eq. (6) at each, "best_rho", and the conditions}."""
    rho = np.round(np.linspace(0, 1, 1001), 3)
    found = {"T": T, "beta2": BETA2, "constants": [1, 1, 1], "rho": rho.tolist(), "bound": bound(rho, T).tolist()}
    return found | {"best_rho": float(rho[bound(rho, T).argmin()])} | here("cpu")


def proposition(T: int = 2000) -> dict:
    """{"growth": {rule for rho_t: largest growth of the step size in a step}, and the conditions}."""
    rules = {
        "rho_t = 1 / (t (1 - beta2) + 1), the bound": lambda t: 1 / (t * (1 - BETA2) + 1),
        "beta2 times the bound": lambda t: BETA2 / (t * (1 - BETA2) + 1),
        "rho_t = 0 (AVGrad)": lambda t: 0.0,
        "rho_t = 0.1": lambda t: 0.1,
        "rho_t = 1 (Adam)": lambda t: 1.0,
        "below the bound, but not falling (0, then the bound, in turns)": lambda t: (t % 2) / (t * (1 - BETA2) + 1),
    }
    found = {"beta2": BETA2, "T": T, "growth": {name: growth(rho_at, T) for name, rho_at in rules.items()}}
    return found | here("cpu")
