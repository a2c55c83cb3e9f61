"""The engine under every optimizer of this folder: an elementwise rule whose coefficients may be learned.

A rule is a pure function of tensors, `direction, new_buffers = rule(g, **buffers, **coefficients, ...)`. The engine
remembers what the last update was computed from, and makes two passes over the parameters per step:

look back   takes the vector-Jacobian product of the last update with the new raw gradient, which is the hyper-gradient,
            and completes that update: the buffers take the values it gave them;
move        clips the gradient and applies the rule with the new coefficients.

In between, the hyper-gradient is reduced over ranks and moves the learned coefficients q by projected hyper-SGD
(Algorithm 1 of the paper). Nothing is kept between steps but the rule's buffers and the last gradient: evaluating the
rule again is cheaper than holding autograd's graph, and no graph through the model is needed. With `learn=()` there is
only the second pass, and not even the gradient is kept. No step waits for the device.
"""

from collections.abc import Mapping
from types import MappingProxyType

import torch
import torch.distributed as dist
from torch.optim import Optimizer

from .hyper import HYPER_OPTIMIZERS
from .passes import gradient_norms, passes
from .shards import copies, is_sharded, local

RELATIVE_HYPER_LR = 1e-2  # for every coefficient: relative hyper-gradients are of one scale
HYPER_STATE = (
    "coefficients",
    "hyper_gradients",
    "hyper_velocity",
    "hyper_square",
    "hyper_step",
    "skipped_steps",
    "last_lr",
    "hyper_lr",
    "hyper_momentum",
    "bounds",
    "in_time_scale",
)
LEARNED_STATE = tuple(name for name in HYPER_STATE if name.startswith(("coef", "hyper_")))  # one for all groups


