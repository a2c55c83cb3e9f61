"""AVGrad: Adam with the running average of its second moments in place of AMSGrad's maximum (MADA paper, eq. (5))."""

from types import MappingProxyType

from torch import Tensor
from torch.optim.optimizer import ParamsT

from .engine import ParameterizedOptimizer


def avgrad(g, *, m, v, v_avg, beta1, beta2, bias1, bias2, t, eps):
    """Eq. (5), with Adam's bias corrections."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    v_avg = (v + (t - 1) * v_avg) / t
    return m / bias1 / ((v_avg / bias2).sqrt() + eps), {"m": m, "v": v, "v_avg": v_avg}


class AVGrad(ParameterizedOptimizer):
    """AVGrad. Learning rates and betas as Adam's. Raises ValueError naming an argument out of its domain.

    eps: added to the root of the second moment. weight_decay: decoupled. max_grad_norm: clip to it inside step().
    """

    domain = MappingProxyType({"beta1": (0.0, 1.0), "beta2": (0.0, 1.0)})
    rule = staticmethod(avgrad)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        *,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        max_grad_norm: float | None = None,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            coefficients=self.pair_up(betas),
            buffers=("m", "v", "v_avg"),
            constants={"eps": eps},
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
        )
