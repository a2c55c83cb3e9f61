"""Gradients that are zero, missing, sparse, not finite: what each optimizer does with them.

python -m pytest tests/optim/test_gradients.py
"""

import math

import pytest
import torch
from every import EXACT, LEARNING, OURS, ROUNDING, all_finite, fresh, make, observable, run, same
from torch import nn

from optim import MADA


@pytest.mark.parametrize("name", OURS)
def test_zero_gradients_from_the_start_move_nothing(name):
    params, optimizer = fresh(name, weight_decay=0.0)
    before = observable(params, optimizer)
    for _ in range(5):
        for p in params.values():
            p.grad = torch.zeros_like(p)
        optimizer.step()
    torch.testing.assert_close(observable(params, optimizer), before, **EXACT)


@pytest.mark.parametrize("name", OURS)
def test_zero_gradients_midway(name):
    """Momentum still moves the parameters; the hyper-gradient is exactly 0, so nothing pushes the coefficients."""
    params, optimizer = fresh(name, hyper_momentum=0.0) if name in LEARNING else fresh(name)
    run(params, optimizer, range(1, 6))
    before = observable(params, optimizer)
    for _ in range(5):
        for p in params.values():
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert all(h == 0 for h in optimizer.hyper_gradients.values())
    assert optimizer.coefficients == before["coefficients"]
    assert all_finite(params.values(), optimizer)
    assert all((p != before["params"][key]).any() for key, p in params.items())
    run(params, optimizer, range(6, 9))
    assert all_finite(params.values(), optimizer)


@pytest.mark.parametrize("name", OURS)
def test_no_gradient_at_all_moves_nothing(name):
    params, optimizer = fresh(name, hyper_momentum=0.0) if name in LEARNING else fresh(name)
    for steps in (range(1, 1), range(1, 4)):
        run(params, optimizer, steps)
        before = observable(params, optimizer)
        optimizer.zero_grad()
        optimizer.step()
        after = observable(params, optimizer)
        for what in ("params", "coefficients"):
            torch.testing.assert_close(after[what], before[what], **EXACT)


@pytest.mark.parametrize("name", OURS)
def test_a_parameter_that_never_has_a_gradient_changes_nothing(name):
    with_it, without = fresh(name), fresh(name)
    idle = torch.ones(3, dtype=torch.float64, requires_grad=True)
    with_it[1].add_param_group({"params": [idle]})
    run(*with_it, range(1, 6))
    run(*without, range(1, 6))
    same(with_it, without)
    assert (idle == 1).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", OURS)
def test_a_gradient_that_is_not_finite_is_skipped(name, bad):
    """Once before the first step and twice midway: to the last bit the run is the one that never saw it."""
    hit, spared = fresh(name), fresh(name)
    hit[1].add_param_group({"params": [torch.ones(3, requires_grad=True)]})  # one step is one step however many groups
    for start, count in ((1, 1), (4, 2)):
        for _ in range(count):
            before = observable(*hit)
            for p in hit[0].values():
                p.grad = torch.ones_like(p)
            hit[0]["b"].grad[2] = bad
            hit[1].step()
            torch.testing.assert_close(observable(*hit), before, **EXACT)
            assert not math.isfinite(hit[1].grad_norm)
        run(*hit, range(start, start + 3))
        run(*spared, range(start, start + 3))
        same(hit, spared)
    assert (hit[1].skipped_steps, spared[1].skipped_steps) == (3, 0)


@pytest.mark.parametrize("name", OURS)
def test_a_parameter_may_lose_its_gradient_in_a_step_that_is_skipped(name):
    hit, spared = fresh(name), fresh(name)
    run(*hit, range(1, 4))
    run(*spared, range(1, 4))
    hit[1].zero_grad()
    hit[0]["b"].grad = torch.full_like(hit[0]["b"], math.nan)  # the others have none
    hit[1].step()
    for pair in (hit, spared):
        run(*pair, range(4, 7))
    same(hit, spared)


@pytest.mark.parametrize("name", OURS)
def test_sparse_gradients_are_refused(name):
    embedding = nn.Embedding(5, 3, sparse=True)
    optimizer = make(name, embedding.parameters())
    embedding(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()


def test_complex_parameters_are_refused():
    with pytest.raises(ValueError, match="complex"):
        MADA([torch.zeros(3, dtype=torch.complex64, requires_grad=True)])


@pytest.mark.parametrize("name", OURS)
def test_rows_of_an_embedding_that_are_never_used(name):
    torch.manual_seed(0)
    embedding = nn.Embedding(6, 4)
    before = embedding.weight.detach().clone()
    optimizer = make(name, embedding.parameters(), weight_decay=0.0)
    for t in range(8):
        optimizer.zero_grad()
        ((embedding(torch.tensor([0, 2, t % 3])) - t) ** 2).mean().backward()
        optimizer.step()
    assert all_finite(embedding.parameters(), optimizer)
    assert torch.equal(embedding.weight[3:], before[3:]) and not torch.equal(embedding.weight[:3], before[:3])


@pytest.mark.parametrize("name", OURS)
def test_grad_norm_is_that_of_the_raw_gradient(name):
    params, optimizer = fresh(name)
    run(params, optimizer, range(1, 3))
    expected = torch.cat([p.grad.flatten() for p in params.values()]).norm()
    torch.testing.assert_close(torch.as_tensor(optimizer.grad_norm), expected, **ROUNDING)
