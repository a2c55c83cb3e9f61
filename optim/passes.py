"""The two passes of a step over the parameters, as loops made from a rule."""

from functools import lru_cache, partial
from typing import NamedTuple

import torch

from .fuse import Loop


class Passes(NamedTuple):
    look_back: Loop | None
    move: Loop
    wrt: tuple[int, ...]  # columns of the scalars that depend on learned coefficients


@lru_cache
def passes(rule, coefficients, buffers, constants, learn):
    """The two passes of a step as loops. Their scalars are `ok` (0: change nothing) and a row of `scalar_table`."""
    if "lr" in coefficients:
        rule = partial(scaled, rule)
    rule = partial(rule, **dict(constants))
    decays = [name for name in coefficients if name.startswith("beta")]
    names = (*coefficients, *(name.replace("beta", "bias") for name in decays), "t")
    learned = {*learn, *(name.replace("beta", "bias") for name in decays if name in learn)}
    wrt = tuple(i for i, name in enumerate(names) if name in learned)

    def unpack(arguments):
        state, ok, row = arguments[: len(buffers)], arguments[len(buffers)], arguments[-len(names) :]
        return dict(zip(buffers, state, strict=True)), ok != 0, dict(zip(names, row, strict=True))

    def look_back(grad, g, *arguments):
        state, ok, row = unpack(arguments)

        def direction(*leaves):
            return rule(g, **state, **row | dict(zip((names[i] for i in wrt), leaves, strict=True)))

        _, pull_back, new = torch.func.vjp(direction, *(row[names[i]] for i in wrt), has_aux=True)
        return [torch.where(ok, new[name], state[name]) for name in buffers], pull_back(grad)

    def move(grad, x, *arguments):
        g, arguments = (arguments[0], arguments[1:]) if learn else (None, arguments)
        clip, lr, decay = arguments[len(buffers) + 1 : len(buffers) + 4]
        state, ok, row = unpack(arguments)
        direction, new = rule(grad * clip, **state, **row)
        written = [torch.where(ok, x * (1 - lr * decay) - lr * direction, x)]
        if learn:
            return [*written, torch.where(ok, grad * clip, g)], []
        return written + [torch.where(ok, new[name], state[name]) for name in buffers], []

    return Passes(
        Loop(look_back, ("grad", "g", *buffers), ("ok", *names), buffers) if learn else None,
        Loop(
            move,
            ("grad", "x", *(("g",) if learn else ()), *buffers),
            ("ok", "clip", "lr", "decay", *names),
            ("x", "g") if learn else ("x", *buffers),
        ),
        wrt,
    )


def scaled(rule, g, /, *, lr, **arguments):
    """A rule whose direction is multiplied by the coefficient `lr`: a learned factor on the schedule."""
    direction, new = rule(g, **arguments)
    return lr * direction, new


@lru_cache
def gradient_norms():
    """The sum of squares and the sum of absolute values of each gradient."""
    return Loop(lambda grad: ([], [grad * grad, grad.abs()]), ("grad",), (), ())
