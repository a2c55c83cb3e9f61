"""Param groups, and what of an optimizer is saved, loaded, copied and read."""

import torch
from torch.optim import Optimizer

from . import adamw, arguments
from .clipping import Watch
from .hyper import HYPER_STATE
from .shards import check_shards


class Stateful(Optimizer):
    """What ParameterizedOptimizer has of torch's optimizers, its steps left out.

    In the state of a parameter are its count of steps, the weights of its averages, its buffers and the last gradient; in a
    group, beside settings, the hyper-state (hyper.HYPER_STATE). Names are strings there: distributed checkpoints lose tuples.
    """

    def add_param_group(self, param_group):
        """Add a group, in mid-training too: it starts from the coefficients that the first one has learned."""
        group = dict(param_group)  # the caller's stays as it is
        learn, per_group = tuple(self.defaults["learn"].split()), self.defaults["per_group"]
        arguments.check_group(self, group, shares=bool(learn) and not per_group)
        own = arguments.group_coefficients(self, group, self.domain)
        arguments.check_coefficients(own, self.domain, learn)
        if "state_dtype" in group:
            group["state_dtype"] = str(arguments.as_dtype(group["state_dtype"])).removeprefix("torch.")
        for name in ("hyper_lr", "hyper_momentum"):
            if name in group:
                group[name] = self.by_name(name, group[name], learn)
        given = set(group)
        super().add_param_group(group)
        first, group = self.param_groups[0], self.param_groups[-1]
        if any(p.is_complex() for p in group["params"]):
            raise ValueError("complex parameters are not supported: pass torch.view_as_real(p)")
        for p in group["params"]:
            check_shards(type(self).__name__, p)
        group.update({name: first[name].clone() for name in HYPER_STATE if name not in given})
        group["last_lr"] = torch.zeros_like(first["last_lr"])
        if own:
            for name, value in own.items():
                group["coefficients"][list(self.domain).index(name)] = float(value)
            for each in self.param_groups:
                each["per_group"] = True
            self.defaults["per_group"] = True
        if own or given & set(self.constants):
            q = dict(zip(self.domain, group["coefficients"].tolist(), strict=True))
            self.set_needed(group, self.needed(q, {name: group[name] for name in self.constants}, learn))
        self.place()

    def set_needed(self, group, needed):
        names = {key: " ".join(needed.get(key, self.inputs)) for key in ("buffers", "inputs")}
        group.update(needed["constants"], **names)

    def __getstate__(self):
        """What pickle and deepcopy keep: torch's part, and ours."""
        ours = ("own_buffers", "constants", "rates", "grad_norm")
        return super().__getstate__() | {"domain": dict(self.domain)} | {name: getattr(self, name) for name in ours}

    def __setstate__(self, state):
        """Also called by load_state_dict, which casts the hyper-state. A state from before these keys goes on as it was."""
        super().__setstate__(state)
        self.plan, self.watch, self.ranks_agree = None, Watch(), False
        for group in self.param_groups:
            group.update(group.pop("constants", {}))
            for name in ("buffers", "learn"):
                if not isinstance(group[name], str):
                    group[name] = " ".join(group[name])
            if isinstance(group["state_dtype"], torch.dtype):
                group["state_dtype"] = str(group["state_dtype"]).removeprefix("torch.")
            group.setdefault("maximize", False)
            group.setdefault("inputs", "")
            for name in self.constants:
                group.setdefault(name, self.defaults[name])
            group.setdefault("debias", "powers")
            group.setdefault("hyper_scale", "raw")
            for name in ("in_time_scale", "grows"):
                group.setdefault(name, torch.zeros_like(group["coefficients"]))
        self.place()

    def scalar_device(self):
        """Where the hyper-state and the scalars of parameters live: with the first parameter, if it can hold float64."""
        devices = [p.device for group in self.param_groups for p in group["params"]]
        return torch.device("cpu") if not devices or devices[0].type == "mps" else devices[0]

    def place(self):
        """Bring the hyper-state to its device, in double precision."""
        device = self.scalar_device()
        for group in self.param_groups:
            group.update({name: group[name].to(device, torch.float64) for name in HYPER_STATE})

    def load_state_dict(self, state_dict):
        """As torch's, but state keeps the dtype that it was saved in, which torch changes to the parameter's. A state
        dict of torch's AdamW is taken over (see adamw.py). Raises ValueError where it is of other coefficients."""
        if adamw.is_adamws(state_dict):
            state_dict = adamw.translated(state_dict, self)
        counts = {len(group["coefficients"]) for group in state_dict["param_groups"] if "coefficients" in group}
        if counts - {len(self.domain)}:
            raise ValueError(
                f"this state has {max(counts)} coefficients, not the {len(self.domain)} of {type(self).__name__} here "
                f"({', '.join(self.domain)}): make it with the same grow_lr, learn and mu as the one that was saved"
            )
        super().load_state_dict(state_dict)
        saved = [i for group in state_dict["param_groups"] for i in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for i, p in zip(saved, params, strict=True):
            for name, value in state_dict["state"].get(i, {}).items():
                if name in ("step", "weights"):
                    self.state[p][name] = value.to(self.scalar_device(), copy=True)
                else:  # torch would share memory with the state dict, which steps change in place
                    self.state[p][name] = value.to(p.device, copy=True)

    # What a reader may ask for. Reading changes nothing; on a GPU it waits for the step to finish.

    @property
    def coefficients(self):
        """{name: current value}; with per_group, or groups that have their own, a list of them, one per group."""
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
