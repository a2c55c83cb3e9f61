"""What training does to an optimizer: odd gradients and tensors, schedulers, checkpoints, scalers, several processes.

python -m pytest tests/optim/test_robust.py
"""

import copy
import gc
import io
import math
import os
import pickle

import numpy as np
import pytest
import torch
import torch.distributed as dist
from reference import problem
from torch import nn

import optim
from optim import MADA, Adan, AVGrad, HyperAdam, Lion, Yogi

EXACT = {"rtol": 0, "atol": 0}
ROUNDING = {"rtol": 1e-11, "atol": 1e-13}  # float64, the same sums in another order, a few steps
LEAK = 16 * 2**20  # bytes; a single tensor leaked per step would be twice as much

ALL = ("beta1", "beta2", "beta3", "rho", "c", "gamma")
INTERIOR = {
    "betas": (0.6, 0.8),
    "beta3": 0.4,
    "rho": 0.5,
    "c": 0.6,
    "gamma": 0.7,
    "hyper_lr": 0.05,
    "hyper_momentum": 0.5,
}
# every optimizer of optim/, and MADA in the forms that keep different state
OURS = {
    "mada": (MADA, INTERIOR),
    "mada from adam": (MADA, {"hyper_lr": 0.05}),
    "mada fixed": (MADA, dict(INTERIOR, learn=())),
    "mada amsgrad": (MADA, dict(INTERIOR, second_moment="amsgrad")),
    "mada authors": (MADA, dict(INTERIOR, rule="authors")),
    "mada clipped": (MADA, dict(INTERIOR, max_grad_norm=0.3)),
    "hyperadam": (HyperAdam, {"hyper_lr": 0.05}),
    "avgrad": (AVGrad, {}),
    "yogi": (Yogi, {}),
    "adan": (Adan, {}),
    "lion": (Lion, {}),
}
LEARNING = [name for name in OURS if name.startswith(("mada", "hyper")) and "fixed" not in name]


def make(name, params, **settings):
    optimizer, args = OURS[name]
    return optimizer(params, **{"lr": 0.02, "weight_decay": 0.1, **args, **settings})


def fresh(name, dtype=torch.float64, **settings):
    """Parameters of the tiny problem, and an optimizer for them."""
    params = {key: p.detach().to(dtype).requires_grad_() for key, p in problem.parameters().items()}
    return params, make(name, list(params.values()), **settings)


def run(params, optimizer, steps):
    """Steps of the tiny problem in any precision: the loss is float64, the gradients are the parameters' own."""
    for t in steps:
        optimizer.zero_grad()
        problem.loss({name: p.double() for name, p in params.items()}, t).backward()
        optimizer.step()


def observable(params, optimizer):
    return {
        "params": {name: p.detach().clone() for name, p in params.items()},
        "coefficients": optimizer.coefficients,
        "hyper_gradients": optimizer.hyper_gradients,
    }


def same(first, second, **tolerance):
    """`first` and `second` are pairs (params, optimizer)."""
    torch.testing.assert_close(observable(*first), observable(*second), **(tolerance or EXACT))


def all_finite(params, optimizer):
    numbers = [*optimizer.coefficients.values(), *optimizer.hyper_gradients.values()]
    return all(p.isfinite().all() for p in params) and all(map(math.isfinite, numbers))


def vectors(optimizer, shapes, steps, layout=lambda x: x, **settings):
    """Train tensors of these shapes and this layout on quadratic losses that change with t, with gradients by hand."""
    params = [layout(problem.wave(shape, 0.7 + i, 0.1, 0.5)).requires_grad_() for i, shape in enumerate(shapes)]
    optimizer = optimizer(params, **settings)
    for t in range(1, steps + 1):
        for i, p in enumerate(params):
            target = problem.wave(p.shape, 0.3 + i, t, 1.0)
            p.grad = layout((p.detach() - target) / (1 + i))
        optimizer.step()
    return [p.detach().contiguous() for p in params], optimizer


# -- gradients ------------------------------------------------------------------------------------------------------


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


