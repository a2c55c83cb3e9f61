"""No step waits for the device: nothing in it reads a tensor's value. And the baseline AdamW skips without looking.

python -m pytest tests/optim/test_waiting.py
"""

import copy

import pytest
import torch
from reference import problem
from torch.utils._python_dispatch import TorchDispatchMode

import optim

MADA_FORMS = {
    "mada relative": {"max_grad_norm": 0.3},
    "mada raw, adam": {"hyper_scale": "raw", "hyper_optimizer": "adam", "hyper_start": 2},
    "mada per group": {"per_group": True, "hyper_optimizer": "sign"},
    "mada, a learned rate": {"learn": ("beta1", "lr"), "debias": "powers"},
    "mada, some learned": {"learn": ("beta1", "beta3", "gamma")},
    "mada, a rate that grows": {"grow_lr": True, "max_grad_norm": 0.3},
    "mada fixed": {"learn": ()},
    "mada amsgrad": {"second_moment": "amsgrad"},
    "mada bfloat16 state": {"state_dtype": "bfloat16"},
    "mada from muon's corner": {"mu": 1.0, "learn": ("beta1", "mu")},
}
WAITING = ("muon", "sgd")  # torch's, which take no word from the device
FORMS = {name: (name, {}) for name in optim.OPTIMIZERS if name not in WAITING}
FORMS |= {name: ("mada", settings) for name, settings in MADA_FORMS.items()}


class NoReading(TorchDispatchMode):
    """Inside, whatever would wait on a GPU is an error: a number from a tensor, indices that depend on values, or, once
    a plan is `made`, a tensor from Python's numbers, including indices in a list."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_consecutive", "repeat_interleave")

    def __init__(self, made=True):
        super().__init__()
        self.forbidden = (*self.FORBIDDEN, *["lift_fresh"] * made)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.partition("::")[2]
        indices = [x for x in args[1] if x is not None] if name in ("index", "index_put", "index_put_") else []
        if name in self.forbidden or any(x.dtype in (torch.bool, torch.uint8) for x in indices):
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


def made(form, **more):
    name, settings = FORMS[form]
    params = problem.parameters()
    groups = problem.decayed(params, 0.1)
    return params, optim.build(name, groups, hidden=[params["W"], params["U"]], lr=0.02, **settings | more)


def backward(optimizer, params, t):
    optimizer.zero_grad()
    problem.loss(params, t).backward()


@pytest.mark.parametrize(
    "waiting",
    [
        lambda x: bool(x[0]),
        lambda x: x[x > 0],
        lambda x: x[[0, 2]],
        lambda x: x.new_tensor([1.0]),
        lambda x: x.nonzero(),
    ],
)
def test_a_wait_is_noticed(waiting):
    with NoReading(), pytest.raises(AssertionError, match="waits for the device"):
        waiting(torch.ones(3))


@pytest.mark.parametrize("form", FORMS)
def test_no_step_reads_a_value(form, monkeypatch):
    """From the first step on: whoever waits once per change of a learning rate waits in every step of a schedule."""
    monkeypatch.setattr("optim.clipping.Watch.see", lambda *_: None)  # on a GPU it reads once, after 64 steps
    params, optimizer = made(form)
    for t in range(1, 6):
        backward(optimizer, params, t)
        for group in optimizer.param_groups:
            group["lr"] = 0.02 / t
        with NoReading(made=t > 2):
            optimizer.step()
    assert not torch.isnan(optimizer.grad_norm)


class Counting(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("form", [name for name in FORMS if "muon" not in name and name not in ("adam", "amsgrad")])
def test_a_step_calls_no_more_operations_for_more_tensors(form):
    """With new gradients each time, as after zero_grad(): only Python's work grows with the number of tensors."""
    name, settings = FORMS[form]
    counts = []
    for tensors in (3, 40):
        params = [torch.randn(2, 3, requires_grad=True) for _ in range(tensors)]
        optimizer = optim.build(name, params, lr=0.02, **settings)
        for _ in range(4):
            for p in params:
                p.grad = torch.randn(2, 3)
            with Counting() as counting:
                optimizer.step()
        counts.append(counting.count)
    assert counts[0] == counts[1] < 80


@pytest.mark.parametrize("form", ["adam", "amsgrad"])
@pytest.mark.parametrize("limit", [None, 0.3])
def test_the_baseline_changes_nothing_on_a_gradient_that_is_not_finite(form, limit):
    """Otherwise it is bit for bit torch's AdamW after clip_grad_norm_."""
    params, optimizer = made(form, max_grad_norm=limit)
    copies = copy.deepcopy(params)
    plain = torch.optim.AdamW(
        problem.decayed(copies, 0.1), lr=0.02, betas=(0.9, 0.999), amsgrad=form == "amsgrad", fused=True
    )
    for t in range(1, 8):
        backward(optimizer, params, t)
        if t in (1, 4):
            before = copy.deepcopy([list(params.values()), optimizer.state_dict()["state"]])
            next(iter(params.values())).grad.view(-1)[1] = torch.nan if t == 1 else torch.inf
            optimizer.step()
            torch.testing.assert_close(list(params.values()), before[0], rtol=0, atol=0)
            if t == 4:
                torch.testing.assert_close(optimizer.state_dict()["state"], before[1], rtol=0, atol=0)
            continue
        optimizer.step()
        backward(plain, copies, t)
        if limit:
            torch.nn.utils.clip_grad_norm_([p for group in plain.param_groups for p in group["params"]], limit)
        plain.step()
        torch.testing.assert_close(list(params.values()), list(copies.values()), rtol=0, atol=0)
    assert optimizer.skipped_steps == 2


@pytest.mark.parametrize("settings", [{}, {"foreach": True}])
def test_the_baseline_goes_on_from_a_checkpoint_of_an_adamw_that_is_not_fused(settings):
    params, optimizer = made("adam")
    copies = copy.deepcopy(params)
    plain = torch.optim.AdamW(problem.decayed(copies, 0.1), lr=0.02, **settings)
    for t in (1, 2):
        backward(plain, copies, t)
        plain.step()
    with torch.no_grad():
        for name, p in params.items():
            p.copy_(copies[name])
    optimizer.load_state_dict(copy.deepcopy(plain.state_dict()))
    for t in (3, 4):
        for each, theirs in ((plain, copies), (optimizer, params)):
            backward(each, theirs, t)
            each.step()
    torch.testing.assert_close(list(params.values()), list(copies.values()))
    before = copy.deepcopy(list(params.values()))
    backward(optimizer, params, 5)
    next(iter(params.values())).grad.fill_(torch.nan)
    optimizer.step()
    torch.testing.assert_close(list(params.values()), before, rtol=0, atol=0)
    assert optimizer.skipped_steps == 1 and plain.param_groups[0]["fused"] is None


def test_where_the_kernel_does_not_listen_the_baseline_has_no_gradients(monkeypatch):
    """As on MPS; here the word that the CPU's kernel would listen to is taken back."""
    monkeypatch.setattr("optim.adamw.IGNORES_FOUND_INF", ("cpu",))
    params, optimizer = made("adam", max_grad_norm=0.3)
    optimizer.register_step_pre_hook(lambda *_: setattr(optimizer, "found_inf", None))
    for t in (1, 2, 3):
        backward(optimizer, params, t)
        before = copy.deepcopy(list(params.values()))
        if t == 2:
            next(iter(params.values())).grad.fill_(torch.inf)
        optimizer.step()
        assert all(map(torch.equal, params.values(), before)) == (t == 2)
    assert optimizer.skipped_steps == 1
