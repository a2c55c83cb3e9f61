"""optim/reference.py, the algorithm in plain PyTorch, and the fast path are the same optimizer.

python -m pytest tests/optim/test_plain.py
"""

import pytest
import torch
from reference import problem

from optim import MADA
from optim.reference import PlainMADA

ROUNDING = 1e-11  # absolute, in float64, over 30 steps


@pytest.mark.parametrize("start", [{}, {"beta1": 0.6, "beta2": 0.8, "beta3": 0.4, "rho": 0.5, "c": 0.6, "gamma": 0.7}])
@pytest.mark.parametrize("settings", [{}, {"max_grad_norm": 0.5, "weight_decay": 0.1, "hyper_lr": 0.1}], ids=str)
def test_the_fast_path_equals_the_plain_one(start, settings):
    fast, plain = problem.parameters(), problem.parameters()
    betas = {"betas": (start["beta1"], start["beta2"])} if start else {}
    rest = {name: value for name, value in start.items() if name not in ("beta1", "beta2")}
    ours = MADA(list(fast.values()), lr=0.02, **betas, **rest, **settings)
    theirs = PlainMADA(list(plain.values()), lr=0.02, **start, **settings)
    for t in range(1, 31):
        problem.train(ours, fast, [t])
        for p in plain.values():
            p.grad = None
        problem.loss(plain, t).backward()
        theirs.step()
        assert ours.coefficients == pytest.approx({name: q.item() for name, q in theirs.q.items()}, abs=ROUNDING)
    torch.testing.assert_close(fast, plain, rtol=0, atol=ROUNDING)
