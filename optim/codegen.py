"""Prints a traced elementwise function (fuse.Loop) as a C or a Triton loop; compile.py builds it.

Both loops take chunks of at most fuse.CHUNK elements of one tensor. Per row of tensors they get the tensors' addresses
and the scalars, in double precision; what depends on scalars alone is computed once per chunk. Sums are kept per chunk,
so that they do not depend on the number of threads.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .fuse import Loop

aten = torch.ops.aten


def both(*ops, name=None):
    """Rows for functions that C and Triton's libdevice call by the same name, and torch too unless another is given."""
    return {getattr(aten, op).default: (f"{name or op}({{0}})", f"libdevice.{name or op}({{0}})") for op in ops}


def overloads(packet, template):
    """Rows for the forms of a binary operation: of two tensors, and of a tensor and a number."""
    return {getattr(packet, name): template for name in ("Tensor", "Scalar") if name in packet.overloads()}


# The operations that a rule may use, as C and as Triton write them: arithmetic and torch's elementwise core operations,
# of which torch's decompositions make the others (lerp, addcmul, softplus, ...).
OPS = {
    **overloads(aten.add, "{0} + {1}"),
    **overloads(aten.sub, "{0} - {1}"),
    **overloads(aten.mul, "{0} * {1}"),
    **overloads(aten.div, "{0} / {1}"),
    **overloads(aten.rsub, "{1} - {0}"),
    aten.neg.default: "-{0}",
    aten.reciprocal.default: "1 / {0}",
    **overloads(aten.gt, "{0} > {1}"),
    **overloads(aten.lt, "{0} < {1}"),
    **overloads(aten.ge, "{0} >= {1}"),
    **overloads(aten.le, "{0} <= {1}"),
    **overloads(aten.eq, "{0} == {1}"),
    **overloads(aten.ne, "{0} != {1}"),
    aten.logical_and.default: "({0} != 0) & ({1} != 0)",
    aten.logical_or.default: "({0} != 0) | ({1} != 0)",
    aten.logical_xor.default: "({0} != 0) ^ ({1} != 0)",
    aten.logical_not.default: "{0} == 0",
    aten.bitwise_and.Tensor: "{0} & {1}",
    aten.bitwise_or.Tensor: "{0} | {1}",
    aten.bitwise_xor.Tensor: "{0} ^ {1}",
    aten.bitwise_not.default: "{0} == 0",
    aten.isnan.default: "{0} != {0}",
    aten.isinf.default: ("fabs({0}) == INFINITY", 'tl.abs({0}) == float("inf")'),
    **dict.fromkeys((aten.detach.default, aten.alias.default, aten.clone.default), "{0}"),
    **dict.fromkeys(
        (aten.sign.default, aten.sgn.default),
        ("(T)({0} > 0) - (T)({0} < 0)", "tl.where({0} > 0, 1.0, tl.where({0} < 0, -1.0, 0.0))"),
    ),
    aten.sqrt.default: ("sqrt({0})", "tl.sqrt({0})"),
    aten.rsqrt.default: ("1 / sqrt({0})", "tl.rsqrt({0})"),
    aten.abs.default: ("fabs({0})", "tl.abs({0})"),
    aten.exp.default: ("exp({0})", "tl.exp({0})"),
    aten.log.default: ("log({0})", "tl.log({0})"),
    aten.sigmoid.default: ("1 / (1 + exp(-{0}))", "1 / (1 + tl.exp(-({0})))"),
    aten.relu.default: ("{0} < 0 ? 0 : {0}", "tl.where({0} < 0, 0.0, {0})"),
    **both("acos", "acosh", "asin", "asinh", "atan", "atanh", "ceil", "cos", "cosh", "erf", "exp2", "expm1", "floor"),
    **both("log10", "log1p", "log2", "sin", "sinh", "tan", "tanh", "trunc"),
    **both("round", name="rint"),
    aten.atan2.default: ("atan2({0}, {1})", "libdevice.atan2({0}, {1})"),
    **dict.fromkeys(
        (aten.pow.Tensor_Tensor, aten.pow.Tensor_Scalar, aten.pow.Scalar),
        ("pow({0}, {1})", "libdevice.pow({0}, {1})"),
    ),
    **overloads(aten.fmod, ("fmod({0}, {1})", "libdevice.fmod({0}, {1})")),
    aten.maximum.default: (  # NaN if either is
        "({0} > {1}) | ({0} != {0}) ? {0} : {1}",
        "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    ),
    aten.minimum.default: (
        "({0} < {1}) | ({0} != {0}) ? {0} : {1}",
        "tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    ),
    aten.where.self: ("{0} ? {1} : {2}", "tl.where({0}, {1}, {2})"),
    aten.masked_fill.Scalar: ("{1} ? {2} : {0}", "tl.where({1}, {2}, {0})"),
}
CONSTANTS = {  # operations that make a number, as functions of their arguments
    aten.zeros_like.default: lambda x: 0.0,
    aten.ones_like.default: lambda x: 1.0,
    aten.full_like.default: lambda x, value: value,
    aten.full.default: lambda size, value: value,
    aten.scalar_tensor.default: lambda value: value,
    aten.empty_permuted.default: lambda size, order: 0.0,  # only its shape is used
}
LOGICAL = {
    *(aten.gt, aten.lt, aten.ge, aten.le, aten.eq, aten.ne, aten.isnan, aten.isinf),
    *(aten.logical_and, aten.logical_or, aten.logical_xor, aten.logical_not),
    *(aten.bitwise_and, aten.bitwise_or, aten.bitwise_xor, aten.bitwise_not),
}

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
  %(guard)s
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
void run(int64_t first, int64_t stride, int64_t chunks, const int64_t* table, char* const* address, int64_t tensors,
         const double* scalars, int64_t n_scalars, double* sums) {
  for (int64_t c = first; c < chunks; c += stride) {
    const int64_t row = table[3 * c], start = table[3 * c + 1], size = table[3 * c + 2];
    chunk(start, size, address + tensors * row, scalars + n_scalars * row, sums + %(n_sums)d * c);
  }
}
"""

# Elements at once, and warps that share them. 512 take up to 252 registers a thread, 256 at most 121 (make kernels).
BLOCK, WARPS = 256, 4
TRITON_TYPES = {
    torch.float32: "tl.float32",
    torch.float64: "tl.float64",
    torch.bfloat16: "tl.bfloat16",
    torch.float16: "tl.float16",
}
TRITON = """\
import triton
import triton.language as tl
from triton.language.extra import libdevice

@triton.jit
def run(table, address, tensors, scalars, n_scalars, sums, BLOCK: tl.constexpr):
    c = tl.program_id(0)
    row, start, size = tl.load(table + 3 * c), tl.load(table + 3 * c + 1), tl.load(table + 3 * c + 2)
    %(once)s
    %(guard)s
    for begin in range(0, size, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        inside = i < size
        %(each)s
    %(add)s
"""


NOT_FINITE = (
    {"inf": "INFINITY", "-inf": "-INFINITY", "nan": "NAN"},
    {"inf": 'float("inf")', "-inf": 'float("-inf")', "nan": 'float("nan")'},
)


class Unavailable(Exception):
    """Why a loop cannot be built here."""


def compute_dtype(dtypes: Sequence[torch.dtype]) -> torch.dtype:
    """The dtype that the operations are done in: float32, or float64 if a tensor has it."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def expressions(loop, dialect, cast, literal):
    """The trace of a loop in the C (0) or Triton (1) dialect -> two lists of lines, expressions of the outputs.

    A line is (name, whether it is a boolean, expression). The first list depends on scalars alone and is in double
    precision; `cast` brings its values to an element. Divisions by the same value become multiplications with its
    reciprocal, taken once. Raises Unavailable naming an operation without a row in OPS.
    """
    names, once, each, uniform, logical, reciprocals = {}, [], [], set(), set(), {}

    def number(x):
        return repr(float(x)) if math.isfinite(x) else NOT_FINITE[dialect][str(float(x))]

    def operand(x, inside):
        """A node or a number as it stands in a line of `each` (inside) or `once`."""
        if not isinstance(x, torch.fx.Node):
            return literal(number(x)) if inside else number(x)
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
        if op in CONSTANTS:
            op, args = aten.scalar_tensor.default, (CONSTANTS[op](*args),)
        inside = any(isinstance(x, torch.fx.Node) and x not in uniform for x in args)
        # torch's sum and product of booleans
        of_logical = {aten.add.Tensor: "|", aten.mul.Tensor: "&"}.get(op) if logical.issuperset(args) else None
        if op is aten.scalar_tensor.default:
            expression = number(args[0])
        elif op is aten.div.Tensor and inside and isinstance(args[1], torch.fx.Node):
            below = args[1]
            if below not in reciprocals:
                name = reciprocals[below] = f"r{len(reciprocals)}"
                one = literal("1.0") if below not in uniform else "1.0"
                (once if below in uniform else each).append((name, False, f"{one} / {names[below]}"))
            reciprocal = cast(reciprocals[below]) if below in uniform else reciprocals[below]
            expression = f"{operand(args[0], inside)} * {reciprocal}"
        elif op is aten.pow.Tensor_Scalar and args[1] == 2:
            expression = "{0} * {0}".format(operand(args[0], inside))
        elif op is aten._to_copy.default and (
            node.kwargs.get("dtype") is torch.float64 or node.kwargs == {"dtype": torch.float32} and args[0] in logical
        ):
            expression = operand(args[0], inside)
            if args[0] in logical and dialect:  # Triton counts with booleans as with integers of one bit
                expression = cast(expression) if inside else f"({expression}).to(tl.float64)"
        elif of_logical:
            expression = f"{operand(args[0], inside)} {of_logical} {operand(args[1], inside)}"
        elif op in OPS:
            template = OPS[op] if isinstance(OPS[op], str) else OPS[op][dialect]
            operands = [operand(x, inside) for x in args]
            if "libdevice" in template:  # whose functions take arguments of one type
                typed, place = "tl.full([], {}, tl.float64)".format, cast if inside else str
                operands = [
                    x if isinstance(arg, torch.fx.Node) else place(typed(number(arg)))
                    for x, arg in zip(operands, args, strict=True)
                ]
            expression = template.format(*operands)
        else:
            raise Unavailable(f"the rule uses {op}, which has no row in OPS of optim/codegen.py")
        names[node] = f"x{len(names)}"
        if not inside:
            uniform.add(node)
        if op.overloadpacket in LOGICAL or of_logical:
            logical.add(node)
        (each if inside else once).append((names[node], node in logical, expression))
    return once, each, [operand(x, True) for x in loop.trace.graph.output_node().args[0]]


def columns(loop: "Loop") -> tuple[list[int], list[int]]:
    """The columns of the tensors that a loop reads, and of those that it writes."""
    arguments = [node for node in loop.trace.graph.nodes if node.op == "placeholder"]
    read = [i for i, node in enumerate(arguments[: len(loop.tensors)]) if node.users]
    return read, [loop.tensors.index(name) for name in loop.written]


def used(loop: "Loop") -> list[int]:
    """The columns of the tensors that a loop reads or writes."""
    read, written = columns(loop)
    return sorted({*read, *written})


def traffic(loop: "Loop", dtypes: Sequence[torch.dtype]) -> tuple[int, int]:
    """The bytes that a loop over tensors of these dtypes reads, and those that it writes, per element."""
    return tuple(sum(dtypes[i].itemsize for i in part) for part in columns(loop))


def print_c(loop: "Loop", dtypes: Sequence[torch.dtype]) -> str:
    """The C source of a loop over tensors of these dtypes."""
    once, each, outputs = expressions(loop, 0, "(T){}".format, "(T){}".format)
    kinds, sums = [C_TYPES[dtype] for dtype in dtypes], range(loop.n_sums)
    written = [(i, kinds[i]) for i in map(loop.tensors.index, loop.written)]

    def declare(lines, kind):
        return [f"const {'_Bool' if logical else kind} {name} = {expression};" for name, logical, expression in lines]

    def convert(kind, way, x):
        return f"{way}_bf16({x})" if kind == "bf16" else f"({kind if way == 'to' else 'T'})({x})"

    return C % {
        "T": C_TYPES[compute_dtype(dtypes)],
        "n_sums": loop.n_sums,
        "guard": "if (!u0) return;" if loop.guarded else "",
        "once": "\n  ".join(
            [f"{kinds[i]}* const restrict p{i} = ({kinds[i]}*)address[{i}] + start;" for i in used(loop)]
            + [f"const double u{i} = scalars[{i}];" for i in range(len(loop.scalars))]
            + declare(once, "double")
            + [f"sums[{k}] = 0;" for k in sums]
        ),
        "each": "\n      ".join(
            [f"const T e{i} = {convert(kinds[i], 'from', f'p{i}[i]')};" for i in used(loop)]
            + declare(each, "T")
            + [f"p{i}[i] = {convert(kind, 'to', x)};" for (i, kind), x in zip(written, outputs, strict=False)]
            + [f"s{k} += {x};" for k, x in enumerate(outputs[len(written) :])]
        ),
        "zero": " ".join(f"T s{k} = 0;" for k in sums),
        "add": " ".join(f"sums[{k}] += s{k};" for k in sums),
        "reduction": f"reduction(+: {', '.join(f's{k}' for k in sums)})" if sums else "",
    }


def print_triton(loop: "Loop", dtypes: Sequence[torch.dtype]) -> str:
    """The Triton source of a loop over tensors of these dtypes."""
    T = TRITON_TYPES[compute_dtype(dtypes)]
    once, each, outputs = expressions(loop, 1, f"({{}}).to({T})".format, str)
    kinds, sums = [TRITON_TYPES[dtype] for dtype in dtypes], range(loop.n_sums)
    written = [(i, kinds[i]) for i in map(loop.tensors.index, loop.written)]
    return TRITON % {
        "guard": "size = tl.where(u0 != 0, size, 0)" if loop.guarded else "",
        "once": "\n    ".join(
            [
                f"p{i} = tl.load(address + tensors * row + {i}).to(tl.pointer_type({kinds[i]})) + start"
                for i in used(loop)
            ]
            + [f"u{i} = tl.load(scalars + n_scalars * row + {i})" for i in range(len(loop.scalars))]
            + [f"{name} = {expression}" for name, _, expression in once]
            + [f"s{k} = tl.zeros([BLOCK], {T})" for k in sums]
        ),
        "each": "\n        ".join(
            [f"e{i} = tl.load(p{i} + i, mask=inside, other=0.0).to({T})" for i in used(loop)]
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
