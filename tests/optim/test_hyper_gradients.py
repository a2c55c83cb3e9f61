"""The hyper-gradients are the derivatives of the next loss, and the coefficients move by them as Algorithm 1 says.

python -m pytest tests/optim/test_hyper_gradients.py
"""

from itertools import chain, combinations

import pytest
import torch
from every import ALL
from reference import optimizers as plain
from reference import problem

from optim import MADA, HyperAdam

TRAJECTORY = 1e-11  # absolute, in float64, for losses, coefficients and hyper-gradients against autograd, step by step
DIFFERENCES = 1e-6  # relative to the largest hyper-gradient, for finite differences of step DELTA in a coefficient
DELTA = 1e-5

INTERIOR = {"beta1": 0.6, "beta2": 0.8, "beta3": 0.4, "rho": 0.5, "c": 0.6, "gamma": 0.7}
ADAM = {"beta1": 0.9, "beta2": 0.95, "beta3": 0.0, "rho": 1.0, "c": 1.0, "gamma": 1.0}
POOR = {"beta1": 0.2, "beta2": 0.55, "beta3": 0.9, "rho": 0.1, "c": 0.1, "gamma": 0.3}
BETAS = {"beta1": 0.7, "beta2": 0.8}
RAW = {"hyper_scale": "raw", "debias": "powers"}
FORMS = {
    "raw, powers": RAW,
    "relative, weights": {"hyper_scale": "relative", "debias": "weights"},
    "raw, weights": {"hyper_scale": "raw", "debias": "weights"},
    "relative, powers": {"hyper_scale": "relative", "debias": "powers"},
}
HYPER = {"learn": ALL, "hyper_lr": 0.02, "hyper_momentum": 0.0, **RAW}
RELATIVE_DOMAIN = {**plain.DOMAIN, "beta2": (0.501, 0.9999)}
LR = {"W": 0.02, "b": 0.05, "U": 0.01}
DECAY = {"W": 0.1, "b": 0.0, "U": 0.3}


def group(name, p):
    return {"params": [p], "lr": LR[name], "weight_decay": DECAY[name]}


def build(coefficients, params, **settings):
    """MADA or HyperAdam, whichever has these coefficients; a param group for each parameter."""
    groups = [group(name, p) for name, p in params.items()]
    optimizer, rest = (HyperAdam, {}) if set(coefficients) == {"beta1", "beta2"} else (MADA, dict(coefficients))
    return optimizer(
        groups,
        betas=(rest.pop("beta1", coefficients["beta1"]), rest.pop("beta2", coefficients["beta2"])),
        **rest,
        **settings,
    )


def by_name(value, names):
    return value if isinstance(value, dict) else dict.fromkeys(names, value)


def assert_same_trajectory(coefficients, settings, steps, variant=0, frozen=lambda t: (), joins=1):
    """Ours and the reference, step by step.

    The parameters that frozen(t) names have no gradient at step t; U comes with a group of its own at step `joins`.
    """
    params = problem.parameters(variant)
    ours = build(coefficients, {name: p for name, p in params.items() if name != "U" or joins == 1}, **settings)
    theirs = plain.HyperDescent(
        plain.mada if "rho" in coefficients else plain.adam,
        problem.parameters(variant),
        coefficients,
        lr=LR,
        weight_decay=DECAY,
        **{
            **settings,
            "hyper_lr": by_name(settings["hyper_lr"], ALL),
            "hyper_momentum": by_name(settings["hyper_momentum"], ALL),
            "domain": RELATIVE_DOMAIN if settings["hyper_scale"] == "relative" else plain.DOMAIN,
        },
    )
    for t in range(1, steps + 1):
        if 1 < t == joins:
            ours.add_param_group(group("U", params["U"]))
        factor = problem.learning_rate(t, 1.0, steps)
        for at, lr in zip(ours.param_groups, LR.values(), strict=t >= joins):
            at["lr"] = lr * factor
        loss = problem.loss(params, t, variant)
        ours.zero_grad()
        loss.backward()
        for name in frozen(t):
            params[name].grad = None
        ours.step()
        away = frozen(t) if t >= joins else ("U",)
        expected = theirs.step(lambda x, t=t: problem.loss(x, t, variant), factor, away)
        if t < joins:
            theirs.last_lr["U"] = 0.0  # it has had no step
        torch.testing.assert_close(
            {"loss": loss.item(), "h": ours.hyper_gradients, "q": ours.coefficients},
            {"loss": expected, "h": theirs.hyper_gradients, "q": theirs.coefficients},
            rtol=0,
            atol=TRAJECTORY,
            msg=lambda text, t=t: f"step {t}: {text}\nours {ours.hyper_gradients}\ntheirs {theirs.hyper_gradients}",
        )
    torch.testing.assert_close(params, {name: x.detach() for name, x in theirs.x.items()}, rtol=0, atol=TRAJECTORY)
    return ours.coefficients


