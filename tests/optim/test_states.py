"""What users do to an optimizer between its steps: load, copy, add groups, lose gradients, catch exceptions.

python -m pytest -q tests/optim/test_states.py
"""

import copy
import gc
import os
import subprocess
import sys
import warnings
import weakref
from types import MappingProxyType

import pytest
import torch

import optim
from optim import MADA, AVGrad, HyperAdam, Lion, Yogi, plan
from optim import inputs as inputs_module

BOTH = pytest.mark.parametrize("cls", [MADA, HyperAdam])


def leaf(*shape, value=0.0, dtype=torch.float64):
    return torch.full(shape, value, dtype=dtype, requires_grad=True)


def stepped(cls, *shape, **settings):
    """An optimizer of one parameter after a step."""
    p = leaf(*shape)
    optimizer = cls([p], **settings)
    p.grad = torch.ones_like(p)
    optimizer.step()
    return optimizer


# -- a state that does not fit its parameter -------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("saved, here", [((3, 4), (6, 4)), ((6, 4), (3, 4)), ((5,), (7,))])
def test_a_state_of_another_shape_is_refused(cls, saved, here):
    """The compiled loops would read beyond its end."""
    p = leaf(*here)
    optimizer = cls([p])
    optimizer.load_state_dict(stepped(cls, *saved).state_dict())
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match=r"state 'g' .*shape \(.*has shape \("):
        optimizer.step()


@BOTH
@pytest.mark.parametrize("change", [lambda x: x[:3], lambda x: torch.cat([x, x])])
def test_a_parameter_that_changes_its_shape_is_noticed(cls, change):
    p = leaf(6, 4)
    optimizer = cls([p])
    p.grad = torch.ones_like(p)
    optimizer.step()
    p.grad = None
    p.data = change(p.data)
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match="of shape"):
        optimizer.step()


@BOTH
def test_a_state_laid_out_otherwise_takes_the_parameters_strides(cls):
    """Else a model in channels_last that loads the state of a contiguous one would leave the compiled loops."""
    saved = stepped(cls, 2, 3, 4, 4)
    p = leaf(2, 3, 4, 4).detach().to(memory_format=torch.channels_last).requires_grad_()
    optimizer = cls([p])
    optimizer.load_state_dict(saved.state_dict())
    assert optimizer.state[p]["m"].stride() == p.stride()
    assert torch.equal(optimizer.state[p]["m"], next(iter(saved.state.values()))["m"])


# -- groups ----------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("how", [{"learn": ()}, {"per_group": True}])
def test_what_the_first_group_has_is_not_the_others(cls, how):
    for own in (0, 1):
        groups = [{"params": [leaf(3)]}, {"params": [leaf(3)]}]
        groups[own] |= {"betas": (0.5, 0.6)} | ({"hyper_lr": 0.3} if "per_group" in how else {})
        optimizer = cls(groups, betas=(0.9, 0.95), **how)
        q = [(it["beta1"], it["beta2"]) for it in optimizer.coefficients]
        assert q[own] == (0.5, 0.6) and q[1 - own] == (0.9, 0.95)
        rates = [group["hyper_lr"][0].item() for group in optimizer.param_groups]
        assert rates[1 - own] == (0.01 if "per_group" in how else 0.0)


def test_a_group_with_a_lion_part_of_its_own_leaves_the_others_as_they_are():
    mixed, plain, alone = leaf(3), leaf(3), leaf(3)
    for optimizer in (
        MADA([{"params": [mixed], "gamma": 0.2}, {"params": [plain]}], lr=1e-2, learn=()),
        MADA([alone], lr=1e-2, learn=()),
    ):
        for group in optimizer.param_groups:
            group["params"][0].grad = torch.ones_like(group["params"][0])
        optimizer.step()
    assert torch.equal(plain, alone) and not torch.equal(mixed, alone)


def test_a_group_added_after_loading_is_as_those_that_were_loaded():
    frozen = stepped(MADA, 3, lr=1e-2, gamma=0.2)
    frozen.freeze()
    q, new = frozen.coefficients, leaf(3)
    other = MADA([leaf(3)], lr=1e-2, learn=())
    other.load_state_dict(frozen.state_dict())
    other.add_param_group({"params": [new]})
    new.grad = torch.ones_like(new)
    other.step()
    alone = leaf(3)
    betas, rest = (q.pop("beta1"), q.pop("beta2")), q
    expected = MADA([alone], lr=1e-2, betas=betas, learn=(), **rest)
    alone.grad = torch.ones_like(alone)
    expected.step()
    torch.testing.assert_close(new, alone, rtol=1e-14, atol=0)


