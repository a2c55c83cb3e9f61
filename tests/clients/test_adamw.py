"""MADA where AdamW was: its arguments, its checkpoints, param groups and schedulers.

python -m pytest tests/clients/test_adamw.py
"""

import copy
import inspect

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from optim import MADA, Adan, HyperAdam, Lion, ParameterizedOptimizer
from optim.arguments import LearningOptions, Options

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def train(model, optimizer, steps, sign=1.0):
    for t in steps:
        x = torch.sin(torch.arange(32, dtype=torch.float64).view(8, 4) * 0.37 + t)
        optimizer.zero_grad()
        (sign * (model(x) - x[:, :3].cos()) ** 2).mean().backward()
        optimizer.step()


def parameters(model):
    return [p.detach() for p in model.parameters()]


# -- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", [{"fused": True}, {"fused": False}, {"foreach": True}, {"foreach": False}], ids=str)
def test_what_is_about_adamws_implementation_changes_nothing(setting):
    plain, told = network(), network()
    train(plain, MADA(plain.parameters(), lr=0.02), range(5))
    train(told, MADA(told.parameters(), lr=0.02, **setting), range(5))
    torch.testing.assert_close(parameters(plain), parameters(told), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["capturable", "differentiable"])
@pytest.mark.parametrize("optimizer", [MADA, HyperAdam])
def test_what_it_does_not_have_is_refused_by_name(optimizer, name):
    with pytest.raises(ValueError, match=f"{optimizer.__name__} has no {name}=True"):
        optimizer(network().parameters(), **{name: True})
    optimizer(network().parameters(), **{name: False})


@pytest.mark.parametrize("optimizer, options", [(MADA, Options), (HyperAdam, LearningOptions)])
def test_type_checkers_know_every_argument(optimizer, options):
    engines = inspect.signature(ParameterizedOptimizer.__init__).parameters
    own = inspect.signature(optimizer.__init__).parameters
    made_by_the_class = {"coefficients", "buffers", "constants"}
    assert {*options.__annotations__} == {*engines} - {*own} - made_by_the_class
    assert options.__annotations__ == {name: engines[name].annotation for name in options.__annotations__}


def test_amsgrad_starts_at_amsgrads_corner():
    ours, theirs = network(), network()
    train(
        ours, MADA(ours.parameters(), lr=0.02, betas=(0.9, 0.999), amsgrad=True, learn=(), weight_decay=0.1), range(9)
    )
    # eq. (3) keeps the maximum before the bias correction, as torch's does
    train(theirs, torch.optim.AdamW(theirs.parameters(), lr=0.02, amsgrad=True, weight_decay=0.1), range(9))
    torch.testing.assert_close(parameters(ours), parameters(theirs), **CLOSE)
    with pytest.raises(ValueError, match="amsgrad=True.*rho"):
        MADA(network().parameters(), amsgrad=True, rho=0.5)


@pytest.mark.parametrize("optimizer", [MADA, HyperAdam])
def test_maximize_climbs_where_the_negative_loss_falls(optimizer):
    down, up = network(), network()
    falls, climbs = (
        optimizer(down.parameters(), lr=0.02, max_grad_norm=0.3),
        optimizer(up.parameters(), lr=0.02, max_grad_norm=0.3, maximize=True),
    )
    train(down, falls, range(9))
    train(up, climbs, range(9), sign=-1.0)
    torch.testing.assert_close(parameters(down), parameters(up), **CLOSE)
    assert falls.coefficients == pytest.approx(climbs.coefficients, abs=1e-12)
    assert falls.coefficients["beta1"] != 0.9


@pytest.mark.parametrize(
    "lr", [torch.tensor(0.02), torch.tensor([0.02]), torch.tensor([[0.02]])], ids=lambda x: str(x.dim())
)
def test_a_tensor_as_learning_rate(lr):
    number, tensor = network(), network()
    train(number, MADA(number.parameters(), lr=float(lr)), range(5))
    train(tensor, MADA(tensor.parameters(), lr=lr), range(5))
    torch.testing.assert_close(parameters(number), parameters(tensor), rtol=0, atol=0)


def test_a_learning_rate_of_two_elements_is_refused():
    with pytest.raises(ValueError, match="lr="):
        MADA(network().parameters(), lr=torch.tensor([0.1, 0.2]))


# -- param groups ---------------------------------------------------------------------------------------------------


def halves(model, **second):
    first, *others = model.parameters()
    return [{"params": [first]}, {"params": others, **second}]


@pytest.mark.parametrize("setting", [{"betas": (0.5, 0.9)}, {"rho": 0.5}, {"beta3": 0.1}, {"hyper_lr": 0.1}], ids=str)
def test_what_groups_share_is_refused_by_name(setting):
    (name,) = setting
    with pytest.raises(ValueError, match=f"{name} of a param group.*per_group=True"):
        MADA(halves(network(), **setting))


@pytest.mark.parametrize("setting", [{"max_grad_norm": 1.0}, {"learn": ()}, {"hyper_scale": "raw"}], ids=str)
def test_what_cannot_differ_by_group_is_refused_by_name(setting):
    (name,) = setting
    with pytest.raises(ValueError, match=f"{name} of a param group.*for all groups"):
        MADA(halves(network(), **setting), per_group=True)


