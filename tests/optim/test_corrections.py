"""The three corrections: relative hyper-gradients, the weight an average has gathered, beta2 in its time scale.

Each test would have caught the defect that it is named after.

    python -m pytest tests/optim/test_corrections.py
"""

import copy

import pytest
import torch
from every import ALL
from reference import problem

from optim import MADA, HyperAdam

INTERIOR = {"betas": (0.6, 0.8), "beta3": 0.4, "rho": 0.5, "c": 0.6, "gamma": 0.7}
ALIKE = 1e-9  # absolute, of coefficients in float64
TINY = 1e-30  # an eps that does not count next to gradients of any size


def path(gradients, lr=0.01, copies=1, **settings):
    """The coefficients after each step on gradients given by hand, which do not depend on the parameters."""
    params = [torch.zeros(gradients.shape[1], dtype=torch.float64, requires_grad=True) for _ in range(copies)]
    optimizer = MADA(params, lr=lr, eps=TINY, **{**INTERIOR, **settings})
    seen = []
    for g in gradients:
        for p in params:
            p.grad = g.clone()
        optimizer.step()
        seen.append(list(optimizer.coefficients.values()))
    return torch.tensor(seen, dtype=torch.float64)


@pytest.fixture
def gradients():
    return torch.stack([problem.wave((50,), 0.7, t, 1.0) for t in range(1, 31)])


def alike(first, second):
    assert (first[-1] - first[0]).abs().min() > 1e-4  # every coefficient has moved
    torch.testing.assert_close(first, second, rtol=0, atol=ALIKE)


@pytest.mark.parametrize("second_moment", ["avgrad", "amsgrad"])
def test_the_scale_of_the_loss_does_not_matter(gradients, second_moment):
    alike(*(path(scale * gradients, second_moment=second_moment) for scale in (1, 1000)))


def test_the_size_of_the_model_does_not_matter(gradients):
    """The same problem stated twice in one model."""
    alike(path(gradients), path(gradients, copies=2))


def test_the_scale_of_the_rate_does_not_matter_where_the_updates_are_alike(gradients):
    alike(*(path(gradients, lr=lr) for lr in (1e-4, 1.0)))


def test_raw_hyper_gradients_know_all_three(gradients):
    """So the tests above can fail."""
    first = path(gradients, hyper_scale="raw", hyper_lr=1e-2)
    for other in (path(1000 * gradients, hyper_scale="raw", hyper_lr=1e-2),
                  path(gradients, copies=2, hyper_scale="raw", hyper_lr=1e-2),
                  path(gradients, lr=1.0, hyper_scale="raw", hyper_lr=1e-2)):  # fmt: skip
        assert (first - other).abs().max() > 1e-3


@pytest.mark.parametrize("optimizer", [MADA, HyperAdam])
@pytest.mark.parametrize("debias, size", [("weights", 1.0), ("powers", 6.0)])
def test_a_moved_beta1_does_not_change_the_size_of_an_update(optimizer, debias, size):
    """On constant gradients Adam's step is lr; when beta1 goes from 0.9 to 0.99 at step 10, 1 - beta^t makes it six."""
    p = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    ours = optimizer([p], lr=0.01, eps=TINY, debias=debias, hyper_lr=0.0)
    for t in range(1, 13):
        if t == 11:  # the ten updates before are complete in look_back, which comes before the coefficients move
            bounds = ours.param_groups[0]["bounds"]
            ours.param_groups[0]["bounds"][0] = bounds.new_tensor([0.99, 0.99])
        before = p.detach().clone()
        p.grad = torch.full_like(p, 2.0)
        ours.step()
        assert ((before - p.detach()) / 0.01).tolist() == pytest.approx([1.0 if t < 11 else size] * 3, rel=0.1)
    assert ours.coefficients["beta1"] == 0.99


