"""Lion: evolved sign momentum (Chen et al., 2023, Algorithm 2)."""

from types import MappingProxyType

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from .engine import ParameterizedOptimizer


def lion(g, *, m, beta1, beta2, bias1, bias2, t):
    """The sign of one interpolation of momentum and gradient; another is the new momentum."""
    return torch.sign(beta1 * m + (1 - beta1) * g), {"m": beta2 * m + (1 - beta2) * g}


class Lion(ParameterizedOptimizer):
    """Lion. Its paper: lr 3 to 10 times smaller than Adam's, decay as much larger.

    betas: of the update, of the momentum. weight_decay: decoupled. max_grad_norm: clip to it inside step().
    """

    domain = MappingProxyType({"beta1": (0.0, 1.0), "beta2": (0.0, 1.0)})
    rule = staticmethod(lion)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        *,
        weight_decay: float = 0.0,
        max_grad_norm: float | None = None,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            coefficients=self.pair_up(betas),
            buffers=("m",),
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
        )