@pytest.mark.parametrize("corner", [{"gamma": 0.0}, {"gamma": 0.5}, {"rho": 0.0}, {"beta3": 0.5}, {"rule": "authors"}])
def test_a_group_added_to_a_fixed_state_of_another_corner_is_of_that_corner(corner):
    other, new, alone = MADA([leaf(3)], learn=()), leaf(3), leaf(3)
    other.load_state_dict(stepped(MADA, 3, learn=(), **corner).state_dict())
    other.add_param_group({"params": [new], "lr": 1e-2})
    expected = MADA([alone], lr=1e-2, learn=(), **corner)
    for t in range(3):
        new.grad, alone.grad = (torch.full_like(new, 1.0 + t) for _ in range(2))
        other.step()
        expected.step()
    torch.testing.assert_close(new, alone, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("eps", 0.0, "eps=0.0 must be positive"),
        ("rule", "athors", "rule='athors' must be one of paper, authors"),
        ("rule", "authors", "form of its own"),
        ("second_moment", "amsgrd", "second_moment='amsgrd'"),
        ("lion_betas", (2, 5), "lion_betas"),
    ],
)
def test_a_groups_constants_are_checked(key, value, words):
    with pytest.raises(ValueError, match=words):
        MADA([{"params": [leaf(3)], key: value}])


def test_coefficients_that_are_written_into_a_group_count_or_are_refused():
    written, made = (
        Lion([{"params": [leaf(2)]}, {"params": [leaf(2)]}], betas=betas) for betas in ((0.9, 0.99), (0.1, 0.2))
    )
    others = MADA([leaf(2)], learn=()), MADA([leaf(2)], learn=(), gamma=0.5, betas=(0.1, 0.2))
    for group in written.param_groups:
        group["betas"] = (0.1, 0.2)
    others[0].param_groups[0] |= {"gamma": 0.5, "betas": (0.1, 0.2)}
    for t in range(4):
        for optimizer in (written, made, *others):
            for group in optimizer.param_groups:
                group["params"][0].grad = torch.tensor([(-1.0) ** t, 0.3], dtype=torch.float64)
            optimizer.step()
    for ours, theirs in ((written, made), others):
        for mine, group in zip(ours.param_groups, theirs.param_groups, strict=True):
            assert torch.equal(mine["params"][0], group["params"][0])
    assert (
        written.coefficients == 2 * [{"beta1": 0.1, "beta2": 0.2}] and others[0].coefficients == others[1].coefficients
    )
    learning = stepped(MADA, 3)
    learning.param_groups[0]["betas"] = (0.1, 0.2)
    with pytest.raises(ValueError, match="beta1, beta2 of a param group: MADA learns"):
        learning.step()


@pytest.mark.parametrize("value, beta2", [(0.0, 0.0), ({"beta1": 0.0}, 1e-2)])
def test_rates_that_are_written_into_a_group_count(value, beta2):
    optimizer = stepped(HyperAdam, 3)
    optimizer.param_groups[0]["hyper_lr"] = value
    q = optimizer.coefficients
    optimizer.step()
    assert optimizer.coefficients["beta1"] == q["beta1"]
    assert optimizer.param_groups[0]["hyper_lr"].tolist() == [0.0, beta2]


def test_a_parameter_that_is_transposed_in_place_is_noticed():
    x = torch.arange(9.0, dtype=torch.float64).view(3, 3)
    ours, theirs = (x.clone().requires_grad_() for _ in range(2))
    mada = MADA([ours], lr=0.1, learn=())
    adamw = torch.optim.AdamW([theirs], lr=0.1, betas=(0.9, 0.95), weight_decay=0.0)
    for t in range(4):
        for p, optimizer in ((ours, mada), (theirs, adamw)):
            if t == 2:
                p.data = p.data.T
            p.grad = (x + t).sin()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def two_groups(cls, **settings):
    optimizer = cls([{"params": [leaf(2)]}, {"params": [leaf(2)]}], **settings)
    for group in optimizer.param_groups:
        group["params"][0].grad = torch.ones(2, dtype=torch.float64)
    optimizer.step()
    return optimizer


def test_what_groups_share_is_changed_once_and_cannot_differ():
    optimizer = two_groups(HyperAdam)
    for group in optimizer.param_groups:
        group["hyper_lr"] *= 0.5
    assert optimizer.param_groups[0]["hyper_lr"].tolist() == [5e-3, 5e-3]
    optimizer.step()
    for name, value in (("hyper_lr", 0.7), ("max_grad_norm", 1.0), ("hyper_clip", 0.01), ("hyper_start", 9)):
        optimizer.param_groups[1][name] = value
        with pytest.raises(ValueError, match=f"{name} of a param group: it is the same for all groups"):
            optimizer.step()
        optimizer.param_groups[0][name] = value
        optimizer.step()
    assert optimizer.param_groups[0]["hyper_lr"].tolist() == [0.7, 0.7]


def test_a_norm_of_zero_written_into_a_group_is_no_clipping():
    written, free = (stepped(MADA, 3, max_grad_norm=norm) for norm in (1.0, None))
    for group in (*written.param_groups, *free.param_groups):
        group["max_grad_norm"] = 0
    for optimizer in (written, free):
        before = optimizer.param_groups[0]["params"][0].clone()
        optimizer.step()
        assert not torch.equal(optimizer.param_groups[0]["params"][0], before)


