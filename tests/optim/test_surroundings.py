"""Closures, added groups, schedulers, gradient scalers, and reading: what a training loop does to an optimizer.

python -m pytest tests/optim/test_surroundings.py
"""

import math

import pytest
import torch
from every import LEARNING, OURS, ROUNDING, all_finite, fresh, run, same
from reference import problem

import optim


@pytest.mark.parametrize("name", OURS)
def test_closure(name):
    by_closure, by_hand = fresh(name), fresh(name)
    for t in range(1, 5):
        calls = []

        def closure(calls=calls, t=t):
            calls.append(t)
            by_closure[1].zero_grad()
            loss = problem.loss(by_closure[0], t)
            loss.backward()
            return loss

        with torch.no_grad():  # the closure gets its gradients even so
            loss = by_closure[1].step(closure)
        assert calls == [t] and loss.item() == problem.train(by_hand[1], by_hand[0], [t])[0]
    same(by_closure, by_hand)


@pytest.mark.parametrize("name", LEARNING)
def test_a_group_added_midway_shares_the_learned_coefficients(name):
    """Its parameters join as if they had been there, without gradients, from the start.

    Raw: what hyper-gradients are relative to has the last rate of each group, and the new one has had none.
    """
    raw = {} if name == "mada authors" else {"hyper_scale": "raw"}
    late, early = fresh(name, **raw), fresh(name, **raw)
    extra = [problem.wave((4,), 0.9, 0.3, 0.5).requires_grad_() for _ in range(2)]
    early[1].add_param_group({"params": [extra[1]], "lr": 0.01})
    for t in range(1, 11):
        if t == 6:
            late[1].add_param_group({"params": [extra[0]], "lr": 0.01})
        for (params, optimizer), x in zip((late, early), extra, strict=True):
            optimizer.zero_grad()
            (problem.loss(params, t) + ((x - t) ** 2).sum() * (t >= 6)).backward()
            if t < 6:
                x.grad = None
            optimizer.step()
        assert late[1].coefficients == early[1].coefficients
    same(late, early)
    assert torch.equal(*extra)
    start = fresh(name)[1].coefficients
    assert late[1].coefficients != start


@pytest.mark.parametrize("tensor_lr", [False, True])
@pytest.mark.parametrize("name", OURS)
def test_lambda_lr(name, tensor_lr):
    """As with rates set by hand: the hyper-gradient takes the rate of the update that it differentiates."""
    lr = torch.tensor(0.02, dtype=torch.float64) if tensor_lr else 0.02
    (params, optimizer), by_hand = fresh(name, lr=lr), fresh(name)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    for t in range(1, 9):
        run(params, optimizer, [t])
        scheduler.step()
        by_hand[1].param_groups[0]["lr"] = 0.02 / t
        run(*by_hand, [t])
    same((params, optimizer), by_hand, **ROUNDING)


@pytest.mark.parametrize("name", OURS)
def test_one_cycle_lr_leaves_learned_betas_alone(name):
    """By default OneCycleLR cycles the betas of the groups: that is refused, or does not reach the coefficients."""
    (params, optimizer), by_hand = fresh(name), fresh(name)
    schedule = torch.optim.lr_scheduler.OneCycleLR
    try:
        scheduler = schedule(optimizer, max_lr=0.05, total_steps=10)
    except ValueError as error:
        assert "momentum" in str(error)
        scheduler = schedule(optimizer, max_lr=0.05, total_steps=10, cycle_momentum=False)
    for t in range(1, 9):
        by_hand[1].param_groups[0]["lr"] = optimizer.param_groups[0]["lr"]
        run(params, optimizer, [t])
        scheduler.step()
        run(*by_hand, [t])
    same((params, optimizer), by_hand)


@pytest.mark.parametrize("name", LEARNING)
def test_coefficients_stay_in_their_domain(name):
    params, optimizer = fresh(name, hyper_lr=100.0, hyper_clip=None)
    reached = set()
    for t in range(1, 15):
        run(params, optimizer, [t])
        for key, value in optimizer.coefficients.items():
            low, high = optimizer.domain[key]
            assert low <= value <= high
            reached |= {key} if value in (low, high) else set()
    assert reached and all_finite(params.values(), optimizer)


@pytest.mark.parametrize("name", OURS)
def test_reading_changes_nothing(name):
    read, unread = fresh(name), fresh(name)
    for t in range(1, 8):
        run(*read, [t])
        run(*unread, [t])
        read[1].coefficients.update(beta1=0.0)
        read[1].hyper_gradients.clear()
        read[1].state_dict(), read[1].skipped_steps, read[1].grad_norm, repr(read[1])
    same(read, unread)


@pytest.mark.parametrize("name", OURS)
def test_two_runs_are_bitwise_equal(name):
    first, second = fresh(name, torch.float32), fresh(name, torch.float32)
    run(*first, range(1, 11))
    run(*second, range(1, 11))
    same(first, second)


def test_grad_scaler_unscales_before_the_hyper_gradient():
    """float32 on the CPU with a scale that is a power of 2: bit-equal to no scaler; an overflow is skipped."""
    (x, scaled), plain = fresh("mada clipped", torch.float32), fresh("mada clipped", torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    for t in range(1, 11):
        for overflow in (True, False) if t == 5 else (False,):
            scaled.zero_grad()
            scaler.scale(problem.loss({name: p.double() for name, p in x.items()}, t)).backward()
            if overflow:
                x["b"].grad[0] = math.inf
            scaler.unscale_(scaled)
            scaler.step(scaled)
            scaler.update()
        run(*plain, [t])
    same((x, scaled), plain)
    assert scaler.get_scale() != 2.0**10


@pytest.mark.parametrize("name", ["adam", "amsgrad"])
def test_a_grad_scaler_unscales_before_adam_clips(name):
    x, scaled = (torch.zeros(4, requires_grad=True) for _ in range(2))
    plain, ours = (optim.build(name, [p], max_grad_norm=1.0) for p in (x, scaled))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for t in range(1, 4):
        x.grad = 0.1 * torch.tensor([1.0, -2.0, 3.0, 0.5]) / t
        scaler.scale(torch.zeros(()))  # makes the scale
        scaled.grad = x.grad * 2.0**10
        plain.step()
        scaler.step(ours)
        scaler.update()
        assert torch.equal(x, scaled) and torch.equal(plain.grad_norm, ours.grad_norm)
