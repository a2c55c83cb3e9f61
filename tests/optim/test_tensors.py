"""Tensors that are empty, large, strided, of low or of several precisions.

python -m pytest tests/optim/test_tensors.py
"""

import pytest
import torch
from every import EXACT, LEARNING, OURS, ROUNDING, all_finite, fresh, make, run, same, vectors
from reference import problem


@pytest.mark.parametrize("name", OURS)
def test_empty_tensors_change_nothing(name):
    optimizer, args = OURS[name]
    plain, reference = vectors(optimizer, [(3, 4), (5,)], 6, **args)
    mixed, ours = vectors(optimizer, [(3, 4), (5,), (0,), (2, 0)], 6, **args)
    torch.testing.assert_close(mixed[:2], plain, **EXACT)
    assert (ours.coefficients, ours.hyper_gradients) == (reference.coefficients, reference.hyper_gradients)


LAYOUTS = {
    "transposed": lambda x: x.t().contiguous().t(),
    "strided": lambda x: torch.stack([x, x], dim=-1).view(*x.shape[:-1], -1)[..., ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", OURS)
def test_tensors_that_are_not_contiguous(name, layout):
    optimizer, args = OURS[name]
    plain, reference = vectors(optimizer, [(300, 250), (4, 6)], 4, **args)
    other, ours = vectors(optimizer, [(300, 250), (4, 6)], 4, layout=LAYOUTS[layout], **args)
    torch.testing.assert_close(other, plain, **ROUNDING)
    torch.testing.assert_close(ours.hyper_gradients, reference.hyper_gradients, **ROUNDING)


@pytest.mark.parametrize("name", OURS)
def test_gradients_laid_out_unlike_their_parameter(name):
    """The gradient of sum() has stride 0; a transposed use leaves a transposed gradient."""
    results = []
    for densify in (False, True):
        params = [problem.wave((5, 7), 1.1, 0.2, 0.5).requires_grad_() for _ in range(2)]
        optimizer = make(name, params)
        for t in range(1, 6):
            optimizer.zero_grad()
            (params[0].sum() * t + ((params[1].t() @ problem.wave((5, 3), 0.5, t, 1.0)) ** 2).sum()).backward()
            params[1].grad = params[1].grad.t().contiguous().t()
            if densify:
                for p in params:
                    p.grad = p.grad.clone(memory_format=torch.contiguous_format)
            else:
                params[0].grad = torch.full((), float(t), dtype=torch.float64).expand(5, 7)
            optimizer.step()
        results.append((dict(enumerate(params)), optimizer))
    same(*results, **ROUNDING)


@pytest.mark.parametrize("name", OURS)
def test_large_tensors_equal_their_pieces(name):
    """One tensor of 200,003 elements, more than is worked on at once, against the same numbers in small tensors."""
    size, (optimizer, args) = 200_003, OURS[name]
    whole = [problem.wave((size,), 0.7, 0.1, 0.5).requires_grad_()]
    pieces = [x.clone().requires_grad_() for x in whole[0].detach().split(30_001)]
    ours, theirs = optimizer(whole, lr=0.02, **args), optimizer(pieces, lr=0.02, **args)
    for t in range(1, 5):
        whole[0].grad = whole[0].detach() - problem.wave((size,), 0.3, t, 1.0)
        for p, g in zip(pieces, whole[0].grad.split(30_001), strict=True):
            p.grad = g.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(whole[0].detach(), torch.cat(pieces).detach(), **ROUNDING)
    torch.testing.assert_close(ours.hyper_gradients, theirs.hyper_gradients, **ROUNDING)
    torch.testing.assert_close(ours.coefficients, theirs.coefficients, **ROUNDING)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", OURS)
def test_low_precision_learns_and_stays_finite(name, dtype):
    params, optimizer = fresh(name, dtype, eps=1e-6) if name != "lion" else fresh(name, dtype)
    first = problem.loss({key: p.double() for key, p in params.items()}, 1).item()
    run(params, optimizer, range(1, 41))
    assert all_finite(params.values(), optimizer) and all(p.dtype == dtype for p in params.values())
    assert problem.loss({key: p.double() for key, p in params.items()}, 1).item() < 0.9 * first


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", OURS)
def test_low_precision_is_computed_in_float32(name, dtype):
    """The first step is float32's, rounded once: 1 element in 100 may fall on the other side of a rounding boundary."""
    low = problem.wave((1_000,), 0.7, 0.1, 0.5).to(dtype).requires_grad_()
    full = low.detach().float().requires_grad_()
    low.grad = problem.wave((1_000,), 0.3, 0.2, 1.0).to(dtype)
    full.grad = low.grad.float()
    for p in (low, full):
        make(name, [p]).step()
    assert (low != full.to(dtype)).sum() <= 10


@pytest.mark.parametrize("name", OURS)
def test_parameters_of_several_precisions(name):
    """Together they go where each goes alone, and their hyper-gradients add up."""
    dtypes = {"W": torch.float32, "b": torch.bfloat16, "U": torch.float64}
    params = {key: p.detach().to(dtypes[key]).requires_grad_() for key, p in problem.parameters().items()}
    alone = {key: p.detach().clone().requires_grad_() for key, p in params.items()}
    settings = {"max_grad_norm": None, "hyper_lr": 0.0, "hyper_scale": "raw"} if name in LEARNING else {}
    together = make(name, list(params.values()), **settings)
    apart = [make(name, [p], **settings) for p in alone.values()]
    for t in range(1, 6):
        run(params, together, [t])
        for p, q, optimizer in zip(params.values(), alone.values(), apart, strict=True):
            q.grad = p.grad.clone()
            optimizer.step()
    torch.testing.assert_close(params, alone, **EXACT)
    for key, h in together.hyper_gradients.items():
        assert h == pytest.approx(sum(optimizer.hyper_gradients[key] for optimizer in apart), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("name", LEARNING)
def test_coefficients_are_float64_whatever_the_parameters(name):
    """Moves far below float32's resolution add up, and survive a checkpoint."""
    params, optimizer = fresh(name, torch.bfloat16, hyper_lr=1e-10)
    start = optimizer.coefficients
    run(params, optimizer, range(1, 6))
    saved = optimizer.coefficients
    assert any(0 < abs(saved[key] - start[key]) < 1e-8 for key in saved)
    other = fresh(name, torch.bfloat16)[1]
    other.load_state_dict(optimizer.state_dict())
    assert other.coefficients == saved
