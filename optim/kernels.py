"""The elementwise work of an optimizer step on the tensors of one parameter: everything that costs memory traffic."""

import torch

SLICE = 65_536  # elements taken through a rule at once, so that its intermediate results stay in the cache


def upcast(x):
    """Low-precision tensors are computed in float32; the result is rounded when it is stored."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def slices(*tensors):
    """The same flat slice of every tensor (None stays None), one tuple after the other; views, so writable in place."""
    given = [x for x in tensors if x is not None]
    size = given[0].numel()
    if size <= SLICE or not all(x.is_contiguous() for x in given):
        yield tensors
        return
    flat = [None if x is None else x.view(-1) for x in tensors]
    for start in range(0, size, SLICE):
        yield tuple(None if x is None else x[start:start + SLICE] for x in flat)


def vjp(rule, wrt, scalars, cotangent, g, buffers):
    """Sum over the elements of cotangent * d direction / d scalar, for each scalar named in `wrt`. (len(wrt),) float64.

    rule: (g, **buffers, **scalars) -> (direction, new buffers); scalars: {name: 0-D tensor}; buffers: {name: like g}.
    """
    total = torch.zeros(len(wrt), dtype=torch.float64, device=g.device)
    for cotangent, g, *parts in slices(cotangent, g, *buffers.values()):
        with torch.enable_grad():
            leaves = {name: scalars[name].detach().requires_grad_() for name in wrt}
            state = {name: upcast(part) for name, part in zip(buffers, parts, strict=True)}
            direction, _ = rule(upcast(g), **state, **{**scalars, **leaves})
        if not direction.requires_grad:  # Lion's corner: no coefficient but gamma counts there
            return total
        total += torch.stack(torch.autograd.grad(
            direction, list(leaves.values()), cotangent.to(direction.dtype), materialize_grads=True))
    return total


def advance(rule, scalars, g, buffers):
    """Complete the last update: the buffers take the values that it gave them. In place."""
    for g, *parts in slices(g, *buffers.values()):
        _, new = rule(upcast(g), **{name: upcast(part) for name, part in zip(buffers, parts, strict=True)}, **scalars)
        for name, part in zip(buffers, parts, strict=True):
            part.copy_(new[name])


def update(rule, scalars, grad, clip, x, lr, decay, g, buffers, last_scalars=None):
    """x <- x (1 - lr decay) - lr direction, with the direction taken from the clipped gradient grad * clip. In place.

    Where g, the remembered gradient, is given, the buffers are those of before the last update: they are advanced by
    it with `last_scalars`, and g becomes the clipped gradient. With g = None the buffers are current and stay so.
    """
    for x, grad, g, *parts in slices(x, grad, g, *buffers.values()):
        state = {name: upcast(part) for name, part in zip(buffers, parts, strict=True)}
        if last_scalars is not None:
            _, state = rule(upcast(g), **state, **last_scalars)
        clipped = upcast(grad) * clip
        direction, new = rule(clipped, **state, **scalars)
        x.copy_(upcast(x) * (1 - lr * decay) - lr * direction)
        for name, part in zip(buffers, parts, strict=True):
            part.copy_((new if g is None else state)[name])
        if g is not None:
            g.copy_(clipped)  # last: the new value of a buffer may be g itself
