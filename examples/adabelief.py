"""A meta-adaptive optimizer of your own: MADA with AdaBelief as a sixth corner (the paper's first open question).

AdaBelief (Zhuang et al., 2020) divides by the root of a moment of (g - m)^2, the surprise, instead of g^2. A seventh
coefficient, tau, interpolates between the two: tau = 1 is MADA, and (tau, beta3, rho, c, gamma) = (0, 0, 1, 1, 1) is
AdaBelief. This is all that a new optimizer needs: an elementwise rule, its buffers, its coefficients' domains. Speed,
sharding, checkpoints and hyper-gradients are the engine's.

    python -m examples.adabelief      # learns tau on a noisy quadratic
"""

import torch

from optim import MADA, ParameterizedOptimizer
from optim.mada import mada, parts, sqrt

CORNER = {**MADA.domain, "tau": (0.0, 1.0)}


def belief(g, *, b, m, v, tau, beta1, beta2, bias1, bias2, gamma, eps, **mada_arguments):
    """MADA's rule, and AdaBelief's direction for the share 1 - tau of its adaptive part."""
    direction, new = mada(
        g, m=m, v=v, beta1=beta1, beta2=beta2, bias1=bias1, bias2=bias2, gamma=gamma, eps=eps, **mada_arguments
    )
    surprise = g - new["m"]
    new["b"] = beta2 * b + (1 - beta2) * surprise * surprise + eps
    adabelief = new["m"] / bias1 / (sqrt(new["b"] / bias2) + eps)
    return tau * direction + (1 - tau) * gamma * adabelief, new


class BeliefMADA(ParameterizedOptimizer):
    """MADA with AdaBelief as one more corner. Arguments as MADA's; every coefficient is learned."""

    domain = CORNER
    time_scales = MADA.time_scales
    rule = staticmethod(belief)

    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.95),
        *,
        tau=1.0,
        beta3=0.0,
        rho=1.0,
        c=1.0,
        gamma=1.0,
        eps=1e-8,
        learn=tuple(CORNER),
        **options,
    ):
        coefficients = dict(zip(self.domain, (*betas, beta3, rho, c, gamma, tau), strict=True))
        constants = {"eps": eps, "lion_betas": (0.95, 0.98), "rule": "paper", "second_moment": "avgrad"}
        needed = parts(coefficients, constants, learn)
        super().__init__(
            params,
            lr=lr,
            coefficients=coefficients,
            learn=learn,
            buffers=("b", *needed["buffers"]),
            constants=needed["constants"],
            **options,
        )


if __name__ == "__main__":
    torch.manual_seed(0)
    x = torch.nn.Parameter(torch.randn(1000))
    optimizer = BeliefMADA([x], lr=1e-2)
    for step in range(1, 501):
        (0.5 * (x * x).sum() + 0.3 * (x * torch.randn(1000)).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            values = "  ".join(f"{name} {value:.3f}" for name, value in optimizer.coefficients.items())
            print(f"step {step}  loss {0.5 * (x * x).sum():.4f}  {values}")
