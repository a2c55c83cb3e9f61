"""Beyond the paper: a rule of one's own, coefficients per group, a learned learning rate, hyper-optimizers, freeze().

python -m pytest tests/optim/test_extensions.py
"""

import copy
import importlib.util
import pickle
import sys
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from every import ALL
from reference import optimizers as reference
from reference import problem

import optim
from optim import MADA, HyperAdam, ParameterizedOptimizer

EXACT = {"rtol": 0, "atol": 0}
CLOSE = {"rtol": 1e-12, "atol": 1e-12}
RAW = {"hyper_scale": "raw"}
START = {"betas": (0.8, 0.9), "beta3": 0.4, "rho": 0.5, "c": 0.5, "gamma": 0.6}


def example(name):
    """examples/<name>.py, imported."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


adabelief, adam_mini = example("adabelief"), example("adam_mini")


def run(make, steps=20, **settings):
    params = problem.parameters()
    optimizer = make(list(params.values()), lr=0.02, **settings)
    problem.train(optimizer, params, range(1, steps + 1))
    return [p.detach() for p in params.values()], optimizer


class AdaBelief(reference.Plain):
    """Zhuang et al. (2020), Algorithm 2, with bias correction."""

    defaults = MappingProxyType({"betas": (0.9, 0.95), "eps": 1e-8})

    def direction(self, g, state, betas, eps):
        state["m"] = betas[0] * state.get("m", 0) + (1 - betas[0]) * g
        state["s"] = betas[1] * state.get("s", 0) + (1 - betas[1]) * (g - state["m"]) ** 2 + eps
        m, s = state["m"] / (1 - betas[0] ** state["t"]), state["s"] / (1 - betas[1] ** state["t"])
        return m / (s.sqrt() + eps)


def test_a_rule_of_ones_own_has_both_its_corners():
    torch.testing.assert_close(run(adabelief.BeliefMADA, tau=0.0, learn=())[0], run(AdaBelief)[0], **CLOSE)
    torch.testing.assert_close(
        run(adabelief.BeliefMADA, tau=1.0, learn=(), **START)[0], run(MADA, learn=(), **START)[0], **CLOSE
    )


def test_a_rule_of_ones_own_learns_its_coefficient():
    """The hyper-gradient of tau is the derivative of the next loss, by central differences."""

    def second_loss(tau, learn=()):
        params = problem.parameters()
        optimizer = adabelief.BeliefMADA(
            list(params.values()), lr=0.02, tau=tau, learn=learn, hyper_lr=0.1, **RAW, **START
        )
        problem.train(optimizer, params, [1, 2, 3])
        return problem.loss(params, 4).item(), params, optimizer

    _, params, optimizer = second_loss(0.4, learn=("tau",))
    before = optimizer.coefficients["tau"]
    optimizer.zero_grad()
    problem.loss(params, 4).backward()
    optimizer.step()
    h = optimizer.hyper_gradients["tau"]

    def last_step_with(tau):
        """The same three steps, the third of them with another tau."""
        params = problem.parameters()
        optimizer = adabelief.BeliefMADA(
            list(params.values()), lr=0.02, tau=0.4, learn=("tau",), hyper_lr=0.1, **RAW, **START
        )
        problem.train(optimizer, params, [1, 2])
        optimizer.zero_grad()
        problem.loss(params, 3).backward()
        for group in optimizer.param_groups:
            group["hyper_lr"] = torch.zeros_like(group["hyper_lr"])
        q = optimizer.param_groups[0]["coefficients"]
        optimizer.param_groups[0]["bounds"][-1] = q.new_tensor([tau, tau])  # projected there before the update
        optimizer.step()
        return problem.loss(params, 4).item()

    step = 1e-5
    assert h == pytest.approx((last_step_with(before + step) - last_step_with(before - step)) / (2 * step), rel=1e-5)


def test_coefficients_per_group_are_those_of_separate_optimizers():
    together, apart = problem.parameters(), problem.parameters()
    settings = dict(START, lr=0.02, hyper_lr=0.05, hyper_momentum=0.5)
    one = MADA([{"params": [p]} for p in together.values()], per_group=True, **settings)
    several = [MADA([p], **settings) for p in apart.values()]
    for t in range(1, 11):
        for params, optimizers in ((together, [one]), (apart, several)):
            for optimizer in optimizers:
                optimizer.zero_grad()
            problem.loss(params, t).backward()
            for optimizer in optimizers:
                optimizer.step()
    torch.testing.assert_close(together, apart, **CLOSE)
    assert len({values["beta1"] for values in one.coefficients}) == 3
    for values, optimizer in zip(one.coefficients, several, strict=True):
        assert values == pytest.approx(optimizer.coefficients, abs=1e-12)


def test_a_learned_factor_on_the_learning_rate():
    """It starts at 1, its derivative is that of the next loss along the last update, and it stays in its range."""
    params, optimizer = run(MADA, steps=1, learn=("lr",), hyper_lr=0.3, **START)
    assert optimizer.coefficients["lr"] == 1
    before = problem.parameters()
    params = problem.parameters()
    optimizer = MADA(list(params.values()), lr=0.02, learn=("lr",), hyper_lr=0.3, **RAW, **START)
    problem.train(optimizer, params, [1, 2])
    after_one = problem.parameters()
    problem.train(MADA(list(after_one.values()), lr=0.02, learn=(), **START), after_one, [1])
    loss = problem.loss(after_one, 2)
    gradient = torch.autograd.grad(loss, list(after_one.values()))
    update = [a.detach() - b.detach() for a, b in zip(after_one.values(), before.values(), strict=True)]
    h = sum((g * u).sum() for g, u in zip(gradient, update, strict=True)).item()
    assert optimizer.hyper_gradients["lr"] == pytest.approx(h, rel=1e-10)
    assert optimizer.coefficients["lr"] == pytest.approx(1 - 0.3 * h, rel=1e-10)
    _, optimizer = run(MADA, learn=("lr", *ALL), hyper_lr=5.0, lr_range=(0.9, 1.1), **RAW, **START)
    assert 0.9 <= optimizer.coefficients["lr"] <= 1.1


@pytest.mark.parametrize(
    "name, theirs",
    {
        "sgd": lambda q: torch.optim.SGD(q, lr=1e-3, momentum=0.5),
        "adam": lambda q: torch.optim.Adam(q, lr=1e-3, betas=(0.5, 0.999), eps=1e-12),
    }.items(),
)
def test_hyper_optimizers_are_torchs(name, theirs):
    params = problem.parameters()
    optimizer = MADA(
        list(params.values()), lr=0.02, hyper_optimizer=name, hyper_lr=1e-3, hyper_momentum=0.5, **RAW, **START
    )
    q = torch.tensor(list(optimizer.coefficients.values()), dtype=torch.float64, requires_grad=True)
    theirs = theirs([q])
    for t in range(1, 11):
        problem.train(optimizer, params, [t])
        q.grad = torch.tensor(list(optimizer.hyper_gradients.values()), dtype=torch.float64)
        theirs.step()
    assert list(optimizer.coefficients.values()) == pytest.approx(q.tolist(), abs=1e-12)


def test_hyper_adam_begins_where_hyper_start_says():
    """Its first step is then hyper_lr long, as Adam's is, however late."""
    p = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = HyperAdam([p], hyper_optimizer="adam", hyper_lr=1e-3, hyper_momentum=0.9, hyper_start=50)
    for t in range(51):
        p.grad = torch.sin(torch.arange(4.0, dtype=torch.float64) + t)
        before = optimizer.coefficients["beta1"]
        optimizer.step()
        moved = abs(optimizer.coefficients["beta1"] - before)
        assert moved == 0 if t < 50 else 0.9e-3 < moved < 1.1e-3