@pytest.mark.parametrize("settings", [{"learn": ()}, {"per_group": True}, {}])
def test_groups_of_one_optimizer_make_another(settings):
    old = two_groups(MADA, **settings)
    assert MADA(old.param_groups, **settings).coefficients == old.coefficients


def test_betas_of_the_groups_of_an_adamw_checkpoint_stay_theirs():
    """Fixed, both go on as AdamW does; learning with common coefficients, that is impossible."""

    def groups():
        return [{"params": [leaf(2)], "betas": betas} for betas in ((0.9, 0.95), (0.5, 0.8))]

    def train(optimizer, steps):
        for t in steps:
            for group in optimizer.param_groups:
                group["params"][0].grad = torch.tensor([(-1.0) ** t, 0.3 + t], dtype=torch.float64)
            optimizer.step()

    adamw = torch.optim.AdamW(groups(), lr=0.1, weight_decay=0.0)
    train(adamw, range(3))
    ours = copy.deepcopy([{"params": group["params"]} for group in adamw.param_groups])
    mada = MADA(ours, learn=())
    mada.load_state_dict(adamw.state_dict())
    for optimizer in (adamw, mada):
        train(optimizer, range(3, 8))
    for a, b in zip(adamw.param_groups, ours, strict=True):
        torch.testing.assert_close(a["params"][0], b["params"][0], rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="different betas, and those of MADA share theirs; pass per_group=True"):
        MADA([{"params": [leaf(2)]}, {"params": [leaf(2)]}]).load_state_dict(adamw.state_dict())


def test_integers_are_refused_and_lazy_parameters_can_be_printed():
    with pytest.raises(ValueError, match="a parameter has dtype torch.int64"):
        MADA([torch.zeros(2, dtype=torch.int64)])
    assert "0 elements" in repr(MADA(torch.nn.LazyLinear(3).parameters()))


def test_a_group_added_to_a_frozen_state_that_learns_learns():
    learning = stepped(HyperAdam, 3)
    other = HyperAdam([leaf(3)])
    other.freeze()
    other.load_state_dict(learning.state_dict())
    other.add_param_group({"params": [leaf(3)]})
    assert {group["learn"] for group in other.param_groups} == {"beta1 beta2"}


def test_a_complex_group_is_refused_and_not_kept():
    optimizer = stepped(MADA, 3)
    with pytest.raises(ValueError, match="view_as_real"):
        optimizer.add_param_group({"params": [torch.zeros(2, dtype=torch.complex64, requires_grad=True)]})
    assert len(optimizer.param_groups) == 1


def test_a_mark_written_onto_vectors_is_refused():
    matrix, vector = torch.ones(2, 2, requires_grad=True), torch.ones(3, requires_grad=True)
    optimizer = MADA([{"params": [matrix], "muon": True}, {"params": [vector]}], mu=1.0)
    optimizer.param_groups[1]["muon"] = True
    vector.grad = torch.ones(3)
    with pytest.raises(ValueError, match="muon=True is for matrices.*shape .3,."):
        optimizer.step()


@pytest.mark.parametrize("shape", [(3,), ()])
def test_muon_is_for_matrices(shape):
    with pytest.raises(ValueError, match="muon=True is for matrices"):
        MADA([{"params": [leaf(*shape)], "muon": True}], mu=1.0)


# -- gradients that come, go or are not finite -----------------------------------------------------------------------


def wave(i, t, p):
    return torch.sin(torch.arange(4, dtype=torch.float64) + t + i) + p.detach()


@BOTH
@pytest.mark.parametrize("rebuilt", [False, True])
def test_a_skipped_step_leaves_nothing_to_complete(cls, rebuilt):
    """A parameter gets its gradient back in a step that is skipped: there is no last update of it."""
    runs = []
    for skip in (False, True):
        params = [leaf(4), leaf(4)]
        optimizer = cls(params, lr=0.1)
        for t in range(8):
            if t == 6 and skip:
                for i, p in enumerate(params):
                    p.grad = torch.full_like(p, torch.nan if i else 1.0)
                optimizer.step()
                if rebuilt:
                    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            for i, p in enumerate(params):
                p.grad = None if (i, t) == (1, 5) else wave(i, t, p)
            optimizer.step()
        runs.append((params, optimizer.coefficients))
    (before, q), (after, other) = runs
    assert q == other and all(map(torch.equal, before, after))


def test_a_step_that_was_interrupted_is_taken_again(monkeypatch):
    runs = []
    for fails in (False, True):
        p = torch.sin(torch.arange(12.0, dtype=torch.float64)).view(4, 3).requires_grad_()
        optimizer = MADA([{"params": [p], "muon": True}], mu=0.3, learn=("beta1", "mu"), lr=1e-2)
        for t in range(6):
            p.grad = torch.sin(p.detach() * 3 + t)
            if fails and t == 3:
                with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="out of memory"):
                    patch.setattr(inputs_module, "computed_in_shares", out_of_memory)
                    optimizer.step()
            optimizer.step()
        runs.append((p.detach(), optimizer.coefficients, float(optimizer.state[p]["step"])))
    assert torch.equal(runs[0][0], runs[1][0]) and runs[0][1:] == runs[1][1:]


