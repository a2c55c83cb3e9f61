"""Adan: Adaptive Nesterov momentum (Xie et al., 2023), in the published code's convention of the betas."""

from types import MappingProxyType

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from .engine import ParameterizedOptimizer


def adan(g, *, m, d, n, g_prev, beta1, beta2, beta3, bias1, bias2, bias3, t, eps):
    """Algorithm 1 with bias corrections. m: moment of g; d: of the difference of gradients; n: of the squared sum."""
    difference = g - torch.where(t == 1, g, g_prev)
    m = beta1 * m + (1 - beta1) * g
    d = beta2 * d + (1 - beta2) * difference
    n = beta3 * n + (1 - beta3) * (g + beta2 * difference) ** 2
    direction = (m / bias1 + beta2 * d / bias2) / ((n / bias3).sqrt() + eps)
    return direction, {"m": m, "d": d, "n": n, "g_prev": g}


class Adan(ParameterizedOptimizer):
    """Adan with the published code's no_prox=True. Its paper takes 5 to 10 times Adam's lr.

    betas: of the gradient, of the difference, of the second moment; MADA calls them beta1, beta3, beta2.
    eps: added to the root of the second moment. weight_decay: decoupled. max_grad_norm: clip to it inside step().
    """

    domain = MappingProxyType({"beta1": (0.0, 1.0), "beta2": (0.0, 1.0), "beta3": (0.0, 1.0)})
    rule = staticmethod(adan)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        *,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        max_grad_norm: float | None = None,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            coefficients=self.pair_up(betas),
            buffers=("m", "d", "n", "g_prev"),
            constants={"eps": eps},
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
        )