def test_sign_moves_by_hyper_lr_whatever_the_size():
    (_, before), (_, after) = (
        run(MADA, steps=n, hyper_optimizer="sign", hyper_lr=1e-3, **RAW, **START) for n in (3, 4)
    )
    for key, h in after.hyper_gradients.items():
        assert after.coefficients[key] - before.coefficients[key] == pytest.approx(-1e-3 if h > 0 else 1e-3, abs=1e-12)


@pytest.mark.parametrize(
    "settings, buffers",
    [
        (START, 6),
        ({"learn": ("beta1", "rho")}, 3),
        ({"learn": ("beta1",)}, 2),
        (dict(START, rule="authors"), 5),
        ({"learn": ("beta1", "lr")}, 2),
        ({"learn": ("beta1",), "grow_lr": True, "weight_decay": 0.1}, 2),
    ],
)
def test_freeze_is_the_fixed_optimizer_from_there_on(settings, buffers):
    """The same steps as with hyper_lr = 0, without the state that only learning needs."""
    frozen, moving = problem.parameters(), problem.parameters()
    optimizers = [
        MADA(list(params.values()), lr=0.02, hyper_lr=hyper_lr, **settings)
        for params, hyper_lr in ((frozen, 0.05), (moving, 0.05))
    ]
    for optimizer, params in zip(optimizers, (frozen, moving), strict=True):
        problem.train(optimizer, params, range(1, 8))
    optimizers[0].freeze()
    for group in optimizers[1].param_groups:
        group["hyper_lr"] = torch.zeros_like(group["hyper_lr"])
    q = optimizers[0].coefficients
    for optimizer, params in zip(optimizers, (frozen, moving), strict=True):
        problem.train(optimizer, params, range(8, 15))
    torch.testing.assert_close(frozen, moving, **CLOSE)
    assert optimizers[0].coefficients == q
    first = next(iter(frozen.values()))
    assert len(set(optimizers[0].state[first]) - {"step", "weights"}) == buffers

    again = MADA(list(problem.parameters().values()), lr=0.02, **settings)  # and it can be saved and loaded
    again.freeze()
    again.load_state_dict(optimizers[0].state_dict())
    assert again.coefficients == q


