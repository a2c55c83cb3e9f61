"""A traced elementwise function (fuse.Loop) printed as a C or a Triton loop, and built.

Both loops take chunks of at most fuse.CHUNK elements of one tensor. Per row of tensors they get the tensors' addresses
and the scalars, in double precision; what depends on scalars only is computed once per chunk. Sums are kept per chunk,
so that they do not depend on the number of threads.

The C compiler is $CC, or cc, gcc or clang on the PATH, or the one in the Python package ziglang.
"""

import ctypes
import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import torch

aten = torch.ops.aten
SIGN = ("(T)({0} > 0) - (T)({0} < 0)", "tl.where({0} > 0, 1.0, tl.where({0} < 0, -1.0, 0.0))")

COMPARISONS = {aten.gt: ">", aten.lt: "<", aten.ge: ">=", aten.le: "<=", aten.eq: "==", aten.ne: "!="}

# The operations that a rule may use, as C and as Triton write them.
OPS = {
    **dict.fromkeys((aten.add.Tensor, aten.add.Scalar), "{0} + {1}"),
    aten.neg.default: "-{0}",
    **dict.fromkeys((aten.sub.Tensor, aten.sub.Scalar), "{0} - {1}"),
    aten.rsub.Scalar: "{1} - {0}",
    **dict.fromkeys((aten.mul.Tensor, aten.mul.Scalar), "{0} * {1}"),
    **dict.fromkeys((aten.div.Tensor, aten.div.Scalar), "{0} / {1}"),
    aten.reciprocal.default: "1 / {0}",
    **{op: f"{{0}} {sign} {{1}}" for packet, sign in COMPARISONS.items() for op in (packet.Tensor, packet.Scalar)},
    **dict.fromkeys((aten.logical_and.default, aten.bitwise_and.Tensor), "{0} & {1}"),
    **dict.fromkeys((aten.detach.default, aten.alias.default), "{0}"),
    **dict.fromkeys((aten.sign.default, aten.sgn.default), SIGN),
    aten.sqrt.default: ("sqrt({0})", "tl.sqrt({0})"),
    aten.abs.default: ("fabs({0})", "tl.abs({0})"),
    aten.exp.default: ("exp({0})", "tl.exp({0})"),
    aten.log.default: ("log({0})", "tl.log({0})"),
    aten.maximum.default: ("{0} > {1} ? {0} : {1}", "tl.maximum({0}, {1})"),
    aten.minimum.default: ("{0} < {1} ? {0} : {1}", "tl.minimum({0}, {1})"),
    aten.where.self: ("{0} ? {1} : {2}", "tl.where({0}, {1}, {2})"),
    aten.masked_fill.Scalar: ("{1} ? {2} : {0}", "tl.where({1}, {2}, {0})"),
}
LOGICAL = {*COMPARISONS, aten.logical_and, aten.bitwise_and}

C_TYPES = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bf16", torch.float16: "_Float16"}
C = """\
#include <stdint.h>
#include <string.h>
#include <tgmath.h>
typedef %(T)s T;
typedef struct { uint16_t bits; } bf16;
static inline float from_bf16(bf16 x) { uint32_t u = (uint32_t)x.bits << 16; float f; memcpy(&f, &u, 4); return f; }
static inline bf16 to_bf16(float f) {  // rounds to nearest, ties to even
  uint32_t u; memcpy(&u, &f, 4);
  bf16 x = { f != f ? 0x7fc0 : (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16) }; return x;
}
static void chunk(int64_t start, int64_t size, char* const* address, const double* scalars, double* sums) {
  %(once)s
  for (int64_t begin = 0; begin < size; begin += 4096) {  // T adds up 4096 summands, double their sums
    const int64_t end = begin + 4096 < size ? begin + 4096 : size;
    %(zero)s
#pragma omp simd %(reduction)s
    for (int64_t i = begin; i < end; i++) {
      %(each)s
    }
    %(add)s
  }
}
void run(int64_t first, int64_t stride, int64_t chunks, const int64_t* table, char* const* address, const double* scalars,
         double* sums) {
  for (int64_t c = first; c < chunks; c += stride) {
    const int64_t row = table[3 * c], start = table[3 * c + 1], size = table[3 * c + 2];
    chunk(start, size, address + %(n_tensors)d * row, scalars + %(n_scalars)d * row, sums + %(n_sums)d * c);
  }
}
"""

TRITON_TYPES = {
    torch.float32: "tl.float32",
    torch.float64: "tl.float64",
    torch.bfloat16: "tl.bfloat16",
    torch.float16: "tl.float16",
}
TRITON = """\
import triton
import triton.language as tl

@triton.jit
def run(table, address, scalars, sums, BLOCK: tl.constexpr):
    c = tl.program_id(0)
    row, start, size = tl.load(table + 3 * c), tl.load(table + 3 * c + 1), tl.load(table + 3 * c + 2)
    %(once)s
    for begin in range(0, size, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        inside = i < size
        %(each)s
    %(add)s
"""