# -- tensors --------------------------------------------------------------------------------------------------------


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


# -- what surrounds an optimizer ------------------------------------------------------------------------------------


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


# -- checkpoints ----------------------------------------------------------------------------------------------------


def through_file(optimizer):
    torch.save(optimizer.state_dict(), file := io.BytesIO())
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OURS)
def test_saved_and_loaded_at_any_step(name, dtype):
    """... it goes on bit for bit; also after a skipped step and with a parameter that is frozen at that time."""
    straight = fresh(name, dtype)
    for t in range(1, 6):
        state = through_file(straight[1])
        params = {key: p.detach().clone().requires_grad_() for key, p in straight[0].items()}
        resumed = params, make(name, list(params.values()), lr=1.0, weight_decay=0.0)
        resumed[1].load_state_dict(state)
        assert resumed[1].coefficients == straight[1].coefficients
        assert resumed[1].hyper_gradients == straight[1].hyper_gradients
        assert resumed[1].skipped_steps == straight[1].skipped_steps
        ahead = copy.deepcopy(straight)
        run(*ahead, range(t, t + 3))
        run(*resumed, range(t, t + 3))
        same(ahead, resumed)
        run(*straight, [t])
        if t == 2:
            straight[0]["b"].grad = torch.full_like(straight[0]["b"], math.nan)
            straight[1].step()
        if t == 3:
            straight[0]["b"].grad = None
            straight[1].step()


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize("name", OURS)
def test_copies_go_on_alike_and_apart(name, copied):
    original = fresh(name)
    run(*original, range(1, 5))
    before = observable(*original)
    other = copied(original)
    run(*other, range(5, 9))
    torch.testing.assert_close(observable(*original), before, **EXACT)
    run(*original, range(5, 9))
    same(other, original)


@pytest.mark.parametrize("name", LEARNING)
def test_distributed_checkpointing_moves_no_coefficient(name):
    """It takes one step with zero gradients and lr = 0 on an optimizer without state, then fills that in."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    def network():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        return model, make(name, model.parameters())

    def train(model, optimizer, steps):
        for t in steps:
            optimizer.zero_grad()
            ((model(problem.wave((8, 4), 0.37, t, 1.5)) - problem.wave((8, 3), 1.7, t, 1.0)) ** 2).mean().backward()
            optimizer.step()

    (model, optimizer), (other, empty) = network(), network()
    train(model, optimizer, range(1, 5))
    start = empty.coefficients
    get_optimizer_state_dict(other, empty)
    assert empty.coefficients == start and all(
        torch.equal(a, b) for a, b in zip(other.parameters(), network()[0].parameters(), strict=True)
    )
    other.load_state_dict(model.state_dict())
    set_optimizer_state_dict(other, empty, copy.deepcopy(get_optimizer_state_dict(model, optimizer)))
    train(model, optimizer, range(5, 9))
    train(other, empty, range(5, 9))
    same((dict(model.named_parameters()), optimizer), (dict(other.named_parameters()), empty))


@pytest.mark.parametrize(
    "name,buffers",
    {
        "mada": 7,
        "mada from adam": 7,
        "mada fixed": 6,
        "mada authors": 6,
        "hyperadam": 3,
        "avgrad": 3,
        "yogi": 2,
        "adan": 4,
        "lion": 1,
    }.items(),
)
def test_state_is_no_larger_than_promised(name, buffers):
    """In tensors of the parameter's size; a fixed optimizer does not keep the gradient."""
    p = torch.ones(1_000, requires_grad=True)
    optimizer = make(name, [p])
    for _ in range(3):
        p.grad = torch.ones_like(p)
        optimizer.step()
    state = optimizer.state_dict()["state"][0].values()
    assert sum(x.numel() * x.element_size() for x in state if isinstance(x, torch.Tensor)) // 4_000 <= buffers


