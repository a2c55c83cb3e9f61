"""Param groups; saving, loading and copying an optimizer; reading what it has learned."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from . import adamw, arguments
from .clipping import Watch
from .codegen import C_TYPES
from .hyper import HYPER_OPTIMIZERS, HYPER_STATE, OPTIONS
from .shards import check_shards, full, is_sharded, shard_as

SCALARS = ("step", "weights", "pending")  # of a parameter


class Stateful(Optimizer):
    """What ParameterizedOptimizer has of torch's optimizers, except the step.

    The state of a parameter holds its count of steps, the weights of its averages, its buffers and the last gradient. A
    group holds settings and the hyper-state (hyper.HYPER_STATE); its names are strings, since distributed checkpoints
    lose tuples.
    """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, in mid-training too: it starts from the coefficients that the first one has learned."""
        group = dict(param_group)  # the caller's stays as it is
        for name in ("bounds", "in_time_scale", "grows"):  # another optimizer's; these follow from this one's arguments
            group.pop(name, None)
        if "learn" in group:
            group["learn"] = " ".join(arguments.as_names(group["learn"]))
        learn, per_group = arguments.learned(self.defaults), self.defaults["per_group"]
        arguments.check_group(self, group, shares=bool(learn) and not per_group)
        own = arguments.group_coefficients(self, group)
        arguments.check_coefficients(own, self.domain, learn)
        constants = self.constants_of(self.defaults | group)
        self.check_constants(constants)
        group |= {name: constants[name] for name in {*constants} & {*group}}
        if "state_dtype" in group:
            group["state_dtype"] = arguments.dtype_name(group["state_dtype"])
        self.spell_out(group, learn)
        given = set(group)
        super().add_param_group(group)
        first, group = self.param_groups[0], self.param_groups[-1]
        try:
            self.check_tensors(group)
        except ValueError:
            self.param_groups.pop()
            raise
        source = first if first["hyper_step"] > 0 or not first["per_group"] else self.defaults
        group.update({name: source[name].clone() for name in HYPER_STATE if name not in given})
        group["last_lr"] = torch.zeros_like(first["last_lr"])
        if "max_grad_norm" not in given:
            group["max_grad_norm"] = first["max_grad_norm"]
        if own:
            self.part_ways()
        self.set_coefficients(group, own, learn)
        self.place()

    def part_ways(self) -> None:
        """Let each group have coefficients of its own from now on."""
        for group in self.param_groups:
            group["per_group"] = True
        self.defaults["per_group"] = True

    def set_coefficients(self, group: dict[str, Any], own: dict[str, float], learn: Sequence[str]) -> None:
        """Give a group coefficients of its own, {name: value}, and what the rule needs with them."""
        q = self.named(group["coefficients"]) | own
        group["coefficients"] = group["coefficients"].new_tensor([float(value) for value in q.values()])
        needed = self.needed(q, self.constants_of(group), learn)
        names = {key: " ".join(needed.get(key, self.inputs)) for key in ("buffers", "inputs")}
        group.update(needed["constants"], **names)

    def check_parts(self, group: dict[str, Any], own: dict[str, float], learn: Sequence[str]) -> None:
        """Raises ValueError if a group is to have a part in mid-run whose averages have no past."""
        needed = self.needed(self.named(group["coefficients"]) | own, self.constants_of(group), learn)
        if new := {*needed["buffers"]} - {*group["buffers"].split()}:
            raise ValueError(
                f"{', '.join(own) or 'a constant'} of a param group: it needs {', '.join(sorted(new))}, averages that "
                "have been kept since the first step; write it before that"
            )

    def constants_of(self, group: dict[str, Any]) -> dict[str, Any]:
        """What a group hands to the rule as it is: {name: value}."""
        every = {name: group[name] for name in self.constants}
        return {name: float(value) if isinstance(value, Tensor) else value for name, value in every.items()}

    def named(self, values: Tensor) -> dict[str, float]:
        """{coefficient: number}; values: (len(domain),)."""
        return dict(zip(self.domain, values.tolist(), strict=True))

    def is_spelled_out(self, value: object) -> bool:
        """Whether hyper_lr or hyper_momentum has an entry per coefficient, as here; not as somebody has written it."""
        return isinstance(value, Tensor) and value.shape == (len(self.domain),)

    def spell_out(self, group: dict[str, Any], learn: Sequence[str]) -> None:
        """Give what somebody has written into a group as hyper_lr or hyper_momentum one entry per coefficient."""
        for name in ("hyper_lr", "hyper_momentum"):
            if name in group and not self.is_spelled_out(group[name]):
                group[name] = self.by_name(name, group[name], learn)

    def take_written(self) -> None:
        """Take over what somebody has written into a group since, as torch's users do. Raises ValueError."""
        for group in self.param_groups:
            group["max_grad_norm"] = group["max_grad_norm"] or None
            arguments.check_numbers(
                max_grad_norm=group["max_grad_norm"] or 0.0,
                hyper_start=group["hyper_start"],
                hyper_clip=0.0 if group["hyper_clip"] is None else group["hyper_clip"],
            )
            arguments.check_choices(hyper_optimizer=(group["hyper_optimizer"], tuple(HYPER_OPTIMIZERS)))
            if group["hyper_scale"] != self.defaults["hyper_scale"]:
                raise ValueError("hyper_scale of a param group: it cannot be written; pass it to the optimizer")
            self.check_tensors(group)
        for name in ("max_grad_norm", *OPTIONS, *(() if self.param_groups[0]["per_group"] else arguments.SHARED)):
            written = [group[name] for group in self.param_groups if not self.is_spelled_out(group[name])]
            if written and (
                len(written) < len(self.param_groups) or not all(arguments.equal(it, written[0]) for it in written)
            ):
                raise ValueError(f"{name} of a param group: it is the same for all groups; write it into each")
        for group in self.param_groups:
            if group["learn"] != self.defaults["learn"]:
                raise ValueError("learn of a param group: it cannot be written; freeze() ends learning")
            learn = arguments.learned(group)
            self.spell_out(group, learn)
            constants = self.constants_of(group)
            self.check_constants(constants)
            group |= constants
            own, begun = arguments.group_coefficients(self, dict(group)), any(map(self.state.get, group["params"]))
            if own and learn:
                raise ValueError(
                    f"{', '.join(own)} of a param group: {type(self).__name__} learns its coefficients; they cannot be "
                    "set"
                )
            arguments.check_coefficients(own, self.domain, ())
            if begun:
                self.check_parts(group, own, learn)
            arguments.group_coefficients(self, group)
            if own and len(self.param_groups) > 1:
                self.part_ways()
            if own or not begun:
                self.set_coefficients(group, own, learn)

    def check_tensors(self, group: dict[str, Any]) -> None:
        """Raises ValueError if a group has tensors that cannot be optimized here."""
        for p in group["params"]:
            if p.is_complex():
                raise ValueError("complex parameters are not supported: pass torch.view_as_real(p)")
            if p.dtype not in C_TYPES:
                raise ValueError(f"a parameter has dtype {p.dtype}: it must be one of {', '.join(map(str, C_TYPES))}")
            check_shards(type(self).__name__, p)

    def __getstate__(self) -> dict[str, Any]:
        """What pickle and deepcopy keep: torch's part, and ours."""
        ours = ("own_buffers", "constants", "default_hyper_lr", "grad_norm")
        return super().__getstate__() | {"domain": dict(self.domain)} | {name: getattr(self, name) for name in ours}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Also called by load_state_dict, which casts the hyper-state. A state without these keys goes on as it was."""
        super().__setstate__(state)
        self.plan, self.watch, self.ranks_agree = None, Watch(), 0  # how many ranks do
        for group in self.param_groups:
            group.update(group.pop("constants", {}))
            for name in ("buffers", "learn"):
                if not isinstance(group[name], str):
                    group[name] = " ".join(group[name])
            group["state_dtype"] = arguments.dtype_name(group["state_dtype"])
            group.setdefault("maximize", False)
            group.setdefault("inputs", "")
            for name in self.constants:
                group.setdefault(name, self.defaults[name])
            group.setdefault("debias", "powers")
            group.setdefault("hyper_scale", "raw")
            for name in ("in_time_scale", "grows"):
                group.setdefault(name, torch.zeros_like(group["coefficients"]))
            group.setdefault("names", " ".join(self.domain))
        for kept in self.state.values():
            if "g" in kept:
                kept.setdefault("pending", torch.ones((), dtype=torch.float64))
        first = self.param_groups[0]  # a group that is added later is as these are
        agreed = [
            name
            for name in (*self.constants, *HYPER_STATE)
            if all(arguments.equal(group[name], first[name]) for group in self.param_groups)
        ]
        self.defaults |= {name: first[name] for name in ("learn", "debias", "per_group", *OPTIONS, *agreed)}
        self.place()

    def scalar_device(self) -> torch.device:
        """Where the hyper-state and the parameters' scalars are: with the first parameter, if it can hold float64."""
        device = next((p.device for group in self.param_groups for p in group["params"]), torch.device("cpu"))
        return torch.device("cpu") if device.type in ("mps", "meta") else device

    def place(self) -> None:
        """Move the hyper-state to its device, in double precision."""
        device = self.scalar_device()
        for group in self.param_groups:
            group.update({name: group[name].to(device, torch.float64) for name in HYPER_STATE})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but state keeps the dtype it was saved in, which torch changes to the parameter's.

        Settings come with the state, as in torch: what is learned, its bounds and hyper-learning-rates are then those
        that were saved, and a frozen state stays frozen. A state dict of torch's AdamW is taken over (adamw.py).
        Raises ValueError if this one has other coefficients, has buffers that the rule does not, or lacks those that it
        needs.
        """
        taken = {}

        def check(_, given):
            taken.update(self.checked(given))
            return taken

        def take_state(_):
            saved = [i for group in taken["param_groups"] for i in group["params"]]
            params = [p for group in self.param_groups for p in group["params"]]
            for i, p in zip(saved, params, strict=True):
                for name, value in taken["state"].get(i, {}).items():  # torch would share memory with the state dict
                    if name in SCALARS:
                        self.state[p][name] = full(value).to(self.scalar_device(), copy=True)
                        continue
                    value = shard_as(value, p)
                    if is_sharded(value) or value.shape != p.shape:
                        self.state[p][name] = value.to(p.device, copy=True)
                    else:  # laid out as the parameter is
                        self.state[p][name] = torch.empty_like(p, dtype=value.dtype, requires_grad=False).copy_(value)

        hooks = [  # after the user's before loading, and before the user's after it
            self.register_load_state_dict_pre_hook(check),
            self.register_load_state_dict_post_hook(take_state, prepend=True),
        ]
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    def checked(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """The state dict, translated if it is AdamW's, to be loaded here. Raises ValueError."""
        if adamw.is_adam_state(state_dict):
            return adamw.translated(state_dict, self)
        groups, owner = state_dict["param_groups"], type(self).__name__
        if any("coefficients" not in group for group in groups):
            raise ValueError(f"this is the state of an optimizer that is neither {owner} nor AdamW")
        arguments_of_rule = inspect.signature(self.rule).parameters
        anything = any(it.kind is it.VAR_KEYWORD for it in arguments_of_rule.values())
        scalars = {"t", *self.domain, *self.constants, *arguments.biases(self.domain)}
        required = {
            name for name, it in arguments_of_rule.items() if it.kind is it.KEYWORD_ONLY and it.default is it.empty
        } - scalars
        for group in groups:
            learn = group["learn"].split() if isinstance(group["learn"], str) else group["learn"]
            known = group.get("names", " ".join(self.domain) if {*learn} <= {*self.domain} else "").split()
            if known != [*self.domain] or len(group["coefficients"]) != len(self.domain):
                raise ValueError(
                    f"this state has {len(group['coefficients'])} coefficients, not the {len(self.domain)} of {owner} "
                    f"here ({', '.join(self.domain)}), but {', '.join(known or learn)}: make it with the same grow_lr, "
                    "learn and mu as the one that was saved"
                )
            buffers = group["buffers"].split() if isinstance(group["buffers"], str) else group["buffers"]
            if unknown := [name for name in buffers if not anything and name not in arguments_of_rule]:
                raise ValueError(f"this state has the buffers {', '.join(unknown)}, which {owner} does not have")
            if lacking := required - {*buffers, *group.get("inputs", "").split()}:
                raise ValueError(
                    f"this state lacks the buffers {', '.join(sorted(lacking))}, which {owner} needs: it belongs to a "
                    "different optimizer"
                )
        return state_dict

    # Reading changes nothing; on a GPU it waits for the step to finish.

    def __repr__(self) -> str:
        """A line per group: what was set, and where the coefficients are."""
        lines = []
        for group in self.param_groups:
            q = ", ".join(f"{name}={value:.4g}" for name, value in self.named(group["coefficients"]).items())
            size = sum(p.numel() for p in group["params"] if not torch.nn.parameter.is_lazy(p))
            settings = f"lr={float(group['lr']):g}, weight_decay={group['weight_decay']:g}"
            lines.append(f"    {size:,} elements: {settings}, {q}, learn={group['learn'] or None!r}")
        return "\n".join([f"{type(self).__name__} (", *lines, ")"])

    @property
    def coefficients(self) -> dict[str, float] | list[dict[str, float]]:
        """{name: current value}; with per_group, or groups that have their own, a list of them, one per group."""
        return self.read("coefficients")

    @property
    def hyper_gradients(self) -> dict[str, float] | list[dict[str, float]]:
        """{name: last hyper-gradient}: scaled, not yet clamped, 0 for what is not learned; with per_group, a list."""
        return self.read("hyper_gradients")

    def read(self, key: str) -> dict[str, float] | list[dict[str, float]]:
        """`key` of the groups, by coefficient; see `coefficients`."""
        values = [self.named(group[key]) for group in self.param_groups]
        return values if self.param_groups[0]["per_group"] else values[0]

    @property
    def skipped_steps(self) -> int:
        """The number of steps that changed nothing because a gradient was not finite."""
        return int(self.param_groups[0]["skipped_steps"])
