"""A learning rate that only grows, against what can be seen from outside: how far the parameters moved."""

import copy
import math

import pytest
import tiny
import torch

from optim import MADA, HyperAdam, param_groups

ETA = 0.3  # the default of its hyper_lr


def problem(seed=0):
    """A least-squares problem in two tensors: (parameters, gradient of a batch at step t as a function)."""
    rng = torch.Generator().manual_seed(seed)
    a, y = (torch.randn(*shape, generator=rng, dtype=torch.float64) for shape in ((64, 12), (64,)))
    params = [torch.zeros(n, dtype=torch.float64, requires_grad=True) for n in (8, 4)]

    def backward(t):
        rows = torch.randint(0, 64, (8,), generator=torch.Generator().manual_seed(t))
        for p in params:
            p.grad = None
        (a[rows] @ torch.cat(params) - y[rows]).square().mean().backward()

    return params, backward


def schedule(t):
    """A warm-up over ten steps, then a slow decline."""
    return min(t / 10, 1 - t / 400)


@pytest.mark.parametrize("optimizer", [MADA, HyperAdam])
@pytest.mark.parametrize("settings", [{}, {"max_grad_norm": 0.5}, {"learn": ()}])
def test_the_factor_is_the_running_maximum_of_what_the_moves_propose(optimizer, settings):
    params, backward = problem()
    rates = (1e-4, 3e-4)
    own = optimizer([{"params": [p], "lr": r} for p, r in zip(params, rates, strict=True)], grow_lr=True, **settings)
    theta, factor, last = 0.0, 1.0, None
    for t in range(1, 121):
        backward(t)
        if last:  # <g, direction> = -<g, move> / rate, in units of sum rate |g|_1
            before, _ = last
            pushed = -sum((p.grad * (p.detach() - x)).sum().item() for p, x in zip(params, before, strict=True))
            unit = sum(r * p.grad.abs().sum().item() for p, r in zip(params, rates, strict=True))
            growth = ETA * pushed / (unit * schedule(t - 1) * factor)
            ramp = max(0.0, math.log(schedule(t) / schedule(t - 1)))
            theta += max(0.0, growth - ramp) if growth > 0 else growth
            factor = max(factor, math.exp(theta))
        last = [p.detach().clone() for p in params], t
        for group, rate in zip(own.param_groups, rates, strict=True):
            group["lr"] = rate * schedule(t)
        own.step()
        assert own.coefficients["lr"] == pytest.approx(factor, rel=1e-9)
    assert factor > 10


def test_weight_decay_grows_with_the_rate():
    """Decay in the last step of a run is what AdamW's would be at the grown rate."""
    for decay in (0.0, 0.5):
        params, backward = problem()
        own = MADA(params, lr=1e-3, grow_lr=True, learn=(), weight_decay=decay)
        for t in range(40):
            backward(t)
            own.step()
        before = [p.detach().clone() for p in params]
        without = copy.deepcopy(own)
        for group in without.param_groups:
            group["weight_decay"] = 0.0
        for p, q in zip(params, (q for group in without.param_groups for q in group["params"]), strict=True):
            q.grad = p.grad.clone()
        own.step()
        without.step()
        rate = 1e-3 * own.coefficients["lr"]
        assert rate > 2e-3
        after = [q for group in without.param_groups for q in group["params"]]
        for p, q, x in zip(params, after, before, strict=True):
            torch.testing.assert_close(p.detach(), q.detach() - rate * decay * x, rtol=1e-12, atol=1e-14)


def trained(rate, steps, **settings):
    params, backward = problem()
    own = MADA(params, lr=rate, **settings)
    for t in range(steps):
        backward(t)
        own.step()
    return params, own, backward


def test_a_rate_that_is_too_small_grows_and_a_large_one_stays():
    grown = [rate * trained(rate, 200, grow_lr=True)[1].coefficients["lr"] for rate in (1e-5, 1e-4, 1e-3, 1e-2)]
    assert all(1e-3 < rate < 3e-2 for rate in grown)  # within a factor of 30, from rates over one of 1,000
    assert trained(2.0, 200, grow_lr=True)[1].coefficients["lr"] < 1.1


