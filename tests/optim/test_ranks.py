"""Two processes of one run agree with one.

python -m pytest tests/optim/test_ranks.py
"""

import pytest
import torch
import torch.distributed as dist
from every import ALL, ROUNDING, fresh, make
from reference import problem
from torch import nn

from optim import shards

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


@pytest.mark.parametrize("lacking", [0, 1])
def test_a_rank_without_parameters_is_noticed_on_both(lacking, monkeypatch):
    """One that went on would wait for the other in an all-reduce."""
    group = [{"params": [torch.ones(3)]}]

    def gather(seen, mine):
        seen[:] = [mine, mine]
        seen[lacking] = [], [], []

    monkeypatch.setattr(shards, "world", lambda: 2)
    monkeypatch.setattr(shards.dist, "all_gather_object", gather)
    with pytest.raises(RuntimeError, match="the ranks hold different parameters"):
        shards.check_same_parameters("MADA", group)
