"""What a step works on: parameters as rows of loops, with their scalars; kept between steps while nothing changes."""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import inputs
from .arguments import learned
from .fuse import Rows, segment_sums, to_device
from .hyper import Hyper
from .passes import Passes, gradient_norms
from .shards import copies, is_sharded, local, local_gradient, world

if TYPE_CHECKING:
    from .engine import ParameterizedOptimizer

CONTROL = 4  # the first scalars: ok (0: change nothing), clip, lr, decay


def as_index(indices: list[int], device: torch.device) -> slice | Tensor:
    """Indices as a slice if they are one, so that what they select is a view; else as a tensor.

    For a list, PyTorch makes a tensor each time, and waits for the device.
    """
    first, count = (indices[0] if indices else 0), len(indices)
    return slice(first, first + count) if indices == list(range(first, first + count)) else to_device(indices, device)


def check_fit(x: Tensor, state: dict[str, Tensor]) -> None:
    """Raises RuntimeError if a parameter's state differs in shape or device: loops would leave their memory."""
    if x.numel() and not x.data_ptr():
        raise RuntimeError(
            f"a parameter of type {type(x).__name__} on {x.device} has no memory of its own for a step to change"
        )
    for name, y in state.items():
        if y.shape != x.shape or y.device != x.device:
            raise RuntimeError(
                f"the state {name!r} of a parameter of shape {tuple(x.shape)} on {x.device} has shape {tuple(y.shape)} "
                f"on {y.device}: it belongs to a different parameter, or the parameter has changed since"
            )


def check_apart(params: Iterable[Tensor]) -> None:
    """Raises RuntimeError if two parameters are the same memory: threads that update both would lose one update."""
    seen = set()
    for x in map(local, params):
        place = x.device, x.data_ptr()
        if x.numel() and place in seen:
            raise RuntimeError(
                f"two parameters share the memory of one of shape {tuple(x.shape)}: pass it once, as one parameter"
            )
        seen.add(place)