def test_it_never_falls_and_stays_within_its_range():
    params, backward = problem()
    own, factors = MADA(params, lr=1e-4, grow_lr=True, domain={"lr": (1.0, 20.0)}), [1.0]
    for t in range(150):
        backward(t)
        own.step()
        factors.append(own.coefficients["lr"])
    assert factors == sorted(factors) and factors[-1] == 20.0


def test_a_run_that_is_resumed_is_the_straight_one():
    params, straight, backward = trained(1e-4, 30, grow_lr=True)
    other = [p.detach().clone().requires_grad_() for p in params]
    resumed = MADA(other, lr=1e-4, grow_lr=True)
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    for t in range(30, 60):
        backward(t)
        for p, q in zip(params, other, strict=True):
            q.grad = p.grad.clone()
        straight.step()
        resumed.step()
    assert resumed.coefficients == straight.coefficients and straight.coefficients["lr"] > 2
    for p, q in zip(params, other, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)


def test_frozen_it_keeps_the_factor():
    _, own, backward = trained(1e-4, 40, grow_lr=True, weight_decay=0.1)
    factor = own.coefficients["lr"]
    own.freeze()
    for t in range(40, 50):
        backward(t)
        own.step()
    assert own.coefficients["lr"] == factor > 2


def test_a_gradient_that_is_not_finite_changes_nothing():
    params, own, backward = trained(1e-4, 20, grow_lr=True)
    before = own.coefficients, [p.detach().clone() for p in params]
    backward(20)
    params[0].grad[0] = math.nan
    own.step()
    assert own.coefficients == before[0] and own.skipped_steps == 1
    assert all(torch.equal(p, q) for p, q in zip(params, before[1], strict=True))


def test_each_group_grows_on_its_own_where_groups_learn_their_own():
    params, backward = problem()
    groups = [{"params": [params[0]], "lr": 1e-6}, {"params": [params[1]], "lr": 1e-3}]
    own = MADA(groups, grow_lr=True, per_group=True)
    for t in range(150):
        backward(t)
        own.step()
    first, second = (each["lr"] for each in own.coefficients)
    assert first > 10 * second > 20


def test_with_muon_the_factor_is_on_both_parts():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 16), torch.nn.Linear(16, 3)
    )
    own = MADA(param_groups(model, verbose=False), lr=1e-5, grow_lr=True, learn=("beta1", "mu"), mu=1.0)
    x, y = torch.randn(64, 6), torch.randn(64, 3)
    for _ in range(80):
        own.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        own.step()
    assert own.coefficients["lr"] > 30 and math.isfinite(loss.item())


def test_raw_hyper_gradients_are_refused():
    with pytest.raises(ValueError, match="grow_lr=True needs hyper_scale='relative'"):
        MADA([torch.zeros(2, requires_grad=True)], grow_lr=True, hyper_scale="raw")


def test_the_range_of_a_free_factor_is_refused():
    with pytest.raises(ValueError, match="domain"):
        MADA([torch.zeros(2, requires_grad=True)], grow_lr=True, lr_range=(1.0, 50.0))


def test_a_state_from_before_it_goes_on_as_it_was():
    _, own, _ = trained(1e-3, 5, learn=("beta1", "lr"))
    saved = own.state_dict()
    for group in saved["param_groups"]:
        del group["grows"]
    _, other, _ = trained(1e-3, 0, learn=("beta1", "lr"))
    other.load_state_dict(saved)
    assert other.param_groups[0]["grows"].tolist() == [0.0] * len(other.domain)


@pytest.mark.parametrize("grew", [False, True])
def test_a_state_of_other_coefficients_is_refused_and_changes_nothing(grew):
    saved = trained(1e-3, 5, grow_lr=grew)[1].state_dict()
    _, other, backward = trained(1e-3, 5, grow_lr=not grew)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match=f"{6 + grew} coefficients, not the {7 - grew} of MADA .*the same grow_lr"):
        other.load_state_dict(saved)
    assert tiny.same(other.state_dict(), before)
    backward(5)
    other.step()


@pytest.mark.parametrize("other", [{"hyper_momentum": 0.9}, {"hyper_optimizer": "sign"}, {"hyper_optimizer": "adam"}])
def test_other_ways_to_descend_do_not_apply_to_it(other):
    plain, own = (trained(1e-4, 60, grow_lr=True, learn=(), **it)[1] for it in ({}, other))
    assert own.coefficients["lr"] == plain.coefficients["lr"] > 2
