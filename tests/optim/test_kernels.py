"""scripts/kernels.py finds every kernel and reads what the assembler says of it; with Triton, it compiles them.

python -m pytest tests/optim/test_kernels.py
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import optim
from optim.codegen import traffic
from optim.engine import ParameterizedOptimizer
from scripts import kernels

SCRIPT = Path(kernels.__file__)
LOG = """ptxas info    : 11 bytes gmem
ptxas info    : Compiling entry function 'run' for 'sm_90a'
ptxas info    : Function properties for run
    {stack} bytes stack frame, {stores} bytes spill stores, {loads} bytes spill loads
ptxas info    : Used {registers} registers, used 1 barriers, 8 bytes smem
"""


def test_registers_and_spills_are_read_from_the_assemblers_report():
    assert kernels.usage(LOG.format(stack=0, stores=0, loads=0, registers=93)) == (93, 0)
    assert kernels.usage(LOG.format(stack=24, stores=16, loads=24, registers=255)) == (255, 40)
    for log in ("", "ptxas info    : Used 93 registers", LOG.format(stack=0, stores=0, loads=0, registers=1) * 2):
        with pytest.raises(ValueError, match="not a report of ptxas"):
            kernels.usage(log)


def test_spills_and_more_than_128_registers_are_wrong_and_nothing_else_is():
    rows = [("a", 90, 128, 0, 56), ("b", 80, 129, 0, 56), ("c", 90, 40, 8, 56)]
    assert kernels.verdict(rows) == ["b, sm_80: 129 registers", "c, sm_90: 8 bytes of spills"]


def test_every_optimizer_and_every_pass_is_among_the_kernels():
    names = [kernel.name for kernel in kernels.kernels()]
    ours = [name for name, cls in optim.OPTIMIZERS.items() if isinstance(cls, type)]
    for name in (name for name in ours if issubclass(optim.OPTIMIZERS[name], ParameterizedOptimizer)):
        for precision in kernels.DTYPES:
            assert f"{name}, move, {precision}" in names
    assert {"mada, look_back, float32", "hyperadam, look_back, bfloat16", "mada, norms, bfloat16"} <= set(names)
    assert len([name for name in names if name.startswith("hyper ")]) == 6
    assert any("with muon" in name for name in names)


def test_bytes_of_an_element_are_counted_by_hand():
    """MADA: look back reads grad, g and six buffers and writes the six; move reads grad, x and the six and writes x, g.
    With bfloat16 state, g and all buffers but v and s have 2 bytes."""
    by_name = {kernel.name: kernel for kernel in kernels.kernels()}

    def bytes_of(name):
        return traffic(by_name[name].loop, by_name[name].dtypes)

    assert bytes_of("mada, look_back, float32") == (4 * 8, 4 * 6)
    assert bytes_of("mada, move, float32") == (4 * 8, 4 * 2)
    assert bytes_of("mada bf16 state, look_back, float32") == (4 + 2 + 4 * 2 + 2 * 4, 4 * 2 + 2 * 4)
    assert bytes_of("mada, norms, bfloat16") == (2, 0)


@pytest.mark.skipif(importlib.util.find_spec("triton") is not None, reason="Triton is installed")
def test_without_triton_one_line_says_how_to_install_it():
    done = subprocess.run([sys.executable, str(SCRIPT)], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip() == f"kernels.py: {kernels.MISSING}"


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_with_triton_kernels_compile_without_a_gpu():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--only", "^lion, move|hyper sgd raw", "--arch", "90"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "3 compiled: no spills" in done.stdout
