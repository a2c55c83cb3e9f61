"""HyperAdam: Adam whose beta1 and beta2 are learned by hyper-gradient descent (Chandra et al., 2022)."""

from types import MappingProxyType

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

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.95), *, eps=1e-8, learn=("beta1", "beta2"), **options):
        super().__init__(
            params,
            lr=lr,
            coefficients=self.pair_up(betas),
            buffers=("m", "v"),
            constants={"eps": eps},
            learn=learn,
            **options,
        )
