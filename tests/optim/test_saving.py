"""Checkpoints, copies, and the memory that state takes.

python -m pytest tests/optim/test_saving.py
"""

import copy
import gc
import io
import math
import os
import pickle

import pytest
import torch
from every import (
    EXACT,
    LEARNING,
    OURS,
    fresh,
    make,
    observable,
    run,
    same,
)
from reference import problem
from torch import nn

import optim

LEAK = 16 * 2**20  # bytes; a single tensor leaked per step would be twice as much


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
    "name, settings, promised",
    [
        ("mada", {}, 28),
        ("mada", {"learn": ("beta1", "beta2", "beta3", "rho", "c")}, 24),  # without Lion
        ("mada", {"learn": ()}, 8),  # fixed at Adam
        ("mada", {"learn": (), "beta3": 0.5, "rho": 0.5, "gamma": 0.5}, 24),
        ("mada", {"rule": "authors"}, 24),
        ("mada", {"state_dtype": "bfloat16"}, 18),
        ("mada", {"mu": 1.0, "learn": ("beta1", "beta2", "mu")}, 18),  # from Muon's corner
        ("hyperadam", {}, 12),
        ("adam", {}, 8),
        ("amsgrad", {}, 12),
        ("avgrad", {}, 12),
        ("yogi", {}, 8),
        ("adan", {}, 16),
        ("lion", {}, 4),
        ("muon", {}, 4),
        ("sgd", {}, 4),
    ],
    ids=str,
)
def test_state_is_as_large_as_promised(name, settings, promised):
    """In bytes per parameter of a hidden matrix, as docs/optimizers.md has it."""
    p = torch.ones(20, 50, requires_grad=True)
    optimizer = optim.build(name, [p], hidden=[p], lr=0.01, **settings)
    for _ in range(3):
        p.grad = torch.ones_like(p)
        optimizer.step()
    state = [x for x in optimizer.state[p].values() if isinstance(x, torch.Tensor) and x.numel() > 9]
    assert sum(x.nbytes for x in state) == 1_000 * promised


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
