"""What an optimizer's arguments mean, and one line about what is wrong with them."""

import inspect
import numbers
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .engine import ParameterizedOptimizer

# What a param group may always set for itself; coefficients and SHARED only where the groups do not share them.
GROUP_SETTINGS = ("params", "param_names", "lr", "weight_decay", "state_dtype", "maximize")
SHARED = ("hyper_lr", "hyper_momentum")


class Options(TypedDict, total=False):
    """Arguments of ParameterizedOptimizer that MADA passes on as they are: for type checkers and editors."""

    hyper_start: int
    hyper_clip: float | None
    hyper_optimizer: str
    per_group: bool
    lr_range: tuple[float, float]
    grow_lr: bool
    state_dtype: torch.dtype | str | None
    max_grad_norm: float | None
    maximize: bool
    foreach: bool | None
    capturable: bool
    differentiable: bool
    fused: bool | None


class LearningOptions(Options, total=False):
    """Arguments that an optimizer passes on if it redefines none of them, such as HyperAdam."""

    weight_decay: float
    hyper_lr: float | dict[str, float] | None
    hyper_momentum: float | dict[str, float]
    hyper_scale: str | None
    domain: Mapping[str, tuple[float, float]] | None
    debias: str | None


def check_params(owner: str, params: object) -> None:
    """Raises TypeError for a model instead of its parameters."""
    if isinstance(params, torch.nn.Module):
        raise TypeError(f"{owner} takes model.parameters(), not the model")


def is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) or (isinstance(value, Tensor) and value.numel() == 1)


def check_numbers(**values: float | Tensor) -> None:
    """Raises ValueError naming one that is not a number, or negative or NaN."""
    for name, value in values.items():
        if not (is_number(value) and value >= 0):
            raise ValueError(f"{name}={value!r} must be a number, not negative or NaN")


def as_numbers(name: str, values: object, count: int) -> tuple:
    """Values that must be so many, as a tuple. Raises ValueError."""
    if not isinstance(values, Iterable) or isinstance(values, str) or len(numbers := tuple(values)) != count:
        raise ValueError(f"{name}={values!r} must be {count} numbers")
    return numbers


def check_choices(**choices: tuple[Any, tuple]) -> None:
    """name=(value, allowed values). Raises ValueError."""
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            named = ", ".join(str(it) for it in allowed if it is not None)
            raise ValueError(f"{name}={value!r} must be one of {named}")


def check_adamw_arguments(
    name: str, capturable: bool, differentiable: bool, fused: bool | None, foreach: bool | None
) -> None:
    """AdamW's arguments about its implementation. Raises ValueError for those that cannot be honored."""
    if capturable:
        raise ValueError(f"{name} has no capturable=True: its steps are not captured in CUDA graphs; leave it at False")
    if differentiable:
        raise ValueError(f"{name} has no differentiable=True: its steps run outside autograd; leave it at False")
    check_choices(fused=(fused, (None, True, False)), foreach=(foreach, (None, True, False)))


def as_dtype(value: torch.dtype | str | None) -> torch.dtype | None:
    """A dtype, which may be given by its name, as checkpoints hold it; None stays None. Raises ValueError."""
    dtype = getattr(torch, value.removeprefix("torch."), None) if isinstance(value, str) else value
    if value is not None and dtype not in (torch.bfloat16, torch.float32, torch.float64):
        raise ValueError(f"state_dtype={value!r} must be bfloat16, float32 or float64; float16 has too small a range")
    return dtype


def dtype_name(value: torch.dtype | str | None) -> str | None:
    """The name of what `as_dtype` takes; None stays None. Raises ValueError."""
    dtype = as_dtype(value)
    return None if dtype is None else str(dtype).removeprefix("torch.")


def as_names(learn: str | Iterable[str]) -> tuple[str, ...]:
    """`learn` as a tuple of names. Raises TypeError."""
    if isinstance(learn, str):
        return (learn,)
    if not isinstance(learn, Iterable):
        raise TypeError(f"learn={learn!r} must be names of coefficients, such as ('beta1', 'beta2'), or () for none")
    return tuple(learn)


def learned(group: dict[str, Any]) -> tuple[str, ...]:
    """The names of the coefficients that a param group learns."""
    return tuple(group["learn"].split())


def check_names(owner: str, argument: str, names: Iterable[str], domain: Mapping[str, tuple[float, float]]) -> None:
    """Raises ValueError naming one of `names` that is not a coefficient of `domain`."""
    for name in names:
        if name not in domain:
            raise ValueError(f"{argument}: {owner} has no coefficient {name!r}; it has {', '.join(domain)}")


def check_coefficients(
    coefficients: Mapping[str, float], domain: Mapping[str, tuple[float, float]], learn: Collection[str]
) -> None:
    """Initial values must lie in the domain or, if they are not learned, in [0, 1]; a decay must be below 1."""
    for name, value in coefficients.items():
        low, high = domain[name]
        if name not in learn:
            low, high = min(low, 0), max(high, 1)
        if not is_number(value) or not low <= value <= high or (name.startswith("beta") and value == 1):
            end = ")" if name.startswith("beta") and high == 1 else "]"
            hint = f" to be learned; leave {name!r} out of `learn`, or widen its `domain`"
            hint = hint if name in learn and is_number(value) and 0 <= value < 1 else ""
            raise ValueError(f"{name}={value!r} must lie in [{low}, {high}{end}{hint}")


