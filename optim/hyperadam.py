"""HyperAdam: Adam whose beta1 and beta2 are learned by hyper-gradient descent (Chandra et al., 2022)."""

from collections.abc import Iterable
from types import MappingProxyType
from typing import Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from .arguments import LearningOptions
from .engine import ParameterizedOptimizer
from .mada import MADA, sqrt


def hyperadam(g, *, m, v, beta1, beta2, bias1, bias2, t, eps):
    """Adam's direction and moments (Kingma and Ba, 2015, Algorithm 1), differentiable at v = 0."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    return m / bias1 / (sqrt(v / bias2) + eps), {"m": m, "v": v}


class HyperAdam(ParameterizedOptimizer):
    """AdamW with learned betas: MADA's learn=("beta1", "beta2") at Adam's corner, in 12 bytes per parameter of float32.

    Arguments as for MADA, as far as they apply.
    """

    domain = MappingProxyType({name: MADA.domain[name] for name in ("beta1", "beta2")})
    raw_domain = MADA.raw_domain
    raw_hyper_lr = MADA.raw_hyper_lr
    time_scales = MADA.time_scales
    low_precision = ("m",)
    rule = staticmethod(hyperadam)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        *,
        eps: float = 1e-8,
        learn: str | Iterable[str] = ("beta1", "beta2"),
        **options: Unpack[LearningOptions],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            coefficients=self.pair_up(betas),
            buffers=("m", "v"),
            constants={"eps": eps},
            learn=learn,
            **options,
        )
