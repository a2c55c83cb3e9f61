"""The two passes of a step over the parameters, as loops made from a rule."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch

from .arguments import biases
from .fuse import Loop


class Passes(NamedTuple):
    look_back: Loop | None
    move: Loop
    kept: tuple[str, ...]  # the state that they take after the gradient and the parameter
    inputs: tuple[str, ...]  # which of it is not elementwise


@lru_cache
def passes(
    rule: Callable,
    coefficients: tuple[str, ...],
    buffers: tuple[str, ...],
    inputs: tuple[str, ...],
    constants: tuple[tuple[str, Any], ...],
    learn: tuple[str, ...],
) -> Passes:
    """The two passes of a step as loops over the same tensors and scalars: those of a plan.Batch."""
    if "lr" in coefficients:
        rule = partial(scaled, rule)
    rule = partial(rule, **dict(constants))
    names = (*coefficients, *biases(coefficients), "t")
    learned = {*learn, *biases(learn)}
    wrt = [name for name in names if name in learned]
    kept = (("g",) if learn else ()) + buffers + inputs
    tensors = ("the gradient", "the parameter", *kept)  # ours have a space: no rule has such a name
    scalars = ("go on", "clip by", "lr of the group", "decay by", *names)

    def unpack(arguments):
        named = dict(zip((*tensors, *scalars), arguments, strict=True))
        return named, {name: named[name] for name in buffers + inputs}, {name: named[name] for name in names}

    def look_back(*arguments):
        named, state, row = unpack(arguments)

        def direction(*leaves):
            return rule(named["g"], **state, **row | dict(zip(wrt, leaves, strict=True)))

        _, pull_back, new = torch.func.vjp(direction, *(row[name] for name in wrt), has_aux=True)
        return [new[name] for name in buffers], pull_back(named["the gradient"])

    def move(*arguments):
        named, state, row = unpack(arguments)
        g = named["the gradient"] * named["clip by"]
        direction, new = rule(g, **state, **row)
        lr = named["lr of the group"]
        x = named["the parameter"] * (1 - lr * named["decay by"]) - lr * direction
        return [x, g] if learn else [x, *(new[name] for name in buffers)], []

    return Passes(
        Loop(look_back, tensors, scalars, buffers, guarded=True) if learn else None,
        Loop(move, tensors, scalars, ("the parameter", "g") if learn else ("the parameter", *buffers), guarded=True),
        kept,
        inputs,
    )


def scaled(rule, g, /, *, lr, **arguments):
    """A rule whose direction is multiplied by the coefficient `lr`: a learned factor on the schedule."""
    direction, new = rule(g, **arguments)
    return lr * direction, new


@lru_cache
def gradient_norms() -> Loop:
    """The sum of squares and the sum of absolute values of each gradient."""
    return Loop(lambda grad: ([], [grad * grad, grad.abs()]), ("grad",), (), ())
