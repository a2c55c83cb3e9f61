"""The engine under every optimizer of this folder: an elementwise rule whose coefficients may be learned.

A rule is a pure function of tensors, `direction, new_buffers = rule(g, **buffers, **coefficients, ...)`. The engine
remembers what the last update was computed from, and makes two passes over the parameters per step:

look back   takes the vector-Jacobian product of the last update with the new raw gradient, which is the hyper-gradient,
            and completes that update: the buffers take the values it gave them;
move        clips the gradient and applies the rule with the new coefficients.

In between, the hyper-gradient is reduced over ranks and moves the learned coefficients q by projected hyper-SGD
(Algorithm 1 of the paper; hyper.py). Nothing is kept between steps but the rule's buffers and the last gradient:
evaluating the rule again is cheaper than holding autograd's graph, and no graph through the model is needed. With
`learn=()` there is only the second pass, and not even the gradient is kept. Once its plan is made, no step waits for
the device, except one in which a parameter loses its gradient and, under hyper_scale="raw", the 64th (clipping.py).

From step() to a changed tensor: plan.Batch.move hands its rows and their scalars to fuse.Loop, which runs what
compile.py built from what codegen.py printed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim.optimizer import ParamsT

from . import arguments
from .clipping import Watch
from .hyper import HYPER_OPTIMIZERS, Hyper
from .inputs import check_inputs
from .passes import Passes, passes
from .plan import Plan
from .shards import check_same_parameters, is_sharded, world
from .state import Stateful

RELATIVE_HYPER_LR = 1e-2  # for every coefficient: relative hyper-gradients are of one scale
LR_RANGE = (0.1, 10.0)  # of a learned factor on the learning rate
GROWING_HYPER_LR = 0.3  # of the logarithm of a learning rate that only grows,
GROWTH = (1.0, 1e6)  # and where its factor stays


class ParameterizedOptimizer(Stateful):
    """Base class: a subclass defines its rule and the domain of its coefficients, and calls `__init__`.

    rule(g, *, <buffers>, <coefficients>, <bias corrections>, t, <constants>) -> (direction, {buffer: new value})
        Elementwise in g and the buffers, which start at zero. Coefficients, bias corrections and t are 0-D tensors.
        t = 1, 2, ... counts the updates of that parameter. For each coefficient beta_i there is bias_i, the weight
        that a moving average with decay beta_i has gathered (see `debias`). The rule is differentiated, so its
        derivative must be finite everywhere. It is traced with 0-D tensors in float64, so it must not read shapes or
        dtypes. It may use torch's elementwise operations: those of codegen.OPS, and what can be made of them, become
        one loop; others run more slowly; one that is not elementwise raises ValueError.
    domain: {coefficient: (low, high)}: learned coefficients are projected onto this box.
    raw_domain: {coefficient: (low, high)}: what hyper_scale="raw" uses instead, where that differs.
    raw_hyper_lr: {coefficient: hyper_lr}: the defaults under hyper_scale="raw".
    time_scales: coefficients whose distance from 1 moves by a factor under hyper_scale="relative".
    low_precision: names of the buffers that tolerate `state_dtype=torch.bfloat16`.
    inputs: {name: function}: what the rule takes in addition to buffers and is not elementwise (inputs.py). The
        derivative treats them as constants; they are kept in bfloat16, except for parameters in float64.
    """

    rule: Callable[..., tuple[Tensor, dict[str, Tensor]]]
    domain: Mapping[str, tuple[float, float]] = MappingProxyType({})
    raw_domain: Mapping[str, tuple[float, float]] = MappingProxyType({})
    raw_hyper_lr: Mapping[str, float] = MappingProxyType({})
    time_scales: tuple[str, ...] = ()
    low_precision: tuple[str, ...] = ()
    inputs: Mapping[str, Callable] = MappingProxyType({})

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: float | Tensor,
        coefficients: dict[str, float],
        buffers: Iterable[str] | None = None,
        constants: Mapping[str, Any] | None = None,
        weight_decay: float = 0.0,
        learn: str | Iterable[str] = (),
        hyper_lr: float | dict[str, float] | None = None,
        hyper_momentum: float | dict[str, float] = 0.0,
        hyper_start: int = 0,
        hyper_clip: float | None = 10.0,
        hyper_optimizer: str = "sgd",
        hyper_scale: str | None = None,
        domain: Mapping[str, tuple[float, float]] | None = None,
        debias: str | None = None,
        per_group: bool = False,
        lr_range: tuple[float, float] = LR_RANGE,
        grow_lr: bool = False,
        state_dtype: torch.dtype | str | None = None,
        max_grad_norm: float | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        """
        params: tensors or param groups. Groups may have their own lr, weight_decay (decoupled, as in AdamW), maximize,
            state_dtype and constants (eps, ...); their own coefficients (betas, rho, ...), hyper_lr and hyper_momentum
            with per_group=True, or if nothing is learned. Other settings of the optimizer are refused by name.
        lr: a number, or a tensor of one element, which may change in place.
        coefficients: initial values, {name: float}, one for every name in `domain`.
        buffers: names of the rule's state tensors; each has the parameter's shape and dtype. None: see `needed`.
        constants: {name: hashable value}, handed to the rule as they are. If one changes between two steps, the loops
            are built again, and the last update is differentiated as if it had been made with the new value.
        learn: names of the coefficients that hyper-gradient descent moves; the others never change. "lr" stands for a
            factor on the learning rate, 1 at the start and kept in `lr_range`.
        grow_lr: learn a factor on the learning rate, decay included, that only grows: a rate that is too small grows,
            any other stays. It is the coefficient "lr", with 0.3 for its hyper_lr and domain (1, 1e6) by default;
            hyper_momentum and hyper_optimizer do not apply to it, and lr_range is refused.
        hyper_lr, hyper_momentum: a number, or {name: number}. Missing names have the default: for hyper_lr 1e-2 under
            hyper_scale="relative", the class's raw_hyper_lr under "raw"; for hyper_momentum 0.
        hyper_start: for this many steps the hyper-gradient is taken to be 0.
        hyper_clip: bound on the absolute value of each (scaled) hyper-gradient; None for no bound.
        hyper_optimizer: "sgd", the paper's; "sign"; or "adam", whose first decay is hyper_momentum.
        hyper_scale: "relative" (the default) divides hyper-gradients by sum lr |g|_1, which makes them dimensionless,
            and moves 1 - beta2 by a factor; "raw" takes them as they are, which is the paper's form.
        domain: {name: (low, high)}, in place of the class's bounds on that learned coefficient. A decay's high is
            below 1.
        debias: what a moving average is divided by: "weights" (the default), the weight that it has gathered while
            its decay moved; or "powers", 1 - beta^t, which is right only if beta never changed.
        per_group: every param group learns coefficients of its own.
        state_dtype: dtype of the last gradient and of the buffers in `low_precision`, and, if it is wider than the
            parameter's, of all others; None: the parameter's.
        max_grad_norm: clip the gradient to that global norm inside step(), after the hyper-gradient was taken from
            the raw one; None or 0 for no clipping. Do not clip before step() as well.
        maximize: ascend, as in torch's optimizers.
        foreach, fused: accepted, for code that is written for AdamW; steps here are always fused.
        capturable, differentiable: AdamW's; True is refused.
        Raises ValueError naming the argument that is out of its domain, or what the rule lacks; TypeError if `params`
        or `learn` has the wrong type.
        """
        arguments.check_params(type(self).__name__, params)
        arguments.check_adamw_arguments(type(self).__name__, capturable, differentiable, fused, foreach)
        constants = {
            name: float(value) if isinstance(value, Tensor) else value for name, value in (constants or {}).items()
        }
        arguments.check_numbers(
            lr=lr,
            weight_decay=weight_decay,
            hyper_start=hyper_start,
            hyper_clip=0.0 if hyper_clip is None else hyper_clip,
            max_grad_norm=max_grad_norm or 0.0,
        )
        self.check_constants(constants)
        arguments.check_choices(
            hyper_optimizer=(hyper_optimizer, tuple(HYPER_OPTIMIZERS)),
            hyper_scale=(hyper_scale, (None, "relative", "raw")),
            debias=(debias, (None, "weights", "powers")),
        )
        state_dtype = arguments.dtype_name(state_dtype)
        if not 0 <= lr_range[0] <= 1 <= lr_range[1]:
            raise ValueError(f"lr_range={lr_range!r} must contain 1, where the factor starts, and nothing negative")
        learn, owner = arguments.as_names(learn), type(self).__name__
        if {*coefficients} != {*self.domain}:
            raise ValueError(f"coefficients={coefficients!r}: {owner} needs one for each of {', '.join(self.domain)}")
        if isinstance(buffers, str):
            buffers = (buffers,)
        rules_own = [*coefficients, *arguments.biases(coefficients), "t"]
        relative = hyper_scale != "raw"
        if grow_lr:
            if tuple(lr_range) != LR_RANGE:
                raise ValueError("grow_lr=True: bound its factor by domain={'lr': (1, high)}, not by lr_range")
            if not relative:
                raise ValueError(
                    "grow_lr=True needs hyper_scale='relative': raw hyper-gradients have no scale of their own"
                )
            learn = tuple(dict.fromkeys((*learn, "lr")))
        if "lr" in learn:
            range_of_lr = GROWTH if grow_lr else tuple(lr_range)
            self.domain, coefficients = {**self.domain, "lr": range_of_lr}, coefficients | {"lr": 1.0}
        self.domain = {**self.domain, **({} if relative else self.raw_domain)}
        arguments.check_names(owner, "learn", learn, self.domain)
        arguments.check_names(owner, "domain", domain or {}, self.domain)
        self.domain |= domain or {}
        for name, bounds in self.domain.items():
            if not isinstance(bounds, tuple | list) or len(bounds) != 2 or not bounds[0] <= bounds[1]:
                raise ValueError(f"domain: {name!r} needs (low, high) with low <= high, not {bounds!r}")
            if name in learn and name.startswith("beta") and bounds[1] >= 1:  # where its average never moves
                raise ValueError(
                    f"domain: {name!r} is a decay: to be learned it needs an end below 1, not {bounds[1]!r}"
                )
        arguments.check_coefficients(coefficients, self.domain, learn)
        self.own_buffers, self.constants = buffers and tuple(buffers), tuple(constants)
        needed = self.needed(coefficients, constants, learn)
        self.constants = tuple(needed["constants"])
        if not hasattr(self, "rule"):
            raise ValueError(f"{owner} has no rule: see ParameterizedOptimizer")
        if needed["buffers"] is None:
            raise ValueError(f"{owner} has no `buffers`: name those of its rule; () for none")
        buffers, inputs = tuple(needed["buffers"]), tuple(needed.get("inputs", self.inputs))
        self.grad_norm = torch.zeros((), dtype=torch.float64)
        self.plan, self.watch, self.ranks_agree = None, Watch(), 0
        free = (-torch.inf, torch.inf)
        bounds = [self.domain[name] if name in learn else free for name in self.domain]
        zeros = torch.zeros(len(self.domain), dtype=torch.float64)
        defaults = dict.fromkeys(self.domain, RELATIVE_HYPER_LR) if relative else dict(self.raw_hyper_lr)
        self.default_hyper_lr = defaults | ({"lr": GROWING_HYPER_LR} if grow_lr else {})
        settings = {
            "lr": lr,
            "weight_decay": weight_decay,
            "max_grad_norm": max_grad_norm or None,
            "maximize": maximize,
            "names": " ".join(self.domain),
            "buffers": " ".join(buffers),  # strings: distributed checkpoints lose tuples
            "inputs": " ".join(inputs),
            "learn": " ".join(learn),
            "debias": (debias or "weights") if learn else "powers",  # equal while the betas are constant
            "hyper_scale": "relative" if relative else "raw",
            "hyper_start": hyper_start,
            "hyper_clip": None if hyper_clip is None else float(hyper_clip),
            "hyper_optimizer": hyper_optimizer,
            "per_group": per_group,
            "state_dtype": state_dtype,
            "hyper_lr": self.by_name("hyper_lr", hyper_lr, learn),
            "hyper_momentum": self.by_name("hyper_momentum", hyper_momentum, learn),
            "bounds": zeros.new_tensor(bounds).reshape(-1, 2),
            "in_time_scale": zeros.new_tensor([relative and name in self.time_scales for name in self.domain]),
            "grows": zeros.new_tensor([grow_lr and name == "lr" for name in self.domain]),
            "coefficients": zeros.new_tensor([float(coefficients[name]) for name in self.domain]),
            "hyper_gradients": zeros,
            "hyper_velocity": zeros,
            "hyper_square": zeros,
            "hyper_step": zeros.new_zeros(()),
            "skipped_steps": zeros.new_zeros(()),
            "last_lr": zeros.new_zeros(()),
        }
        constants = self.fixed(needed["constants"])
        arguments.check_distinct(owner, (*rules_own, *buffers, *inputs, *self.constants), settings)
        check_inputs(owner, self.inputs, inputs, buffers)
        arguments.check_rule(owner, self.rule, tuple(self.domain), buffers, inputs, constants)
        super().__init__(params, settings | needed["constants"])

    def by_name(self, argument: str, value: float | dict[str, float] | None, learn: Iterable[str]) -> Tensor:
        """hyper_lr or hyper_momentum, as a number, {name: number} or None for the default, by coefficient.

        (len(domain),) float64, 0 where not learned. Raises ValueError.
        """
        default, end = (self.default_hyper_lr, torch.inf) if argument == "hyper_lr" else (dict.fromkeys(learn, 0.0), 1)
        given = value if isinstance(value, dict) else {} if value is None else dict.fromkeys(self.domain, value)
        arguments.check_names(type(self).__name__, argument, given, self.domain)
        named = {name: (default | given).get(name) for name in learn}
        for name, number in named.items():
            if not (arguments.is_number(number) and 0 <= number < end):
                raise ValueError(f"{argument}: {name!r} needs a number in [0, {end}), not {number!r}")
        return torch.tensor([float(named.get(name, 0.0)) for name in self.domain], dtype=torch.float64)

    def needed(self, coefficients: dict[str, float], constants: dict[str, Any], learn: Sequence[str]) -> dict[str, Any]:
        """What the rule needs to learn `learn` from these coefficients and constants, {name: value} each.

        Returns {"buffers": names, "constants": {name: value}}, and "inputs": names, unless it needs all of them.
        A subclass may leave out what its coefficients make idle. `freeze` asks with learn=(), and so does a param group
        with coefficients of its own.
        """
        return {"buffers": self.own_buffers, "constants": constants}

    def check_constants(self, constants: dict[str, Any]) -> None:
        """Raises ValueError naming one of {name: value}, the optimizer's or a param group's, that makes no sense."""
        if "eps" in constants:
            arguments.check_numbers(eps=constants["eps"])

    def pair_up(self, betas: Sequence[float]) -> dict[str, float]:
        """{name: value} of a rule whose coefficients are its betas."""
        return dict(zip(self.domain, arguments.as_numbers("betas", betas, len(self.domain)), strict=True))

    @torch._disable_dynamo  # inside a compiled function a step is one opaque call
    @torch.no_grad()
    def step(self, closure: Callable[[], float | Tensor] | None = None) -> float | Tensor | None:
        """One step on the gradients in `.grad`; returns the closure's loss, if there is a closure.

        Leaves the norm of the raw gradient in `.grad_norm` (0-D tensor, 0 before the first step). Where that is not
        finite, nothing changes, coefficients included, and `skipped_steps` counts it. Raises RuntimeError on sparse
        gradients, on a state or gradient that does not fit its parameter, and where the ranks hold different
        parameters; ValueError naming a setting of a group that cannot be.
        """
        if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(f"{type(self).__name__}.step() cannot be captured in a CUDA graph: call it outside")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        plan = self.prepare()
        hyper = plan.hyper
        squares, absolute = plan.gradient_sums()
        if plan.sharded:
            squares = squares.contiguous()
            dist.all_reduce(squares)
        self.grad_norm = squares.sum().sqrt()
        ok = self.grad_norm < torch.inf  # finite, that is
        if plan.learns:
            if self.param_groups[0]["hyper_scale"] == "raw":  # clipping does not change relative ones
                self.watch.see(type(self).__name__, self.grad_norm)
            units = absolute * self.applied_rates(hyper)
            if "lr" in self.domain:
                hyper.note_ramp(plan.rates()[0])
            hyper.descend(self.look_back(plan, ok), units, ok)
        self.move(plan, ok)
        hyper.skipped += ~ok
        return loss

    def prepare(self) -> Plan:
        """The plan for the current gradients: that of the last step, unless something has changed."""
        try:
            if self.plan is not None and self.plan.holds(self):
                for batch in self.plan.batches:
                    batch.take_gradients()
                return self.plan
        except RuntimeError:  # a sparse gradient has no strides
            pass
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and p.grad.is_sparse:
                    raise RuntimeError(
                        f"{type(self).__name__} does not support sparse gradients: make the embedding dense"
                    )
        params = (p for group in self.param_groups for p in group["params"])
        shared = self.defaults["learn"] or any(group["inputs"] for group in self.param_groups)
        if 1 < world() != self.ranks_agree and (shared or any(map(is_sharded, params))):
            check_same_parameters(type(self).__name__, self.param_groups)
            self.ranks_agree = world()
        self.plan = None  # which holds what may have been replaced
        self.plan = Plan(self)
        return self.plan

    def fixed(self, group: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
        """The constants of a group, hashable; distributed checkpoints turn tuples into lists."""
        constants = self.constants_of(group).items()
        return tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in constants)

    def plan_settings(self, group: dict[str, Any]) -> tuple:
        """The settings of a group that its plan is made for, hashable."""
        names = ("buffers", "inputs", "learn", "debias", "maximize", "max_grad_norm")
        return (*(group[name] for name in names), self.fixed(group))

    def loops(self, group: dict[str, Any]) -> Passes:
        """The two passes of a group."""
        names = (tuple(group[key].split()) for key in ("buffers", "inputs"))
        return passes(self.rule, tuple(self.domain), *names, self.fixed(group), arguments.learned(group))

    def applied_rates(self, hyper: Hyper) -> Tensor:
        """The learning rate of each group's last update, its learned factor included: (groups,) float64."""
        if "lr" not in self.domain:
            return hyper.last_lr
        return hyper.last_lr * hyper.coefficients[:, list(self.domain).index("lr")]

    def start(self, group: dict[str, Any], loops: Passes, p: Tensor) -> None:
        """Create the state that a parameter lacks."""
        state, device = self.state[p], self.scalar_device()
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=device)
            if group["debias"] == "weights":
                state["weights"] = torch.zeros(len(self.decays), dtype=torch.float64, device=device)
        if group["learn"] and "g" not in state:  # whether there is a last update to complete
            state["pending"] = torch.zeros((), dtype=torch.float64, device=device)
        for name in loops.kept:
            if name not in state:
                dtype = arguments.as_dtype(group["state_dtype"])
                wide = dtype is not None and dtype.itemsize > p.dtype.itemsize
                low = dtype if wide or name == "g" or name in self.low_precision else None
                if name in loops.inputs and p.dtype != torch.float64:
                    low = torch.bfloat16
                state[name] = torch.zeros_like(p, dtype=low)

    @property
    def decays(self) -> list[int]:
        """Columns of the coefficients that are decays of moving averages: beta1, beta2, ..."""
        return [i for i, name in enumerate(self.domain) if name.startswith("beta")]

    def look_back(self, plan: Plan, ok: Tensor) -> Tensor:
        """Completes the last updates; returns h_q = sum over parameters of <g_t, dx_{t-1}/dq> of this rank, by group.

        dx_{t-1}/dq = -lr_{t-1} d direction_{t-1}/dq. The loop runs over the elements, down to one sum per scalar;
        plan.Batch relates the scalars of a row to q. (groups, len(domain)) float64.
        A parameter without a gradient is frozen for now: its last update is completed, and nothing is left pending.
        """
        h = None
        for batch in plan.batches:
            part = batch.look_back(ok) if batch.copies == 1 else batch.look_back(ok) / batch.copies
            h = part if h is None else h + part
        if h is None:
            h = torch.zeros(len(self.param_groups), len(self.domain), dtype=torch.float64, device=ok.device)
        h = h * (plan.hyper.last_lr * plan.minus)[:, None]
        if plan.lost and ok:  # this waits for the device: in the step in which a parameter loses its gradient, no other
            for p in plan.lost:
                del self.state[p]["g"], self.state[p]["pending"]
            self.plan = None
        return h

    def move(self, plan: Plan, ok: Tensor) -> None:
        """x <- x (1 - lr decay) - lr direction, with the direction at the clipped gradient and new coefficients."""
        limit, hyper = self.param_groups[0]["max_grad_norm"], plan.hyper
        clip = plan.signs
        if limit is not None:
            clip = clip * (limit / (self.grad_norm + 1e-6)).clamp(max=1.0)  # as clip_grad_norm_ has it
        lrs, decays = plan.rates()
        if "lr" in self.domain:  # a rate that grows has its decay grow with it
            place = list(self.domain).index("lr")
            decays = decays * torch.where(hyper.grows[:, place] > 0, hyper.coefficients[:, place], 1.0)
        for batch in plan.batches:
            batch.move(hyper, ok, clip, lrs, decays)
        torch.where(ok, lrs, hyper.last_lr, out=hyper.last_lr)

    @torch.no_grad()
    def freeze(self) -> None:
        """Fix the coefficients as they are now (the paper's MADA-FS), and drop the state that only learning needs."""
        grads = {p: p.grad for group in self.param_groups for p in group["params"]}
        for p in grads:
            p.grad = None
        try:
            plan = Plan(self)
            self.look_back(plan, torch.ones((), dtype=torch.bool, device=self.scalar_device()))
        finally:
            for p, grad in grads.items():
                p.grad = grad
        for group in self.param_groups:
            group["learn"] = ""
            group["hyper_lr"] = group["hyper_momentum"] = torch.zeros_like(group["hyper_lr"])
            group["bounds"] = group["bounds"].new_tensor([(-torch.inf, torch.inf)] * len(self.domain))
            self.set_coefficients(group, {}, ())
            for p in group["params"]:
                kept = {"step", "weights", *group["buffers"].split(), *group["inputs"].split()}
                for name in set(self.state.get(p, ())) - kept:
                    del self.state[p][name]
        self.defaults["learn"] = ""
        self.plan = None
