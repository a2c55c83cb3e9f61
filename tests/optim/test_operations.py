"""The operations that a rule may use: each computes what PyTorch does, its derivative too, or is refused by name.

python -m pytest tests/optim/test_operations.py
"""

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import MappingProxyType

import pytest
import torch

from optim import MADA, ParameterizedOptimizer, fuse, sqrt
from optim.codegen import OPS
from optim.trace import operations

DOUBLE = {"rtol": 1e-12, "atol": 1e-12}
F = torch.nn.functional

# functions of a in (0.05, 0.95), b in (0.05, 3) and a scalar s = 0.7
FUNCTIONS = {
    "pow of numbers": lambda a, b, s: a**3 + b**0.5 + a**-1.5 + 2.0**b,
    "pow of tensors": lambda a, b, s: a**b + s**a + b**s,
    "clamp": lambda a, b, s: a.clamp(0.2, 0.6) + b.clamp(max=1.0) + b.clamp(min=0.5) + torch.clamp(b, a, a + 1),
    "tanh": lambda a, b, s: torch.tanh(a) * b,
    "sigmoid": lambda a, b, s: torch.sigmoid(a - b) + F.logsigmoid(b) + F.silu(a),
    "rsqrt": lambda a, b, s: torch.rsqrt(b) * a + b.rsqrt() * s,
    "log": lambda a, b, s: torch.log1p(a) + torch.log2(b) + torch.log10(b + 1) + torch.log(b),
    "exp": lambda a, b, s: torch.expm1(a) + torch.exp2(b) + torch.exp(-b),
    "lerp": lambda a, b, s: torch.lerp(a, b, s) + torch.lerp(a, b, 0.3),
    "addcmul": lambda a, b, s: torch.addcmul(a, a, b, value=0.3) + torch.addcdiv(a, a, b, value=2.0),
    "alpha": lambda a, b, s: torch.add(a, b, alpha=3) + torch.sub(a, b, alpha=0.5) + torch.rsub(a, b, alpha=2),
    "circular": lambda a, b, s: a.sin() + b.cos() + a.tan() + a.asin() + a.acos() + b.atan() + torch.atan2(a, b),
    "hyperbolic": lambda a, b, s: a.sinh() + b.cosh() + a.atanh() + b.asinh() + (b + 1.1).acosh(),
    "erf": lambda a, b, s: torch.erf(b) + F.gelu(a),
    "softplus": lambda a, b, s: (
        F.softplus(b) + F.elu(a - 0.5) + F.leaky_relu(a - 0.5) + F.hardtanh(b) + F.relu(a - 0.5)
    ),
    "hypot": lambda a, b, s: torch.sqrt(a * a + b * b) + torch.square(b) + torch.logaddexp(a, b),
    "rounding": lambda a, b, s: (3 * b).floor() * a + (3 * b).ceil() + (3 * b).round() + (3 * b).trunc() + b % 0.4,
    "modes": lambda a, b, s: torch.div(b, a, rounding_mode="floor") * a + torch.fmod(b, 0.4) + torch.remainder(-b, 0.4),
    "logic": lambda a, b, s: (
        torch.where((a > 0.5) | ~(b > 1), a, b) + torch.where((a > 0.5) ^ (b > s), a, s) + (a > s) * b
    ),
    "not a number": lambda a, b, s: torch.where(torch.isnan(a) | torch.isinf(b), 0.0, a) + (b > 1).to(a.dtype) * a,
    "logical": lambda a, b, s: (
        torch.where(torch.logical_or(a > 0.5, torch.logical_not(b > 1)), a, b)
        + torch.where(torch.logical_xor(a > 0.5, b > s), a, s)
        + torch.logical_and(a > s, b > s) * b
    ),
    "shrunk": lambda a, b, s: F.softshrink(b - 1, 0.2) * a + F.hardshrink(a - 0.5, 0.2) * b,
    "finite": lambda a, b, s: torch.where(torch.isfinite(a) & (b > 1), a, b),
    "order": lambda a, b, s: (
        torch.maximum(a, b) + torch.where((a > 0.2) & (a != s), b, a) + torch.sign(a - b) * a + torch.sgn(b - 1) * b
    ),
    "modes of tensors": lambda a, b, s: torch.fmod(b, a) + torch.remainder(b, a),
    "reversed": lambda a, b, s: torch.rsub(a, b) * b + (3 - a) * a,
    "copies": lambda a, b, s: a.clone() + b.detach() * s + torch.ops.aten.alias(a) * b,
    "masked": lambda a, b, s: a.masked_fill(b > 1, 0.3) + b,
    "filled": lambda a, b, s: torch.full_like(a, 0.3) * b + torch.zeros_like(a) + torch.ones_like(b) * a,
    "infinity": lambda a, b, s: (
        torch.minimum(a, torch.full_like(a, float("inf"))) + torch.where(b > 9, float("-inf"), b)
    ),
    "sqrt with derivative 0": lambda a, b, s: sqrt(a) + sqrt(b * 0),
}