class Batch:
    """Parameters that go through the same loops, and are held by the same number of ranks.

    table: (rows, scalars) float64, which all loops take: `CONTROL`, the coefficients, the weight bias_i that each
    moving average has gathered, and t. The next look back starts from it as the last move left it.
    The state of the parameters holds views of `steps` and `weights`, which change in place.
    """

    def __init__(
        self,
        optimizer: "ParameterizedOptimizer",
        hyper: Hyper,
        loops: Passes,
        copies: int,
        members: list[tuple[int, Tensor]],
    ) -> None:
        """members: (group index, parameter), ordered by group."""
        groups, device = optimizer.param_groups, hyper.device
        index = [i for i, _ in members]
        self.loops, self.copies, self.params = loops, copies, [p for _, p in members]
        states = [optimizer.state[p] for p in self.params]
        count = Counter(index)
        self.lengths = to_device([count[i] for i in range(len(groups))], device)
        self.group = to_device(index, device) if len(groups) > 1 else None
        self.learn = learned(groups[index[0]])

        def shared(name, dtype):
            """The scalars of this name as one tensor, of which the parameters' states hold views from now on."""
            whole = torch.stack([state[name].to(device, dtype) for state in states])
            for state, part in zip(states, whole.unbind(), strict=True):
                state[name] = part
            return whole

        self.steps = shared("step", torch.float32)
        self.weights = shared("weights", torch.float64) if groups[index[0]]["debias"] == "weights" else None
        names = list(optimizer.domain)
        decays = optimizer.decays
        self.table = torch.zeros(
            len(members), CONTROL + len(names) + len(decays) + 1, dtype=torch.float64, device=device
        )
        self.ok, self.clip, self.lr, self.decay = self.table[:, :CONTROL].unbind(1)
        self.q = self.table[:, CONTROL : CONTROL + len(names)]
        self.bias, self.t = self.table[:, CONTROL + len(names) : -1], self.table[:, -1]
        self.betas = as_index(decays, device)
        self.one, self.ok_column = self.table.new_ones(()), self.ok[:, None]
        moved = [names.index(name) for name in names if name in self.learn]
        self.columns = to_device(moved, device)
        self.n_learned = len(moved)
        # which of the decays are learned, and where they are among what is learned
        self.learned_decays = as_index([k for k, i in enumerate(decays) if i in moved], device)
        self.learned_betas = as_index([k for k, i in enumerate(moved) if i in decays], device)

        self.moving = to_device([float(p.grad is not None) for p in self.params], device, torch.float64)
        self.pending = shared("pending", torch.float64) if self.learn else self.table.new_zeros(len(members))
        self.inputs = {name: optimizer.inputs[name] for name in loops.inputs}
        self.states = states
        self.rest = [
            [local(p), *(local(state[name]) for name in loops.kept)]
            for p, state in zip(self.params, states, strict=True)
        ]
        for x, *rest in self.rest:
            check_fit(x, dict(zip(loops.kept, rest, strict=True)))
        self.changed = [p for p in self.params if p.grad is not None]
        self.changed += [local(p) for p in self.changed if is_sharded(p)]
        self.stand_ins = {p: torch.zeros_like(p) for p in self.params if p.grad is None}  # for the gradient
        grads = self.gradients()
        for grad, (x, *_) in zip(grads, self.rest, strict=True):
            if grad.shape != x.shape or grad.device != x.device:
                raise RuntimeError(
                    f"a gradient of shape {tuple(grad.shape)} on {grad.device} for a parameter of which this rank "
                    f"holds {tuple(x.shape)} on {x.device}: it must be placed and sharded as the parameter is"
                )
        self.rows = Rows([(grad, *rest) for grad, rest in zip(grads, self.rest, strict=True)])
        self.pointers = [grad.data_ptr() for grad in grads]
        self.given = {"clip": None, "lr": None, "decay": None}  # by group; the same object holds the same values
        self.fill(hyper)

    def gradients(self) -> list[Tensor]:
        """This rank's part of each parameter's gradient."""
        grads = [local(self.stand_ins[p]) if p.grad is None else local_gradient(p) for p in self.params]
        if any(map(torch.is_neg, grads)):  # of a complex loss they may be stored with the other sign
            grads = [grad.resolve_neg() for grad in grads]
        return grads

    def take_gradients(self) -> None:
        """Use the gradients of this step, which may be elsewhere in memory."""
        grads = self.gradients()
        self.rows.take_first(grads)
        pointers = [grad.data_ptr() for grad in grads]
        if pointers != self.pointers:
            self.rows.replace_first()
            self.pointers = pointers

    def fill(self, hyper: Hyper) -> None:
        """Set the scalars to the current steps, weights and coefficients."""
        q = hyper.coefficients
        self.q.copy_(q if len(q) == 1 else q[self.group])
        self.t.copy_(self.steps)  # where it is 0, the loops do nothing
        beta = self.q[:, self.betas]
        if self.weights is None:
            self.bias.copy_(1 - beta ** self.t[:, None])
        else:
            torch.lerp(self.one, self.weights, beta, out=self.bias)  # w <- beta w + 1 - beta

    def by_group(self, x: Tensor) -> Tensor:
        """Sums over the rows of each group: (rows, n) -> (groups, n)."""
        if self.group is None:
            return x.sum(0, keepdim=True)
        return segment_sums(x, self.lengths)

    def look_back(self, ok: Tensor) -> Tensor:
        """Complete the last updates; returns sum <g_t, d direction_{t-1}/dq> of each group, (groups, coefficients)."""
        torch.mul(self.pending, ok, out=self.ok)
        sums = self.loops.look_back(self.rows, self.table)
        self.pending.sub_(self.ok)  # completed: it is not done again if something raises from here on
        h = sums[:, : self.n_learned]
        if sums.shape[1] > self.n_learned:  # what depends on a coefficient through a bias correction
            if self.weights is None:
                beta, t = self.q[:, self.betas][:, self.learned_decays], self.t[:, None]
                slope = -t * beta ** (t - 1).clamp(min=0)
            else:
                slope = self.weights[:, self.learned_decays] - 1
            h[:, self.learned_betas] += sums[:, self.n_learned :] * slope
        self.settle_weights()
        h = self.by_group(h)
        if self.n_learned < self.q.shape[1]:
            h = h.new_zeros(len(h), self.q.shape[1]).index_copy_(1, self.columns, h)
        return h

    def move(self, hyper: Hyper, ok: Tensor, clip: Tensor, lrs: Tensor, decays: Tensor) -> None:
        """Apply the rule with the current coefficients; clip, lrs, decays: one per group."""
        torch.mul(self.moving, ok, out=self.ok)
        for name, values in (("clip", clip), ("lr", lrs), ("decay", decays)):
            if values is not self.given[name]:
                getattr(self, name).copy_(values if self.group is None else values[self.group])
                self.given[name] = values
        if self.inputs:
            members = zip(self.params, self.states, self.clip.unbind(), strict=True)
            inputs.compute(self.inputs, [member for member in members if member[0].grad is not None], ok)
        self.steps += self.ok
        self.fill(hyper)
        self.loops.move(self.rows, self.table)
        torch.autograd.graph.increment_version(self.changed)  # autograd does not see what loops write
        if self.learn:
            torch.where(ok, self.moving, self.pending, out=self.pending)
        else:  # no look back completes it
            self.settle_weights()
        self.rows.take_first([None] * len(self.params))  # so that zero_grad frees their memory

    def settle_weights(self) -> None:
        """Once an update is complete, its moving averages have the weights of the table."""
        if self.weights is not None:
            self.weights.lerp_(self.bias, self.ok_column)  # all or nothing: ok is 1 or 0