@pytest.mark.parametrize(
    "setting", [{"eps": 1e-2}, {"eps": 1e-2, "betas": (0.5, 0.9), "rho": 0.5, "hyper_lr": 0.1}], ids=str
)
def test_what_a_group_may_have_is_honoured(setting):
    """A group with settings of its own is an optimizer with these settings."""
    together, apart = network(), network()
    ours = MADA(halves(together, **setting), lr=0.02, per_group=True)
    first, *others = apart.parameters()
    alone = [MADA([first], lr=0.02), MADA(others, lr=0.02, **setting)]
    train(together, ours, range(6))

    class Both:
        def zero_grad(self):
            apart.zero_grad()

        def step(self):
            for optimizer in alone:
                optimizer.step()

    train(apart, Both(), range(6))
    torch.testing.assert_close(parameters(together), parameters(apart), **CLOSE)
    assert ours.coefficients[1] == pytest.approx(alone[1].coefficients, abs=1e-12)


@pytest.mark.parametrize("optimizer, betas", [(Lion, (0.5, 0.6)), (Adan, (0.9, 0.8, 0.7))])
def test_betas_of_a_group_where_nothing_is_learned(optimizer, betas):
    usual, own, alone = (torch.zeros(50, dtype=torch.float64, requires_grad=True) for _ in range(3))
    both = optimizer([{"params": [usual]}, {"params": [own], "betas": betas}], lr=0.01)
    other = optimizer([alone], lr=0.01, betas=betas)
    for t in range(6):
        for p in (usual, own, alone):
            p.grad = torch.sin(torch.arange(50, dtype=torch.float64) + 0.7 * t)
        both.step()
        other.step()
    assert torch.equal(own, alone) and not torch.equal(usual, own)


def test_a_group_may_repeat_what_holds_for_all():
    groups = halves(network(), max_grad_norm=1.0, learn=("beta1",))
    assert MADA(groups, max_grad_norm=1.0, learn=("beta1",)).param_groups[1]["learn"] == "beta1"


def test_the_callers_groups_stay_as_they_are():
    groups = halves(network(), betas=(0.5, 0.9), name="rest")
    before = [dict(group) for group in groups]
    ours = MADA(groups, per_group=True)
    assert [group.keys() for group in groups] == [group.keys() for group in before]
    assert ours.param_groups[1]["name"] == "rest"  # what is not the optimizer's is kept, as torch keeps it
    torch.optim.AdamW(groups)


# -- checkpoints of AdamW -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["tensor steps", "float steps"])
@pytest.mark.parametrize("optimizer", [MADA, HyperAdam])
def test_adamws_checkpoint_goes_on_as_adamw(optimizer, form):
    """Fixed coefficients: from there on it is AdamW itself."""
    theirs = network()
    adamw = torch.optim.AdamW(theirs.parameters(), lr=0.02, betas=(0.8, 0.97), weight_decay=0.1, eps=1e-6)
    train(theirs, adamw, range(7))
    state = copy.deepcopy(adamw.state_dict())
    if form == "float steps":
        for values in state["state"].values():
            values["step"] = float(values["step"])
    ours = copy.deepcopy(theirs)
    taken = optimizer(ours.parameters(), learn=())
    taken.load_state_dict(state)
    assert taken.coefficients["beta1"] == 0.8 and taken.param_groups[0]["lr"] == 0.02
    train(theirs, adamw, range(7, 14))
    train(ours, taken, range(7, 14))
    torch.testing.assert_close(parameters(ours), parameters(theirs), **CLOSE)


def test_a_learning_optimizer_starts_from_adamws_moments():
    theirs = network()
    adamw = torch.optim.AdamW(theirs.parameters(), lr=0.02, betas=(0.9, 0.999))
    train(theirs, adamw, range(50))
    ours = copy.deepcopy(theirs)
    taken = MADA(ours.parameters())
    taken.load_state_dict(copy.deepcopy(adamw.state_dict()))
    train(theirs, adamw, [50])
    train(ours, taken, [50])
    # the first update is made with AdamW's betas, and differs by what the decay of s and Adan's start leave: nothing
    torch.testing.assert_close(parameters(ours), parameters(theirs), **CLOSE)
    train(ours, taken, range(51, 60))
    assert taken.coefficients["beta1"] != 0.9


def test_what_cannot_be_taken_over_is_said():
    model = network()
    adamw = torch.optim.AdamW(model.parameters(), betas=(0.0, 0.999))
    train(model, adamw, range(2))
    with pytest.raises(ValueError, match=r"beta1 of 0.0 is outside"):
        MADA(model.parameters()).load_state_dict(adamw.state_dict())
    with pytest.raises(ValueError, match="Lion cannot use"):
        Lion(model.parameters()).load_state_dict(adamw.state_dict())


# -- schedulers -----------------------------------------------------------------------------------------------------


def test_cyclic_schedules_take_one_more_argument():
    model = network()
    ours = MADA(model.parameters(), lr=0.02)
    for schedule in (
        lambda **more: CyclicLR(ours, base_lr=0.01, max_lr=0.1, **more),
        lambda **more: OneCycleLR(ours, max_lr=0.1, total_steps=20, **more),
    ):
        with pytest.raises(ValueError, match="cycle_momentum"):  # in one line, by torch: there are no `betas` to cycle
            schedule()
        scheduler = schedule(cycle_momentum=False)
        for t in range(5):
            train(model, ours, [t])
            scheduler.step()
    assert ours.coefficients["beta1"] != 0.9


def test_there_is_a_gradient_norm_before_the_first_step():
    assert float(MADA(network().parameters()).grad_norm) == 0.0