def out_of_memory(*_):
    raise RuntimeError("out of memory")


@BOTH
def test_the_gradients_go_when_the_user_lets_them_go(cls):
    p = leaf(10)
    optimizer = cls([p])
    for _ in range(3):
        p.grad = torch.ones_like(p)
        optimizer.step()
    there = weakref.ref(p.grad)
    optimizer.zero_grad()
    gc.collect()
    assert there() is None


def test_a_hyper_gradient_that_overflows_moves_nothing():
    make = torch.Generator().manual_seed(0)
    p = leaf(2000, dtype=torch.float32)
    optimizer, overflown = MADA([p], lr=1e-3, eps=1e-20), False
    for _ in range(6):
        p.grad = torch.randn(2000, generator=make) * 10.0 ** (torch.rand(2000, generator=make) * 30 - 28)
        optimizer.step()
        overflown |= not torch.tensor([*optimizer.hyper_gradients.values()]).isfinite().all()
        assert not torch.tensor([*optimizer.hyper_gradients.values()]).isnan().any()  # it would be in checkpoints
    assert overflown  # or this shows nothing
    q, hyper = optimizer.coefficients, optimizer.plan.hyper
    hyper.descend(torch.full_like(hyper.h, torch.nan), torch.ones(1).double(), torch.tensor(True))
    assert optimizer.coefficients == q and {*optimizer.hyper_gradients.values()} == {torch.inf}
    q = optimizer.coefficients
    assert q["beta2"] > 0.9 and q["c"] > 0.9 and q["rho"] > 0.9


def test_momentum_of_one_is_refused():
    with pytest.raises(ValueError, match="hyper_momentum: 'beta1' needs a number in"):
        MADA([leaf(3)], hyper_momentum=1.0)


def test_clipping_to_zero_is_no_clipping():
    p = leaf(3)
    optimizer = MADA([p], max_grad_norm=0)
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert p.abs().min() > 0


# -- loading ---------------------------------------------------------------------------------------------------------


def matrices():
    return [{"params": [leaf(3, 3)], "muon": True}]


def test_mu_is_not_taken_for_a_learned_rate():
    mu = MADA(matrices(), learn=("beta1", "beta2", "mu"))
    rate = MADA(matrices(), grow_lr=True)
    for saved, here in ((mu, rate), (rate, mu)):
        with pytest.raises(ValueError, match="same grow_lr, learn and mu"):
            here.load_state_dict(saved.state_dict())
        old = saved.state_dict()  # from before names were kept
        for group in old["param_groups"]:
            del group["names"]
        with pytest.raises(ValueError, match="same grow_lr, learn and mu"):
            here.load_state_dict(old)


@pytest.mark.parametrize("saved", [HyperAdam, AVGrad])
def test_a_state_of_another_rule_is_refused(saved):
    with pytest.raises(ValueError, match="which Lion does not have"):
        Lion([leaf(3)]).load_state_dict(stepped(saved, 3).state_dict())


@pytest.mark.parametrize(
    "saved, cls, lacking", [(Lion, HyperAdam, "v"), (Lion, AVGrad, "v, v_avg"), (Yogi, AVGrad, "v_avg")]
)
def test_a_state_that_lacks_a_buffer_is_refused(saved, cls, lacking):
    with pytest.raises(ValueError, match=f"lacks the buffers {lacking}, which {cls.__name__} needs"):
        cls([leaf(3)]).load_state_dict(stepped(saved, 3).state_dict())


