"""Compile every Triton kernel of the optimizers, without a GPU, and read what the assembler says of them.

    make kernels                                # all, for sm_90 (H100) and sm_80 (A100); pip install ".[kernels]"
    python scripts/kernels.py --only 'mada.*look_back' --arch 90

Prints one line each: kernel, architecture, registers per thread, bytes of spills, bytes of memory read and written per
element. Ends with status 1 if a kernel spills, or takes more than 128 registers: an H100 then holds only 4 blocks per
multiprocessor, too few to keep its memory busy.
"""

import argparse
import contextlib
import importlib.util
import io
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import optim
from optim.codegen import BLOCK, WARPS, print_triton, traffic
from optim.compile import compile_triton
from optim.hyper import HYPER_OPTIMIZERS, descent
from optim.passes import gradient_norms
from optim.plan import Plan
from reproduce.gpu import FIVE
from settings import UserError, one_line_errors, pattern

MOST_REGISTERS = 128
MISSING = 'Triton is not installed: pip install ".[kernels]" (CUDA builds of PyTorch bring it along)'
FORMS = {  # every optimizer of ours, and MADA in the forms that keep different state
    "mada": ("mada", {}),
    "mada without lion": ("mada", {"learn": FIVE}),
    "mada with lr": ("mada", {"learn": (*FIVE, "gamma", "lr")}),
    "mada bf16 state": ("mada", {"state_dtype": "bfloat16"}),
    "mada amsgrad": ("mada", {"second_moment": "amsgrad"}),
    "mada authors": ("mada", {"rule": "authors"}),
    "mada authors amsgrad": ("mada", {"rule": "authors", "second_moment": "amsgrad"}),
    "mada with muon": ("mada", {"mu": 0.5, "learn": (*FIVE, "gamma", "mu")}),
    "mada fixed": ("mada", {"learn": (), "beta3": 0.5, "rho": 0.5, "c": 0.5, "gamma": 0.5}),
    "mada fixed at adam": ("mada", {"learn": ()}),
    **{name: (name, {}) for name in ("hyperadam", "avgrad", "yogi", "adan", "lion")},
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Kernel(NamedTuple):
    """A kernel to compile. loop: fuse.Loop; dtypes: of the tensors that it takes."""

    name: str
    loop: object
    dtypes: tuple[torch.dtype, ...]


def kernels():
    """All kernels of all optimizers, each printed source once: [Kernel]."""
    found = {}

    def add(name, loop, dtypes):
        found.setdefault(print_triton(loop, dtypes), Kernel(name, loop, dtypes))

    for form, (name, settings) in FORMS.items():
        for precision, dtype in DTYPES.items():
            matrix = torch.zeros(2, 2, dtype=dtype, requires_grad=True)
            matrix.grad = torch.zeros_like(matrix)
            optimizer = optim.build(name, [matrix], hidden=[matrix], lr=1.0, **settings)
            with torch.no_grad():
                batch = Plan(optimizer).batches[0]
            loops = {"look_back": batch.loops.look_back, "move": batch.loops.move, "norms": gradient_norms()}
            dtypes = batch.rows.kinds[0].dtypes
            for kind, loop in loops.items():
                if loop:
                    add(f"{form}, {kind}, {precision}", loop, dtypes[: len(loop.tensors)])
    for optimizer in HYPER_OPTIMIZERS:
        for scale in ("relative", "raw"):
            loop = descent(optimizer, scale, 0, 10.0)
            add(f"hyper {optimizer} {scale}", loop, (torch.float64,) * len(loop.tensors))
    return list(found.values())


def usage(log):
    """What `ptxas -v` says of one kernel -> (registers, bytes of spills). Raises ValueError if it says nothing."""
    registers = re.findall(r"Used (\d+) registers", log)
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log)
    if len(registers) != 1 or not spills:
        raise ValueError(f"not a report of ptxas -v on one kernel: {log[:200]!r}")
    return int(registers[0]), sum(int(stores) + int(loads) for stores, loads in spills)


def compiled(kernel, arch):
    """ptxas's report on a kernel, compiled as for a run."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = compile_triton(print_triton(kernel.loop, kernel.dtypes))
    types = {
        "table": "*i64",
        "address": "*i64",
        "tensors": "i32",
        "scalars": "*fp64",
        "n_scalars": "i32",
        "sums": "*fp64",
    }
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(types.values()) if kind.startswith("*")}
    source = ASTSource(function, types | {"BLOCK": "constexpr"}, constexprs={"BLOCK": BLOCK}, attrs=aligned)
    log = io.StringIO()
    with contextlib.redirect_stdout(log):
        triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": WARPS})
    return log.getvalue()


def verdict(rows):
    """rows: (name, arch, registers, spills, bytes) -> what is wrong, one line each."""
    return [
        f"{name}, sm_{arch}: " + (f"{spills} bytes of spills" if spills else f"{registers} registers")
        for name, arch, registers, spills, _ in rows
        if spills or registers > MOST_REGISTERS
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a regular expression: the kernels whose name it finds")
    parser.add_argument("--arch", type=int, nargs="+", default=[90, 80], help="compute capabilities, without the dot")
    args = parser.parse_args()
    only = pattern("--only", args.only)
    if importlib.util.find_spec("triton") is None:
        raise UserError(MISSING)
    chosen = [kernel for kernel in kernels() if only.search(kernel.name)]
    if not chosen:
        raise UserError(f"--only {args.only}: no kernel has such a name")
    rows = []
    print(f"{'kernel':42s}{'arch':>6s}{'registers':>11s}{'spills':>8s}{'bytes an element':>18s}")
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(TRITON_CACHE_DIR=folder, TRITON_DUMP_PTXAS_LOG="1")  # before Triton is imported
        for kernel in chosen:
            for arch in args.arch:
                read, written = traffic(kernel.loop, kernel.dtypes)
                rows.append((kernel.name, arch, *usage(compiled(kernel, arch)), read + written))
                name, _, *numbers = rows[-1]
                print("{:42s}{:>6s}{:11d}{:8d}{:18d}".format(name, f"sm_{arch}", *numbers), flush=True)
    if wrong := verdict(rows):
        sys.exit("\n".join(wrong))
    print(f"{len(rows)} compiled: no spills, at most {max(row[2] for row in rows)} registers")


if __name__ == "__main__":
    with one_line_errors(__file__):
        main()
