"""HyperAdam: Adam whose beta1 and beta2 are learned by hyper-gradient descent (Chandra et al., 2022; Baydin et al., 2018)."""

from .engine import ParameterizedOptimizer
from .mada import sqrt


def hyperadam(g, *, m, v, beta1, beta2, bias1, bias2, t, eps):
    """Adam's direction and moments (Kingma and Ba, 2015, Algorithm 1), differentiable at v = 0."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    return m / bias1 / (sqrt(v / bias2) + eps), {"m": m, "v": v}


class HyperAdam(ParameterizedOptimizer):
    """AdamW with learned betas: MADA's learn=("beta1", "beta2") at Adam's corner, in 12 bytes per parameter of float32.

    Arguments as for MADA; hyper_lr and hyper_momentum are a number or a dict with an entry for each learned beta.
    """

    domain = {"beta1": (0.01, 0.99), "beta2": (0.501, 0.99)}
    rule = staticmethod(hyperadam)

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.95), *, eps=1e-8, weight_decay=0.0, hyper_lr=5e-4,
                 hyper_momentum=0.0, hyper_start=0, hyper_clip=10.0, learn=("beta1", "beta2"), max_grad_norm=None):
        super().__init__(params, lr=lr, coefficients=dict(zip(self.domain, betas, strict=True)), buffers=("m", "v"),
                         constants={"eps": eps}, weight_decay=weight_decay, learn=learn, hyper_lr=hyper_lr,
                         hyper_momentum=hyper_momentum, hyper_start=hyper_start, hyper_clip=hyper_clip,
                         max_grad_norm=max_grad_norm)