def biases(coefficients: Iterable[str]) -> tuple[str, ...]:
    """The names of the bias corrections that a rule with these coefficients takes: bias_i for beta_i."""
    return tuple(name.replace("beta", "bias") for name in coefficients if name.startswith("beta"))


def check_distinct(owner: str, names: Iterable[str], settings: Collection[str]) -> None:
    """Raises ValueError naming one that a rule has twice, or that a state or a param group has already."""
    taken = {"g", "step", "weights", "pending", "params", *settings}
    for name in names:
        if name in taken:
            raise ValueError(
                f"{owner} has a coefficient, buffer, input or constant {name!r}: that name is taken; choose another"
            )
        taken.add(name)


@cache
def check_rule(
    owner: str,
    rule: Callable,
    coefficients: tuple[str, ...],
    buffers: tuple[str, ...],
    inputs: tuple[str, ...],
    constants: tuple[tuple[str, Any], ...],
) -> None:
    """Raises ValueError if a rule does not take what it is called with, or does not return what it must.

    coefficients, buffers, inputs: tuples of names; constants: a tuple of (name, value).
    """
    scalars = (*(name for name in coefficients if name != "lr"), *biases(coefficients), "t")
    names = (*buffers, *inputs, *scalars, *(name for name, _ in constants))
    contract = (
        f"the rule of {owner} is called as rule(g, *, {', '.join(names)}) and must return "
        "(direction, {buffer: new value})"
    )
    _, *taken = inspect.signature(rule).parameters.values()
    anything = any(it.kind is it.VAR_KEYWORD for it in taken)
    if lacking := [name for name in names if not anything and name not in {it.name for it in taken}]:
        raise ValueError(f"{contract}; it does not take {', '.join(lacking)}")
    if wanted := [
        it.name for it in taken if it.default is it.empty and it.kind is not it.VAR_KEYWORD and it.name not in names
    ]:
        raise ValueError(f"{contract}; it also requires {', '.join(wanted)}, no buffer, input, coefficient or constant")
    half = torch.full((), 0.5, dtype=torch.float64)
    try:
        result = rule(half, **{name: half.clone() for name in names[: len(names) - len(constants)]}, **dict(constants))
    except Exception as error:  # whatever the user's rule raises
        raise ValueError(f"{contract}; called on 0-D tensors it raises {type(error).__name__}: {error}") from error
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise ValueError(f"{contract}, not a {type(result).__name__}")
    if {*result[1]} != {*buffers}:
        raise ValueError(
            f"{contract}; it returns {', '.join(result[1]) or 'none'}, and the buffers are {', '.join(buffers)}"
        )


@cache
def own_arguments(cls: type) -> frozenset[str]:
    """The names of the arguments of a class's constructor, including those in its `options`."""
    found = frozenset()
    for kind in cls.__mro__:
        if "__init__" in vars(kind) and kind is not object:
            found |= inspect.signature(kind.__init__).parameters.keys()
        if kind.__name__ == "ParameterizedOptimizer":
            break
    return found


def group_coefficients(optimizer: "ParameterizedOptimizer", group: dict[str, Any]) -> dict[str, float]:
    """Remove the coefficients from a param group and return them: {name: value}. Raises ValueError.

    `betas` stands for those that have no argument of their own.
    """
    found = {name: group.pop(name) for name in optimizer.domain if name in group and name != "lr"}
    if "betas" in group:
        known = own_arguments(type(optimizer))
        names = [name for name in optimizer.domain if name.startswith("beta") and name not in known]
        betas = as_numbers("betas", group.pop("betas"), len(names))
        found |= zip(names, map(float, betas), strict=True)
    return found


def equal(a: object, b: object) -> bool:
    """Whether two settings are the same, element by element if they are tensors."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and bool((a.cpu() == b.cpu()).all())
    same = a == b
    return same if isinstance(same, bool) else bool(torch.as_tensor(same).all())


def check_group(optimizer: "ParameterizedOptimizer", group: dict[str, Any], shares: bool) -> None:
    """Raises ValueError naming a setting that a group cannot have for itself.

    Names that are not the optimizer's pass, and so does a value that is the optimizer's anyway: wrappers such as
    ZeroRedundancyOptimizer write all settings into the groups.
    """
    owner, domain = type(optimizer).__name__, optimizer.domain
    shared = {*domain, "betas", *SHARED} - {"lr"}
    for name, value in group.items():
        if name in optimizer.defaults and equal(value, optimizer.defaults[name]):
            continue
        if name in shared and shares:
            raise ValueError(
                f"{name} of a param group: the groups of {owner} share their coefficients; pass per_group=True"
            )
        own = (*GROUP_SETTINGS, *shared, *optimizer.constants, "coefficients", "buffers")  # these of another's groups
        if name in own_arguments(type(optimizer)) and name not in own:
            raise ValueError(f"{name} of a param group: {owner} has one for all groups; pass it to the optimizer")
    check_numbers(**{name: group[name] for name in ("lr", "weight_decay") if name in group})
