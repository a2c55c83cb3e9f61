"""The rules are the right ones: MADA as the authors' code computes it, MADA at its corners, every baseline of optim/.

python -m pytest tests/optim/test_rules.py
"""

import io
import json
from pathlib import Path

import pytest
import torch
from every import ALL
from reference import optimizers as plain
from reference import problem

from optim import MADA, Adan, AVGrad, HyperAdam, Lion, Yogi

TOLERANCE = 1e-12  # absolute, in float64, for losses, parameters, coefficients and hyper-gradients
STEPS = 50

RECORDED = json.loads((Path(__file__).parents[1] / "reference" / "authors_code.json").read_text())
FIXED = {"learn": ()}
STILL = {"learn": ALL, "hyper_lr": 0.0}  # the whole machinery at work, but the coefficients stay

# name: (ours, its settings, theirs, its settings)
CORNERS = {
    "adam": (MADA, {}, torch.optim.AdamW, {"betas": (0.9, 0.95)}),
    "adam other betas": (
        MADA,
        {"betas": (0.5, 0.8), "eps": 1e-6},
        torch.optim.AdamW,
        {"betas": (0.5, 0.8), "eps": 1e-6},
    ),
    "avgrad": (MADA, {"rho": 0.0}, plain.AVGrad, {}),
    "yogi": (MADA, {"betas": (0.9, 0.98), "c": 0.0, "eps": 1e-3}, plain.Yogi, {"betas": (0.9, 0.98)}),
    "adan": (MADA, {"betas": (0.98, 0.99), "beta3": 0.92}, plain.Adan, {"betas": (0.98, 0.92, 0.99)}),
    "lion": (MADA, {"gamma": 0.0}, plain.Lion, {"betas": (0.95, 0.98)}),
    "lion anywhere": (MADA, {"beta3": 0.3, "rho": 0.4, "c": 0.5, "gamma": 0.0}, plain.Lion, {"betas": (0.95, 0.98)}),
    "lion other betas": (MADA, {"gamma": 0.0, "lion_betas": (0.9, 0.99)}, plain.Lion, {}),
    "amsgrad": (
        MADA,
        {"rho": 0.0, "second_moment": "amsgrad"},
        torch.optim.AdamW,
        {"betas": (0.9, 0.95), "amsgrad": True},
    ),
    "adam, other second moment": (MADA, {"second_moment": "amsgrad"}, torch.optim.AdamW, {"betas": (0.9, 0.95)}),
}
BASELINES = {
    "HyperAdam": (HyperAdam, {"learn": ()}, torch.optim.AdamW, {"betas": (0.9, 0.95)}),
    "HyperAdam still": (HyperAdam, {"hyper_lr": 0.0}, torch.optim.AdamW, {"betas": (0.9, 0.95)}),
    "AVGrad": (AVGrad, {}, plain.AVGrad, {}),
    "Yogi": (Yogi, {}, plain.Yogi, {}),
    "Adan": (Adan, {}, plain.Adan, {}),
    "Lion": (Lion, {}, plain.Lion, {}),
    "Lion other betas": (Lion, {"betas": (0.95, 0.98)}, plain.Lion, {"betas": (0.95, 0.98)}),
}
ROWS = {
    **{
        f"{name}, {how}": (ours, {**args, **extra}, theirs, their_args)
        for name, (ours, args, theirs, their_args) in CORNERS.items()
        for how, extra in {"fixed": FIXED, "still": STILL}.items()
    },
    **BASELINES,
}


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("run", RECORDED)
def test_authors_rule_equals_their_code(run):
    recorded, settings = RECORDED[run]["trajectory"], RECORDED[run]["settings"]
    params, variant = problem.parameters(settings["variant"]), settings["variant"]
    init = dict(settings["init"])
    optimizer = MADA(
        problem.decayed(params, settings["weight_decay"]),
        lr=settings["peak_lr"],
        betas=(init.pop("beta1"), init.pop("beta2")),
        **init,
        eps=settings["eps"],
        learn=settings["learn"],
        hyper_lr=settings["hyper_lr"],
        hyper_momentum=settings["hyper_momentum"],
        hyper_start=settings["hyper_start"],
        max_grad_norm=settings["grad_clip"] or None,
        rule="authors",
    )
    for row in recorded:
        (loss,) = problem.train(optimizer, params, [row["t"]], settings["steps"], variant)
        close(loss, row["loss"])
        close(optimizer.coefficients, row["coefficients"])
        learned = {name: row["hyper_grad"][name] for name in settings["learn"]}
        close(optimizer.hyper_gradients, {**dict.fromkeys(ALL, 0.0), **learned})
        if row["grad_norm"] is not None:
            close(optimizer.grad_norm.item(), row["grad_norm"])
    for name, values in RECORDED[run]["final"].items():
        close(params[name].detach(), torch.tensor(values, dtype=torch.float64))
    close(problem.loss(params, settings["steps"] + 1, variant).item(), RECORDED[run]["final_loss"])


@pytest.mark.parametrize("clip", [None, 0.5], ids=["", "clipped"])
@pytest.mark.parametrize("row", ROWS)
def test_equals_its_base_optimizer(row, clip):
    """50 steps with decay and schedule; ours is saved and loaded into a new optimizer in the middle."""
    ours, args, theirs, their_args = ROWS[row]
    x, y = problem.parameters(), problem.parameters()
    optimizer = ours(problem.decayed(x, 0.1), lr=0.02, max_grad_norm=clip, **args)
    losses = problem.train(optimizer, x, range(1, STEPS // 2 + 1), STEPS)

    torch.save(optimizer.state_dict(), file := io.BytesIO())
    file.seek(0)
    x = {name: p.detach().clone().requires_grad_() for name, p in x.items()}
    optimizer = ours(problem.decayed(x, 0.0), max_grad_norm=clip, **args)  # decay and lr come with the state
    optimizer.load_state_dict(torch.load(file, weights_only=True))
    losses += problem.train(optimizer, x, range(STEPS // 2 + 1, STEPS + 1), STEPS)

    reference = theirs(problem.decayed(y, 0.1), lr=0.02, **their_args)
    close(losses, problem.train(reference, y, range(1, STEPS + 1), STEPS, clip=clip))
    close(list(x.values()), list(y.values()))
    start = ours(list(problem.parameters().values()), **args).coefficients
    assert optimizer.coefficients == start
