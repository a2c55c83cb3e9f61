"""Muon (Jordan et al., 2024): the momentum of a hidden matrix, orthogonalized. A direction that is not elementwise.

References: the published code (KellerJordan/Muon), and torch.optim.Muon, whose adjust_lr_fn="match_rms_adamw" gives the
direction AdamW's root mean square, so that one learning rate serves both (Liu et al., 2025).
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # a, b, c of X <- a X + (b A + c A A) X with A = X X^T, steepest at 0
STEPS, EPS = 5, 1e-7


def newton_schulz(g: Tensor) -> Tensor:
    """Matrices (k, A, B) with their singular values brought near 1, in their own dtype.

    A step is X <- P X with P = a + b A + c A A. If a matrix is at least twice as long as it is wide, the steps are made
    on the smaller A, which becomes P A P, and X is multiplied once with the product of all P: half the arithmetic.
    bfloat16 has too few digits for that.
    """
    a, b, c = COEFFICIENTS
    tall = g.size(-2) > g.size(-1)
    x = g.mT if tall else g
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + EPS)
    if 2 * x.size(-2) <= x.size(-1) and x.dtype != torch.bfloat16:
        gram, product = x @ x.mT, None
        for step in range(STEPS):
            p = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
            p.diagonal(dim1=-2, dim2=-1).add_(a)
            product = p if product is None else p @ product
            gram = p @ gram @ p if step < STEPS - 1 else None
        x = product @ x
    else:
        for _ in range(STEPS):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def orthogonalized(g: Tensor, u: Tensor) -> Tensor:
    """Muon's direction for k tensors of one shape: gradients g and momenta u before this step, (k, A, B, ...).

    Dimensions after the second are flattened into it. Computed in float64 for float64, else in bfloat16 on GPUs and in
    float32 elsewhere. u itself is not changed: its new value is MOMENTUM * u + g.
    """
    work = torch.float64 if g.dtype == torch.float64 else torch.bfloat16 if g.is_cuda else torch.float32
    g, u = g.to(work), u.to(work)
    nesterov = (g + MOMENTUM * (MOMENTUM * u + g)).flatten(2)
    scale = 0.2 * max(nesterov.shape[-2:]) ** 0.5  # root mean square of AdamW's update
    with torch.autocast(g.device.type, enabled=False):
        return scale * newton_schulz(nesterov).view(g.shape)


class MuonAdamW(Optimizer):
    """The baseline: torch.optim.Muon for groups marked muon=True, AdamW for the others, with one learning rate.

    params: param groups; one with muon=True holds matrices only. betas, eps: of AdamW. Raises ValueError as torch's do.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        *,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        groups = [{"lr": lr, "weight_decay": weight_decay, **group} for group in params]
        hidden = [group for group in groups if group.get("muon")]
        others = [group for group in groups if not group.get("muon")]
        make = {"momentum": MOMENTUM, "adjust_lr_fn": "match_rms_adamw"}
        self.parts = [torch.optim.Muon(hidden, lr=lr, weight_decay=weight_decay, **make)] if hidden else []
        self.parts += [AdamW(others, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)] if others else []
        super().__init__([group for part in self.parts for group in part.param_groups], {})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take a group of one of the parts, while they are made. Later ones raise ValueError."""
        if not any(param_group is group for part in self.parts for group in part.param_groups):
            raise ValueError("MuonAdamW takes no more groups once it has been made")
        self.param_groups.append(param_group)  # which a part has checked and filled

    def __getstate__(self) -> dict[str, Any]:
        """What pickle and deepcopy keep: the parts' groups and states are those of the whole."""
        return super().__getstate__() | {"parts": self.parts}

    @torch.no_grad()
    def step(self, closure: Callable[[], float | Tensor] | None = None) -> float | Tensor | None:
        """One step of each part. Returns the closure's loss, if there is a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
            self.state.update(part.state)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's; the parts share what is loaded."""
        super().load_state_dict(state_dict)
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state.clear()
            for group in part.param_groups:
                part.state.update({p: self.state[p] for p in group["params"] if p in self.state})