TRAJECTORIES = {
    "plain": (INTERIOR, {}),
    "fast": (INTERIOR, {"hyper_lr": 1.0}),
    "clipped": (INTERIOR, {"max_grad_norm": 0.5}),
    "from adam": (ADAM, {}),
    "from a poor place": (POOR, {}),
    "poor, clipped, fast": (POOR, {"max_grad_norm": 0.3, "hyper_lr": 1.0}),
    "momentum": (INTERIOR, {"hyper_momentum": 0.5}),
    "momentum by name": (
        INTERIOR,
        {"hyper_momentum": {"beta1": 0.9, "beta2": 0.1, "beta3": 0.5, "rho": 0.0, "c": 0.8, "gamma": 0.3}},
    ),
    "rate by name": (
        INTERIOR,
        {"hyper_lr": {"beta1": 0.1, "beta2": 0.02, "beta3": 0.05, "rho": 0.3, "c": 1.0, "gamma": 0.2}},
    ),
    "late": (INTERIOR, {"hyper_start": 7}),
    "late, momentum": (INTERIOR, {"hyper_start": 7, "hyper_momentum": 0.5}),
    "hyper-gradient clamped": (INTERIOR, {"hyper_clip": 1e-3, "hyper_lr": 1.0}),
    "hyper-gradient not clamped": (INTERIOR, {"hyper_clip": float("inf"), "hyper_lr": 1.0}),
    "eps": (INTERIOR, {"eps": 1e-3}),
    "other Lion": (INTERIOR, {"lion_betas": (0.9, 0.99)}),
    "everything": (
        INTERIOR,
        {
            "hyper_lr": 0.2,
            "hyper_momentum": 0.7,
            "hyper_start": 3,
            "hyper_clip": 0.01,
            "max_grad_norm": 0.5,
            "eps": 1e-6,
        },
    ),
}
SUBSETS = list(chain.from_iterable(combinations(ALL, size) for size in range(7)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("second_moment", ["avgrad", "amsgrad"])
@pytest.mark.parametrize("row", TRAJECTORIES)
def test_trajectory_equals_autograd_through_the_last_update(row, second_moment, form):
    start, settings = TRAJECTORIES[row]
    if second_moment == "amsgrad" and form not in ("raw, powers", "relative, weights"):
        pytest.skip("the mixed forms are tried on one second moment")
    settings = {**HYPER, **FORMS[form], "second_moment": second_moment, **settings}
    end = assert_same_trajectory(start, settings, steps=30)
    assert any(abs(end[name] - start[name]) > 1e-5 for name in ALL)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_grad_norm": 0.3},
        {"hyper_momentum": 0.5, "hyper_start": 4},
        {"learn": ("beta2",)},
        {"hyper_lr": 1.0, "hyper_clip": 0.01},
    ],
    ids=str,
)
def test_trajectory_of_hyperadam(settings, form):
    end = assert_same_trajectory(BETAS, {**HYPER, **FORMS[form], "learn": tuple(BETAS), **settings}, steps=30)
    assert end != BETAS


