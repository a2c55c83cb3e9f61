"""Splitting a model's parameters as people do: hidden matrices, other matrices, vectors."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim.optimizer import ParamsT


class ParamGroups(list[dict[str, Any]]):
    """Param groups for an optimizer; printed, a table of what is in which."""

    names: dict[Tensor, str]

    def __str__(self) -> str:
        lines = []
        for group in self:
            title = "hidden matrices (Muon)" if group.get("muon") else "embeddings, head, other matrices"
            title = title if any(p.dim() >= 2 for p in group["params"]) else "vectors"
            count = sum(p.numel() for p in group["params"])
            decay = f", weight_decay {group['weight_decay']:g}" if "weight_decay" in group else ""
            lines.append(f"{title}: {count:,} parameters{decay}")
            lines += [f"    {self.names.get(p, ''):40s} {'x'.join(map(str, p.shape))}" for p in group["params"]]
        return "\n".join(lines)


def head(model: nn.Module) -> nn.Module | None:
    """The layer that makes the output: what a transformers or timm model says it is, else the last nn.Linear."""
    for ask in ("get_output_embeddings", "get_classifier"):
        found = getattr(model, ask)() if hasattr(model, ask) else None
        if isinstance(found, nn.Module) and not isinstance(found, nn.Identity):
            return found
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return linear[-1] if linear else None


def own_weight(module: nn.Module) -> nn.Parameter | None:
    """A layer's weight; None if it has none, or one that is computed of others, as by spectral_norm."""
    return module._parameters.get("weight")


def is_transposed(module: nn.Module) -> bool:
    """Whether it is transformers' Conv1D, the linear layer of GPT-2, which is not a convolution."""
    weight = own_weight(module)
    return type(module).__name__ == "Conv1D" and weight is not None and weight.ndim == 2


def hidden_matrices(model: nn.Module, convolutions: bool = False) -> list[Tensor]:
    """What Muon is for: the weights of linear layers, except embeddings, what is tied to them, and the head.

    convolutions: also their weights, which Muon flattens to (output channels, the rest).
    """
    kinds = (nn.Linear, nn.modules.conv._ConvNd) if convolutions else nn.Linear
    outside = {p for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    outside |= {*last.parameters()} if (last := head(model)) is not None else set()
    layers = [module for module in model.modules() if isinstance(module, kinds) or is_transposed(module)]
    weights = dict.fromkeys(own_weight(module) for module in layers)  # a shared layer once
    return [p for p in weights if p is not None and p.requires_grad and p not in outside]


def param_groups(
    model: nn.Module, weight_decay: float = 0.1, convolutions: bool = False, verbose: bool = True
) -> ParamGroups:
    """Three groups: hidden matrices, marked muon=True; embeddings, head and other matrices; vectors, without decay.

    convolutions: their weights are hidden matrices too. verbose: print what went where, since it is a guess.
    Empty groups are left out. Raises ValueError if a parameter is lazy, since it has no shape yet.
    """
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in model.parameters()):
        raise ValueError("the model has lazy parameters: run it once before its parameters are split")
    names = {p: name for name, p in model.named_parameters() if p.requires_grad}
    groups = ParamGroups(split_hidden(decay_matrices(names, weight_decay), hidden_matrices(model, convolutions)))
    groups.names = names
    if verbose:
        print(groups)
    return groups


def decay_matrices(params: Iterable[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    """Two param groups: tensors of two or more dimensions, which decay, and the others, which do not."""
    params = list(params)
    return [
        {"params": [p for p in params if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in params if p.dim() < 2], "weight_decay": 0.0},
    ]


def split_hidden(groups: ParamsT, hidden: Iterable[Tensor]) -> list[dict[str, Any]]:
    """Param groups, each divided into what is in `hidden`, marked muon=True, and the others.

    Parameters may be (name, tensor) pairs.
    """
    groups, hidden = list(groups), set(hidden)
    groups = groups if groups and isinstance(groups[0], dict) else [{"params": groups}]
    divided = []
    for group in groups:
        every = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        for muon in (True, False):
            params = [it for it in every if ((it[1] if isinstance(it, tuple) else it) in hidden) == muon]
            divided += [{**group, "params": params, "muon": muon}] if params else []
    return divided