def resident():
    """Bytes of memory that this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads /proc")
def test_memory_is_flat():
    """1,000 steps on 4,096 elements; garbage collection is off, so that a cycle would show too."""
    p = problem.wave((4_096,), 0.7, 0.1, 0.5).requires_grad_()
    optimizer, used, tensors = make("mada", [p]), [], []
    gc.collect()
    gc.disable()
    try:
        for t in range(1_100):
            p.grad = p.detach() - math.sin(t)
            optimizer.step()
            if t in (99, 1_099):
                used.append(resident())
                tensors.append(sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects()))
    finally:
        gc.enable()
    assert used[1] - used[0] < LEAK and tensors[1] == tensors[0]


# -- several processes ----------------------------------------------------------------------------------------------


DDP = ({}, {"mu": 0.4, "learn": (*ALL, "mu")})


def two_layers(wrap=lambda model: model, **settings):
    """Three matrices of two shapes, so that with Muon one rank has one to orthogonalize more, and their optimizer."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)).double()
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(problem.wave(p.shape, 1.3 + i, 0.2, 0.6))
    model = wrap(model)
    groups = [
        {"params": [p for p in model.parameters() if (p.dim() == 2) == matrix], "muon": matrix}
        for matrix in (True, False)
    ]
    return model, make("mada", groups, **settings)