@pytest.mark.parametrize("cls", [AVGrad, Yogi, HyperAdam, MADA])
def test_after_adamws_checkpoint_steps_are_as_long_as_before(cls):
    x = leaf(1000)
    adamw = torch.optim.AdamW([x], lr=1e-3, betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        x.grad = torch.randn(x.shape, generator=generator, dtype=x.dtype) + 0.5
        before = x.detach().clone()
        adamw.step()
    usual = (x - before).square().mean().sqrt()
    ours = cls([x], lr=1e-3)
    ours.load_state_dict(adamw.state_dict())
    before = x.detach().clone()
    ours.step()
    assert 0.9 < (x - before).square().mean().sqrt() / usual < 1.1


def test_yogis_state_is_hyperadams():
    HyperAdam([leaf(3)]).load_state_dict(stepped(Yogi, 3).state_dict())


@pytest.mark.parametrize("cls", [torch.optim.NAdam, torch.optim.SGD])
def test_a_state_of_none_of_ours_is_refused(cls):
    p = leaf(3)
    other = cls([p], lr=1e-2)
    p.grad = torch.ones_like(p)
    other.step()
    with pytest.raises(ValueError, match="neither MADA nor AdamW"):
        MADA([leaf(3)]).load_state_dict(other.state_dict())


def test_adams_coupled_decay_is_not_taken_for_adamws():
    p = leaf(3, value=1.0)
    adam = torch.optim.Adam([p], weight_decay=0.1, betas=(0.9, 0.95))
    p.grad = torch.ones_like(p)
    adam.step()
    with pytest.raises(ValueError, match="weight_decay of Adam is an L2 penalty"):
        MADA([leaf(3)]).load_state_dict(adam.state_dict())
    adam.param_groups[0]["weight_decay"] = 0.0
    MADA([leaf(3)]).load_state_dict(adam.state_dict())


def test_amsgrads_checkpoint_goes_on_as_amsgrad_or_not_at_all():
    p = leaf(3, value=1.0)
    adamw = torch.optim.AdamW([p], betas=(0.9, 0.95), amsgrad=True, weight_decay=0.0)
    for size in (1.0, 0.1):
        p.grad = torch.full_like(p, size)
        adamw.step()
    with pytest.raises(ValueError, match="amsgrad=True, which MADA goes on from with amsgrad=True only"):
        MADA([p]).load_state_dict(adamw.state_dict())
    with pytest.raises(ValueError, match="which MADA goes on from with amsgrad=True only"):
        MADA([p], second_moment="amsgrad").load_state_dict(adamw.state_dict())
    with pytest.raises(ValueError, match="which HyperAdam does not have"):
        HyperAdam([p]).load_state_dict(adamw.state_dict())
    ours = MADA([p], amsgrad=True, learn=())
    ours.load_state_dict(adamw.state_dict())
    before = p.detach().clone()
    adamw.step()
    after = p.detach().clone()
    p.data.copy_(before)
    ours.step()
    torch.testing.assert_close(p.detach(), after, rtol=1e-6, atol=0)


def test_other_groups_are_said():
    adamw = torch.optim.AdamW([{"params": [leaf(3)]}, {"params": [leaf(3)]}])
    with pytest.raises(ValueError, match="different number of parameter groups"):
        MADA([leaf(3)]).load_state_dict(adamw.state_dict())


@BOTH
def test_pre_hooks_of_loading_are_heard(cls):
    """torch's way to match parameters by name."""
    params = [leaf(2), leaf(2)]
    saved = cls(params)
    for p, value in zip(params, (1.0, 100.0), strict=True):
        p.grad = torch.full_like(p, value)
    saved.step()
    here = [leaf(2), leaf(2)]
    optimizer = cls(here)
    optimizer.register_load_state_dict_pre_hook(
        lambda _, given: given | {"state": {0: given["state"][1], 1: given["state"][0]}}
    )
    optimizer.load_state_dict(saved.state_dict())
    assert [optimizer.state[p]["g"][0].item() for p in here] == [100.0, 1.0]
    optimizer.load_state_dict(optimizer.state_dict())  # ours is gone after the call, the user's is not
    assert len(optimizer._optimizer_load_state_dict_pre_hooks) == 1


# -- what build() makes of torch's -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sgd", "adam", "muon", "mada"])
def test_a_closures_gradients_are_clipped_and_looked_at(name):
    p = leaf(4, 4)
    optimizer = optim.build(name, [p], hidden=[p], lr=0.1, max_grad_norm=1.0)
    calls = []

    def closure(scale=1000.0):
        optimizer.zero_grad()
        loss = (p * scale).sum()
        loss.backward()
        calls.append(scale)
        return loss

    assert optimizer.step(closure).item() == 0.0 and len(calls) == 1
    assert float(optimizer.grad_norm) == 4000.0
    before = p.detach().clone()
    optimizer.step(closure=lambda: closure(torch.nan))
    assert len(calls) == 2 and torch.equal(p, before) and optimizer.skipped_steps == 1


def test_muon_is_copied_and_refuses_what_it_would_not_step():
    p = leaf(4, 4)
    optimizer = optim.build("muon", [p], hidden=[p], lr=0.1)
    p.grad = torch.ones_like(p)
    optimizer.step()
    other, q = copy.deepcopy((optimizer, p))
    for each, x in ((optimizer, p), (other, q)):
        x.grad = torch.full_like(x, 2.0)
        each.step()
    assert torch.equal(p, q)
    with pytest.raises(ValueError, match="takes no more groups"):
        optimizer.add_param_group({"params": [leaf(2)]})


# -- the cache of compiled loops -------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_leaves_its_parents_folder():
    text = """if True:
        import os, sys
        sys.path.insert(0, sys.argv[1])
        from optim.compile import temporary
        folder = temporary()
        child = os.fork()
        if not child:
            sys.exit(0)
        os.waitpid(child, 0)
        print(folder.exists(), folder)
    """
    done = subprocess.run([sys.executable, "-c", text, os.path.dirname(os.path.dirname(optim.__file__))],
                          capture_output=True, text=True, check=True)  # fmt: skip
    there, folder = done.stdout.split()
    assert there == "True" and not os.path.exists(folder)  # and the parent takes it away at its end


# -- settings of a group ---------------------------------------------------------------------------------------------


def test_a_group_may_maximize_what_the_other_minimizes():
    runs = []
    for climbs in (False, True):
        p, q = leaf(4), leaf(4)
        own = MADA([{"params": [p]}, {"params": [q], "maximize": climbs}], lr=0.1, max_grad_norm=1.0)
        for t in range(6):
            wave = torch.sin(torch.arange(4, dtype=torch.float64) + t)
            p.grad, q.grad = wave, (1 - 2 * climbs) * wave.cos()
            own.step()
        runs.append(([p.detach(), q.detach()], own.coefficients))
    torch.testing.assert_close(*runs, rtol=0, atol=1e-12)


def test_a_constant_may_change_between_two_steps():
    ours, theirs = leaf(4), leaf(4)
    adam = torch.optim.AdamW([theirs], lr=0.1, betas=(0.9, 0.95), weight_decay=0.0)
    both = {ours: MADA([ours], lr=0.1, learn=()), theirs: adam}
    for t in range(6):
        for p, optimizer in both.items():
            if t == 3:
                optimizer.param_groups[0]["eps"] = 0.1
            p.grad = torch.sin(torch.arange(4, dtype=torch.float64) + t)
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


# -- what a later group starts from ----------------------------------------------------------------------------------


def loaded(optimizer):
    optimizer.load_state_dict(optimizer.state_dict())
    return optimizer


@pytest.mark.parametrize("again", [copy.deepcopy, loaded])
def test_a_group_added_to_a_copy_is_not_one_of_muons(again):
    own = again(MADA([{"params": [leaf(3, 3)], "muon": True}, {"params": [leaf(3)]}], mu=1.0, learn=("mu",)))
    own.add_param_group({"params": [leaf(3, 3)]})
    assert [group["muon"] for group in own.param_groups] == [True, False, False]
    assert own.param_groups[-1]["inputs"] == ""


@pytest.mark.parametrize("again", [copy.deepcopy, loaded])
def test_a_group_added_to_a_copy_has_the_optimizers_constants(again):
    own = again(MADA([{"params": [leaf(3)], "eps": 0.5}, {"params": [leaf(3)]}]))
    own.add_param_group({"params": [leaf(3)]})
    assert [group["eps"] for group in own.param_groups] == [0.5, 1e-8, 1e-8]


def test_a_later_group_starts_from_coefficients_that_were_written():
    p, q = leaf(1), leaf(1)
    own = MADA([p], lr=0.1, learn=())
    own.param_groups[0]["gamma"] = 0.5
    p.grad = torch.ones_like(p)
    own.step()
    own.add_param_group({"params": [q]})
    q.grad = torch.ones_like(q)
    own.step()
    assert q.item() == pytest.approx(-0.1)  # half Adam's step, half Lion's


def test_a_later_group_is_clipped_as_the_loaded_ones():
    own = MADA([leaf(3)])
    own.load_state_dict(MADA([leaf(3)], max_grad_norm=1.0).state_dict())
    own.add_param_group({"params": [p := leaf(3)]})
    p.grad = torch.ones_like(p)
    own.step()
    assert [group["max_grad_norm"] for group in own.param_groups] == [1.0, 1.0]


def test_groups_that_have_learned_make_another_optimizer():
    p, q = leaf(3), leaf(3)
    old = MADA([p], hyper_lr=0.1)
    for t in range(5):
        p.grad = torch.full_like(p, 1.0 + t)
        old.step()
    assert old.coefficients != MADA([q]).coefficients
    assert MADA(old.param_groups, hyper_lr=0.1).coefficients == old.coefficients
    old.add_param_group({**old.param_groups[0], "params": [q]})
    assert len(old.param_groups) == 2


# -- loading, once more ----------------------------------------------------------------------------------------------


def test_what_a_post_hook_does_to_a_loaded_state_stays():
    own = stepped(MADA, 3)
    own.register_load_state_dict_post_hook(lambda it: [state["m"].zero_() for state in it.state.values()])
    own.load_state_dict(own.state_dict())
    assert all(not state["m"].any() for state in own.state.values())


def test_adamws_betas_are_found_by_name():
    class Own(MADA):
        domain = MappingProxyType(dict(reversed(MADA.domain.items())))

        def __init__(self, params):
            values = {"beta1": 0.9, "beta2": 0.95, "beta3": 0.0, "rho": 1.0, "c": 1.0, "gamma": 1.0}
            constants = {"eps": 1e-8, "lion_betas": (0.95, 0.98), "rule": "paper", "second_moment": "avgrad"}
            coefficients = {name: values[name] for name in self.domain}
            optim.ParameterizedOptimizer.__init__(
                self, params, lr=0.1, coefficients=coefficients, learn=(), constants=constants | {"muon": False}
            )

    p = leaf(3)
    adamw = torch.optim.AdamW([p], betas=(0.8, 0.999))
    p.grad = torch.ones_like(p)
    adamw.step()
    own = Own([leaf(3)])
    own.load_state_dict(adamw.state_dict())
    assert own.coefficients == {"gamma": 1.0, "c": 1.0, "rho": 1.0, "beta3": 0.0, "beta2": 0.999, "beta1": 0.8}


def test_a_state_from_before_the_first_step_resets_muon():
    p, q = leaf(3, 3), leaf(3)
    own = optim.build("muon", [{"params": [p], "muon": True}, {"params": [q], "muon": False}], lr=0.1)
    start = copy.deepcopy(own.state_dict())
    for t in range(2):
        p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
        own.step()
    own.load_state_dict(start)
    assert not own.state and not any(part.state for part in own.parts)


# -- what does not fit -----------------------------------------------------------------------------------------------


def test_a_gradient_that_is_stored_with_the_other_sign():
    """Autograd leaves such a one behind complex numbers: memory holds -1, the tensor is 1."""
    moved = []
    for lazy in (True, False):
        p = torch.zeros(1, requires_grad=True)
        grad = torch.tensor([1j]).conj().imag  # -1, as a view that negates
        assert grad.is_neg() and grad.item() == -1
        p.grad = grad if lazy else torch.tensor([-1.0])
        MADA([p], lr=0.1).step()
        moved.append(p.item())
    assert moved[0] == moved[1] > 0


@pytest.mark.parametrize("how", ["listed twice", "tied by data"])
def test_parameters_that_share_memory_are_refused(how):
    p = torch.ones(3, requires_grad=True)
    q = p if how == "listed twice" else torch.nn.Parameter(p.data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of what is listed twice
        optimizer = HyperAdam([p, q])
    p.grad, q.grad = torch.ones(3), torch.ones(3)
    with pytest.raises(RuntimeError, match="two parameters share the memory of one of shape .3,."):
        optimizer.step()
    assert torch.equal(p, torch.ones(3))


def test_a_gradient_of_another_shape_is_refused(monkeypatch):
    """As a whole gradient is, of a parameter that is in shards."""
    p = leaf(4)
    own = MADA([p])
    p.grad = torch.ones_like(p)
    own.step()
    before = p.detach().clone()

    class Whole(torch.Tensor):
        pass

    p.grad = torch.ones(4, dtype=torch.float64).as_subclass(Whole)
    monkeypatch.setattr(plan, "local_gradient", lambda p: torch.ones(8, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="a gradient of shape .8,. .* holds .4,."):
        own.step()
    assert torch.equal(p, before)


def test_a_freeze_that_fails_loses_no_gradient():
    p = leaf(3)
    own = MADA([p])
    p.grad = torch.ones_like(p)
    own.step()
    own.param_groups[0]["max_grad_norm"] = -1.0
    with pytest.raises(ValueError, match="max_grad_norm"):
        own.freeze()
    assert p.grad is not None


def test_an_optimizer_of_parameters_without_data_can_be_made_and_read():
    own = MADA([{"params": [torch.zeros(3, device="meta", requires_grad=True)]}, {"params": [leaf(2)]}])
    assert own.coefficients["beta1"] == 0.9


@pytest.mark.parametrize("switched_on", [{"rho": 0.5}, {"gamma": 0.5}, {"beta3": 0.5}])
def test_a_part_cannot_be_switched_on_in_mid_run(switched_on):
    p = leaf(3)
    own = MADA([p], learn=())
    p.grad = torch.ones_like(p)
    own.step()
    before = p.detach().clone()
    own.param_groups[0].update(switched_on)
    with pytest.raises(ValueError, match="kept since the first step"):
        own.step()
    assert torch.equal(p, before)
    own.param_groups[0].pop(*switched_on)
    own.step()
    assert not torch.equal(p, before)


def test_a_step_in_a_cuda_graph_is_refused(monkeypatch):
    own = stepped(MADA, 3)
    for name in ("is_initialized", "is_current_stream_capturing"):
        monkeypatch.setattr(torch.cuda, name, lambda: True)
    with pytest.raises(RuntimeError, match="cannot be captured in a CUDA graph"):
        own.step()


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("hyper_optimizer", "adamw", "hyper_optimizer='adamw' must be one of sgd, sign, adam"),
        ("hyper_clip", -1.0, "hyper_clip=-1.0 must be a number"),
        ("hyper_start", "soon", "hyper_start='soon' must be a number"),
        ("hyper_scale", "raw", "hyper_scale of a param group: it cannot be written"),
        ("hyper_lr", torch.tensor([0.1, 0.2]), "hyper_lr: 'beta1' needs a number"),  # not one for each coefficient
        ("hyper_momentum", torch.tensor([0.1] * 7), "hyper_momentum: 'beta1' needs a number"),
    ],
)
def test_how_coefficients_learn_is_checked_where_it_is_written(name, value, words):
    p = torch.ones(3, requires_grad=True)
    optimizer = MADA([p])
    p.sum().backward()
    optimizer.step()
    optimizer.param_groups[0][name] = value
    before = p.detach().clone(), optimizer.coefficients
    with pytest.raises(ValueError, match=words):
        optimizer.step()
    assert torch.equal(p, before[0]) and optimizer.coefficients == before[1]


def test_bounds_of_another_optimizers_groups_are_not_taken():
    old = MADA([torch.ones(3, requires_grad=True)], domain={"beta1": (0.5, 0.95)})
    new = MADA(old.param_groups, domain={"beta1": (0.85, 0.95)})
    assert new.param_groups[0]["bounds"][0].tolist() == [0.85, 0.95]
    assert MADA(old.param_groups).param_groups[0]["bounds"][0].tolist() == list(MADA.domain["beta1"])


def test_a_rate_beside_a_tensor_is_as_exact_as_alone():
    params = [torch.ones(3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    mixed = MADA([{"params": params[:1], "lr": torch.tensor(0.5)}, {"params": params[1:2], "lr": 3e-4}], learn=())
    alone = MADA(params[2:], lr=3e-4, learn=())
    for optimizer in (mixed, alone):
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
    assert torch.equal(params[1], params[2])


@pytest.mark.parametrize("learn", [("beta1", "beta2"), ()])
def test_a_step_is_a_change_that_autograd_sees(learn):
    """A graph from before the step must not be run through with the parameters from after it, as torch has it."""
    p, unused = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    optimizer = MADA([p, unused], learn=learn)
    one, two, three = p.sum(), (p * p).sum(), (unused * unused).sum()
    one.backward()
    optimizer.step()
    three.backward()  # it has had no gradient, and has not changed
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        two.backward()


@pytest.mark.parametrize("value", ["", "beta1", ("beta1",)])
def test_learning_does_not_end_by_writing(value):
    """The last update would never be completed: freeze() does that."""
    optimizer = stepped(MADA, 3)
    optimizer.param_groups[0]["learn"] = value
    with pytest.raises(ValueError, match="learn of a param group: it cannot be written; freeze"):
        optimizer.step()


@pytest.mark.parametrize("name, value", [("rule", "athors"), ("eps", 0.0), ("second_moment", "adagrad")])
def test_constants_that_are_written_into_a_group_are_checked(name, value):
    optimizer = stepped(MADA, 3)
    optimizer.param_groups[0][name] = value
    with pytest.raises(ValueError, match=name):
        optimizer.step()


def test_a_constant_that_needs_another_part_counts_before_the_first_step_only():
    settings = {"rho": 0.5, "c": 0.5, "learn": ()}
    made, written = (MADA([leaf(3)], **settings, **more) for more in ({"second_moment": "amsgrad"}, {}))
    written.param_groups[0]["second_moment"] = "amsgrad"
    for t in range(4):
        for optimizer in (made, written):
            optimizer.param_groups[0]["params"][0].grad = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64) / (t + 1)
            optimizer.step()
    assert torch.equal(made.param_groups[0]["params"][0], written.param_groups[0]["params"][0])
    late = stepped(MADA, 3, **settings)
    late.param_groups[0]["second_moment"] = "amsgrad"
    with pytest.raises(ValueError, match="a constant of a param group: it needs v_mixed"):
        late.step()


def test_a_groups_constant_may_be_a_tensor():
    given, written, plain = (MADA([{"params": [leaf(3)], "eps": eps}]) for eps in (torch.tensor(0.1), 1e-8, 0.1))
    written.param_groups[0]["eps"] = torch.tensor(0.1)
    for optimizer in (given, written, plain):
        optimizer.param_groups[0]["params"][0].grad = torch.ones(3, dtype=torch.float64)
        optimizer.step()
    steps = [optimizer.param_groups[0]["params"][0] for optimizer in (given, written, plain)]
    torch.testing.assert_close(steps[0], steps[2], rtol=1e-8, atol=0)  # 0.1 in float32
    torch.testing.assert_close(steps[1], steps[2], rtol=1e-8, atol=0)


@pytest.mark.parametrize("again", [copy.deepcopy, loaded])
def test_a_group_added_to_a_copy_has_the_optimizers_coefficients(again):
    optimizer = again(Lion([{"params": [leaf(2)], "betas": (0.5, 0.6)}, {"params": [leaf(2)]}]))
    optimizer.add_param_group({"params": [leaf(2)]})
    assert list(optimizer.coefficients[2].values()) == [0.9, 0.99]


def test_a_wide_state_stays_wide_after_adamws_checkpoint():
    p = leaf(5, dtype=torch.bfloat16)
    adamw = torch.optim.AdamW([p])
    p.grad = torch.ones_like(p)
    adamw.step()
    optimizer = MADA([p], state_dtype=torch.float32)
    optimizer.load_state_dict(adamw.state_dict())
    optimizer.step()
    kept = {name: x.dtype for name, x in optimizer.state[p].items() if x.shape == p.shape}
    assert {"m", "v", "s", "g", "l"} <= kept.keys() and {*kept.values()} == {torch.float32}


def test_planning_looks_at_each_parameter_once(monkeypatch):
    """Where scalars live was asked for each parameter, by a look at all of them."""
    looked = [0]

    class Counted(torch.nn.Parameter):
        @property
        def device(self):
            looked[0] += 1
            return torch.Tensor.device.__get__(self)

    counts = []
    for n in (20, 40):
        params = [Counted(torch.zeros(2)) for _ in range(n)]
        optimizer = Yogi(params)
        for p in params:
            p.grad = torch.ones(2)
        looked[0] = 0
        optimizer.step()
        counts.append(looked[0])
    assert counts[1] < 3 * counts[0]