class Plan:
    """The batches of all groups for the current gradients."""

    def __init__(self, optimizer: "ParameterizedOptimizer") -> None:
        optimizer.take_written()
        groups = optimizer.param_groups
        self.groups, members = groups, {}
        for i, group in enumerate(groups):
            loops = optimizer.loops(group)
            for p in group["params"]:
                if p.grad is not None:
                    optimizer.start(group, loops, p)
                if p.grad is not None or "g" in optimizer.state.get(p, ()):
                    members.setdefault((loops, copies(p)), []).append((i, p))
        check_apart(p for rows in members.values() for _, p in rows)
        self.hyper = Hyper(groups, optimizer.scalar_device())
        self.batches = [Batch(optimizer, self.hyper, *key, rows) for key, rows in members.items()]
        self.learns = any(learned(group) for group in groups)
        self.lost = [p for batch in self.batches for p in batch.stand_ins]  # this step completes their last update
        self.sharded = any(is_sharded(p) for batch in self.batches for p in batch.params)
        counts = [(batch.copies if self.sharded else 1, batch.copies) for batch in self.batches]
        self.divisors = [to_device(list(map(float, both)), self.hyper.device, torch.float64) for both in counts]
        self.lr_list, self.decay_list = None, None
        self.zeros = torch.zeros(len(groups), 2, dtype=torch.float64, device=self.hyper.device)
        # -1 for groups that maximize, 1 for the others
        self.signs = self.zeros.new_tensor([1.0 - 2.0 * bool(group["maximize"]) for group in groups])
        self.minus = -self.signs

        self.key = self.describe(optimizer)
        self.tensors = [x for batch in self.batches for rest in batch.rest for x in rest]
        self.addresses = self.locate()

    def describe(self, optimizer: "ParameterizedOptimizer") -> tuple:
        """All that must not change for this plan to hold, except what is in `addresses`."""
        groups = optimizer.param_groups
        grads = [p.grad for group in groups for p in group["params"]]
        return (
            [(id(p), p.stride()) for group in groups for p in group["params"]],
            [(len(group["params"]), len(group)) for group in groups],
            [grad is not None and (type(grad), grad.shape, grad.stride(), grad.dtype, grad.device) for grad in grads],
            [id(x) for state in optimizer.state.values() for x in state.values()],
            [optimizer.plan_settings(group) for group in groups],
            world(),
        )

    def locate(self) -> list[int]:
        """Where the tensors of the rows are in memory, except gradients."""
        shards = [local(p).data_ptr() for batch in self.batches for p in batch.params] if self.sharded else []
        return [x.data_ptr() for x in self.tensors] + shards

    def holds(self, optimizer: "ParameterizedOptimizer") -> bool:
        """Whether this plan still fits the optimizer's parameters, gradients, state and settings."""
        return (
            self.groups is optimizer.param_groups
            and self.key == self.describe(optimizer)
            and self.addresses == self.locate()
            and self.hyper.is_held_by(self.groups)
        )

    def rates(self) -> tuple[Tensor, Tensor]:
        """The learning rates and weight decays of the groups: (groups,) float64 each."""
        lrs = [group["lr"] for group in self.groups]
        if any(isinstance(lr, Tensor) for lr in lrs):
            device = self.hyper.device
            self.lrs = torch.stack([torch.as_tensor(lr, dtype=torch.float64, device=device).reshape(()) for lr in lrs])
            self.lr_list = None
        elif lrs != self.lr_list:
            self.lrs, self.lr_list = to_device(list(map(float, lrs)), self.hyper.device, torch.float64), lrs
        decays = [float(group["weight_decay"]) for group in self.groups]
        if decays != self.decay_list:
            self.decays, self.decay_list = to_device(decays, self.hyper.device, torch.float64), decays
        return self.lrs, self.decays

    def gradient_sums(self) -> tuple[Tensor, Tensor]:
        """This rank's part of each group's sums over raw gradients: of squares, of absolute values, (groups,) float64.

        Of the squares it is the whole sum, unless there are shards; of the absolute values, this copy's share.
        """
        totals = self.zeros
        for batch, held_by in zip(self.batches, self.divisors, strict=True):
            sums = batch.by_group(gradient_norms()(batch.rows, batch.table))
            if batch.copies > 1:
                sums = sums / held_by
            totals = sums if totals is self.zeros else totals + sums
        return totals.unbind(1)
