"""What a CPU can show of loops on a GPU: chunks, sums of chunks, mixed tensors, a Triton that cannot compile.

python -m pytest tests/optim/test_gpu_paths.py
"""

import contextlib
import subprocess

import pytest
import torch

from optim import MADA, compile, fuse


def steps(dtypes, count=4):
    make = torch.Generator().manual_seed(0)
    params = [torch.randn(301, generator=make).to(dtype).requires_grad_() for dtype in dtypes]
    optimizer = MADA(params, lr=1e-2, beta3=0.4, rho=0.5, c=0.5, gamma=0.6, max_grad_norm=1.0)
    for _ in range(count):
        for p in params:
            p.grad = torch.randn(301, generator=make).to(p.dtype)
        optimizer.step()
    return [p.detach() for p in params], optimizer.coefficients


def test_a_stride_of_one_element_is_no_gap():
    """Autograd gives gradients of 1 x 1 convolutions such strides."""
    x, grad = torch.zeros(4, 3, 1, 1), torch.zeros(12).as_strided((4, 3, 1, 1), (3, 1, 3, 3))
    assert x.stride() != grad.stride() and fuse.is_dense([grad, x])
    assert not fuse.is_dense([grad, torch.zeros(3, 4, 1, 1).transpose(0, 1)])


@pytest.mark.parametrize("lengths", [[1], [3, 1, 4, 1, 5], [0, 7, 0, 2]])
def test_sums_of_segments_are_those_of_a_loop_bit_for_bit(lengths):
    x = torch.randn(sum(lengths), 3, dtype=torch.float64)
    expected = torch.zeros(len(lengths), 3, dtype=torch.float64)
    rows = iter(x)
    for i, length in enumerate(lengths):
        for _ in range(length):
            expected[i] += next(rows)
    assert torch.equal(fuse.segment_sums(x, torch.tensor(lengths)), expected)


@pytest.mark.parametrize("dtypes", [[torch.float32], [torch.float32, torch.float64]], ids=len)
def test_a_chunk_of_another_size_changes_no_more_than_rounding(dtypes, monkeypatch, forget):
    whole = steps(dtypes)
    monkeypatch.setattr(fuse, "CHUNK", 64)  # five chunks, of which the last is cut off
    parts = steps(dtypes)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)


def test_tensors_of_several_dtypes_are_bound_once(monkeypatch, forget):
    """Each alone is what it is among others, as long as nothing is learned together; and no step makes tables again."""
    calls = []
    bind = fuse.Loop.bind

    def counted(self, *args):
        calls.append(self)
        return bind(self, *args)

    monkeypatch.setattr(fuse.Loop, "bind", counted)
    steps([torch.float32, torch.bfloat16, torch.float64], count=2)
    first = len(calls)
    calls.clear()
    steps([torch.float32, torch.bfloat16, torch.float64], count=8)
    assert len(calls) == first == 3 * 3 + 1  # three passes of three dtypes, and the descent of the coefficients


class Broken:
    """A kernel whose first launch fails, as Triton's does without a C compiler or Python.h."""

    def __init__(self, error):
        self.error, self.launches, self.grids = error, 0, []

    def __getitem__(self, grid):
        self.grids.append(grid)
        return self

    def __call__(self, *args, **options):
        self.launches += 1
        raise self.error


@pytest.mark.parametrize(
    "error", [RuntimeError("Failed to find C compiler."), subprocess.CalledProcessError(1, ["cc", "/tmp/a/main.c"])]
)
def test_a_triton_that_cannot_compile_is_said_once_and_steps_go_on(error, monkeypatch, forget):
    expected = steps([torch.float32])
    kernel = Broken(error)
    monkeypatch.setitem(fuse.BUILDERS, "cpu", compile.build_triton)  # tensors on the CPU take the GPU's way
    monkeypatch.setattr(compile, "compile_triton", lambda source: kernel)
    forget()
    with pytest.warns(UserWarning, match="C compiler and Python.h") as warned:
        result = steps([torch.float32])
    assert len(warned) == 1
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)
    assert kernel.launches == 4 and set(kernel.grids) == {(1,)}  # each loop is tried once, on one chunk of no elements


def test_a_kernel_is_launched_on_the_device_of_its_tensors(monkeypatch, forget):
    """Triton takes the current device, which need not be cuda:1 where the tensors are there."""
    current, seen = [], []

    @contextlib.contextmanager
    def device_of(x):
        current.append(x.device)
        yield
        current.pop()

    class Kernel:
        def __getitem__(self, grid):
            return lambda table, address, *rest, **options: seen.append(current[-1:] == [table.device])

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    monkeypatch.setitem(fuse.BUILDERS, "cpu", compile.build_triton)
    monkeypatch.setattr(compile, "compile_triton", lambda source: Kernel())
    forget()
    steps([torch.float32])
    assert len(seen) > 8 and all(seen)


def test_on_a_device_without_loops_steps_run_unfused_and_say_so(monkeypatch, forget):
    """As on MPS."""
    expected = steps([torch.float32])
    monkeypatch.delitem(fuse.BUILDERS, "cpu")
    forget()
    with pytest.warns(UserWarning, match="run unfused.*no loops for cpu") as warned:
        result = steps([torch.float32])
    assert len(warned) == 1
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)