def worker(rank, world, folder):
    """On each rank gradients of its own, as if DDP had averaged them badly, then those of DDP."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    seen = []
    for scale in ("raw", "relative"):
        params, optimizer = fresh("mada", hyper_scale=scale)
        for t in range(1, 11):
            optimizer.zero_grad()
            problem.loss(params, t, variant=rank).backward()
            optimizer.step()
            seen.append((optimizer.coefficients, optimizer.hyper_gradients))
    for settings in DDP:
        model, optimizer = two_layers(lambda model: nn.parallel.DistributedDataParallel(model), **settings)
        for t in range(1, 11):
            optimizer.zero_grad()
            share = slice(rank * 8 // world, (rank + 1) * 8 // world)
            linear_loss(model, t, share).backward()
            optimizer.step()
        seen.append((optimizer.coefficients, optimizer.hyper_gradients, [p.tolist() for p in model.parameters()]))
    torch.save(seen, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def linear_loss(model, t, share):
    return ((model(problem.wave((8, 4), 0.37, t, 1.5)[share]) - problem.wave((8, 3), 1.7, t, 1.0)[share]) ** 2).mean()


@pytest.mark.slow
def test_two_ranks(tmp_path):
    """Coefficients are bit-equal on both ranks, even if gradients are not; under DDP they are those of one process."""
    torch.multiprocessing.spawn(worker, (2, str(tmp_path)), nprocs=2)
    zero, one = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert zero == one

    own = []  # as long as the coefficients have not moved, the raw hyper-gradient is the mean of the two ranks' own
    for rank in range(2):
        alone, optimizer = fresh("mada", hyper_scale="raw")
        for t in (1, 2):
            optimizer.zero_grad()
            problem.loss(alone, t, variant=rank).backward()
            optimizer.step()
        own.append(optimizer.hyper_gradients)
    mean = {name: (own[0][name] + own[1][name]) / 2 for name in ALL}
    torch.testing.assert_close(zero[1][1], mean, **ROUNDING)
    assert own[0] != own[1]

    for settings, seen in zip(DDP, zero[-len(DDP) :], strict=True):
        model, optimizer = two_layers(**settings)
        for t in range(1, 11):
            optimizer.zero_grad()
            linear_loss(model, t, slice(None)).backward()
            optimizer.step()
        ours = optimizer.coefficients, optimizer.hyper_gradients, [p.tolist() for p in model.parameters()]
        torch.testing.assert_close(seen, ours, rtol=1e-9, atol=1e-11)


# -- arguments ------------------------------------------------------------------------------------------------------

BAD = [
    (MADA, {"lr": -1.0}, "lr"),
    (MADA, {"lr": math.nan}, "lr"),
    (MADA, {"weight_decay": -0.1}, "weight_decay"),
    (MADA, {"betas": (1.0, 0.9)}, "beta1"),
    (MADA, {"betas": (0.9, 0.4)}, "beta2"),
    (MADA, {"beta3": 1.0}, "beta3"),
    (MADA, {"betas": (0.9, 1.0), "learn": ()}, "beta2"),
    (MADA, {"betas": (-0.1, 0.9), "learn": ()}, "beta1"),
    (MADA, {"rho": 1.5}, "rho"),
    (MADA, {"rho": math.nan, "learn": ()}, "rho"),
    (MADA, {"c": -0.1}, "c="),
    (MADA, {"gamma": 1.1}, "gamma"),
    (MADA, {"gamma": 1.1, "learn": ()}, "gamma"),
    (MADA, {"eps": 0.0}, "eps"),
    (MADA, {"eps": math.nan}, "eps"),
    (MADA, {"lion_betas": (0.9, 1.5)}, "lion_betas"),
    (MADA, {"lion_betas": (0.9,)}, "lion_betas"),
    (MADA, {"hyper_lr": -1.0}, "hyper_lr"),
    (MADA, {"hyper_lr": {"beta4": 1.0}}, "hyper_lr.*beta4"),
    (MADA, {"hyper_lr": {"rho": -1.0}}, "hyper_lr.*rho"),
    (MADA, {"hyper_momentum": -0.5}, "hyper_momentum"),
    (MADA, {"hyper_momentum": {"bta1": 0.5}}, "hyper_momentum.*bta1"),
    (MADA, {"hyper_start": -1}, "hyper_start"),
    (MADA, {"hyper_clip": -1.0}, "hyper_clip"),
    (MADA, {"max_grad_norm": -1.0}, "max_grad_norm"),
    (MADA, {"max_grad_norm": math.nan}, "max_grad_norm"),
    (MADA, {"learn": ("beta1", "delta")}, "learn.*delta"),
    (MADA, {"rule": "papers"}, "rule"),
    (MADA, {"second_moment": "max"}, "second_moment"),
    (HyperAdam, {"learn": ("rho",)}, "learn.*rho"),
    (HyperAdam, {"betas": (0.9, 0.99995)}, "beta2"),
    (HyperAdam, {"betas": (0.9, 0.999), "hyper_scale": "raw"}, "beta2.*widen its `domain`"),
    (MADA, {"domain": {"beta2": (0.6, 0.9)}}, "beta2"),
    (MADA, {"domain": {"beta4": (0.6, 0.9)}}, "domain.*beta4"),
    (MADA, {"domain": {"rho": (1.0, 0.5)}}, "domain.*rho"),
    (MADA, {"hyper_scale": "absolute"}, "hyper_scale.*relative, raw"),
    (MADA, {"debias": "none"}, "debias.*weights, powers"),
    (MADA, {"rule": "authors", "hyper_scale": "relative"}, "hyper_scale.*authors"),
    (MADA, {"rule": "authors", "debias": "weights"}, "debias.*authors"),
    *(
        (optimizer, bad, name)
        for optimizer in (HyperAdam, AVGrad, Yogi, Adan)
        for bad, name in [
            ({"lr": -1.0}, "lr"),
            ({"eps": -1.0}, "eps"),
            ({"weight_decay": -1.0}, "weight_decay"),
            ({"max_grad_norm": -1.0}, "max_grad_norm"),
        ]
    ),
    (AVGrad, {"betas": (0.9, 1.0)}, "beta2"),
    (Yogi, {"betas": (0.9, -1.0)}, "beta2"),
    (Adan, {"betas": (0.9, 0.9, 1.0)}, "beta3"),
    (Lion, {"betas": (1.0, 0.9)}, "beta1"),
    (Lion, {"lr": -1.0}, "lr"),
]


@pytest.mark.parametrize("optimizer,bad,name", BAD, ids=lambda value: getattr(value, "__name__", str(value)))
def test_arguments_out_of_their_domain_are_named(optimizer, bad, name):
    with pytest.raises(ValueError, match=name):
        optimizer([torch.zeros(3, requires_grad=True)], **bad)


# -- by name --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name,settings,message",
    [
        ("adamw", {}, "adamw.*choose.*mada"),
        ("adam", {"rho": 0.5}, "adam.*rho"),
        ("lion", {"beta3": 0.5}, "lion.*beta3"),
        ("sgd", {"beta1": 0.5}, "sgd.*beta1"),
        ("mada", {"beta4": 0.5}, "mada.*beta4"),
        ("mada", {"beta1": 2.0}, "beta1"),
        ("adam", {"max_grad_norm": -1.0}, "max_grad_norm"),
        ("mada", {"max_grad_norm": -1.0}, "max_grad_norm"),
    ],
)
def test_build_names_what_is_wrong(name, settings, message):
    with pytest.raises(ValueError, match=message):
        optim.build(name, [torch.zeros(3, requires_grad=True)], **settings)


def test_build_takes_flat_settings():
    """beta1, beta2, ... fill `betas`; None keeps the default."""
    p = torch.zeros(3, requires_grad=True)
    mada = optim.build("mada", [p], beta1=0.8, beta3=0.3, rho=None, lr=0.1)
    assert mada.coefficients == {"beta1": 0.8, "beta2": 0.95, "beta3": 0.3, "rho": 1.0, "c": 1.0, "gamma": 1.0}
    assert mada.param_groups[0]["lr"] == 0.1
    assert optim.build("adan", [p], beta3=0.5).coefficients == {"beta1": 0.98, "beta2": 0.92, "beta3": 0.5}
    assert optim.build("adam", [p], beta2=0.95).param_groups[0]["betas"] == (0.9, 0.95)
    assert optim.build("adam", [p], betas=(0.5, 0.6), beta2=0.95).param_groups[0]["betas"] == (0.5, 0.95)
    assert optim.build("mada", [p], betas=(0.5, 0.6)).coefficients["beta2"] == 0.6
    assert (
        optim.build("adam", [p], lr=np.float32(0.5)).grad_norm == optim.build("mada", [p], lr=np.float32(0.5)).grad_norm
    )


@pytest.mark.parametrize("name", ["muon", "mada"])
def test_build_keeps_the_marks_of_groups(name):
    groups = optim.param_groups(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)), verbose=False)
    optimizer = optim.build(name, groups, **{"mu": 1.0} if name == "mada" else {})
    assert sorted(group["muon"] for group in optimizer.param_groups) == [False, False, True]
    with pytest.raises(ValueError, match="empty parameter list" if name == "muon" else "there is none"):
        optim.build(name, iter([]), **{"mu": 1.0} if name == "mada" else {})


def split(params):
    return list(params.values()), [p for p in params.values() if p.dim() == 2]


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_build_clips_and_skips_for_every_optimizer(name):
    """Clipping inside is clipping before; a gradient that is not finite changes nothing and is counted."""
    clipped, by_hand = problem.parameters(), problem.parameters()
    still = {"hyper_lr": 0.0} if name in ("mada", "hyperadam") else {}  # hyper-gradients are of the raw gradient
    (params, hidden), others = (split(clipped), split(by_hand))
    ours = optim.build(name, params, hidden=hidden, lr=0.01, max_grad_norm=0.3, **still)
    theirs = optim.build(name, others[0], hidden=others[1], lr=0.01, max_grad_norm=0, **still)
    for t in range(1, 9):
        problem.train(ours, clipped, [t])
        problem.train(theirs, by_hand, [t], clip=0.3)
        assert ours.grad_norm > 0.3 and theirs.grad_norm < 0.3 + 1e-9
        before = {key: p.detach().clone() for key, p in clipped.items()}
        clipped["W"].grad[0, 0] = math.nan if t % 2 else math.inf
        ours.step()
        torch.testing.assert_close(before, {key: p.detach() for key, p in clipped.items()}, **EXACT)
        assert ours.skipped_steps == t and theirs.skipped_steps == 0
    torch.testing.assert_close(clipped, by_hand, **ROUNDING)
