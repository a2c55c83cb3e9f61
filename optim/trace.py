"""Traces a function of 0-D tensors, its derivatives included, into a list of elementwise operations."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Lock

import torch
from torch.fx import GraphModule, Node

from .codegen import CONSTANTS, OPS

aten = torch.ops.aten
KNOWN = (*OPS, *CONSTANTS, aten._to_copy.default)
ONE_AT_A_TIME = Lock()  # make_fx changes global state of torch


def clamp(x, low=None, high=None):
    x = x if low is None else torch.where(x < low, low, x)
    return x if high is None else torch.where(x > high, high, x)


def remainder(x, y):
    m = torch.fmod(x, y)
    if not isinstance(y, torch.Tensor):
        return torch.where(m < 0, m + y, m) if y > 0 else torch.where(m > 0, m + y, m)
    return torch.where(((m < 0) & (y > 0)) | ((m > 0) & (y < 0)), m + y, m)


def divide(x, y, *, rounding_mode=None):
    """Rounded to what is exact: loops multiply by reciprocals, and 49 times that of 49 is below 1."""
    if rounding_mode is None or not isinstance(y, torch.Tensor) and y == 0:
        return x / y
    whole = torch.round((x - {"floor": remainder, "trunc": torch.fmod}[rounding_mode](x, y)) / y)
    return torch.where(y == 0, x / y, whole) if isinstance(y, torch.Tensor) else whole


def unless_shrunk(gradient, x, limit):
    return torch.where((x >= -limit) & (x <= limit), 0.0, gradient)


def add(x, y, *, alpha=1):
    return NotImplemented if alpha == 1 else x + alpha * y


def subtract(x, y, *, alpha=1):
    return NotImplemented if alpha == 1 else x - alpha * y


@cache
def decompositions() -> dict:
    """How to make operations that are not in the table of those that are: torch's ways, and a few of our own."""
    from torch._decomp import core_aten_decompositions, get_decompositions

    ours = {
        aten.clamp.default: clamp,
        aten.clamp.Tensor: clamp,
        aten.remainder.Tensor: remainder,
        aten.remainder.Scalar: remainder,
        aten.softshrink_backward.default: unless_shrunk,
        aten.hardshrink_backward.default: unless_shrunk,
        aten.div.Tensor_mode: divide,
        aten.div.Scalar_mode: divide,
        aten.add.Tensor: add,
        aten.sub.Tensor: subtract,
        aten.rsub.Tensor: lambda x, y, *, alpha=1: -(alpha * x) + y,
        aten.rsub.Scalar: lambda x, y, alpha=1: -(alpha * x) + y,
        aten.expand.default: lambda x, size, **_: NotImplemented if size else x,  # derivatives of sgn end in it
    }
    more = [getattr(aten, name) for name in ("elu", "gelu", "hardtanh", "leaky_relu", "logaddexp")]
    more += [aten.elu_backward, aten.gelu_backward, aten.hardtanh_backward, aten.leaky_relu_backward]
    torchs = dict(core_aten_decompositions().items()) | get_decompositions(more)
    return {op: way for op, way in torchs.items() if op not in KNOWN} | ours


def operations(trace: GraphModule) -> list[Node]:
    return [node for node in trace.graph.nodes if node.op == "call_function"]


def record(function: Callable, count: int, table: dict) -> GraphModule:
    """The trace of `function` with some operations replaced with those that `table` makes of them.

    In a thread of its own, which has none of the modes that the caller is in: autocast, anomaly detection, hooks, ...
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    def run():
        arguments = [torch.full((), 0.5, dtype=torch.float64) for _ in range(count)]
        with torch.autograd.set_detect_anomaly(False):  # which all threads share
            return make_fx(torch.func.functionalize(function), decomposition_table=table)(*arguments)

    with ONE_AT_A_TIME, ThreadPoolExecutor(1) as thread:
        trace = thread.submit(run).result()
    trace.graph.eliminate_dead_code()
    return trace


def traced(function: Callable, count: int) -> GraphModule:
    """The torch.fx graph module of `function`, which takes `count` 0-D tensors and returns a list of such.

    Raises ValueError naming an operation that is not elementwise: a loop over elements cannot run it.
    """
    try:
        trace = record(function, count, {})
    except RuntimeError as error:
        reason = str(error).split(". ")[0].split(" - ")[0]
        raise ValueError(
            "the rule cannot be traced: it must be made of torch's elementwise operations, with torch.where instead of "
            f"`if`, return tensors, and change nothing in place ({reason})"
        ) from error
    if any(node.target not in KNOWN or node.kwargs.get("alpha", 1) != 1 for node in operations(trace)):
        trace = record(function, count, decompositions())
    for node in operations(trace):
        if torch.Tag.pointwise not in getattr(node.target, "tags", ()) and node.target not in KNOWN:
            if node.target is aten.lift_fresh_copy.default:
                raise ValueError("the rule makes a tensor of a number, as torch.tensor does: write the number itself")
            raise ValueError(
                f"the rule uses {node.target}, which is not elementwise: each element of a parameter must be updated "
                "from its own gradient and buffers alone"
            )
    trace.recompile()
    return trace
