"""Yogi (Zaheer et al., 2018): the second moment grows by no more than g^2 a step, whatever its size."""

from types import MappingProxyType

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from .engine import ParameterizedOptimizer


def yogi(g, *, m, v, beta1, beta2, bias1, bias2, t, eps):
    """Algorithm 2 of the paper from v_0 = 0, with Adam's bias corrections."""
    m = beta1 * m + (1 - beta1) * g
    v = v - (1 - beta2) * torch.sign(v - g * g) * g * g
    return m / bias1 / ((v / bias2).sqrt() + eps), {"m": m, "v": v}


class Yogi(ParameterizedOptimizer):
    """Yogi. Its paper takes eps = 1e-3 and learning rates up to 10 times Adam's.

    eps: added to the root of the second moment. weight_decay: decoupled. max_grad_norm: clip to it inside step().
    """

    domain = MappingProxyType({"beta1": (0.0, 1.0), "beta2": (0.0, 1.0)})
    rule = staticmethod(yogi)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        *,
        eps: float = 1e-3,
        weight_decay: float = 0.0,
        max_grad_norm: float | None = None,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            coefficients=self.pair_up(betas),
            buffers=("m", "v"),
            constants={"eps": eps},
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
        )