def test_state_in_bfloat16():
    """Only the moments that bear it; they survive saving; the result is near that of float32."""
    params = {name: p.detach().float().requires_grad_() for name, p in problem.parameters().items()}
    optimizer = MADA(list(params.values()), lr=0.02, state_dtype=torch.bfloat16, **START)
    for t in range(1, 21):
        optimizer.zero_grad()
        problem.loss({name: p.double() for name, p in params.items()}, t).backward()
        optimizer.step()
    state = optimizer.state[params["W"]]
    low = {name for name, value in state.items() if value.dtype == torch.bfloat16}
    assert low == {"m", "n", "l", "g_prev", "g"} and state["v"].dtype == state["s"].dtype == torch.float32
    full, _ = run(MADA, **START)
    for p, q in zip(params.values(), full, strict=True):
        torch.testing.assert_close(p.detach().double(), q, rtol=0, atol=0.02)  # a step is 0.02
    other = MADA(list(params.values()), lr=0.02, state_dtype=torch.bfloat16, **START)
    other.load_state_dict(optimizer.state_dict())
    torch.testing.assert_close(other.state[params["W"]], state, **EXACT)


def test_a_wider_state_is_that_of_all_buffers_and_a_group_may_have_its_parameters():
    p, q = (torch.ones(5, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
    groups = [{"params": [p]}, {"params": [q], "state_dtype": None}]
    optimizer = MADA(groups, state_dtype=torch.float32)
    p.grad, q.grad = (torch.full_like(p, 0.3) for _ in range(2))
    optimizer.step()
    for x, dtype in ((p, torch.float32), (q, torch.bfloat16)):
        kept = {name: y.dtype for name, y in optimizer.state[x].items() if y.shape == x.shape}
        assert {"g", "m", "v", "s"} <= {*kept} and {*kept.values()} == {dtype}


def test_float32_state_of_bfloat16_parameters_survives_loading():
    p = torch.ones(5, dtype=torch.bfloat16, requires_grad=True)
    optimizers = [HyperAdam([p]) for _ in range(2)]
    p.grad = torch.full_like(p, 0.3)
    optimizers[0].step()
    state = optimizers[0].state_dict()
    state["state"][0]["v"] = state["state"][0]["v"].float() + 1e-4
    optimizers[1].load_state_dict(state)
    assert torch.equal(optimizers[1].state[p]["v"], state["state"][0]["v"])


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"state_dtype": torch.float16}, "float16 has too small a range"),
        ({"state_dtype": "foo"}, "state_dtype='foo' must be bfloat16, float32 or float64"),
        ({"state_dtype": torch.int8}, "state_dtype=torch.int8 must be bfloat16, float32 or float64"),
        ({"hyper_optimizer": "newton"}, "hyper_optimizer='newton' must be one of sgd, sign, adam"),
        ({"lr_range": (1.5, 2.0)}, "lr_range"),
        ({"learn": ("lr", "rhoo")}, "no coefficient 'rhoo'"),
        ({"hyper_lr": {"lr": 0.1}}, "no coefficient 'lr'"),
        ({"betas": (0.9,)}, "betas"),
        ({"hyper_lr": float("inf")}, "hyper_lr"),
        ({"lr": None}, "lr=None must be a number"),
        ({"weight_decay": None}, "weight_decay=None must be a number"),
        ({"max_grad_norm": "1"}, "max_grad_norm='1' must be a number"),
        ({"eps": "small"}, "eps='small' must be positive"),
        ({"fused": "yes"}, "fused='yes' must be one of True, False"),
        ({"betas": 0.9}, "betas=0.9 must be 2 numbers"),
        ({"lion_betas": 0.9}, "lion_betas=0.9 must be 2 numbers"),
    ],
)
def test_bad_arguments_are_named(bad, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        MADA([torch.zeros(1, requires_grad=True)], **bad)


def test_arguments_that_are_something_else_are_named():
    for learn in (None, True):
        with pytest.raises(TypeError, match=f"learn={learn} must be names"):
            MADA([torch.zeros(1, requires_grad=True)], learn=learn)
    with pytest.raises(TypeError, match=r"MADA takes model.parameters\(\)"):
        MADA(torch.nn.Linear(2, 2))


def test_printed_it_is_what_a_user_asks_for():
    layer = torch.nn.Linear(3, 2)
    groups = [{"params": [layer.weight], "weight_decay": 0.1}, {"params": [layer.bias], "weight_decay": 0}]
    assert str(HyperAdam(groups, lr=3e-4)).splitlines() == [
        "HyperAdam (",
        "    6 elements: lr=0.0003, weight_decay=0.1, beta1=0.9, beta2=0.95, learn='beta1 beta2'",
        "    2 elements: lr=0.0003, weight_decay=0, beta1=0.9, beta2=0.95, learn='beta1 beta2'",
        ")",
    ]


def test_the_optimizer_of_the_docs(monkeypatch):
    """Fixed at power 0.5 it is Adam; learned, the power moves."""
    code = (
        (Path(__file__).parents[2] / "docs" / "optimizers.md")
        .read_text()
        .split("## An optimizer of your own")[1]
        .split("```")[1]
    )
    monkeypatch.setitem(sys.modules, "mada", optim)
    exec(compile(code.removeprefix("python"), "docs/optimizers.md", "exec"), names := {})  # noqa: S102
    fixed, _ = run(names["Padam"], learn=())
    adam, _ = run(HyperAdam, learn=())
    torch.testing.assert_close(fixed, adam, rtol=1e-6, atol=1e-6)
    _, learning = run(names["Padam"])
    assert learning.coefficients["power"] != 0.5 and learning.coefficients["beta2"] == 0.95


def moment(g, m, beta1, bias1):
    m = beta1 * m + (1 - beta1) * g
    return m / bias1, {"m": m}


RULES = {
    "does not take t": lambda g, *, m, beta1, bias1, eps: moment(g, m, beta1, bias1),
    "also requires beta9": lambda g, *, m, beta1, bias1, t, eps, beta9: moment(g, m, beta1, bias1),
    "not a Tensor": lambda g, *, m, beta1, bias1, t, eps: g,
    "returns none, and the buffers are m": lambda g, *, m, beta1, bias1, t, eps: (g, {}),
    "returns m, extra, and": lambda g, *, m, beta1, bias1, t, eps: (g, {"m": m, "extra": m}),
    "raises RuntimeError": lambda g, *, m, beta1, bias1, t, eps: (g @ g, {"m": m}),
    "torch.where instead of `if`": lambda g, *, m, beta1, bias1, t, eps: (g if m > 0 else -g, {"m": m}),
    "change nothing in place": lambda g, *, m, beta1, bias1, t, eps: (g, {"m": m.mul_(beta1)}),
}


@pytest.mark.parametrize("words", RULES)
def test_a_rule_that_does_not_keep_the_contract_is_told_it(words):
    class Own(ParameterizedOptimizer):
        domain = MappingProxyType({"beta1": (0.0, 0.99)})
        rule = staticmethod(RULES[words])

    p = torch.ones(3, requires_grad=True)
    p.grad = torch.ones(3)
    with pytest.raises(ValueError, match=words):
        Own([p], lr=0.1, coefficients={"beta1": 0.9}, buffers=("m",), constants={"eps": 1e-8}, learn=("beta1",)).step()


def own(rule, coefficients, buffers=(), constants=None):
    class Own(ParameterizedOptimizer):
        domain = MappingProxyType(dict.fromkeys(coefficients, (0.0, 3.0)))

        def __init__(self, params, **options):
            super().__init__(params, lr=0.1, coefficients=coefficients, buffers=buffers, constants=constants, **options)

    Own.rule = staticmethod(rule)
    return Own


@pytest.mark.parametrize("name", ["x", "grad", "clip", "decay", "ok"])
def test_a_rules_names_are_its_own(name):
    """p = 3, g = 1, coefficient 0.5: after one step p = 3 - 0.1 * 0.5."""
    buffer = own(lambda g, *, k, t, **state: (k * g + state[name], {name: g}), {"k": 0.5}, (name,))
    coefficient = own(lambda g, *, t, **q: (q[name] * g, {}), {name: 0.5})
    for cls in (buffer, coefficient):
        p = torch.full((1,), 3.0, dtype=torch.float64, requires_grad=True)
        p.grad = torch.ones_like(p)
        cls([p]).step()
        assert p.item() == pytest.approx(2.95)


@pytest.mark.parametrize("kind", ["buffer", "coefficient", "constant"])
@pytest.mark.parametrize(
    "name", ["step", "weights", "g", "lr", "weight_decay", "max_grad_norm", "params", "learn", "t"]
)
def test_a_name_that_is_taken_is_refused(name, kind):
    def rule(g, **arguments):
        return g, {name: g} if kind == "buffer" else {}

    cls = own(
        rule,
        {"k": 0.5} | ({name: 0.5} if kind == "coefficient" else {}),
        (name,) if kind == "buffer" else (),
        {name: 0.5} if kind == "constant" else None,
    )
    with pytest.raises(ValueError, match=f"Own has a .* '{name}': that name is taken"):
        cls([torch.ones(1, requires_grad=True)])


def test_what_an_optimizer_of_ones_own_lacks_is_said():
    p = torch.ones(2, requires_grad=True)

    class Own(ParameterizedOptimizer):
        domain = MappingProxyType({"a": (0.0, 1.0), "b": (0.0, 1.0)})
        rule = staticmethod(lambda g, *, a, b, t, mom: (a * b * g, {"mom": mom}))

    for coefficients in ({"a": 0.5}, {"a": 0.5, "b": 0.5, "c": 0.5}):
        with pytest.raises(ValueError, match="Own needs one for each of a, b$"):
            Own([p], lr=0.1, coefficients=coefficients, buffers=("mom",))
    with pytest.raises(ValueError, match="Own has no `buffers`"):
        Own([p], lr=0.1, coefficients={"a": 0.5, "b": 0.5})
    Own([p], lr=0.1, coefficients={"a": 0.5, "b": 0.5}, buffers="mom")  # one name, not its letters


INPUTS = {  # what is wrong with a function that computes an input of a rule with the buffer m
    "must be a function of g and of some of its buffers .m., not of g, scale": lambda g, scale=1.0: g,
    "must be a function of g and of some of its buffers .m., not of m": lambda m: m,
    r"returned the shape \(1,\) for gradients of \(1, 2\)": lambda g: g.sum(-1),
}


@pytest.mark.parametrize("words", INPUTS)
def test_an_input_that_does_not_fit_is_said(words):
    cls = own(lambda g, *, m, size, k, t: (k * g / size, {"m": m}), {"k": 0.5}, ("m",))
    cls.inputs = {"size": INPUTS[words]}
    p = torch.ones(2, requires_grad=True)
    p.grad = torch.ones(2)
    with pytest.raises((ValueError, RuntimeError), match=words):
        cls([p]).step()


def test_a_rule_without_coefficients_and_a_fixed_one_above_1():
    momentum = own(lambda g, *, m, t: (0.9 * m + g, {"m": 0.9 * m + g}), {}, ("m",))
    power = own(lambda g, *, power, t: (torch.sign(g) * g.abs() ** power, {}), {"power": 2.0})
    for cls, ends in ((momentum, 1.0 - 0.1 * 2 - 0.1 * 3.8), (power, 1.0 - 0.1 * 4 - 0.1 * 4)):
        p = torch.ones(2, dtype=torch.float64, requires_grad=True)
        optimizer = cls([p])
        for _ in range(2):
            p.grad = torch.full_like(p, 2.0)
            optimizer.step()
        assert p.tolist() == pytest.approx([ends] * 2)


def test_a_rule_with_an_input_that_is_not_elementwise():
    """Adam-mini's step by hand; at kappa = 0 it is Adam; kappa's hyper-gradient is the slope of the next loss."""

    def run(kappa, steps, learn=()):
        params = problem.parameters()
        optimizer = adam_mini.AdamMini(list(params.values()), lr=0.02, kappa=kappa, learn=learn, hyper_lr=0.0, **RAW)
        losses = problem.train(optimizer, params, range(1, steps + 1))
        return params, losses[-1], optimizer

    adam = problem.parameters()
    problem.train(torch.optim.AdamW(adam.values(), lr=0.02, betas=(0.9, 0.95), weight_decay=0), adam, range(1, 11))
    torch.testing.assert_close(run(0.0, 10)[0], adam, **CLOSE)

    x = {name: p.detach() for name, p in problem.parameters().items()}
    m, v = ({name: torch.zeros_like(p) for name, p in x.items()} for _ in range(2))
    for t in range(1, 4):
        leaves = {name: p.clone().requires_grad_() for name, p in x.items()}
        problem.loss(leaves, t).backward()
        for name, p in leaves.items():
            g = p.grad
            square = g.square().mean(1, keepdim=True).expand_as(g) if g.dim() == 2 else g.square()
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.95 * v[name] + 0.05 * square
            x[name] = x[name] - 0.02 * m[name] / (1 - 0.9**t) / ((v[name] / (1 - 0.95**t)).sqrt() + 1e-8)
    torch.testing.assert_close({name: p.detach() for name, p in run(1.0, 3)[0].items()}, x, **CLOSE)

    (_, low, _), (_, high, _) = run(0.4 - 1e-5, 2), run(0.4 + 1e-5, 2)
    h = run(0.4, 2, ("kappa",))[2].hyper_gradients["kappa"]
    assert h == pytest.approx((high - low) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_copies_keep_the_domain_of_a_learned_rate(copied):
    p = torch.ones(3, requires_grad=True)
    optimizer = MADA([p], lr=0.1, learn=("beta1", "lr"), domain={"beta1": (0.5, 0.95)}, lr_range=(0.5, 3.0))
    for _ in range(3):
        p.grad = p.detach() - 3
        optimizer.step()
    other = copied(optimizer)
    assert dict(other.domain) == dict(optimizer.domain) and other.domain["lr"] == (0.5, 3.0)
    assert other.coefficients == optimizer.coefficients and float(other.grad_norm) == float(optimizer.grad_norm)
    (q,) = other.param_groups[0]["params"]
    for x, optimizing in ((p, optimizer), (q, other)):
        x.grad = x.detach() - 3
        optimizing.step()
    assert other.coefficients == optimizer.coefficients and torch.equal(p, q)