def loop_of(function):
    """A loop that puts the function's values in place of a, and sums its derivatives."""

    def both(a, b, s):
        value, pull_back = torch.func.vjp(function, a, b, s)
        return [value], list(pull_back(torch.ones_like(value)))[:2]

    return fuse.Loop(both, ("a", "b"), ("s",), ("a",))


def test_every_operation_of_the_table_is_tried_here():
    tried = {node.target for function in FUNCTIONS.values() for node in operations(loop_of(function).trace)}
    assert {*OPS} <= tried, {*OPS} - tried


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_operation_and_its_derivative_are_pytorchs(name):
    function = FUNCTIONS[name]
    loop = loop_of(function)
    a, b = torch.linspace(0.06, 0.94, 53).double(), torch.linspace(0.06, 2.93, 53).double().flip(0)
    s = torch.tensor([[0.7]]).double()
    x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
    expected = function(x, y, s[0, 0])
    gradients = torch.autograd.grad(expected.sum(), (x, y), allow_unused=True)
    gradients = [torch.zeros(()) if g is None else g.sum() for g in gradients]
    fuse.warn_once.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a loop that is not compiled
        sums = loop([(a, b)], s)
    torch.testing.assert_close(a, expected.detach(), **DOUBLE)
    torch.testing.assert_close(sums[0], torch.stack(gradients).double(), rtol=1e-9, atol=1e-9)


def test_what_is_not_finite_is_seen():
    def replaced(a, b, s):
        return [torch.where(torch.isnan(a), 1.0, a) + torch.where(torch.isinf(b), 2.0, b)], []

    a, b = torch.tensor([torch.nan, 3.0, 4.0, torch.nan]), torch.tensor([5.0, torch.inf, -torch.inf, torch.nan])
    fuse.Loop(replaced, ("a", "b"), ("s",), ("a",))([(a, b)], torch.ones(1, 1, dtype=torch.float64))
    torch.testing.assert_close(a, torch.tensor([6.0, 5.0, 6.0, torch.nan]), rtol=0, atol=0, equal_nan=True)