@pytest.mark.slow
@pytest.mark.parametrize(
    "learn, start",
    [  # at a corner, the other coefficients decide which parts there are; and each alone
        pytest.param(learn, start, id=f"{name}-{'+'.join(learn)}")
        for name, start in {"interior": INTERIOR, "adam": ADAM, "lion": dict(ADAM, gamma=0.0)}.items()
        for learn in SUBSETS
        if name == "interior" or {*BETAS} <= {*learn} or len(learn) < 2
    ],
)
def test_any_subset_can_be_learned(learn, start):
    """What is not learned stays put; what is learned moves as in the reference, which always has all parts."""
    form = FORMS["relative, weights" if start is INTERIOR else "raw, powers"]
    end = assert_same_trajectory(start, {**HYPER, **form, "learn": learn, "hyper_lr": 0.1}, steps=4, variant=1)
    assert all(end[name] == start[name] for name in ALL if name not in learn)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "frozen",
    [lambda t: ("W",) * (5 <= t < 9), lambda t: ("U",) * (t < 6), lambda t: ("b",) * (t % 2)],
    ids=["for a while", "until late", "every other step"],
)
def test_parameters_without_gradient(frozen, form):
    """They stand still with their state, count no step, and have no part in the hyper-gradient."""
    settings = {**HYPER, **FORMS[form], "max_grad_norm": 0.5, "hyper_lr": 0.1}
    assert_same_trajectory(INTERIOR, settings, steps=12, frozen=frozen)


@pytest.mark.parametrize("form", FORMS)
def test_parameters_of_a_group_that_is_added_later(form):
    """Their averages, the weights of these and their steps begin with them."""
    assert_same_trajectory(INTERIOR, {**HYPER, **FORMS[form], "hyper_lr": 0.1}, steps=12, joins=6)


def loss_after(coefficients, name, move, at, settings):
    """The loss of step at + 1 when `coefficients[name]` is moved by about `move` for the update of step `at` alone.

    The optimizer itself does that, by public settings: hyper_start keeps it still until step `at`, where it moves by
    -hyper_lr h; h is known from a run that does not move. Returns the coefficient, the loss and h_name of step at + 1.
    """
    push = {key: 0.0 for key in coefficients}
    if move:
        _, _, h = loss_after(coefficients, name, 0, at - 1, settings)
        push[name] = move / abs(h)
    params = problem.parameters()
    optimizer = build(
        coefficients, params, learn=tuple(coefficients), hyper_lr=push, hyper_start=at - 1, hyper_clip=None, **settings
    )
    problem.train(optimizer, params, range(1, at + 1))
    q, others = optimizer.coefficients[name], {**optimizer.coefficients, name: coefficients[name]}
    assert others == coefficients and (q != coefficients[name]) == bool(move)
    (loss,) = problem.train(optimizer, params, [at + 1])
    return q, loss, optimizer.hyper_gradients[name]


@pytest.mark.parametrize("debias", ["weights", "powers"])
@pytest.mark.parametrize("second_moment", ["avgrad", "amsgrad"])
@pytest.mark.parametrize("settings", [{}, {"max_grad_norm": 0.3}, {"hyper_momentum": 0.5}], ids=str)
@pytest.mark.parametrize("name", ALL)
def test_central_differences(name, settings, second_moment, debias):
    """Three runs that differ in one coefficient of the last update: the middle run's h is the others' slope."""
    settings = dict(settings, second_moment=second_moment, debias=debias, hyper_scale="raw")
    (low, f_low, _), (_, _, h), (high, f_high, _) = (
        loss_after(INTERIOR, name, move, 7, settings) for move in (0, DELTA, 2 * DELTA)
    )
    assert abs(h) > 1e-6
    assert (f_high - f_low) / (high - low) == pytest.approx(h, rel=DIFFERENCES, abs=1e-10)


@pytest.mark.parametrize("debias", ["weights", "powers"])
@pytest.mark.parametrize("name", BETAS)
def test_central_differences_of_hyperadam(name, debias):
    settings = {"max_grad_norm": 0.5, "debias": debias, "hyper_scale": "raw"}
    (low, f_low, _), (_, _, h), (high, f_high, _) = (
        loss_after(BETAS, name, move, 7, settings) for move in (0, DELTA, 2 * DELTA)
    )
    assert abs(h) > 1e-6
    assert (f_high - f_low) / (high - low) == pytest.approx(h, rel=DIFFERENCES, abs=1e-10)
