"""The engine under every optimizer of this folder: an elementwise rule whose coefficients may be learned.

A rule is a pure function of tensors, `direction, new_buffers = rule(g, **buffers, **scalars, **constants)`.
The engine remembers what the last update was computed from, and at the next step

1. takes the vector-Jacobian product of that update with the new raw gradient: the hyper-gradient,
2. reduces it over ranks and moves the learned coefficients q by projected hyper-SGD (Algorithm 1 of the paper),
3. clips the gradient and applies the rule with the new q.

Nothing is kept between steps but the rule's buffers and the last gradient: evaluating the rule again is cheaper
than holding autograd's graph, and no graph through the model is needed. With `learn=()` not even the gradient is kept.
"""

from functools import partial

import torch
import torch.distributed as dist
from torch.optim import Optimizer

from .kernels import advance, update, vjp

HYPER_STATE = ("coefficients", "hyper_gradients", "hyper_velocity", "hyper_step", "skipped_steps")


class ParameterizedOptimizer(Optimizer):
    """Base class: a subclass defines its rule, its scalars and the domain of its coefficients, and calls `__init__`.

    rule(g, *, <buffers>, <coefficients>, <scalars>, t, <constants>) -> (direction, {buffer: new value})
        Elementwise in g and the buffers, which start at zero. Coefficients, scalars and t are 0-D tensors; t = 1, 2, ...
        counts the updates of that parameter. It is differentiated, so its derivative must be finite everywhere.
    scalars(q, t) -> {name: tensor}
        What depends on the coefficients but not on the elements. Differentiated too. Unless a subclass says otherwise,
        the bias corrections bias_i = 1 - beta_i^t of all coefficients beta_i.
    domain: {coefficient: (low, high)}: learned coefficients are projected on this box.
    """

    domain: dict[str, tuple[float, float]] = {}

    @staticmethod
    def scalars(q, t):
        return {name.replace("beta", "bias"): 1 - value ** t for name, value in q.items() if name.startswith("beta")}

    def __init__(self, params, *, lr, coefficients, buffers, constants=None, weight_decay=0.0, learn=(), hyper_lr=0.0,
                 hyper_momentum=0.0, hyper_start=0, hyper_clip=10.0, max_grad_norm=None):
        """
        params: tensors or param groups; `lr` and `weight_decay` (decoupled, as in AdamW) may differ by group.
        coefficients: initial values, {name: float}, one for every name in `domain`.
        buffers: names of the rule's state tensors; each has the parameter's shape and dtype.
        constants: {name: value} handed to the rule as they are.
        learn: names of the coefficients that hyper-gradient descent moves; the others never change.
        hyper_lr, hyper_momentum: a number, or {name: number} with every learned coefficient in it.
        hyper_start: for that many steps the hyper-gradient is taken to be 0.
        hyper_clip: bound on the absolute value of each hyper-gradient; None for no bound.
        max_grad_norm: clip the gradient to that global norm inside step(), after the hyper-gradient was taken from
            the raw one; None for no clipping. Do not clip before step() as well.
        Raises ValueError naming the argument that is out of its domain.
        """
        for name, value in dict(lr=lr, weight_decay=weight_decay, hyper_start=hyper_start, hyper_clip=hyper_clip,
                                max_grad_norm=max_grad_norm, eps=(constants or {}).get("eps")).items():
            if value is not None and not value >= 0:
                raise ValueError(f"{name}={value!r} must not be negative or NaN")
        learn = (learn,) if isinstance(learn, str) else tuple(learn)
        self.check_names("learn", learn)
        for name, value in coefficients.items():
            low, high = self.domain[name] if name in learn else (0, 1)
            if not low <= value <= high or (name.startswith("beta") and value == 1):
                raise ValueError(f"{name}={value!r} must lie in [{low}, {high}]" + (
                    f" to be learned; or leave {name!r} out of `learn`" if name in learn and 0 <= value < 1 else ""))
        size = len(self.domain)
        super().__init__(params, dict(
            lr=lr, weight_decay=weight_decay, max_grad_norm=max_grad_norm,
            buffers=tuple(buffers), constants=dict(constants or {}), learn=learn,
            hyper_lr=self.by_name("hyper_lr", hyper_lr, learn),
            hyper_momentum=self.by_name("hyper_momentum", hyper_momentum, learn),
            hyper_start=hyper_start, hyper_clip=hyper_clip, last_lr=0.0,
            coefficients=torch.tensor([float(coefficients[name]) for name in self.domain], dtype=torch.float64),
            hyper_gradients=torch.zeros(size, dtype=torch.float64), hyper_velocity=torch.zeros(size, dtype=torch.float64),
            hyper_step=torch.zeros((), dtype=torch.float64), skipped_steps=torch.zeros((), dtype=torch.float64)))

    def check_names(self, argument, names):
        for name in names:
            if name not in self.domain:
                raise ValueError(f"{argument}: {type(self).__name__} has no coefficient {name!r}; "
                                 f"it has {', '.join(self.domain)}")

    def by_name(self, argument, value, learn):
        """A number for all coefficients, or {name: number} -> a list in the order of `domain`, 0 where not learned."""
        values = value if isinstance(value, dict) else dict.fromkeys(self.domain, value)
        self.check_names(argument, values)
        for name in learn:
            if name not in values or not values[name] >= 0:
                raise ValueError(f"{argument}: {name!r} needs a number >= 0, not {values.get(name)!r}")
        return [float(values[name]) if name in learn else 0.0 for name in self.domain]

    def add_param_group(self, param_group):
        """Add a group, in mid-training too: it starts from the coefficients that the others have learned."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if any(p.is_complex() for p in group["params"]):
            raise ValueError("complex parameters are not supported: pass torch.view_as_real(p)")
        for name in HYPER_STATE:
            group[name] = self.param_groups[0][name].to(self.param_groups[0]["params"][0].device, copy=True)
        group["last_lr"] = 0.0

    def __setstate__(self, state):
        """Also called by load_state_dict: brings the hyper-state to where the parameters are."""
        super().__setstate__(state)
        for group in self.param_groups:
            for name in HYPER_STATE:
                group[name] = group[name].to(self.param_groups[0]["params"][0].device, torch.float64)

    # What a reader may ask for. Reading changes nothing; on a GPU it waits for the step to finish.

    @property
    def coefficients(self):
        """{name: current value}."""
        return dict(zip(self.domain, self.param_groups[0]["coefficients"].tolist(), strict=True))

    @property
    def hyper_gradients(self):
        """{name: last raw hyper-gradient}: before clamping, 0 for what is not learned."""
        return dict(zip(self.domain, self.param_groups[0]["hyper_gradients"].tolist(), strict=True))

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
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if any(grad.is_sparse for grad in grads):
            raise RuntimeError(f"{type(self).__name__} does not support sparse gradients: make the embedding dense")
        self.grad_norm = torch.nn.utils.get_total_norm(grads)
        if not self.grad_norm.isfinite():
            for group in self.param_groups:
                group["skipped_steps"] += 1
            return loss

        last_rows = [dict(zip(self.pending(group), self.rows(group, self.pending(group)), strict=True))
                     for group in self.param_groups]
        self.learn_coefficients()
        limit = self.param_groups[0]["max_grad_norm"]
        clip = 1.0 if limit is None else (limit / (self.grad_norm + 1e-6)).clamp(max=1.0)  # as clip_grad_norm_ has it
        for group, old in zip(self.param_groups, last_rows, strict=True):
            self.update_group(group, old, clip)
        return loss

    def pending(self, group):
        """Parameters whose last update is not completed yet: their state holds its gradient, "g"."""
        return [p for p in group["params"] if "g" in self.state.get(p, ())]

    def rows(self, group, params, q=None):
        """The rule's 0-D arguments at the current step of each parameter: one {name: float64 tensor} per parameter.

        q: {coefficient: 0-D tensor}; the group's own if None.
        """
        if not params:
            return []
        q = q or dict(zip(self.domain, group["coefficients"].unbind(), strict=True))
        t = torch.stack([self.state[p]["step"] for p in params]).to(group["coefficients"])
        table = {name: value.expand_as(t).unbind() for name, value in {**q, **self.scalars(q, t), "t": t}.items()}
        return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]

    def buffers(self, group, p):
        return {name: self.state[p][name] for name in group["buffers"]}

    def hyper_gradient(self, group):
        """h_q = sum over parameters of <g_t, dx_{t-1}/dq> with dx_{t-1}/dq = -lr_{t-1} d direction_{t-1}/dq.

        The rule's vector-Jacobian product runs over the elements, down to one sum per scalar; the chain from the
        scalars to q, a few numbers per parameter, is autograd's. Returns (len(domain),) float64, 0 where not learned.
        """
        h = torch.zeros_like(group["coefficients"])
        params = [p for p in self.pending(group) if p.grad is not None and p.numel() > 0]
        if not params:
            return h
        q = {name: value.clone().requires_grad_(name in group["learn"])
             for name, value in zip(self.domain, group["coefficients"].unbind(), strict=True)}
        with torch.enable_grad():
            rows = self.rows(group, params, q)
        wrt = [name for name, value in rows[0].items() if value.requires_grad]
        sums = [vjp(partial(self.rule, **group["constants"]), wrt, {name: value.detach() for name, value in row.items()},
                    p.grad, self.state[p]["g"], self.buffers(group, p)).to(h.device)
                for p, row in zip(params, rows, strict=True)]
        gradients = torch.autograd.grad([row[name] for row in rows for name in wrt],
                                        [q[name] for name in group["learn"]], torch.cat(sums).unbind())
        for i, name in enumerate(self.domain):
            if name in group["learn"]:
                h[i] = -group["last_lr"] * gradients[group["learn"].index(name)]
        return h

    def learn_coefficients(self):
        """The hyper-gradient of the last update, reduced over ranks, then one step of projected hyper-SGD."""
        if not any(group["learn"] for group in self.param_groups):
            return
        h = sum(self.hyper_gradient(group).to(self.param_groups[0]["coefficients"]) for group in self.param_groups)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(h)
            h /= dist.get_world_size()
        low, high = h.new_tensor(list(self.domain.values())).unbind(1)
        for group in self.param_groups:
            group["hyper_step"] = group["hyper_step"] + 1
            group["hyper_gradients"] = h.clone()
            bound = torch.inf if group["hyper_clip"] is None else group["hyper_clip"]
            push = torch.where(group["hyper_step"] > group["hyper_start"], h.clamp(-bound, bound), 0.0)
            group["hyper_velocity"] = h.new_tensor(group["hyper_momentum"]) * group["hyper_velocity"] + push
            learned = torch.tensor([name in group["learn"] for name in self.domain], device=h.device)
            q = group["coefficients"]
            moved = (q - h.new_tensor(group["hyper_lr"]) * group["hyper_velocity"]).clamp(low, high)
            group["coefficients"] = torch.where(learned, moved, q)

    def update_group(self, group, last_rows, clip):
        """Complete the last update of every parameter and make the next one; last_rows: {parameter: its old row}."""
        rule = partial(self.rule, **group["constants"])
        params = [p for p in group["params"] if p.grad is not None]
        for p in self.pending(group):
            if p.grad is None:  # frozen for now: this is the last moment at which its coefficients are known
                advance(rule, last_rows[p], self.state[p].pop("g"), self.buffers(group, p))
        for p in params:
            state = self.state[p]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
                state.update((name, torch.zeros_like(p)) for name in group["buffers"])
            state["step"] += 1
            if group["learn"]:
                state.setdefault("g", torch.zeros_like(p))
        for p, row in zip(params, self.rows(group, params), strict=True):
            update(rule, row, p.grad, clip, p, group["lr"], group["weight_decay"], self.state[p].get("g"),
                   self.buffers(group, p), last_rows.get(p))
        lr = group["lr"]
        group["last_lr"] = lr.clone() if isinstance(lr, torch.Tensor) else lr