EDGES = {
    "remainder": (torch.remainder, [1e-10, -1e-10, 0.3, 5.0, -5.0, 3e38], [1.0, 1.0, 2.0**24, 3.0, 3.0, 3.1e38]),
    "remainder of a number": (lambda a, b: a % 0.4 + a % -0.4, [1e-10, -1e-10, 0.8, -0.3], [1.0] * 4),
    "floor": (
        lambda a, b: torch.div(a, b, rounding_mode="floor"),
        [49.0, 41.0, -7.0, 98.0, 7.0],
        [49.0, 41.0, 2.0, 98.0, 0.0],
    ),
    "truncated": (
        lambda a, b: torch.div(a, b, rounding_mode="trunc"),
        [49.0, 41.0, -7.0, 98.0],
        [49.0, 41.0, 2.0, 98.0],
    ),
    "maximum": (torch.maximum, [torch.nan, 1.0, 2.0], [1.0, torch.nan, 1.0]),
    "minimum": (torch.minimum, [torch.nan, 1.0, 2.0], [1.0, torch.nan, 1.0]),
    "booleans": (lambda a, b: ((a > 0) * (b > 0) + (a > 1)) * a, [-1.0, 0.5, 2.0], [1.0, 1.0, 1.0]),
    "their difference": (lambda a, b: (a > 0).to(a.dtype) - (a < 0).to(a.dtype), [-2.0, 0.0, 2.0], [1.0] * 3),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", EDGES)
def test_edges_are_pytorchs(name, dtype):
    function, a, b = EDGES[name]
    a, b = torch.tensor(a, dtype=dtype), torch.tensor(b, dtype=dtype)
    expected = function(a, b).to(dtype)
    fuse.Loop(lambda a, b: ([function(a, b)], []), ("a", "b"), (), ("a",))([(a, b)], torch.ones(1, 0).double())
    torch.testing.assert_close(a, expected, rtol=1e-6, atol=0, equal_nan=True)


def test_an_operation_with_two_results_is_refused_by_name():
    with pytest.raises(ValueError, match="the rule uses .*not elementwise"):
        fuse.Loop(lambda a: ([torch.frexp(a).mantissa], []), ("a",), (), ("a",))


def test_the_root_has_no_infinite_derivative():
    x = torch.tensor([0.0, 4.0], requires_grad=True)
    sqrt(x).sum().backward()
    assert sqrt(x).tolist() == [0.0, 2.0] and x.grad.tolist() == [0.0, 0.25]


def rule_of(direction):
    class Own(ParameterizedOptimizer):
        domain = MappingProxyType({"beta1": (0.0, 1.0)})
        rule = staticmethod(lambda g, *, m, beta1, bias1, t: (direction(g, m), {"m": beta1 * m + (1 - beta1) * g}))

        def __init__(self, params):
            super().__init__(params, lr=0.1, coefficients={"beta1": 0.9}, buffers=("m",))

    return Own


@pytest.mark.parametrize(
    "direction, name",
    [
        (lambda g, m: g / g.norm(), "norm"),
        (lambda g, m: g - g.mean(), "mean"),
        (lambda g, m: g / m.abs().max(), "max"),
        (lambda g, m: g.cumsum(0), "cumsum"),
        (lambda g, m: g + torch.randn_like(g), "randn_like"),
    ],
    ids=["norm", "mean", "max", "cumsum", "noise"],
)
def test_a_rule_that_is_not_elementwise_is_refused_by_name(direction, name):
    p = torch.ones(5, requires_grad=True)
    optimizer = rule_of(direction)([p])
    p.grad = torch.ones(5)
    with pytest.raises(ValueError, match=f"uses aten.*{name}.* not elementwise"):
        optimizer.step()
    assert p.tolist() == [1.0] * 5


def test_buffers_may_change_places():
    """New values are all computed before one is written, with a compiler and without."""
    for build in (fuse.BUILDERS["cpu"], None):
        loop = fuse.Loop(lambda a, b, s: ([b, a], []), ("a", "b"), ("s",), ("a", "b"), guarded=build is None)
        if build is None:
            loop.built["cpu", (torch.float32, torch.float32)] = None
        a, b = torch.arange(5.0), torch.ones(5)
        loop([(a, b)], torch.ones(1, 1, dtype=torch.float64))
        assert a.tolist() == [1.0] * 5 and b.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_small_tensors_run_together_without_a_compiler_as_they_would_alone(no_compiler, monkeypatch):
    no_compiler()
    torch.manual_seed(0)
    start = [torch.randn(shape).double() for shape in [(3,), (4, 2), (), (70_000,), (5,), (2, 2), (5, 3)]]
    grads = [[torch.randn_like(x) for x in start] for _ in range(5)]
    results, counts, packs = [], [], fuse.Kind.packs

    def counted(self, scalars):
        alone = [(i, i + 1) for i in range(len(self.members))]
        found = alone if results else list(packs(self, scalars))
        counts.append(len(alone) - len(found))
        return found

    monkeypatch.setattr(fuse.Kind, "packs", counted)
    for _ in range(2):  # together, and each alone
        params = [x.clone().requires_grad_() for x in start]
        optimizer = MADA(
            [{"params": params[:3]}, {"params": params[3:], "weight_decay": 0.1}], lr=0.1, max_grad_norm=1.0
        )
        for t, given in enumerate(grads):
            for p, grad in zip(params, given, strict=True):
                p.grad = None if (t < 2 and p is params[1]) else grad.clone()  # another count of steps
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                optimizer.step()
        results.append(([p.detach() for p in params], optimizer.coefficients))
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)
    assert max(counts) > 0  # some did run together


def first_step(direction, context):
    """The parameter after the first step of a new rule, made in a context."""
    p = torch.full((3,), 0.5, dtype=torch.float64, requires_grad=True)
    optimizer = rule_of(direction)([p])
    p.grad = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
    with context:
        optimizer.step()
    return p.detach()


@pytest.mark.parametrize(
    "context",
    [
        lambda: torch.autograd.set_detect_anomaly(True),
        torch.autograd.graph.save_on_cpu,
        lambda: torch.autocast("cpu", torch.bfloat16),
        torch.inference_mode,
    ],
    ids=["anomaly", "saved tensors", "autocast", "inference"],
)
def test_a_rule_is_traced_outside_of_what_the_caller_is_in(context):
    assert torch.equal(first_step(lambda g, m: g * 2 + m, context()), first_step(lambda g, m: m + g * 2, nullcontext()))


def test_first_steps_in_two_threads_at_once():
    """Tracing changes global state: unless one waits for the other, one fails, and torch.compile no longer works."""
    start = threading.Barrier(4)

    def work(_):
        start.wait()
        return first_step(lambda g, m: torch.tanh(g) + m, nullcontext())

    with ThreadPoolExecutor(4) as threads:
        ends = list(threads.map(work, range(4)))
    assert all(torch.equal(end, ends[0]) for end in ends)
    torch.compile(torch.nn.Linear(2, 2), backend="eager")(torch.ones(1, 2))


def test_booleans_are_added_and_cast_as_torch_does():
    g = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
    for direction in (lambda g, m: ((g > 0) + (g > -2)) * g, lambda g, m: (g > 0).float() * g):
        fuse.warn_once.cache_clear()
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of a loop that is not compiled
            assert torch.equal(first_step(direction, nullcontext()), 0.5 - 0.1 * direction(g, 0))


def test_a_tensor_made_of_a_number_is_said():
    with pytest.raises(ValueError, match="makes a tensor of a number"):
        first_step(lambda g, m: g * torch.tensor(0.3), nullcontext())
