"""Whether gradients come in clipped, which silently shrinks raw hyper-gradients. Relative ones do not change."""

import warnings

import torch
from torch import Tensor

STEPS = 64  # a GPU is asked once, after this many steps
ROW, TOLERANCE = 5, 2e-5


def limit_of(norms: list[float]) -> float | None:
    """The round number that all these norms equal to rounding, as clip_grad_norm_ leaves them; None if there is none.

    Norms that are exactly equal are no sign of clipping: a constant gradient has them too.
    """
    if not norms or not 0 < norms[0] < float("inf"):
        return None
    limit = float(f"{norms[0]:.1e}")
    close = all(abs(norm - limit) <= TOLERANCE * limit for norm in norms)
    return limit if close and len(set(norms)) > 1 else None


class Watch:
    """Warns once, when the norms of a few steps in a row are the same round number."""

    def __init__(self) -> None:
        self.norms, self.over = [], False

    def see(self, owner: str, norm: Tensor) -> None:
        """Note the norm of the gradient that step() was given, 0-D."""
        if self.over:
            return
        self.norms.append(float(norm) if norm.device.type == "cpu" else norm)
        if norm.device.type != "cpu":
            if len(self.norms) < STEPS:
                return
            norms, self.over = torch.stack(self.norms).tolist(), True
        else:
            norms = self.norms = self.norms[-ROW:]
        limits = (limit_of(norms[i : i + ROW]) for i in range(len(norms) - ROW + 1))
        limit = next(filter(None, limits), None)
        if limit:
            self.over = True
            warnings.warn(
                f"the gradients that {owner} gets appear to be clipped to norm {limit:g} already, but its "
                f"hyper-gradients need unclipped gradients. Pass max_grad_norm={limit:g} to {owner}, which clips after "
                "computing them, and do not clip outside",
                stacklevel=5,
            )
