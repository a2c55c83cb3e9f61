"""A rule with an input that is not elementwise: Adam with one second moment per block, between Adam and Adam-mini.

Adam-mini (Zhang et al., 2024) divides a block of a tensor, here the row of an output unit, by the root of the moment of
its mean square. The coefficient kappa interpolates: 0 is Adam, 1 has the blocks' moments. `block_mean_square` is
computed for whole tensors before the elementwise pass; the derivative treats its result as a constant.

    python -m examples.adam_mini      # learns kappa on a quadratic whose rows have scales of their own
"""

import torch

from optim import ParameterizedOptimizer, sqrt


def block_mean_square(g):
    """Mean of g^2 over each row of k stacked tensors (k, rows, ...), in the tensors' shape."""
    rows = g.flatten(2).square().mean(-1) if g.dim() > 2 else g.square()
    return rows.view(*rows.shape, *[1] * (g.dim() - rows.dim())).expand_as(g)


def adam_mini(g, *, m, v, square, kappa, beta1, beta2, bias1, bias2, t, eps):
    """Adam's direction with the second moment of (1 - kappa) g^2 + kappa (the block's mean square)."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * ((1 - kappa) * g * g + kappa * square)
    return m / bias1 / (sqrt(v / bias2) + eps), {"m": m, "v": v}


class AdamMini(ParameterizedOptimizer):
    """Learns beta1, beta2 and kappa. Arguments as MADA's."""

    domain = {"beta1": (0.01, 0.99), "beta2": (0.501, 0.9999), "kappa": (0.0, 1.0)}  # noqa: RUF012
    time_scales = ("beta2",)
    inputs = {"square": block_mean_square}  # noqa: RUF012
    rule = staticmethod(adam_mini)

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.95), *, kappa=0.0, eps=1e-8, learn=tuple(domain), **options):
        coefficients = dict(zip(self.domain, (*betas, kappa), strict=True))
        super().__init__(params, lr=lr, coefficients=coefficients, buffers=("m", "v"), constants={"eps": eps},
                         learn=learn, **options)  # fmt: skip


if __name__ == "__main__":
    torch.manual_seed(0)
    x, scale = torch.nn.Parameter(torch.randn(50, 40)), torch.logspace(-2, 0, 50)[:, None]
    optimizer = AdamMini([x], lr=1e-2)
    for step in range(1, 501):
        (scale * (0.5 * x * x + 0.3 * x * torch.randn(50, 40))).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            values = "  ".join(f"{name} {value:.3f}" for name, value in optimizer.coefficients.items())
            print(f"step {step}  loss {(scale * 0.5 * x * x).sum():.4f}  {values}")