class Unavailable(Exception):
    """Why a loop cannot be built here."""


def compute_dtype(dtypes):
    """What the operations are done in: float32, or float64 where a tensor has it."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def operations(loop, dialect, cast, literal):
    """The trace of a loop in the C (0) or Triton (1) dialect -> two lists of lines, expressions of the outputs.

    A line is (name, whether it is true or false rather than a number, expression).

    The first list depends on scalars only and is in double precision; `cast` brings its values to an element.
    Division by the same value is multiplication with its reciprocal, taken once.
    """
    names, once, each, uniform, logical, reciprocals = {}, [], [], set(), set(), {}

    def operand(x, inside):
        """A node or a number as it stands in a line of `each` (inside) or `once`."""
        if not isinstance(x, torch.fx.Node):
            return literal(float(x)) if inside else repr(float(x))
        return cast(names[x]) if inside and x in uniform and x not in logical else names[x]

    for node in loop.trace.graph.nodes:
        if node.op == "placeholder":
            index = len(names) - len(loop.tensors)
            names[node] = f"e{len(names)}" if index < 0 else f"u{index}"
            if index >= 0:
                uniform.add(node)
        if node.op != "call_function":
            continue
        op, args = node.target, node.args
        if op in (aten.zeros_like.default, aten.ones_like.default):
            op, args = aten.scalar_tensor.default, (op is aten.ones_like.default,)
        inside = any(isinstance(x, torch.fx.Node) and x not in uniform for x in args)
        if op is aten.scalar_tensor.default:
            expression = repr(float(args[0]))
        elif op is aten.div.Tensor and inside and isinstance(args[1], torch.fx.Node):
            below = args[1]
            if below not in reciprocals:
                name = reciprocals[below] = f"r{len(reciprocals)}"
                one = literal(1.0) if below not in uniform else "1.0"
                (once if below in uniform else each).append((name, False, f"{one} / {names[below]}"))
            reciprocal = cast(reciprocals[below]) if below in uniform else reciprocals[below]
            expression = f"{operand(args[0], inside)} * {reciprocal}"
        elif op is aten.pow.Tensor_Scalar and args[1] == 2:
            expression = "{0} * {0}".format(operand(args[0], inside))
        elif op in OPS:
            template = OPS[op] if isinstance(OPS[op], str) else OPS[op][dialect]
            expression = template.format(*(operand(x, inside) for x in args))
        else:
            raise Unavailable(f"the rule uses {op}, which has no row in OPS of optim/codegen.py")
        names[node] = f"x{len(names)}"
        if not inside:
            uniform.add(node)
        if op.overloadpacket in LOGICAL:
            logical.add(node)
        (each if inside else once).append((names[node], node in logical, expression))
    return once, each, [operand(x, True) for x in loop.trace.graph.output_node().args[0]]


def print_c(loop, dtypes):
    """The C source of a loop over tensors of these dtypes."""
    once, each, outputs = operations(loop, 0, "(T){}".format, "(T){!r}".format)
    kinds, sums = [C_TYPES[dtype] for dtype in dtypes], range(loop.n_sums)
    written = [(i, kinds[i]) for i in map(loop.tensors.index, loop.written)]

    def declare(lines, kind):
        return [f"const {'_Bool' if logical else kind} {name} = {expression};" for name, logical, expression in lines]

    def convert(kind, way, x):
        return f"{way}_bf16({x})" if kind == "bf16" else f"({kind if way == 'to' else 'T'})({x})"

    return C % {
        "T": C_TYPES[compute_dtype(dtypes)],
        "n_tensors": len(kinds),
        "n_scalars": len(loop.scalars),
        "n_sums": loop.n_sums,
        "once": "\n  ".join(
            [f"{kind}* const restrict p{i} = ({kind}*)address[{i}] + start;" for i, kind in enumerate(kinds)]
            + [f"const double u{i} = scalars[{i}];" for i in range(len(loop.scalars))]
            + declare(once, "double")
            + [f"sums[{k}] = 0;" for k in sums]
        ),
        "each": "\n      ".join(
            [f"const T e{i} = {convert(kind, 'from', f'p{i}[i]')};" for i, kind in enumerate(kinds)]
            + declare(each, "T")
            + [f"p{i}[i] = {convert(kind, 'to', x)};" for (i, kind), x in zip(written, outputs, strict=False)]
            + [f"s{k} += {x};" for k, x in enumerate(outputs[len(written) :])]
        ),
        "zero": " ".join(f"T s{k} = 0;" for k in sums),
        "add": " ".join(f"sums[{k}] += s{k};" for k in sums),
        "reduction": f"reduction(+: {', '.join(f's{k}' for k in sums)})" if sums else "",
    }


def print_triton(loop, dtypes):
    """The Triton source of a loop over tensors of these dtypes."""
    T = TRITON_TYPES[compute_dtype(dtypes)]
    once, each, outputs = operations(loop, 1, f"({{}}).to({T})".format, repr)
    kinds, sums = [TRITON_TYPES[dtype] for dtype in dtypes], range(loop.n_sums)
    written = [(i, kinds[i]) for i in map(loop.tensors.index, loop.written)]
    return TRITON % {
        "once": "\n    ".join(
            [
                f"p{i} = tl.load(address + {len(kinds)} * row + {i}).to(tl.pointer_type({kind})) + start"
                for i, kind in enumerate(kinds)
            ]
            + [f"u{i} = tl.load(scalars + {len(loop.scalars)} * row + {i})" for i in range(len(loop.scalars))]
            + [f"{name} = {expression}" for name, _, expression in once]
            + [f"s{k} = tl.zeros([BLOCK], {T})" for k in sums]
        ),
        "each": "\n        ".join(
            [f"e{i} = tl.load(p{i} + i, mask=inside, other=0.0).to({T})" for i in range(len(kinds))]
            + [f"{name} = {expression}" for name, _, expression in each]
            + [
                f"tl.store(p{i} + i, ({value}).to({kind}), mask=inside)"
                for (i, kind), value in zip(written, outputs, strict=False)
            ]
            + [f"s{k} += tl.where(inside, {value}, 0.0)" for k, value in enumerate(outputs[len(written) :])]
        ),
        "add": "\n    ".join(
            f"tl.store(sums + {loop.n_sums} * c + {k}, tl.sum(s{k}, axis=0).to(tl.float64))" for k in sums
        ),
    }


@functools.cache
def folder():
    """Where sources and libraries of this process go."""
    holder = tempfile.TemporaryDirectory(prefix="mada-")
    folder.holder = holder  # removed when the process ends
    return holder.name


def compiler():
    """The command of a C compiler, a list."""
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and shutil.which(name):
            return [name]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    raise Unavailable("there is no C compiler on the PATH, and `pip install ziglang`, which has one, was not run")


@functools.cache
def compile_c(source):
    """The function `run` of a C source."""
    path = os.path.join(folder(), f"loop{len(os.listdir(folder()))}")
    with open(path + ".c", "w") as file:
        file.write(source)
    command = [
        *compiler(),
        "-O3",
        "-march=native",
        "-fopenmp-simd",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-shared",
        "-fPIC",
        path + ".c",
        "-o",
        path + ".so",
        "-lm",
    ]
    try:
        subprocess.run(command, capture_output=True, text=True, check=True)
        return ctypes.CDLL(path + ".so").run
    except (OSError, subprocess.CalledProcessError) as error:
        problem = (getattr(error, "stderr", None) or str(error)).strip()
        raise Unavailable(f"{command[0]} fails: {problem.splitlines()[0]}") from error


@functools.cache
def threads(number):
    """Threads that run loops beside the one that calls."""
    return ThreadPoolExecutor(number, thread_name_prefix="optim")


def build_c(loop, dtypes):
    run = compile_c(print_c(loop, dtypes))

    def call(*tensors):
        """tensors: chunk table, addresses, scalars, sums per chunk."""
        number = min(torch.get_num_threads(), len(tensors[0]))  # waking a thread costs more than a small chunk
        arguments = [ctypes.c_int64(number), ctypes.c_int64(len(tensors[0]))]
        arguments += [ctypes.c_void_p(x.data_ptr()) for x in tensors]
        others = [threads(number - 1).submit(run, ctypes.c_int64(k), *arguments) for k in range(1, number)]
        run(ctypes.c_int64(0), *arguments)
        for other in others:
            other.result()

    return call


@functools.cache
def compile_triton(source):
    """The kernel `run` of a Triton source, which Triton wants to read in a file."""
    if importlib.util.find_spec("triton") is None:
        raise Unavailable("Triton is not installed")
    path = os.path.join(folder(), f"loop{len(os.listdir(folder()))}.py")
    with open(path, "w") as file:
        file.write(source)
    spec = importlib.util.spec_from_file_location(os.path.basename(path)[:-3], path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.run


def build_triton(loop, dtypes):
    run = compile_triton(print_triton(loop, dtypes))
    return lambda table, address, scalars, sums: run[(len(table),)](
        table, address, scalars, sums, BLOCK=512, num_warps=4
    )