class ParameterizedOptimizer(Optimizer):
    """Base class: a subclass defines its rule and the domain of its coefficients, and calls `__init__`.

    rule(g, *, <buffers>, <coefficients>, <bias corrections>, t, <constants>) -> (direction, {buffer: new value})
        Elementwise in g and the buffers, which start at zero. Coefficients, bias corrections and t are 0-D tensors.
        t = 1, 2, ... counts the updates of that parameter. For each coefficient beta_i there is bias_i, the weight
        that a moving average with decay beta_i has gathered (see `debias`). The rule is differentiated, so its
        derivative must be finite everywhere. The operations it may use are those of codegen.OPS; with others it still
        runs, more slowly.
    domain: {coefficient: (low, high)}: learned coefficients are projected on this box.
    raw_domain: {coefficient: (low, high)}: what hyper_scale="raw" has instead, where that differs.
    raw_hyper_lr: {coefficient: hyper_lr}: the defaults under hyper_scale="raw".
    time_scales: coefficients whose distance from 1 moves by a factor under hyper_scale="relative".
    low_precision: names of the buffers that bear `state_dtype=torch.bfloat16`.
    """

    domain: Mapping[str, tuple[float, float]] = MappingProxyType({})
    raw_domain: Mapping[str, tuple[float, float]] = MappingProxyType({})
    raw_hyper_lr: Mapping[str, float] = MappingProxyType({})
    time_scales: tuple[str, ...] = ()
    low_precision: tuple[str, ...] = ()

    def __init__(
        self,
        params,
        *,
        lr,
        coefficients,
        buffers,
        constants=None,
        weight_decay=0.0,
        learn=(),
        hyper_lr=None,
        hyper_momentum=0.0,
        hyper_start=0,
        hyper_clip=10.0,
        hyper_optimizer="sgd",
        hyper_scale=None,
        domain=None,
        debias=None,
        per_group=False,
        lr_range=(0.1, 10.0),
        state_dtype=None,
        max_grad_norm=None,
    ):
        """
        params: tensors or param groups; `lr` and `weight_decay` (decoupled, as in AdamW) may differ by group.
        coefficients: initial values, {name: float}, one for every name in `domain`.
        buffers: names of the rule's state tensors; each has the parameter's shape and dtype.
        constants: {name: value} handed to the rule as they are; hashable values.
        learn: names of the coefficients that hyper-gradient descent moves; the others never change. "lr" stands for a
            factor on the learning rate, 1 at the start and kept in `lr_range`.
        hyper_lr, hyper_momentum: a number, or {name: number}; missing names have the default, and no momentum. The
            default of hyper_lr is 1e-2 under hyper_scale="relative", and the paper's values under "raw".
        hyper_start: for that many steps the hyper-gradient is taken to be 0.
        hyper_clip: bound on the absolute value of each (scaled) hyper-gradient; None for no bound.
        hyper_optimizer: "sgd", the paper's; "sign"; or "adam", whose first decay is hyper_momentum.
        hyper_scale: "relative" (the default) divides hyper-gradients by sum lr |g|_1, which makes them dimensionless,
            and moves 1 - beta2 by a factor; "raw" takes them as they are, which is the paper's form.
        domain: {name: (low, high)}, in place of the class's bounds on that learned coefficient.
        debias: what a moving average is divided by: "weights" (the default), the weight that it has really gathered
            while its decay moved; or "powers", 1 - beta^t, which is right only while beta never changed.
        per_group: every param group learns coefficients of its own.
        state_dtype: dtype of the last gradient and of the buffers in `low_precision`; None: the parameter's.
        max_grad_norm: clip the gradient to that global norm inside step(), after the hyper-gradient was taken from
            the raw one; None for no clipping. Do not clip before step() as well.
        Raises ValueError naming the argument that is out of its domain.
        """
        for name, value in {
            "lr": lr,
            "weight_decay": weight_decay,
            "hyper_start": hyper_start,
            "hyper_clip": hyper_clip,
            "max_grad_norm": max_grad_norm,
            "eps": (constants or {}).get("eps"),
        }.items():
            if value is not None and not value >= 0:
                raise ValueError(f"{name}={value!r} must not be negative or NaN")
        for name, value, choices in (
            ("hyper_optimizer", hyper_optimizer, tuple(HYPER_OPTIMIZERS)),
            ("hyper_scale", hyper_scale, (None, "relative", "raw")),
            ("debias", debias, (None, "weights", "powers")),
        ):
            if value not in choices:
                raise ValueError(f"{name}={value!r} must be one of {', '.join(filter(None, choices))}")
        if state_dtype is not None and not (isinstance(state_dtype, torch.dtype) and state_dtype.is_floating_point):
            raise ValueError(f"state_dtype={state_dtype!r} must be a floating dtype of torch, such as bfloat16")
        if not 0 <= lr_range[0] <= 1 <= lr_range[1]:
            raise ValueError(f"lr_range={lr_range!r} must hold 1, where the factor starts, and nothing negative")
        learn = (learn,) if isinstance(learn, str) else tuple(learn)
        relative = hyper_scale != "raw"
        if "lr" in learn:
            self.domain, coefficients = {**self.domain, "lr": tuple(lr_range)}, coefficients | {"lr": 1.0}
        self.check_names("learn", learn)
        self.check_names("domain", domain or {})
        self.domain = {**self.domain, **({} if relative else self.raw_domain), **(domain or {})}
        for name, (low, high) in self.domain.items():
            if not low <= high:
                raise ValueError(f"domain: {name!r} needs (low, high) with low <= high, not {(low, high)!r}")
        for name, value in coefficients.items():
            low, high = self.domain[name] if name in learn else (0, 1)
            if not low <= value <= high or (name.startswith("beta") and value == 1):
                end = ")" if name.startswith("beta") and high == 1 else "]"
                raise ValueError(
                    f"{name}={value!r} must lie in [{low}, {high}{end}"
                    + (
                        f" to be learned; leave {name!r} out of `learn`, or widen its `domain`"
                        if name in learn and 0 <= value < 1
                        else ""
                    )
                )
        free = (-torch.inf, torch.inf)
        zeros = torch.zeros(len(self.domain), dtype=torch.float64)
        rates = dict.fromkeys(self.domain, RELATIVE_HYPER_LR) if relative else dict(self.raw_hyper_lr)
        super().__init__(
            params,
            {
                "lr": lr,
                "weight_decay": weight_decay,
                "max_grad_norm": max_grad_norm,
                "buffers": tuple(buffers),
                "constants": dict(constants or {}),
                "learn": learn,
                "debias": (debias or "weights") if learn else "powers",  # equal while the betas are constant
                "hyper_scale": "relative" if relative else "raw",
                "hyper_start": hyper_start,
                "hyper_clip": hyper_clip,
                "hyper_optimizer": hyper_optimizer,
                "per_group": per_group,
                "state_dtype": state_dtype,
                "hyper_lr": self.by_name("hyper_lr", hyper_lr, rates, learn),
                "hyper_momentum": self.by_name("hyper_momentum", hyper_momentum, dict.fromkeys(learn, 0.0), learn),
                "bounds": zeros.new_tensor([self.domain[name] if name in learn else free for name in self.domain]),
                "in_time_scale": zeros.new_tensor([relative and name in self.time_scales for name in self.domain]),
                "coefficients": zeros.new_tensor([float(coefficients[name]) for name in self.domain]),
                "hyper_gradients": zeros,
                "hyper_velocity": zeros,
                "hyper_square": zeros,
                "hyper_step": zeros.new_zeros(()),
                "skipped_steps": zeros.new_zeros(()),
                "last_lr": zeros.new_zeros(()),
            },
        )

    def check_names(self, argument, names):
        for name in names:
            if name not in self.domain:
                raise ValueError(
                    f"{argument}: {type(self).__name__} has no coefficient {name!r}; it has {', '.join(self.domain)}"
                )

    def by_name(self, argument, value, default, learn):
        """A number, {name: number} or None for the default -> (len(domain),) float64, 0 where not learned."""
        values = (
            default | (value or {}) if value is None or isinstance(value, dict) else dict.fromkeys(self.domain, value)
        )
        self.check_names(argument, value if isinstance(value, dict) else ())
        for name in learn:
            if name not in values or not 0 <= values[name] < torch.inf:
                raise ValueError(f"{argument}: {name!r} needs a number >= 0, not {values.get(name)!r}")
        return torch.tensor(
            [float(values[name]) if name in learn else 0.0 for name in self.domain], dtype=torch.float64
        )

    def pair_up(self, betas):
        """{name: value} of a rule whose coefficients are its betas."""
        if len(betas) != len(self.domain):
            raise ValueError(f"betas={betas!r} must be {len(self.domain)} numbers")
        return dict(zip(self.domain, betas, strict=True))

    def add_param_group(self, param_group):
        """Add a group, in mid-training too: it starts from the coefficients that the first one has learned."""
        super().add_param_group(param_group)
        first, group = self.param_groups[0], self.param_groups[-1]
        if any(p.is_complex() for p in group["params"]):
            raise ValueError("complex parameters are not supported: pass torch.view_as_real(p)")
        group.update({name: first[name] for name in HYPER_STATE}, last_lr=torch.zeros_like(first["last_lr"]))
        self.place()

    def __setstate__(self, state):
        """Also called by load_state_dict, which casts the hyper-state. A state from before these keys goes on as it was."""
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("debias", "powers")
            group.setdefault("hyper_scale", "raw")
            group.setdefault("in_time_scale", torch.zeros_like(group["coefficients"]))
        self.place()

    def place(self):
        """Bring the hyper-state to where the first parameter is, in double precision."""
        params = [p for group in self.param_groups for p in group["params"]]
        for group in self.param_groups if params else ():
            group.update({name: group[name].to(params[0].device, torch.float64) for name in HYPER_STATE})

    def load_state_dict(self, state_dict):
        """As torch's, but buffers keep the dtype that they were saved in, which torch changes to the parameter's."""
        super().load_state_dict(state_dict)
        saved = [i for group in state_dict["param_groups"] for i in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for i, p in zip(saved, params, strict=True):
            for name, value in state_dict["state"].get(i, {}).items():
                if value.dtype != self.state[p][name].dtype:
                    self.state[p][name] = value.to(p.device, copy=True)

    # What a reader may ask for. Reading changes nothing; on a GPU it waits for the step to finish.

    @property
    def coefficients(self):
        """{name: current value}; with per_group, a list of them, one per group."""
        return self.read("coefficients")

    @property
    def hyper_gradients(self):
        """{name: last hyper-gradient}: scaled, not yet clamped, 0 for what is not learned; with per_group, a list."""
        return self.read("hyper_gradients")

    def read(self, key):
        values = [dict(zip(self.domain, group[key].tolist(), strict=True)) for group in self.param_groups]
        return values if self.param_groups[0]["per_group"] else values[0]

    @property
    def skipped_steps(self):
        """The number of steps that changed nothing because a gradient was not finite."""
        return int(self.param_groups[0]["skipped_steps"])

    @torch.no_grad()
    def step(self, closure=None):
        """One step on the gradients in `.grad`; returns the closure's loss, if there is a closure.

        Leaves the norm of the raw gradient in `.grad_norm` (0-D tensor). Where that is not finite, nothing changes,
        coefficients included, and `skipped_steps` counts it. Raises RuntimeError on sparse gradients.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        params = [p for group in groups for p in group["params"] if p.grad is not None]
        if any(p.grad.is_sparse for p in params):
            raise RuntimeError(f"{type(self).__name__} does not support sparse gradients: make the embedding dense")
        squares, absolute = self.gradient_sums()
        self.grad_norm = squares.sum().sqrt()
        ok = self.grad_norm.isfinite()

        units = absolute * self.applied_rates()
        self.learn_coefficients(self.look_back(ok), units, ok)
        steps = [self.start(group, p) for group in groups for p in group["params"] if p.grad is not None]
        if steps:
            torch._foreach_add_(steps, ok.to(steps[0]))
        self.move(ok)
        for group in groups:
            lr = group["lr"]
            group["last_lr"] = torch.where(ok, lr if isinstance(lr, torch.Tensor) else float(lr), group["last_lr"])
            group["skipped_steps"] = group["skipped_steps"] + ~ok
        return loss

    def gradient_sums(self):
        """Of each group's raw gradients, (groups,) float64 each: the sum of squares over all shards, and this rank's part
        of the sum of absolute values, which `learn_coefficients` adds up over ranks."""
        totals = torch.zeros_like(self.param_groups[0]["skipped_steps"]).expand(2, len(self.param_groups))
        params = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
        sharded = any(is_sharded(p) for group in params for p in group)
        for n in sorted({copies(p) for group in params for p in group}):
            members = [[p for p in group if copies(p) == n] for group in params]
            rows = [(local(p.grad),) for group in members for p in group]
            parts = gradient_norms()(rows, totals.new_zeros(len(rows), 0)).split([len(group) for group in members])
            share = totals.new_tensor([n if sharded else 1, n])  # of what is summed over ranks, each copy has its share
            totals = totals + (torch.stack([part.sum(0) for part in parts]) / share).T
        squares, absolute = totals
        if sharded:
            squares = squares.contiguous()
            dist.all_reduce(squares)
        return squares, absolute

    def applied_rates(self):
        """The learning rate of each group's last update, its learned factor included: (groups,) float64."""
        rates = torch.stack([group["last_lr"] for group in self.param_groups])
        if "lr" in self.domain:
            at = list(self.domain).index("lr")
            rates = rates * torch.stack([group["coefficients"][at] for group in self.param_groups])
        return rates

    def start(self, group, p):
        """Make the state of a parameter that has none. Returns its step count."""
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
            if group["debias"] == "weights":
                state["weights"] = torch.zeros(len(self.decays), dtype=torch.float64, device=p.device)
        for name in group["buffers"] + (("g",) if group["learn"] else ()):
            if name not in state:
                low = group["state_dtype"] if name == "g" or name in self.low_precision else None
                state[name] = torch.zeros_like(p, dtype=low)
        return state["step"]

    def batches(self, chosen):
        """Parameters that go through the same loops: ((passes, number of copies), [(group index, parameters), ...]) each."""
        batches = {}
        for i, group in enumerate(self.param_groups):
            loops = passes(
                self.rule,
                tuple(self.domain),
                group["buffers"],
                tuple(group["constants"].items()),
                group["learn"],
            )
            for n in sorted(set(map(copies, group["params"]))):
                params = [p for p in group["params"] if chosen(p) and copies(p) == n]
                if params:
                    batches.setdefault((loops, n), []).append((i, params))
        return batches.items()

    @property
    def decays(self):
        """Columns of the coefficients that are decays of moving averages: beta1, beta2, ..."""
        return [i for i, name in enumerate(self.domain) if name.startswith("beta")]

    def scalar_table(self, group, params, q):
        """The rule's scalars at the current step of each parameter, (parameters, names) float64; q: (len(domain),).

        names: the coefficients, the weight bias_i that each moving average has gathered by then, t. With constant decay
        the recursion w <- beta w + 1 - beta from 0 is 1 - beta^t.
        """
        t = torch.stack([self.state[p]["step"] for p in params]).to(q).clamp(min=1)[:, None]
        beta = q[self.decays]
        if group["debias"] == "weights":
            bias = torch.stack([self.state[p]["weights"] for p in params]).to(q) * beta + (1 - beta)
        else:
            bias = 1 - beta**t
        return torch.cat([q.expand(len(params), -1), bias, t], dim=1)

    def gather_weights(self, group, params, table, live):
        """After an update is complete: its moving averages have the weights of the table, where `live`."""
        if group["debias"] == "weights":
            weights = [self.state[p]["weights"] for p in params]
            new = table[:, len(self.domain) : -1].to(weights[0].device)
            torch._foreach_copy_(weights, torch.where(live, new, torch.stack(weights)).unbind())

    def look_back(self, ok):
        """Completes the last updates; returns h_q = sum over parameters of <g_t, dx_{t-1}/dq> of this rank, by group.

        dx_{t-1}/dq = -lr_{t-1} d direction_{t-1}/dq. The loop runs over the elements, down to one sum per scalar; the
        chain from the scalars to q, a few numbers per parameter, is autograd's. (groups, len(domain)) float64.
        A parameter without gradient is frozen for now: its last update is completed and nothing is left pending.
        """
        h = [torch.zeros_like(group["coefficients"]) for group in self.param_groups]
        for ((look_back, _, wrt), n), members in self.batches(lambda p: "g" in self.state.get(p, ())):
            rows, tables, leaves = [], [], []
            for i, params in members:
                group = self.param_groups[i]
                leaves.append(group["coefficients"].detach().requires_grad_())
                with torch.enable_grad():
                    tables.append(self.scalar_table(group, params, leaves[-1]))
                for p in params:
                    state = self.state[p]
                    grad = torch.zeros_like(state["g"]) if p.grad is None else p.grad
                    rows.append(tuple(map(local, (grad, state["g"], *(state[name] for name in group["buffers"])))))
            scalars = torch.cat(tables).detach()
            # a parameter whose every gradient so far was not finite has state, but no update to look back on
            live = torch.stack([self.state[p]["step"] > 0 for _, params in members for p in params])[:, None]
            sums = look_back(rows, torch.cat([(live & ok).to(scalars), scalars], dim=1))
            lengths = [len(params) for _, params in members]
            for (i, params), table, alive in zip(
                members, scalars.split(lengths), (live & ok).split(lengths), strict=True
            ):
                self.gather_weights(self.param_groups[i], params, table, alive)
            columns = dict(zip(wrt, torch.where(live, sums, 0.0).unbind(1), strict=True))
            nothing = torch.zeros_like(scalars[:, 0])
            cotangent = torch.stack([columns.get(i, nothing) for i in range(scalars.shape[1])], dim=1)
            parts = cotangent.split(lengths)
            for (i, params), table, q, part in zip(members, tables, leaves, parts, strict=True):
                (gradient,) = torch.autograd.grad(table, q, part)
                h[i] -= self.param_groups[i]["last_lr"] * gradient / n
                frozen = [p for p in params if p.grad is None]
                if (
                    frozen and ok
                ):  # this waits for the device: in the step in which a parameter loses its gradient, no other
                    for p in frozen:
                        del self.state[p]["g"]
        return torch.stack(h)

    def learn_coefficients(self, h, units, ok):
        """Reduce the hyper-gradients over ranks and scale them; then one step of projected hyper-SGD, or the like.

        h: (groups, len(domain)), and units: (groups,), sum lr |g|_1, which makes them relative; this rank's part of both.
        """
        groups = self.param_groups
        if not any(group["learn"] for group in groups):
            return
        h = torch.cat([h, units[:, None]], dim=1)
        if not groups[0]["per_group"]:
            h = h.sum(0, keepdim=True)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(h)
        for group, row in zip(groups, h, strict=False):
            raw, unit = row[:-1], row[-1]
            if group["hyper_scale"] == "relative":
                raw = torch.where(unit > 0, raw / unit, 0.0)
            scaled = torch.where(group["bounds"][:, 0] > -torch.inf, raw, 0.0)
            k = group["hyper_step"] + 1
            bound = torch.inf if group["hyper_clip"] is None else group["hyper_clip"]
            push = torch.where(k > group["hyper_start"], scaled.clamp(-bound, bound), 0.0)
            step, velocity, square = HYPER_OPTIMIZERS[group["hyper_optimizer"]](
                push, group["hyper_velocity"], group["hyper_square"], group["hyper_momentum"], k
            )
            q, step = group["coefficients"], group["hyper_lr"] * step
            q = torch.where(group["in_time_scale"] > 0, 1 - (1 - q) * step.exp(), q - step)
            new = {
                "coefficients": q.clamp(*group["bounds"].unbind(1)),
                "hyper_gradients": scaled,
                "hyper_velocity": velocity,
                "hyper_square": square,
                "hyper_step": k,
            }
            group.update({name: torch.where(ok, value, group[name]) for name, value in new.items()})
        if not groups[0]["per_group"]:
            for group in groups[1:]:
                group.update({name: groups[0][name] for name in LEARNED_STATE})

    def move(self, ok):
        """x <- x (1 - lr decay) - lr direction, with the direction from the clipped gradient and the new coefficients."""
        limit = self.param_groups[0]["max_grad_norm"]
        clip = torch.ones_like(self.grad_norm)
        if limit is not None:
            clip = (limit / (self.grad_norm + 1e-6)).clamp(max=1.0)  # as clip_grad_norm_ has it
        for ((_, move, _), _), members in self.batches(lambda p: p.grad is not None):
            rows, tables = [], []
            for i, params in members:
                group = self.param_groups[i]
                table = self.scalar_table(group, params, group["coefficients"])
                lr = group["lr"] if isinstance(group["lr"], torch.Tensor) else torch.full_like(clip, group["lr"])
                same = torch.stack([ok.to(table), clip, lr.to(table), torch.full_like(clip, group["weight_decay"])])
                tables.append(torch.cat([same.expand(len(params), 4), table], dim=1))
                names = (("g",) if group["learn"] else ()) + group["buffers"]
                rows += [tuple(map(local, (p.grad, p, *(self.state[p][name] for name in names)))) for p in params]
            move(rows, torch.cat(tables))
            for (i, params), table in zip(members, tables, strict=True):
                if not self.param_groups[i]["learn"]:  # else the next step's look_back completes this update
                    self.gather_weights(self.param_groups[i], params, table[:, 4:], ok)

    @torch.no_grad()
    def freeze(self):
        """From now on a fixed optimizer with the coefficients of this moment (the paper's MADA-FS), and its state only."""
        grads = {p: p.grad for group in self.param_groups for p in group["params"]}
        for p in grads:
            p.grad = None
        self.look_back(torch.ones((), dtype=torch.bool, device=self.param_groups[0]["coefficients"].device))
        for p, grad in grads.items():
            p.grad = grad
        for group in self.param_groups:
            group["learn"] = ()
            group["hyper_lr"] = group["hyper_momentum"] = torch.zeros_like(group["hyper_lr"])
            group["bounds"] = torch.stack(
                [torch.full_like(group["hyper_lr"], x) for x in (-torch.inf, torch.inf)], dim=1
            )
            group.update(self.frozen(group))
            for p in group["params"]:
                for name in set(self.state.get(p, ())) - {"step", "weights", *group["buffers"]}:
                    del self.state[p][name]

    def frozen(self, group):
        """What less a fixed optimizer at this group's coefficients needs: {"buffers": ..., "constants": ...}."""
        return {}