def test_one_outlier_does_not_throw_beta2_to_its_lower_end():
    """From 0.999, where a linear step of the same size would divide the time scale by ten and more."""
    make = torch.Generator().manual_seed(0)
    gradients = torch.randn(60, 20, generator=make, dtype=torch.float64)
    gradients[40] *= 100
    gradients[41] = gradients[40] / 100
    betas = path(gradients, betas=(0.9, 0.999), beta3=0.0, rho=1.0, c=1.0, gamma=1.0, learn=("beta2",))[:, 1]
    assert betas.min() > 0.997 and betas[-1] < 1
    assert (betas[1:] - betas[:-1]).abs().max() > 1e-6


def test_beta2_moves_by_a_factor_and_the_others_add():
    params = problem.parameters()
    optimizer = MADA(list(params.values()), lr=0.02, hyper_lr=0.1, **INTERIOR)
    problem.train(optimizer, params, [1, 2])
    before = optimizer.coefficients
    problem.train(optimizer, params, [3])
    h, after = optimizer.hyper_gradients, optimizer.coefficients
    expected = {name: before[name] - 0.1 * h[name] for name in ALL}
    expected["beta2"] = 1 - (1 - before["beta2"]) * torch.tensor(0.1 * h["beta2"], dtype=torch.float64).exp().item()
    assert after == pytest.approx(expected, abs=1e-14)


def test_the_defaults_are_the_three_corrections_at_adams_corner():
    p = torch.zeros(2, requires_grad=True)
    group = MADA([p], lr=1e-3).param_groups[0]
    assert (group["debias"], group["hyper_scale"]) == ("weights", "relative")
    assert group["hyper_lr"].tolist() == [1e-2] * 6 and group["bounds"][1].tolist() == [0.501, 0.9999]
    assert MADA([p], betas=(0.9, 0.999)).coefficients["beta2"] == 0.999  # torch's default is a start like any other
    raw = MADA([p], hyper_scale="raw").param_groups[0]
    assert raw["hyper_lr"].tolist() == [5e-4, 5e-4, 1e-1, 1e-1, 1e-1, 1e-1] and raw["bounds"][1].tolist() == [
        0.501,
        0.99,
    ]
    authors = MADA([p], rule="authors").param_groups[0]
    assert (authors["debias"], authors["hyper_scale"]) == ("powers", "raw")
    narrow = MADA([p], domain={"beta2": (0.9, 0.96)}).param_groups[0]
    assert narrow["bounds"].tolist() == [[0.01, 0.99], [0.9, 0.96], [0.0, 0.99], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]


@pytest.mark.parametrize("optimizer", [MADA, HyperAdam])
def test_a_state_from_before_the_corrections_goes_on_as_it_was(optimizer):
    """Its groups and states lack what came later; loaded into today's defaults it is raw and divides by 1 - beta^t."""
    old_form = {"hyper_scale": "raw", "debias": "powers", "hyper_lr": 0.02}
    params = problem.parameters()
    before = optimizer(list(params.values()), lr=0.02, **old_form)
    problem.train(before, params, range(1, 6))
    state = copy.deepcopy(before.state_dict())
    for group in state["param_groups"]:
        for name in ("debias", "hyper_scale", "in_time_scale"):
            del group[name]
    others = {name: p.detach().clone().requires_grad_() for name, p in params.items()}
    after = optimizer(list(others.values()), lr=0.02)
    after.load_state_dict(state)
    problem.train(before, params, range(6, 11))
    problem.train(after, others, range(6, 11))
    torch.testing.assert_close(params, others, rtol=0, atol=0)
    assert after.coefficients == before.coefficients


def test_the_weights_cost_three_scalars_a_tensor_and_nothing_where_nothing_is_learned():
    params = [torch.zeros(100, requires_grad=True) for _ in range(2)]
    for learn, expected in ((ALL, 3), ((), 0)):
        optimizer = MADA(params, learn=learn)
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
        state = optimizer.state[params[0]]
        sizes = {name: x.numel() for name, x in state.items() if x.numel() < 100 and name not in ("step", "pending")}
        assert sum(sizes.values()) == expected and sizes.keys() <= {"weights"}
