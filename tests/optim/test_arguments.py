"""Arguments out of their domain, and optimizers built by name.

python -m pytest tests/optim/test_arguments.py
"""

import math

import numpy as np
import pytest
import torch
from every import EXACT, ROUNDING
from reference import problem
from torch import nn

import optim
from optim import MADA, Adan, AVGrad, HyperAdam, Lion, Yogi

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
    (MADA, {"eps": 1e-40}, "eps"),  # whose reciprocal is infinite in float32
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
    (HyperAdam, {"domain": {"beta1": (0.0, 1.0)}}, "domain: 'beta1' is a decay.*below 1, not 1.0"),
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
    with pytest.raises(ValueError, match="^" + name):
        optimizer([torch.zeros(3, requires_grad=True)], **bad)


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
    for name in ("adam", "mada"):
        assert optim.build(name, [p], lr=np.float32(0.5)).param_groups[0]["lr"] == 0.5


def test_defaults_are_the_optimizers_own():
    """Not those of the base class, which learns nothing and has no learning rate."""
    assert optim.signature("mada")["learn"] == tuple(MADA.domain) and optim.signature("mada")["lr"] == 1e-3
    assert optim.signature("hyperadam")["learn"] == ("beta1", "beta2")
    assert optim.resolved("mada", {"learn": None})["learn"] == tuple(MADA.domain)


@pytest.mark.parametrize("settings", [{}, {"mu": 1.0}])
def test_a_model_in_place_of_its_parameters_is_named(settings):
    with pytest.raises(TypeError, match="takes model.parameters.., not the model"):
        MADA(nn.Linear(2, 2), **settings)


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
