"""torch's AdamW as the baseline, and its checkpoints, whose moments the optimizers of this folder take over."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.optimizer import ParamsT

from .arguments import as_dtype

if TYPE_CHECKING:
    from .engine import ParameterizedOptimizer

MOMENTS = ("exp_avg", "exp_avg_sq")
IGNORES_FOUND_INF = ("mps",)  # devices whose fused kernel takes found_inf but does not read it


class FusedAdamW(AdamW):
    """torch's AdamW with fused=True: its kernel reads on the device whether to skip, so no step waits, except on MPS.

    The kernel could clip as well (`grad_scale`), but it divides by the factor, which rounds unlike clip_grad_norm_.
    """

    skipped = torch.zeros(())  # how many steps changed nothing

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, fused=True)
        self._step_supports_amp_scaling = False  # a GradScaler unscales before build()'s hook clips

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load any torch AdamW's state: the moments do not depend on its implementation. This one stays fused."""
        groups = [group | {"fused": True, "foreach": None} for group in state_dict["param_groups"]]
        super().load_state_dict(state_dict | {"param_groups": groups})

    def skip_if(self, bad: Tensor) -> None:
        """Call before a step. bad: 0-D, boolean; where it is true, the step changes nothing."""
        self.found_inf = bad.float()  # torch's step passes the attribute of this name to the kernel
        self.skipped = self.skipped.to(bad.device, non_blocking=True) + bad
        if bad.device.type in IGNORES_FOUND_INF and bad:  # this waits for the device
            self.zero_grad()

    @property
    def skipped_steps(self) -> int:
        """The number of steps that changed nothing because a gradient was not finite. Reading waits for the device."""
        return int(self.skipped)


def is_adam_state(state_dict: dict[str, Any]) -> bool:
    """Whether this is a state dict of torch's Adam or AdamW."""
    groups = state_dict["param_groups"]
    return bool(groups) and all({"betas", "amsgrad"} <= {*group} and "coefficients" not in group for group in groups)


def translated(state_dict: dict[str, Any], optimizer: "ParameterizedOptimizer") -> dict[str, Any]:
    """AdamW's state dict as one for `optimizer`, which must have Adam's moments m and v in some group.

    The betas that made the moments come with them, as do lr, weight_decay and eps. Everything else starts from what
    AdamW knows: averages of gradients from its first moment, averages or maxima of second moments from its second.
    Raises ValueError naming what cannot be taken over.
    """
    owner, names = type(optimizer).__name__, list(optimizer.domain)
    moments = any({"m", "v"} <= {*group["buffers"].split()} for group in optimizer.param_groups)
    if not (moments and {"beta1", "beta2"} <= {*names}):
        raise ValueError(f"this is a checkpoint of AdamW, whose moments {owner} cannot use; start {owner} from scratch")
    if len(state_dict["param_groups"]) != len(optimizer.param_groups):
        raise ValueError("this checkpoint of AdamW has a different number of parameter groups")
    groups = []
    for saved, group in zip(state_dict["param_groups"], optimizer.param_groups, strict=True):
        if saved["weight_decay"] and saved.get("decoupled_weight_decay") is False:
            raise ValueError(
                "the weight_decay of Adam is an L2 penalty, not AdamW's decay: set it to 0 in this checkpoint first"
            )
        if saved["amsgrad"] and (
            group.get("second_moment") != "amsgrad" or optimizer.named(group["coefficients"])["rho"] != 0
        ):
            here = "goes on from with amsgrad=True only" if "second_moment" in group else "does not have"
            raise ValueError(f"this is a checkpoint of AdamW with amsgrad=True, which {owner} {here}")
        q = group["coefficients"].clone()
        for name, beta in zip(("beta1", "beta2"), saved["betas"], strict=True):
            i = names.index(name)
            low, high = group["bounds"][i].tolist()
            if not low <= float(beta) <= high:
                raise ValueError(
                    f"AdamW's {name} of {float(beta)} is outside [{low}, {high}]; pass domain={{{name!r}: ...}}"
                )
            q[i] = float(beta)
        taken = {name: saved[name] for name in ("lr", "weight_decay", "eps", "initial_lr", "maximize") if name in saved}
        last = group["last_lr"] * 0
        groups.append(group | taken | {"coefficients": q, "last_lr": last, "params": list(saved["params"])})
    differ = len({tuple(group["coefficients"].tolist()) for group in groups}) > 1
    if differ and not groups[0]["per_group"]:
        if groups[0]["learn"]:
            raise ValueError(
                f"the groups of this checkpoint of AdamW have different betas, and those of {owner} share theirs; pass "
                "per_group=True"
            )
        groups = [group | {"per_group": True} for group in groups]
    state = {}
    for group in groups:
        decays = group["coefficients"][optimizer.decays]
        # averages that start at zero have gathered nothing
        started = decays.new_tensor([names[k] in ("beta1", "beta2") for k in optimizer.decays])
        for i in group["params"]:
            if i not in state_dict["state"]:
                continue
            adamw = state_dict["state"][i]
            if not set(MOMENTS) <= set(adamw):
                raise ValueError(f"{' and '.join(MOMENTS)} are missing in this checkpoint of AdamW")
            m, v = (adamw[name] for name in MOMENTS)
            dtype = torch.promote_types(m.dtype, as_dtype(group["state_dtype"]) or m.dtype)  # at least that wide
            m, v = m.to(dtype), v.to(dtype)
            step = torch.as_tensor(adamw["step"], dtype=torch.float32)
            kept = group["buffers"].split()
            s = adamw.get("max_exp_avg_sq", v).to(dtype)
            known = {"m": m, "l": m, "g_prev": m, "v": v, "s": s, "v_mixed": v, "v_avg": v}
            state[i] = {name: known[name].clone() if name in known else torch.zeros_like(m) for name in kept}
            state[i]["step"] = step
            if group["debias"] == "weights":
                state[i]["weights"] = (1 - decays ** step.to(decays)) * started
    return {"state": state, "param_groups": groups}
