"""Figures 1 and 2, and Proposition 1.

python -m pytest -q tests/reproduce/test_theory.py        # seconds
"""

import numpy as np

from reproduce import theory


def test_the_bound_is_least_at_beta2():
    rho = np.linspace(0, 1, 101)
    for T in (10_000, 1_000):
        assert abs(rho[theory.bound(rho, T).argmin()] - theory.BETA2) < 1e-9
    adam, avgrad = 1.0, 0.0  # "larger T represents a more favorable setting for AVGrad"
    assert theory.bound(avgrad, 10_000) < theory.bound(adam, 10_000)
    assert theory.bound(avgrad, 1_000) > theory.bound(adam, 1_000)


def test_proposition_1_holds_with_beta2_times_its_bound():
    limit = lambda t: 1 / (t * (1 - theory.BETA2) + 1)
    assert theory.growth(lambda t: 0.0, T=600) <= 1 + 1e-12
    assert theory.growth(lambda t: theory.BETA2 * limit(t), T=600) <= 1 + 1e-12
    assert theory.growth(lambda t: 1.0, T=600) > 1.04  # Adam: sqrt((t - 1) / (t beta2)) in silence
    assert 1 < theory.growth(limit, T=1200) < 1.006  # the printed bound is a little too large
