"""The fast loops compute what the rule says: C, Triton (in its interpreter) and eager PyTorch, in every precision.

python -m pytest tests/optim/test_loops.py
"""

import itertools
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from every import ALL
from reference import optimizers as reference

from optim import MADA, Adan, AVGrad, HyperAdam, Lion, Yogi, compile, fuse
from optim.codegen import Unavailable

DOUBLE = {"rtol": 1e-10, "atol": 1e-10}
SINGLE = {"rtol": 2e-4, "atol": 2e-5}  # of parameters of size 1, after 200 steps in float32
INTERIOR = {"betas": (0.8, 0.9), "beta3": 0.4, "rho": 0.5, "c": 0.5, "gamma": 0.6, "hyper_lr": 0.02}
SHAPES = [(3,), (40, 33), (2 * fuse.CHUNK + 1,)]  # less than a vector, a matrix, several chunks


def trajectory(optimizer, dtype, steps, shapes=SHAPES, **settings):
    """Parameters and coefficients after some steps of a noisy quadratic."""
    make = torch.Generator().manual_seed(0)
    params = [torch.randn(shape, generator=make, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]
    optimizer = optimizer(params, **{"lr": 1e-2, "weight_decay": 0.1, "max_grad_norm": 1.0, **settings})
    for _ in range(steps):
        for p in params:
            noise = torch.randn(p.shape, generator=make, dtype=torch.float64)
            p.grad = (p.detach().double() + noise).to(dtype) / p.numel() ** 0.5
        optimizer.step()
    return [p.detach() for p in params], getattr(optimizer, "coefficients", {})


SETTINGS = {
    f"{rule}-{second_moment}-{'fixed' if not learn else 'learned'}": (
        MADA,
        dict(INTERIOR, rule=rule, second_moment=second_moment, learn=learn),
    )
    for rule, second_moment, learn in itertools.product(("paper", "authors"), ("avgrad", "amsgrad"), (ALL, ()))
}
SETTINGS |= {cls.__name__: (cls, {}) for cls in (HyperAdam, AVGrad, Yogi, Adan, Lion)}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_compiled_equals_eager_in_double_precision(name, no_compiler):
    optimizer, settings = SETTINGS[name]
    fast = trajectory(optimizer, torch.float64, 10, **settings)
    no_compiler()
    with pytest.warns(UserWarning, match="unfused"):
        plain = trajectory(optimizer, torch.float64, 10, **settings)
    torch.testing.assert_close(fast, plain, **DOUBLE)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_single_precision_stays_with_double_over_200_steps(name):
    optimizer, settings = SETTINGS[name]
    if name == "Lion" or settings.get("gamma"):
        settings = settings | {"lr": 1e-4}  # the sign of a rounding error is 1 or -1
    (single, q), (double, p) = (
        trajectory(optimizer, dtype, 200, [(3,), (40, 33)], **settings) for dtype in (torch.float32, torch.float64)
    )
    torch.testing.assert_close([x.double() for x in single], double, **SINGLE)
    assert q == pytest.approx(p, abs=2e-4)


@pytest.mark.filterwarnings("ignore:optimizer steps run unfused")
@pytest.mark.parametrize("learn", [(), *((name,) for name in ALL), ALL], ids=" ".join)
def test_without_a_compiler_it_is_the_plain_rule(learn, no_compiler):
    """The eager trace, against the rule's transcription in tests/reference with autograd's own graph."""
    no_compiler()
    start = {"beta1": 0.8, "beta2": 0.9, "beta3": 0.4, "rho": 0.5, "c": 0.5, "gamma": 0.6}
    x = torch.linspace(-1, 1, 7, dtype=torch.float64)
    p = x.clone().requires_grad_()
    optimizer = MADA([p], lr=0.02, learn=learn, **INTERIOR)
    theirs = reference.HyperDescent(
        reference.mada,
        {"p": x.clone().requires_grad_()},
        start,
        lr={"p": 0.02},
        weight_decay={"p": 0.0},
        learn=learn,
        hyper_lr=dict.fromkeys(start, 0.02),
        hyper_momentum=dict.fromkeys(start, 0.0),
        hyper_scale="relative",
        debias="weights",
    )

    def loss(p):
        return (torch.sin(3 * p) + p * p).sum()

    for _ in range(4):
        optimizer.zero_grad()
        loss(p).backward()
        optimizer.step()
        theirs.step(lambda params: loss(params["p"]))
    torch.testing.assert_close(p.detach(), theirs.x["p"].detach(), **DOUBLE)
    assert optimizer.coefficients == pytest.approx(theirs.coefficients, abs=1e-10)


def test_a_missing_compiler_is_said_once(no_compiler, recwarn):
    no_compiler()
    for _ in range(2):
        trajectory(MADA, torch.float32, 2, [(5,)])
    assert [str(w.message) for w in recwarn if "unfused" in str(w.message)] == [
        "optimizer steps run unfused, several times slower: the test forbids it"
    ]


def test_a_compiler_that_fails_is_named(monkeypatch):
    monkeypatch.setenv("CC", "false")
    with pytest.raises(Unavailable, match="false fails"):
        compile.compile_c("int main")


@pytest.mark.parametrize("number", [2, 3])
def test_threads_do_not_change_a_bit(number):
    before = torch.get_num_threads()
    expected = trajectory(MADA, torch.float32, 3, **INTERIOR)
    torch.set_num_threads(number)
    try:
        params, q = trajectory(MADA, torch.float32, 3, **INTERIOR)
    finally:
        torch.set_num_threads(before)
    assert q == expected[1] and all(map(torch.equal, params, expected[0]))


def test_changing_values_compile_nothing_new(monkeypatch):
    params = [torch.ones(5, requires_grad=True)]
    optimizer = MADA(params, **INTERIOR)
    for step in range(6):
        if step == 2:
            monkeypatch.setattr(fuse, "traced", None)  # a loop that is made now raises
            monkeypatch.setattr(compile, "compile_c", None)
        optimizer.param_groups[0]["lr"] = 1e-3 * (step + 1)
        params[0].grad = torch.full((5,), step - 2.5)
        optimizer.step()


def test_an_operation_that_is_not_in_the_table_runs_eagerly():
    loop = fuse.Loop(lambda a: ([torch.digamma(a)], []), ("a",), (), ("a",))
    fuse.warn_once.cache_clear()
    a = torch.randn(10)
    expected = torch.digamma(a)
    with pytest.warns(UserWarning, match="aten.digamma.default, which has no row in OPS"):
        loop([(a,)], torch.zeros(1, 0, dtype=torch.float64))
    torch.testing.assert_close(a, expected)


TRITON = """
    import sys, torch
    sys.path[:0] = [{root!r}, {tests!r}, {here!r}]
    from optim import compile, fuse
    from optim.hyper import descent
    from optim.passes import gradient_norms, passes
    import test_loops as t
    results = []
    for name in {names!r}:
        for builder in (compile.build_c, compile.build_triton):
            fuse.BUILDERS["cpu"] = builder
            for loops in (passes, gradient_norms, descent):
                loops.cache_clear()
            optimizer, settings = t.SETTINGS[name]
            results.append(t.trajectory(optimizer, {dtype}, 3, [(3,), (40, 33)], **settings))
        torch.testing.assert_close(*results[-2:], rtol={tolerance}, atol={tolerance})
"""


@pytest.mark.parametrize(
    "dtype, tolerance", [("torch.float64", 1e-10), ("torch.float32", 1e-5), ("torch.bfloat16", 5e-2)]
)  # Triton's interpreter cuts bfloat16 off
def test_triton_equals_c(dtype, tolerance):
    """In a process of its own, since Triton reads TRITON_INTERPRET when it is imported."""
    pytest.importorskip("triton", reason="Triton is not installed; it comes with PyTorch's CUDA builds")
    here = Path(__file__).parent
    code = TRITON.format(
        root=str(here.parents[1]),
        tests=str(here.parent),
        here=str(here),
        dtype=dtype,
        tolerance=tolerance,
        names=["paper-avgrad-learned", "authors-amsgrad-learned", "paper-avgrad-fixed", "Lion"],
    )
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=True, env=os.environ | {"TRITON_INTERPRET": "1"}
    )


@pytest.mark.parametrize("learn", [(), ("beta1",)])
def test_a_tensor_without_memory_of_its_own_is_refused(learn):
    from torch.testing._internal.two_tensor import TwoTensor

    p = torch.nn.Parameter(TwoTensor(torch.ones(3), torch.ones(3)))
    p.grad = TwoTensor(torch.ones(3), torch.ones(3))
    with pytest.raises(RuntimeError, match="of type .*TwoTensor.* has no memory"):
        HyperAdam([p], learn=learn).step()
